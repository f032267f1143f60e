"""The pipeline from Python: images, plugins as objects, one call, results as arrays.

    from diffuse_framework import api
    source = api.open_images("images/*.cbf")
    steps = api.make_steps("grid.hkl.d_min = 2.5")
    outcome = api.run(source, steps, unit_cell=(58, 58, 150, 90, 90, 90), space_group="P41212")
    outcome.map.intensity

`docs/python_api.md` has the whole page. The commands are built on the same functions.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from iotbx.phil import parse
from libtbx import Auto

from diffuse_framework.adapters.guards.phil import refuse_includes
from diffuse_framework.adapters.images.open import (
    automatic_indexer,
    experiments_from_file,
    open_source,
    readable_images,
)
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.config.scope import build_scope
from diffuse_framework.config.selection import select, select_steps
from diffuse_framework.engine.processes import process_engine
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.atomic import make_folder
from diffuse_framework.io.results import write_results
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.lattice import Cell
from diffuse_framework.model.source import ImageSource
from diffuse_framework.pipeline.process import Outcome, Surroundings, process
from diffuse_framework.stages.indexer import Indexer
from diffuse_framework.stages.steps import Steps
from diffuse_framework.stages.work import Mapper


@dataclass(frozen=True)
class AutomaticIndexer:
    """What indexer.plugin=Auto stands for, once the images are there to tell: as in diffuse.process.

    Attributes:
        choose: makes the indexer of a name.
    """

    choose: Callable[[str], Indexer]

    def index(self, source: ImageSource, hints: CrystalHints, folder: Path, mapper: Mapper) -> Experiment:
        """Index with `given` where crystals come with the images, else by the kind of the images."""
        name, _ = automatic_indexer(source)
        return self.choose(name).index(source, hints, folder, mapper)


def open_images(images: str | Path | Iterable[str | Path]) -> DxtbxSource:
    """Return the source of image files, or of an indexed ``.expt`` file.

    Args:
        images: a path, a pattern such as ``"images/*.cbf"``, or paths.

    Raises:
        DataError: no file, or files that are no images.
    """
    patterns = [images] if isinstance(images, (str, Path)) else list(images)
    paths = [path for pattern in patterns for path in sorted(glob.glob(str(pattern)))]
    if not paths:
        raise DataError(f"no file matches {', '.join(map(str, patterns))}")
    if len(paths) == 1 and paths[0].endswith(".expt"):
        return open_source(experiments_from_file(paths[0]))
    experiments, unreadable = readable_images(paths)
    return open_source(experiments, unreadable=unreadable)


def make_steps(parameters: str = "", registry: Registry | None = None, **plugins: Any) -> Steps:
    """Return the plugins that `parameters` select, except for those given as objects.

    Args:
        parameters: PHIL text, as in a file for `diffuse.process`.
        registry: the plugins there are; all that are installed where not given.
        **plugins: objects by the names of `Steps`: ``scaler=MyScaler(width=2)``; maskers and correctors are
            sequences.

    Raises:
        ConfigError: a parameter or a step that there is not.
        PluginError: a plugin that there is not.
    """
    names = Steps.__dataclass_fields__
    unknown = sorted(set(plugins) - set(names))
    if unknown:
        raise ConfigError(f"there is no step {', '.join(unknown)}; there are {', '.join(names)}")
    registry = registry or load_registry()
    scope = build_scope(registry)
    try:
        refuse_includes("the parameters", parameters)
        working, unused = scope.fetch(parse(parameters), track_unused_definitions=True)
        params = working.extract()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    if unused:
        raise ConfigError(f"there is no parameter {', '.join(item.path for item in unused)}")
    steps = select_steps(registry, params, "given")
    if params.indexer.plugin is Auto and not params.indexer.given.crystals:
        # It lacks what only a plugin needs: name, parameters and from_params.
        automatic = AutomaticIndexer(partial(select, registry, params, "indexer"))
        steps = replace(steps, indexer=cast(Indexer, automatic))
    for name in {"maskers", "correctors"} & set(plugins):
        plugins[name] = tuple(plugins[name])
    return replace(steps, **plugins)


def run(
    source: ImageSource,
    steps: Steps,
    unit_cell: Cell | None = None,
    space_group: str | None = None,
    nproc: int = 1,
    folder: str | Path | None = None,
    validate: Callable[[Experiment], Experiment] = replace,
) -> Outcome:
    """Go from images to the map; sums stay in memory.

    Args:
        source: all images.
        steps: the plugins.
        unit_cell: of the crystal where it is known, angstrom and degrees.
        space_group: Hermann-Mauguin symbol where it is known.
        nproc: processes.
        folder: for what the indexer leaves behind; a temporary one where not given.
        validate: sets aside images that are indexed badly; none where not given.

    Raises:
        DiffuseError: whatever a step refuses.
    """
    hints = CrystalHints(unit_cell, space_group)
    with tempfile.TemporaryDirectory() as temporary:
        around = Surroundings(folder=make_folder(Path(folder or temporary)), mapper=process_engine(nproc))
        return process(source, steps, hints, validate, around)


def write(outcome: Outcome, folder: str | Path) -> None:
    """Write grid, scales and map as `diffuse.process` does.

    Raises:
        DataError: they can't be written.
    """
    write_results(make_folder(Path(folder)), outcome.scales, outcome.sums.image_names, outcome.map)
