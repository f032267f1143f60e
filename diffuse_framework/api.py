"""The pipeline from Python: images, plugins as objects, one call, results as arrays.

    from diffuse_framework import api
    source = api.open_images("images/*.cbf")
    steps = api.make_steps("grid.hkl.d_min = 2.5")
    outcome = api.run(source, steps, unit_cell=(58, 58, 150, 90, 90, 90), space_group="P41212")
    outcome.map.intensity

    api.compare("diffuse", "other/diffuse")
    api.rebin("diffuse", divisions=(2, 2, 2), halo="exclude")

`docs/python_api.md` has the whole page. The commands are built on the same functions.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from iotbx.phil import parse

from diffuse_framework.adapters.guards.phil import refuse_includes
from diffuse_framework.adapters.guards.pickles import trusting_pickles
from diffuse_framework.adapters.images.expt_files import experiments_from_file
from diffuse_framework.adapters.images.open import open_source, readable_images
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing.automatic import AutomaticIndexer
from diffuse_framework.algorithms.comparison.alignment import AlignmentOptions
from diffuse_framework.algorithms.comparison.compare import Comparison, compare_maps, difference
from diffuse_framework.algorithms.comparison.halos import Halo
from diffuse_framework.algorithms.comparison.regridding import Rebinning, rebinned
from diffuse_framework.config.earlier_run import merger_of_run
from diffuse_framework.config.scope import SEVERAL, build_scope, core_text
from diffuse_framework.config.selection import FROM_PYTHON, select, select_named, select_steps
from diffuse_framework.engine.processes import process_engine
from diffuse_framework.errors import ConfigError, DataError, DiffuseError
from diffuse_framework.host.interfaces import METHODS
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.atomic import make_folder, only_run_in
from diffuse_framework.io.maps.hints import MapHints
from diffuse_framework.io.maps.read import read_pair, read_voxel_map
from diffuse_framework.io.maps.write import write_voxel_map
from diffuse_framework.io.results import write_results
from diffuse_framework.model.experiment import CrystalHints
from diffuse_framework.model.lattice import Cell
from diffuse_framework.model.maps import AbsoluteMap
from diffuse_framework.model.source import ImageSource
from diffuse_framework.model.voxel_map import VoxelMap
from diffuse_framework.pipeline.process import Outcome
from diffuse_framework.pipeline.rebin import rebin as rebin_path
from diffuse_framework.pipeline.run import RunSettings
from diffuse_framework.pipeline.run import run as run_pipeline
from diffuse_framework.pipeline.stored import StoredScaler
from diffuse_framework.report.warned import warnings_kept
from diffuse_framework.stages.steps import Steps

__all__ = ["make_steps", "open_images", "run", "trusting_pickles", "write"]


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
        parameters: PHIL text of plugins and their parameters, as in a file for `diffuse.process`.
        registry: the plugins there are; all that are installed where not given.
        **plugins: objects by the names of `Steps`: ``scaler=MyScaler(width=2)``; validators, maskers and
            correctors are sequences.

    Raises:
        ConfigError: a parameter or a step that there is not, or one that belongs to the command alone.
        PluginError: a plugin that there is not.
    """
    names = [name for name in Steps.__dataclass_fields__ if name != "parameters"]
    unknown = sorted(set(plugins) - set(names))
    if unknown:
        raise ConfigError(f"there is no step {', '.join(unknown)}; there are {', '.join(names)}")
    registry = registry or load_registry()
    scope = build_scope(registry, core="")
    try:
        refuse_includes("the parameters", parameters)
        working, unused = scope.fetch(parse(parameters), track_unused_definitions=True)
        params = working.extract()
    except ConfigError:
        raise
    # Whatever a value makes of PHIL's converters: RuntimeError, ValueError, OverflowError, Sorry ...
    except Exception as error:
        raise ConfigError(" ".join(str(error).split())) from error
    if unused:
        raise ConfigError("; ".join(_unknown(item.path) for item in unused))
    steps = select_steps(registry, params, AutomaticIndexer(partial(select_named, registry, params, "indexer")))
    text = scope.fetch_diff(working).as_str()
    return replace(steps, parameters=text, **{name: _checked(name, given) for name, given in plugins.items()})


