"""Make a merged three-dimensional map of diffuse scattering from images of a protein crystal.

Images are indexed by DIALS, pixels that can't be used or belong to Bragg peaks are masked, the
others are corrected and added up on a grid of reciprocal space; images are brought to one scale
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

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dials.util.options import ArgumentParser, flatten_experiments, flatten_reflections
from libtbx import Auto

from diffuse_framework.adapters.images.open import automatic_indexer, open_source, readable_images
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.images.xds import read_xds
from diffuse_framework.adapters.models.reference import reference_cell
from diffuse_framework.adapters.models.symmetry import cell_of
from diffuse_framework.algorithms.validation.stills import Limits, validate
from diffuse_framework.algorithms.validation.sweeps import SweepLimits, validate_sweeps
from diffuse_framework.command_line.shared.arguments import parse_arguments, template_files
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.image_files import ImageFiles
from diffuse_framework.command_line.shared.live import follow, mentions_live, settings_of, split_images
from diffuse_framework.command_line.shared.logs import log_start, run_description, start_logs
from diffuse_framework.command_line.shared.progress import ShowProgress
from diffuse_framework.config.presets import with_presets
from diffuse_framework.config.scope import build_scope
from diffuse_framework.config.selection import select_steps
from diffuse_framework.engine.choose import open_engine
from diffuse_framework.engine.dask import DaskSettings
from diffuse_framework.engine.processes import available_cpus
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.atomic import file_in, make_folder, only_run_in, write_figure, write_json
from diffuse_framework.io.journal import Journal
from diffuse_framework.io.results import read_scales, write_results
from diffuse_framework.io.sums_store import StoredSums, SumsWriter
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.pipeline.frozen import freeze
from diffuse_framework.pipeline.process import Outcome, Surroundings, process
from diffuse_framework.pipeline.reindexing import ResolveAmbiguity
from diffuse_framework.pipeline.stored import StoredScaler
from diffuse_framework.report.summary import (
    Stopwatch,
    log_experiment,
    log_map,
    map_statistics,
    nothing_left_text,
    run_summary,
    scales_text,
    sweeps_text,
)

logger = logging.getLogger(__name__)

SHORTEST_AXIS = 2.0

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
    with _output_folder(params, options, changed, registry) as folder:
        return _process(params, changed, folder, registry)


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
    params, options = parse_arguments(parser, args)
    params.input.__inject__("unreadable", options.unreadable)
    return params, options, parser.diff_phil.as_str()


@contextmanager
def _output_folder(params: Any, options: Any, changed: str, registry: Registry) -> Iterator[Path]:
    """Make the output folder, keep other runs out of it and start the log."""
    folder = make_folder(Path(params.output.directory)).absolute()
    log = file_in(folder, params.output.log)
    with only_run_in(folder):
        start_logs(options.verbose, log, registry.modules())
        log_start(changed, registry)
        yield folder


def _follow(args: list[str], registry: Registry) -> Finished:
    """Process images as they come."""
    patterns, others = split_images(args)
    params, options, changed = _parsed(others, registry)
    with _output_folder(params, options, changed, registry) as folder:

        def one_round(files: list[str], frozen: Outcome | None = None, last: bool = False) -> Finished:
            params, _, _ = _parsed(others + files, registry)
            finished = _process(params, changed, folder, registry, frozen, prune=last)
            # Here, for it loads matplotlib.
            from diffuse_framework.command_line.report import write_report

            write_report(folder, folder / "report.html")
            return finished

        return follow(
            patterns,
            lambda files, frozen: one_round(files, frozen).outcome,
            lambda files: one_round(files, last=True),
            params.watch.interval,
            params.watch.patience,
        )


def _process(
    params: Any,
    changed: str,
    folder: Path,
    registry: Registry,
    frozen: Outcome | None = None,
    prune: bool = True,
) -> Finished:
    """Go from parameters to results in `folder`.

    Args:
        params: as parsed.
        changed: those that differ from the defaults.
        folder: of results.
        registry: plugins.
        frozen: an outcome whose grid and masks are kept.
        prune: remove finished work that these results have no use for.
    """
    watch = Stopwatch()
    with watch("opening images"):
        source = _open_images(params)
    hints = _hints(params)
    automatic, why = _auto_indexer(params, source)
    steps = select_steps(registry, params, automatic)
    if params.input.scales:
        steps = replace(steps, scaler=StoredScaler(partial(read_scales, Path(params.input.scales))))
    if frozen is not None:
        steps = freeze(steps, frozen)
    why = f", {why}" if params.indexer.plugin is Auto else ""
    logger.info("%d images; indexer: %s%s", len(source), steps.indexer.name, why)
    agree = ResolveAmbiguity(params.consistency.tolerance) if params.consistency.reindex == "auto" else None
    with open_engine(params.mp.method, _workers(params), _dask_settings(params)) as engine:
        journal = Journal(ShowProgress(engine, lambda: watch.now), folder / "indexing.parts")
        around = Surroundings(
            folder=folder,
            mapper=journal,
            make_sink=partial(SumsWriter, folder / "sums.h5"),
            watch=watch,
            chunk_size=params.mp.chunk,
            write_pixels=_image_files(params, folder),
        )
        outcome = process(source, steps, hints, partial(_validated, params, source), around, agree)

    with watch("writing"):
        write_results(folder, outcome.scales, outcome.sums.image_names, outcome.map)
        if outcome.map.report is not None:
            from diffuse_framework.report.figures import absolute_scale_figure

            write_figure(folder / "absolute_scale.png", absolute_scale_figure(outcome.map.report))
    if prune:
        journal.prune()
        StoredSums(folder / "sums.h5").prune()
    statistics = map_statistics(outcome.map.merged)
    logger.info("\n%s", scales_text(outcome.scales, outcome.sums.image_names))
    log_map(outcome.map, statistics)
    logger.info("%s\n", watch.table())
    write_json(
        folder / "summary.json",
        run_summary(len(source) + len(source.left_out), outcome.experiment, outcome.scales, statistics, watch)
        | {"run": run_description(changed, registry)},
    )
    shown = params.output.directory
    logger.info("Results are in %s; diffuse.report %s shows them", shown, shown)
    return Finished(folder, source, outcome)


def _open_images(params: Any) -> DxtbxSource:
    experiments = flatten_experiments(params.input.experiments)
    unreadable = params.input.unreadable
    for template in params.input.template or []:
        images, left_out = readable_images(template_files(template))
        experiments.extend(images)
        unreadable += left_out
    reflections = tuple(flatten_reflections(params.input.reflections))
    for folder in params.input.xds or []:
        if folder is not None:
            found, table = read_xds(Path(folder))
            experiments.extend(found)
            reflections += () if table is None else (table,)
    return open_source(
        experiments,
        reflections,
        params.input.reference_geometry,
        params.geometry,
        params.input.kind,
        unreadable,
        params.input.duplicates,
    )


def _auto_indexer(params: Any, source: DxtbxSource) -> tuple[str, str]:
    """Return what indexer.plugin=Auto stands for, and why."""
    given = getattr(params.indexer, "given", None)
    if given is not None and given.crystals:
        return "given", "for indexer.given.crystals is set"
    return automatic_indexer(source)


def _hints(params: Any) -> CrystalHints:
    cell, group = params.crystal.unit_cell, params.crystal.space_group
    # PHIL completes a cell of too few numbers with ones.
    if cell and min(cell_of(cell)[:3]) < SHORTEST_AXIS:
        raise ConfigError(
            f"crystal.unit_cell={cell_of(cell)} is no crystal's: give three lengths in angstrom and three angles "
            "in degrees, separated by commas"
        )
    if cell and group and not group.group().is_compatible_unit_cell(cell):
        raise ConfigError(f"crystal.unit_cell={cell_of(cell)} can't be that of crystal.space_group={group}")
    return CrystalHints(cell_of(cell) if cell else None, str(group) if group else None)


def _workers(params: Any) -> int:
    if params.mp.nproc is not Auto:
        return params.mp.nproc
    if params.mp.method == "dask" and params.mp.dask.cluster == "slurm" and not params.mp.dask.scheduler:
        raise ConfigError("mp.dask.cluster=slurm starts one job a worker: say how many with mp.nproc=")
    return available_cpus()


def _dask_settings(params: Any) -> DaskSettings:
    dask = params.mp.dask
    return DaskSettings(
        scheduler=dask.scheduler or "",
        cluster=dask.cluster,
        n_workers=_workers(params) if params.mp.method == "dask" else 1,
        memory=dask.memory,
        queue=dask.queue or "",
        account=dask.account or "",
        walltime=dask.walltime,
        directives=tuple(line for line in dask.directives if line),
    )


def _validated(params: Any, source: DxtbxSource, experiment: Experiment) -> Experiment:
    reference = None
    if params.crystal.reference:
        reference, _ = reference_cell(Path(params.crystal.reference))
    elif params.crystal.unit_cell:
        reference = cell_of(params.crystal.unit_cell)
    limits = Limits(**{name: getattr(params.validation, name) for name in Limits.__dataclass_fields__})
    # Sweeps first and whole: of one that turns the wrong way the first image would pass by itself.
    experiment, sweeps = validate_sweeps(
        experiment,
        source.read,
        SweepLimits(params.validation.max_misorientation, params.validation.min_bright),
    )
    if sweeps:
        logger.info("\n%s", sweeps_text(sweeps))
    if experiment.images:
        experiment, _ = validate(experiment, limits, reference)
    log_experiment(experiment, len(source) + len(source.left_out))
    if not experiment.images:
        raise DataError(nothing_left_text(experiment))
    return experiment


def _image_files(params: Any, folder: Path) -> ImageFiles | None:
    masks = params.output.masks
    if masks == "none" and not params.output.pixels:
        return None
    return ImageFiles(make_folder(folder / "images"), masks, params.output.pixels)
