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
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dials.util.options import ArgumentParser, flatten_experiments, flatten_reflections
from libtbx import Auto

from diffuse_framework.adapters.images import DxtbxSource
from diffuse_framework.adapters.inputs import all_have_crystals, images_from_files, open_source
from diffuse_framework.adapters.masks import write_mask
from diffuse_framework.adapters.reference import reference_cell
from diffuse_framework.adapters.sequences import SequenceSource
from diffuse_framework.adapters.symmetry import cell_of
from diffuse_framework.adapters.xds import read_xds
from diffuse_framework.algorithms.sweeps import SweepLimits, validate_sweeps
from diffuse_framework.algorithms.validation import Limits, validate
from diffuse_framework.command_line.arguments import parse_arguments, template_files
from diffuse_framework.command_line.failures import report_failures
from diffuse_framework.command_line.logs import log_start, run_description, start_logs
from diffuse_framework.command_line.progress import ShowProgress
from diffuse_framework.config.presets import with_presets
from diffuse_framework.config.scope import build_scope
from diffuse_framework.config.selection import select_steps
from diffuse_framework.engine.processes import available_cpus, process_engine
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.outputs import file_stem, read_scales, write_pixels, write_results
from diffuse_framework.io.sums_store import SumsWriter
from diffuse_framework.io.whole import make_folder, write_figure, write_json
from diffuse_framework.model.experiment import CrystalHints, Experiment, Image
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import CorrectedPixels
from diffuse_framework.pipeline.consistency import OneIndexing
from diffuse_framework.pipeline.process import Outcome, Surroundings, process
from diffuse_framework.pipeline.stored import StoredScaler
from diffuse_framework.report.figures import absolute_scale_figure
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

# dials_ssx indexes as many of the real stills it was tried on as dials_stills, and can leave integration out.
STILLS_INDEXER, ROTATION_INDEXER = "dials_ssx", "dials_sequence"

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
    parser = ArgumentParser(
        usage=USAGE,
        phil=build_scope(registry),
        epilog=__doc__,
        read_experiments=True,
        read_reflections=True,
        read_experiments_from_images=True,
    )
    if not args:
        parser.print_help()
        return None
    params, options = parse_arguments(parser, with_presets(args))
    folder = make_folder(Path(params.output.directory))
    start_logs(options.verbose, folder / params.output.log, registry.modules())
    log_start(parser.diff_phil.as_str(), registry)

    watch = Stopwatch()
    with watch("opening images"):
        source = _open_images(params)
    hints = _hints(params)
    automatic, why = _auto_indexer(params, source)
    steps = select_steps(registry, params, automatic)
    if params.input.scales:
        steps = replace(steps, scaler=StoredScaler(partial(read_scales, Path(params.input.scales))))
    why = f", {why}" if params.indexer.plugin is Auto else ""
    logger.info("%d images; indexer: %s%s", len(source), steps.indexer.name, why)
    around = Surroundings(
        folder=folder,
        mapper=ShowProgress(process_engine(_workers(params)), lambda: watch.now),
        make_sink=partial(SumsWriter, folder / "sums.h5"),
        watch=watch,
        chunk_size=params.mp.chunk,
        write_pixels=_image_files(params, folder),
    )
    agree = OneIndexing(params.consistency.tolerance) if params.consistency.reindex == "auto" else None
    outcome = process(source, steps, hints, partial(_validated, params, source), around, agree)

    with watch("writing"):
        write_results(folder, outcome.scales, outcome.sums.image_names, outcome.map)
        if outcome.map.report is not None:
            write_figure(folder / "absolute_scale.png", absolute_scale_figure(outcome.map.report))
    statistics = map_statistics(outcome.map.merged)
    logger.info("\n%s", scales_text(outcome.scales, outcome.sums.image_names))
    log_map(outcome.map, statistics)
    logger.info("%s\n", watch.table())
    write_json(
        folder / "summary.json",
        run_summary(len(source), outcome.experiment, outcome.scales, statistics, watch)
        | {"run": run_description(parser.diff_phil.as_str(), registry)},
    )
    logger.info("Results are in %s; diffuse.report %s shows them", folder, folder)
    return Finished(folder, source, outcome)


def _open_images(params: Any) -> DxtbxSource:
    experiments = flatten_experiments(params.input.experiments)
    for template in params.input.template or []:
        experiments.extend(images_from_files(template_files(template)))
    reflections = tuple(flatten_reflections(params.input.reflections))
    for folder in params.input.xds or []:
        if folder is not None:
            found, table = read_xds(Path(folder))
            experiments.extend(found)
            reflections += () if table is None else (table,)
    return open_source(
        experiments, reflections, params.input.reference_geometry, params.geometry, params.input.kind
    )


def _auto_indexer(params: Any, source: DxtbxSource) -> tuple[str, str]:
    """Return what indexer.plugin=Auto stands for, and why."""
    given = getattr(params.indexer, "given", None)
    if given is not None and given.crystals:
        return "given", "for indexer.given.crystals is set"
    if all_have_crystals(source):
        return "given", "for the input has crystals"
    if isinstance(source, SequenceSource):
        return ROTATION_INDEXER, "for the images are rotations"
    return STILLS_INDEXER, "for the images are stills"


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
    if params.mp.method == "serial":
        return 1
    return available_cpus() if params.mp.nproc is Auto else params.mp.nproc


def _validated(params: Any, source: DxtbxSource, experiment: Experiment) -> Experiment:
    reference = None
    if params.crystal.reference:
        reference, _ = reference_cell(Path(params.crystal.reference))
    elif params.crystal.unit_cell:
        reference = cell_of(params.crystal.unit_cell)
    limits = Limits(**{name: getattr(params.validation, name) for name in Limits.__dataclass_fields__})
    experiment, _ = validate(experiment, limits, reference)
    experiment, sweeps = validate_sweeps(
        experiment,
        source.read,
        SweepLimits(params.validation.max_misorientation, params.validation.min_bright),
    )
    if sweeps:
        logger.info("\n%s", sweeps_text(sweeps))
    log_experiment(experiment, len(source))
    if not experiment.images:
        raise DataError(nothing_left_text(experiment))
    return experiment


def _image_files(params: Any, folder: Path) -> ImageFiles | None:
    masks = params.output.masks
    if masks == "none" and not params.output.pixels:
        return None
    return ImageFiles(make_folder(folder / "images"), masks, params.output.pixels)


@dataclass(frozen=True)
class ImageFiles:
    """Writes the files that single images leave behind, from inside the workers."""

    folder: Path
    masks: str
    pixels: bool

    def __call__(
        self, number: int, image: Image, mask: PixelMask, make_pixels: Callable[[], CorrectedPixels]
    ) -> None:
        """Write the mask and the corrected pixels of one image, as far as they are wanted."""
        stem = file_stem(image.name)
        if self.masks == "all" or (self.masks == "first" and number == 0):
            write_mask(self.folder / f"{stem}_total_diffuse_mask.pickle", mask.diffuse)
            write_mask(self.folder / f"{stem}_pixel_mask.pickle", mask.trusted)
        if self.pixels:
            write_pixels(self.folder / f"{stem}_diffuse_data.npz", image, make_pixels())