def _checked(step: str, given: Any) -> Any:
    """Return what was given for a step, as `Steps` holds it.

    Raises:
        ConfigError: it is no plugin of that stage, or no sequence of them.
    """
    if not step.endswith("s"):
        _refuse_what_is_no_plugin(step, given)
        return given
    stage = step.removesuffix("s")
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError(f"{step}={given!r}: give a sequence of {stage} objects, or '{stage}.plugins = ...' as text")
    several = tuple(given)
    for plugin in several:
        _refuse_what_is_no_plugin(stage, plugin)
    return several


def _refuse_what_is_no_plugin(stage: str, given: Any) -> None:
    if isinstance(given, str):
        text = f"{stage}.plugin{'s' if stage in SEVERAL else ''} = {given}"
        raise ConfigError(
            f"the {stage} {given!r} is a name: give an object, or choose it by text, make_steps({text!r})"
        )
    if isinstance(given, type):
        raise ConfigError(f"the {stage} {given.__name__} is a class: give an object of it")
    methods = METHODS[stage]
    if not any(callable(getattr(given, method, None)) for method in methods):
        raise ConfigError(f"{given!r} is no {stage}: it has no {' and no '.join(methods)}")


_INSTEAD = {
    "crystal.unit_cell": "give run(unit_cell=...)",
    "crystal.space_group": "give run(space_group=...)",
    "crystal.reference": "give run(reference_cell=...)",
    "input.scales": "give run(scales=...)",
    "mp.nproc": "give run(nproc=...)",
    "output.directory": "give run(folder=...)",
}


def _unknown(path: str) -> str:
    """Say that a parameter selects no plugin and is none's, and what to do instead."""
    known = any(item.path == path for item in parse(core_text(), process_includes=True).all_definitions())
    if not known:
        return f"there is no parameter {path}"
    return f"{path} is a parameter of diffuse.process and of no plugin: {_INSTEAD.get(path, 'use the command for it')}"


def run(
    source: ImageSource,
    steps: Steps,
    unit_cell: Cell | None = None,
    space_group: str | None = None,
    reference_cell: Cell | None = None,
    nproc: int = 1,
    folder: str | Path | None = None,
    scales: str | Path | None = None,
) -> Outcome:
    """Go from images to the map, as `diffuse.process` does.

    Args:
        source: all images.
        steps: the plugins.
        unit_cell: of the crystal where it is known, angstrom and degrees.
        space_group: Hermann-Mauguin symbol where it is known.
        reference_cell: that every image's cell is compared with; `unit_cell` where not given.
        nproc: processes.
        folder: for sums and results, where a run that was cut off goes on; without it nothing is kept.
        scales: a file of scales of an earlier run that is used in place of a scaler.

    Raises:
        DiffuseError: whatever a step refuses.
    """
    if scales is not None:
        steps = replace(steps, scaler=StoredScaler.of_file(Path(scales), load_registry()))
    hints = CrystalHints(unit_cell, space_group, reference_cell)
    engine = process_engine(nproc)
    if folder is None:
        return run_pipeline(source, steps, engine, RunSettings(hints=hints, n_workers=nproc))
    with only_run_in(make_folder(Path(folder)).absolute()) as path, warnings_kept() as warned:
        settings = RunSettings(path, hints, n_workers=nproc, parameters=_last_steps(steps), warned=warned)
        return run_pipeline(source, steps, engine, settings)


def _last_steps(steps: Steps) -> str:
    """Return PHIL text that selects the last steps again; what text can't select is `FROM_PYTHON` there."""
    registry = load_registry()
    params = build_scope(registry, core="").fetch(parse(steps.parameters)).extract()
    text = steps.parameters
    for stage in ("scaler", "merger", "absolute_scaler"):
        plugin = getattr(steps, stage)
        name = plugin.name if _is_selected(registry, params, stage, plugin) else FROM_PYTHON
        text += f"{stage}.plugin = {name}\n"
    return text


def _is_selected(registry: Registry, params: Any, stage: str, plugin: Any) -> bool:
    """Whether a plugin is the one that parameters select, with the same parameters of its own."""
    try:
        return bool(select(registry, params, stage) == plugin)
    # A plugin that refuses the parameters, or whose comparison has no one answer: arrays.
    except (DiffuseError, ValueError):
        return False


def write(outcome: Outcome, folder: str | Path) -> None:
    """Write grid, scales and map as `diffuse.process` does.

    Raises:
        DataError: they can't be written.
    """
    write_results(make_folder(Path(folder)), outcome.map, outcome.scales, outcome.sums.image_names, outcome.scaled_by)


