"""Make a merged three-dimensional map of diffuse scattering from images of a protein crystal.

Images are indexed by DIALS, pixels that can't be used or belong to Bragg peaks are masked, the
others are corrected and accumulated on a grid of reciprocal space; images are brought to one scale
and merged. Each step is a plugin: `diffuse.plugins` lists them and their parameters.

Examples::

  diffuse.process crystal.unit_cell=58,58,150,90,90,90 crystal.space_group=P41212 images/*.cbf
  diffuse.process params.phil images/*.cbf
  diffuse.process preset=quick_look images/*.cbf
  diffuse.process indexed.expt indexed.refl grid.hkl.divisions=5,5,5

A finer map with the scales of an earlier run, without indexing or scaling again::

  diffuse.process diffuse/indexed.expt diffuse/indexed.refl grid.hkl.divisions=9,9,9 \\
    input.scales=diffuse/refined_scaling_model_params.json output.directory=fine

A run that was cut off goes on where it stopped: type the same command again. While images are
being taken::

  diffuse.process live=True 'images/*.cbf' crystal.unit_cell=... crystal.space_group=...
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dials.util.options import ArgumentParser, FilenameDataWrapper
from iotbx.phil import parse

from diffuse_framework.adapters.images.expt_files import experiments_from_file, image_places
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing.automatic import AutomaticIndexer
from diffuse_framework.command_line.shared.arguments import parse_arguments, split_experiments, without_images
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.live import follow, mentions_live, settings_of, split_images
from diffuse_framework.command_line.shared.logs import log_start, logger, run_description, start_logs
from diffuse_framework.command_line.shared.progress import ShowProgress
from diffuse_framework.command_line.shared.run_inputs import (
    engine_of,
    hints_of,
    image_files_of,
    local_workers,
    open_images,
    refuse_no_images,
)
from diffuse_framework.config.idle import idle_parameters, refuse_idle
from diffuse_framework.config.presets import with_presets
from diffuse_framework.config.scope import build_scope
from diffuse_framework.config.selection import select_named, select_steps
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Registry
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import file_in, make_folder, only_run_in
from diffuse_framework.model.experiment import CrystalHints
from diffuse_framework.pipeline.frozen import freeze
from diffuse_framework.pipeline.process import Outcome
from diffuse_framework.pipeline.run import RunSettings
from diffuse_framework.pipeline.run import run as run_pipeline
from diffuse_framework.pipeline.stored import StoredScaler
from diffuse_framework.report.summary import Stopwatch
from diffuse_framework.report.warned import warnings_kept
from diffuse_framework.stages.steps import Steps

USAGE = "diffuse.process [options] [params.phil] image_*.cbf | indexed.expt indexed.refl"


@dataclass(frozen=True, eq=False)
class Finished:
    """A run that went well.

    Attributes:
        folder: of its results.
        source: all images.
        outcome: what it ended with.
    """

    folder: Path
    source: DxtbxSource
    outcome: Outcome


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.process; `args` are those of the command line where None."""
    execute(sys.argv[1:] if args is None else args, registry)


def execute(args: list[str], registry: Registry | None = None) -> Finished | None:
    """Do what the command line `args` asks for; None where it only asks for help.

    Raises:
        DiffuseError: anything the user can mend.
    """
    registry = registry or load_registry()
    args = with_presets(args)
    if not args:
        _parser(registry).print_help()
        return None
    if mentions_live(args) and _parsed(settings_of(args), registry)[0].live:
        return _follow(args, registry)
    params, options, changed = _parsed(args, registry)
    refuse_no_images(params)
    # Before there is a folder: what is refused without looking at an image leaves none behind.
    refuse_idle(params, options.typed)
    steps, hints = _chosen(params, registry), hints_of(params)
    with _output_folder(params, options, changed, registry) as folder:
        return _process(params, steps, hints, changed, folder, registry)


