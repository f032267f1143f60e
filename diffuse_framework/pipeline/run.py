"""One run, and its last steps alone: what every command, the Python interface and the tests call.

Opened images and chosen plugins come in; sums and results go to a folder, or stay in memory.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffuse_framework.algorithms.statistics import half_maps, shell_statistics
from diffuse_framework.host.registry import PluginRecord, record_of
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import write_figure, write_json, write_text
from diffuse_framework.io.inputs import read_json
from diffuse_framework.io.journal import Journal
from diffuse_framework.io.results import Halves, write_half_maps, write_map_files, write_results
from diffuse_framework.io.scales import write_scales
from diffuse_framework.io.sums_store import StoredSums, SumsWriter
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import AbsoluteMap, AbsoluteReport, MergedMap
from diffuse_framework.model.scales import ErrorModel, Scales
from diffuse_framework.model.source import ImageSource
from diffuse_framework.model.voxels import VoxelSums
from diffuse_framework.pipeline.chunk import PixelWriter
from diffuse_framework.pipeline.memory import needed, require_memory
from diffuse_framework.pipeline.process import Outcome, Surroundings, fit_scales, maker_of, merge, process
from diffuse_framework.pipeline.unreadable import left_out_of
from diffuse_framework.report.summary import (
    Stopwatch,
    log_experiment,
    log_map,
    map_statistics,
    run_summary,
    scales_text,
    scaling_text,
    statistics_text,
)
from diffuse_framework.report.verdict import Judgement, judge, log_verdict
from diffuse_framework.stages.merger import Merger
from diffuse_framework.stages.scaler import Scaler
from diffuse_framework.stages.steps import MergingSteps, Steps
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RunSettings:
    """What a run takes besides images and plugins.

    Attributes:
        folder: for sums and results; None keeps sums in memory and writes nothing.
        hints: what is known of the crystal.
        chunk_size: images a worker takes at a time.
        n_workers: processes of this machine that read images, for what is said of memory.
        write_pixels: called by workers with each image's mask and corrected pixels.
        prune: remove finished work of earlier runs that these results have no use for.
        parameters: PHIL text of what differs from the defaults, kept beside the results.
        description: what else ``summary.json`` says of the run.
        warned: what was warned of, which grows as the run goes on (`report.warned`); it takes part in the verdict.
        called: what the user calls the folder, for the line that says where results are; "" leaves that out.
    """

    folder: Path | None = None
    hints: CrystalHints = CrystalHints()
    chunk_size: int = 4
    n_workers: int = 1
    write_pixels: PixelWriter | None = None
    prune: bool = True
    parameters: str = ""
    description: Mapping[str, Any] = field(default_factory=dict)
    warned: Sequence[str] = ()
    called: str = ""


IN_MEMORY = RunSettings()


def run(
    source: ImageSource,
    steps: Steps,
    mapper: Mapper,
    settings: RunSettings = IN_MEMORY,
    watch: Stopwatch | None = None,
) -> Outcome:
    """Go from images to the map and, where there is a folder, to files. A run that was cut off goes on there.

    Args:
        source: all images.
        steps: the chosen plugins.
        mapper: spreads work.
        settings: see `RunSettings`.
        watch: measures the parts of the run.

    Raises:
        DiffuseError: whatever a step refuses, or a file that can't be written.
    """
    watch = watch or Stopwatch()
    require_memory(needed(_n_pixels(source), settings.n_workers))
    if settings.folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return process(source, steps, settings.hints, _around(source, Path(temporary), mapper, settings, watch))
    journal = Journal(mapper, settings.folder / filenames.INDEXING_PARTS)
    around = _around(source, settings.folder, journal, settings, watch)
    sums_path = settings.folder / filenames.SUMS
    # Known while the run is under way, so that what it leaves when it is cut off can be finished as it was begun.
    write_text(settings.folder / filenames.PARAMETERS, settings.parameters)
    outcome = process(source, steps, settings.hints, _stored(around, sums_path))
    with watch("writing"):
        write_results(settings.folder, outcome.map, outcome.scales, outcome.sums.image_names, outcome.scaled_by)
        _draw_absolute_scale(settings.folder, outcome.map)
    if settings.prune:
        journal.prune()
        StoredSums(sums_path).prune()
    with watch("judging"):
        judgement = judge(
            outcome.map.merged, outcome.sums, outcome.scales, steps.merger.merge, warned=tuple(settings.warned)
        )
    of_map = _of_map(outcome.map.merged, judgement)
    logger.info("\n%s", scales_text(outcome.scales, outcome.sums.image_names))
    outliers = outcome.scales.statistics.get("outliers")
    # Another's scaler may call something else by that name.
    if isinstance(outliers, dict) and "by_shell" in outliers:
        logger.info("\n%s", scaling_text(outcome.scales.statistics))
    log_map(outcome.map, of_map["map"])
    logger.info("%s\n", watch.table())
    write_json(
        settings.folder / filenames.SUMMARY,
        run_summary(_n_given(source), outcome.experiment, outcome.scales, of_map, watch)
        | {"run": dict(settings.description), "warnings": list(settings.warned)},
    )
    if settings.called:
        logger.info("Results are in %s; diffuse.report %s shows them\n", settings.called, settings.called)
    log_verdict(judgement.verdict)
    return outcome


def scale(sums: VoxelSums, scaler: Scaler, folder: Path) -> Scales:
    """Fit the scaling model to sums again, and write it.

    Raises:
        DiffuseError: what the scaler refuses, scales that are no positive numbers, a file that can't be written.
    """
    scales = fit_scales(sums, scaler, None)
    logger.info("\n%s\n", scales_text(scales, sums.image_names))
    write_scales(folder / filenames.SCALES, scales, sums.image_names, maker_of(scaler))
    if "chi_squared" in scales.statistics:
        logger.info("%s\n", scaling_text(scales.statistics))
    return scales


def make_map(
    sums: VoxelSums,
    scales: Scales,
    maker: PluginRecord,
    steps: MergingSteps,
    folder: Path,
    half_map_seed: int | None = None,
) -> AbsoluteMap:
    """Make the map of sums and scales again, and write it.

    Args:
        sums: of all images.
        scales: the scaling model.
        maker: the scaler that made it.
        steps: merger and absolute scaler.
        folder: for the files.
        half_map_seed: of the random numbers that split the images into halves; None writes no half maps.

    Raises:
        DiffuseError: what a plugin refuses, or a file that can't be written.
    """
    final = merge(sums, scales, steps, None)
    judgement = judge(final.merged, sums, scales, steps.merger.merge)
    of_map = _of_map(final.merged, judgement)
    log_map(final, of_map["map"])
    halves = None
    if half_map_seed is not None:
        halves = half_maps(sums, scales, np.random.default_rng(half_map_seed), steps.merger.merge)
    write_map_files(folder, final, scales, sums.image_names, maker, halves)
    _draw_absolute_scale(folder, final)
    summary = folder / filenames.SUMMARY
    write_json(summary, (read_json(summary) if summary.is_file() else {}) | {"scaling": scales.statistics} | of_map)
    log_verdict(judgement.verdict)
    return final


def _of_map(merged: MergedMap, judgement: Judgement) -> dict[str, Any]:
    """Return the parts of ``summary.json`` that follow from the map."""
    return {"verdict": judgement.verdict.to_plain(), "map": map_statistics(merged, judgement.statistics)}


def judged(sums: VoxelSums, scales: Scales, merger: Merger) -> dict[str, Any]:
    """Return the parts of ``summary.json`` that follow from the map, of a run whose files lack them."""
    merged = merger.merge(sums, scales)
    return _of_map(merged, judge(merged, sums, scales, merger.merge))


def statistics(
    sums: VoxelSums, scales: Scales, merger: Merger, shells: int, isotropic_width: float, seed: int
) -> tuple[dict[str, Any], Halves]:
    """Return the content of ``merging_statistics.json``, and the maps of both halves.

    Args:
        sums: of all images.
        scales: the scaling model.
        merger: of the map that is judged.
        shells: number of resolution shells.
        isotropic_width: of the bins of the isotropic part, 1/angstrom.
        seed: of the random numbers that split the images into halves.
    """
    halves = half_maps(sums, scales, np.random.default_rng(seed), merger.merge, counting_only=True)
    found = shell_statistics(merger.merge(sums, scales), halves, shells, isotropic_width)
    if scales.error_model != ErrorModel():
        halves = half_maps(sums, scales, np.random.default_rng(seed), merger.merge)
    return found | {"merger": record_of("merger", merger).name, "scaling": scales.statistics}, halves


def write_statistics(folder: Path, found: dict[str, Any], halves: Halves | None) -> Path:
    """Write ``merging_statistics.json``, and half maps where they are given; return the file.

    Raises:
        DataError: a file can't be written.
    """
    logger.info("\n%s\n", statistics_text(found))
    if found["scaling"]:
        logger.info("%s\n", scaling_text(found["scaling"]))
    path = folder / filenames.STATISTICS
    write_json(path, found)
    if halves is not None:
        write_half_maps(folder, halves)
    return path


def _n_given(source: ImageSource) -> int:
    """Number of images that the user named, unreadable ones included."""
    return len(set(source.names)) + len(left_out_of(source))


def _n_pixels(source: ImageSource) -> int:
    return source.geometry(0).n_pixels if source.names else 0


def _around(source: ImageSource, folder: Path, mapper: Mapper, settings: RunSettings, watch: Stopwatch) -> Surroundings:
    def indexed(experiment: Experiment) -> None:
        log_experiment(experiment, _n_given(source))

    def gridded(grid: VoxelGrid, n_images: int) -> None:
        require_memory(needed(_n_pixels(source), settings.n_workers, grid, n_images))

    return Surroundings(
        folder=folder,
        mapper=mapper,
        watch=watch,
        indexed=indexed,
        gridded=gridded,
        chunk_size=settings.chunk_size,
        write_pixels=settings.write_pixels,
    )


def _stored(around: Surroundings, path: Path) -> Surroundings:
    """Keep sums in a file rather than in memory."""
    return replace(around, make_sink=partial(SumsWriter, path))


def _draw_absolute_scale(folder: Path, final: AbsoluteMap) -> None:
    """Draw how our methods found the scale; what another one reports is in its table."""
    if isinstance(final.report, AbsoluteReport):
        # Here, for it loads matplotlib.
        from diffuse_framework.report.figures import absolute_scale_figure

        write_figure(folder / filenames.ABSOLUTE_FIGURE, absolute_scale_figure(final.report))
    else:
        (folder / filenames.ABSOLUTE_FIGURE).unlink(missing_ok=True)