AnyMap = str | Path | VoxelMap | AbsoluteMap | Outcome
"""What can be compared: a folder of results, a file of a map, or a map in memory."""


def open_map(source: AnyMap, **hints: Any) -> VoxelMap:
    """Return a map as voxels with intensities.

    Args:
        source: folder of results, file of this program or another, or a map in memory.
        **hints: what a file may leave open, by the names of `io.maps.hints.MapHints`: ``unit_cell``,
            ``space_group``, ``divisions``, ``column``.

    Raises:
        DataError: it can't be read, or isn't a map.
    """
    if isinstance(source, VoxelMap):
        return source
    if isinstance(source, Outcome):
        return VoxelMap.of(source.map)
    if isinstance(source, AbsoluteMap):
        return VoxelMap.of(source)
    return read_voxel_map(Path(source), _hints(hints))


def _hints(hints: dict[str, Any]) -> MapHints:
    unknown = sorted(set(hints) - set(MapHints.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"there is no hint {', '.join(unknown)}; there are {', '.join(MapHints.__dataclass_fields__)}"
        )
    return MapHints(**hints)


def _two(a: AnyMap, b: AnyMap) -> tuple[VoxelMap, VoxelMap]:
    if isinstance(a, str | Path) and isinstance(b, str | Path):
        return read_pair(Path(a), Path(b))
    if isinstance(a, str | Path):
        second, first = _two(b, a)
        return first, second
    first = open_map(a)
    return first, open_map(b, like=first.grid) if isinstance(b, str | Path) else open_map(b)


def compare(
    a: AnyMap,
    b: AnyMap,
    halo: Halo = Halo(),  # noqa: B008
    shells: int = 10,
    samples: int = 500,
    seed: int = 0,
    **alignment: Any,
) -> Comparison:
    """Compare two maps, as `diffuse.compare` does; the result shows itself in a notebook.

    Args:
        a, b: the maps.
        halo: which voxels around a node of the lattice count as its halo.
        shells: number of resolution shells.
        samples: of the bootstrap that gives intervals; 0 for none.
        seed: of its random numbers.
        **alignment: how B is brought to A, by the names of `AlignmentOptions`: ``scale``, ``reindex`` and others.

    Raises:
        DiffuseError: maps that can't be read or compared.
    """
    return compare_maps(*_two(a, b), _alignment(alignment), halo, shells, samples, seed)


def subtract(a: AnyMap, b: AnyMap, **alignment: Any) -> VoxelMap:
    """Return A - B with its errors, as `diffuse.subtract` does.

    Args:
        a, b: the maps.
        **alignment: how B is brought to A, by the names of `AlignmentOptions`.

    Raises:
        DiffuseError: maps that can't be read or compared, or without errors.
    """
    return difference(*_two(a, b), _alignment(alignment))[0]


def _alignment(given: dict[str, Any]) -> AlignmentOptions:
    names = AlignmentOptions.__dataclass_fields__
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ConfigError(f"there is no option {', '.join(unknown)}; there are {', '.join(names)}")
    return AlignmentOptions(**given)


def rebin(
    source: AnyMap,
    divisions: tuple[int, int, int],
    halo: str = "keep",
    around: Halo = Halo(),  # noqa: B008
    coverage: float = 0.0,
) -> VoxelMap:
    """Return a map on coarser voxels, as `diffuse.rebin` does; a folder's from its sums.

    Args:
        source: the map.
        divisions: voxels per reciprocal lattice vector of the new one.
        halo: "keep", "exclude" or "only": what becomes of voxels in halos of nodes.
        around: which voxels around a node count as its halo.
        coverage: least part of a new voxel's volume that the old voxels which are used must cover.

    Raises:
        DiffuseError: a map that can't be read, divisions that can't be had, or no voxel left.
    """
    how = Rebinning(tuple(divisions), halo, around, coverage)
    if isinstance(source, str | Path):
        return rebin_path(Path(source), how, load_registry(), merger=merger_of_run(Path(source)))
    return rebinned(open_map(source), how)


def write_map(one: VoxelMap, folder: str | Path) -> Path:
    """Write a map in the files of a run, for `diffuse.report` and `diffuse.export`; return its NPZ file.

    Raises:
        DataError: it can't be written.
    """
    return write_voxel_map(make_folder(Path(folder)), one)