def _parser(registry: Registry) -> ArgumentParser:
    return ArgumentParser(
        usage=USAGE,
        phil=build_scope(registry),
        epilog=__doc__,
        read_experiments=True,
        read_reflections=True,
        read_experiments_from_images=True,
    )


def _parsed(args: list[str], registry: Registry) -> tuple[Any, Any, str]:
    """Return parameters, options, and what differs from the defaults."""
    parser = _parser(registry)
    files, others = split_experiments(args)
    params, options = parse_arguments(parser, others)
    params.input.__inject__("unreadable", options.unreadable)
    places = image_places(params.input.image_folder, params.input.image_map or [])
    for path in files:
        params.input.experiments.append(FilenameDataWrapper(path, experiments_from_file(path, places=places)))
    listed = "".join(f'input {{\n  experiments = "{path}"\n}}\n' for path in files)
    return params, options, listed + parser.diff_phil.as_str()


def _chosen(params: Any, registry: Registry) -> Steps:
    """Return the plugins that parameters select, or the scales of an earlier run in place of a scaler."""
    steps = select_steps(registry, params, AutomaticIndexer(partial(select_named, registry, params, "indexer")))
    if params.input.scales:
        steps = replace(steps, scaler=StoredScaler.of_file(Path(params.input.scales), registry))
    return steps


@contextmanager
def _output_folder(params: Any, options: Any, changed: str, registry: Registry) -> Iterator[Path]:
    """Make the output folder, keep other runs out of it and start the log."""
    folder = make_folder(Path(params.output.directory)).absolute()
    log = file_in(folder, params.output.log)
    with only_run_in(folder):
        start_logs(options.verbose, log, registry.modules())
        log_start(changed, registry)
        yield folder


def _process(
    params: Any,
    steps: Steps,
    hints: CrystalHints,
    changed: str,
    folder: Path,
    registry: Registry,
    frozen: Outcome | None = None,
    prune: bool = True,
) -> Finished:
    """Go from parameters to results in `folder`.

    Args:
        params: as parsed.
        steps: the chosen plugins.
        hints: what is known of the crystal.
        changed: those that differ from the defaults.
        folder: of results.
        registry: plugins.
        frozen: an outcome whose grid and masks are kept.
        prune: remove finished work that these results have no use for.
    """
    watch = Stopwatch()
    with warnings_kept() as warned:
        for sentence in idle_parameters(params, [item.path for item in parse(changed).all_definitions()]):
            logger.warning("%s", sentence)
        with watch("opening images"):
            source = open_images(params)
        logger.info("%d image%s", len(source), "" if len(source) == 1 else "s")
        if frozen is not None:
            steps = freeze(steps, frozen)
        settings = RunSettings(
            folder=folder,
            hints=hints,
            chunk_size=params.mp.chunk,
            n_workers=local_workers(params),
            write_pixels=image_files_of(params, folder),
            prune=prune,
            parameters=without_images(changed),
            description=run_description(changed, registry),
            warned=warned,
            called=params.output.directory,
        )
        with engine_of(params) as engine:
            outcome = run_pipeline(source, steps, ShowProgress(engine, lambda: watch.now), settings, watch)
    return Finished(folder, source, outcome)


def _follow(args: list[str], registry: Registry) -> Finished:
    """Process images as they come."""
    patterns, others = split_images(args)
    params, options, changed = _parsed(others, registry)
    refuse_idle(params, options.typed)
    steps, hints = _chosen(params, registry), hints_of(params)
    with _output_folder(params, options, changed, registry) as folder:

        def one_round(files: list[str], frozen: Outcome | None = None, last: bool = False) -> Finished:
            params, _, _ = _parsed(others + files, registry)
            finished = _process(params, steps, hints, changed, folder, registry, frozen, prune=last)
            # Here, for it loads matplotlib.
            from diffuse_framework.command_line.report import write_report

            write_report(folder, folder / filenames.REPORT)
            return finished

        return follow(
            patterns,
            lambda files, frozen: one_round(files, frozen).outcome,
            lambda files: one_round(files, last=True),
            params.watch.interval,
            params.watch.patience,
        )
