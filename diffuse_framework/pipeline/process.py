"""The whole run on one page: images -> orientations -> sums -> scales -> map."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from diffuse_framework.algorithms.indexing.ambiguity import reindexed_experiment, reindexed_tables
from diffuse_framework.algorithms.validation.laue import laue_check
from diffuse_framework.algorithms.validation.response import response_checks
from diffuse_framework.errors import DataError
from diffuse_framework.host.registry import PluginRecord, record_of
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.geometry import with_read_noise
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import AbsoluteMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.source import ImageSource
from diffuse_framework.model.voxels import SumsInMemory, SumsTable, VoxelSums
from diffuse_framework.pipeline.chunk import ChunkWork, PixelWriter
from diffuse_framework.pipeline.unreadable import left_out_of, on_readable
from diffuse_framework.stages.masker import Masker
from diffuse_framework.stages.reindexer import Reindexer
from diffuse_framework.stages.scaler import Scaler
from diffuse_framework.stages.steps import MergingSteps, Steps
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Where sums are kept while images are read."""

    def collect(self, work: ChunkWork, chunks: list[range], mapper: Mapper) -> None:
        """Keep the sums of all chunks; those that are there already need not be made again."""

    def append(self, table: SumsTable) -> None:
        """Keep one more table."""

    def finish(self) -> VoxelSums:
        """Return all sums."""


class MemorySink:
    """Keeps sums in memory."""

    def __init__(self, grid: VoxelGrid, image_names: tuple[str, ...]) -> None:
        self._grid, self._image_names = grid, image_names
        self._tables: list[SumsTable] = []

    def collect(self, work: ChunkWork, chunks: list[range], mapper: Mapper) -> None:
        """Keep the tables of all chunks."""
        self._tables += mapper.map(work, chunks)

    def append(self, table: SumsTable) -> None:
        """Keep `table`."""
        self._tables.append(table)

    def finish(self) -> VoxelSums:
        """Return all sums."""
        return SumsInMemory(self._grid, self._image_names, tuple(self._tables))


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Where and how a run happens; nothing here changes the map.

    Attributes:
        folder: for what the indexer leaves behind.
        mapper: spreads work.
        make_sink: called with the grid and the images' names.
        watch: called with the name of each step; a context around it.
        indexed: called with the experiment when it is known which images are used.
        gridded: called with the grid and the number of images when the grid is known.
        chunk_size: images a worker takes at a time.
        write_pixels: called by workers with each image's mask and corrected pixels.
    """

    folder: Path
    mapper: Mapper
    make_sink: Callable[[VoxelGrid, tuple[str, ...]], Sink] = MemorySink
    watch: Callable[[str], AbstractContextManager] = nullcontext
    indexed: Callable[[Experiment], None] = lambda experiment: None
    gridded: Callable[[VoxelGrid, int], None] = lambda grid, n_images: None
    chunk_size: int = 4
    write_pixels: PixelWriter | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """All that a run ends with.

    Attributes:
        experiment: the images that were used, and those that were rejected.
        sums: of their pixels.
        scales: the scaling model.
        scaled_by: the scaler that made it.
        map: on its final scale.
        maskers: that know the data.
    """

    experiment: Experiment
    sums: VoxelSums
    scales: Scales
    scaled_by: PluginRecord
    map: AbsoluteMap
    maskers: tuple[Masker, ...] = ()

    def __repr__(self) -> str:
        return f"Outcome({self.experiment!r}, scaled by {self.scaled_by.name}, {self.map!r})"


def process(source: ImageSource, steps: Steps, hints: CrystalHints, around: Surroundings) -> Outcome:
    """Go from images to the final map.

    Args:
        source: all images.
        steps: the chosen plugins.
        hints: what is known of the crystal.
        around: where and how.

    Raises:
        DiffuseError: whatever a step refuses.
    """
    with around.watch("indexing"):
        experiment = index(source, steps, hints, around)
    with around.watch("accumulation"):
        work = partial(accumulate, source, steps=steps, around=around)
        experiment, maskers, sums = on_readable(work, source, experiment, around.mapper)
    with around.watch("re-indexing"):
        sums, experiment = reindex(sums, experiment, steps.reindexer, around)
    with around.watch("scaling"):
        scales = fit_scales(sums, steps.scaler, experiment)
    with around.watch("merging"):
        final = merge(sums, scales, steps.merging, experiment)
    warn_of_faults(sums, scales, steps, experiment, final.merged.voxel)
    return Outcome(experiment, sums, scales, maker_of(steps.scaler), final, maskers)


def index(source: ImageSource, steps: Steps, hints: CrystalHints, around: Surroundings) -> Experiment:
    """Images -> orientations that can be trusted.

    Raises:
        DataError: no image is left.
    """
    experiment = steps.indexer.index(source, hints, around.folder, around.mapper)
    experiment = replace(experiment, rejected=(*left_out_of(source), *experiment.rejected))
    work = partial(validate, source, steps=steps, hints=hints, around=around)
    experiment = on_readable(work, source, experiment, around.mapper)
    experiment = _with_noise_of(experiment, source)
    around.indexed(experiment)
    if not experiment.images:
        raise DataError(_nothing_left(experiment))
    return experiment


def validate(
    source: ImageSource, experiment: Experiment, steps: Steps, hints: CrystalHints, around: Surroundings
) -> Experiment:
    """Orientations -> those that all validators trust."""
    for validator in steps.validators:
        if experiment.images:
            experiment = validator.validate(experiment, source, hints, around.mapper)
    return experiment


def accumulate(
    source: ImageSource, experiment: Experiment, steps: Steps, around: Surroundings
) -> tuple[Experiment, tuple[Masker, ...], VoxelSums]:
    """Images -> sums, and the maskers that have seen the data."""
    maskers = tuple(masker.prepare(source, experiment, around.mapper) for masker in steps.maskers)
    return experiment, maskers, collect(source, experiment, replace(steps, maskers=maskers), around)


def _with_noise_of(experiment: Experiment, source: ImageSource) -> Experiment:
    """Give the refined geometries the read noise of the source's panels: the files of DIALS have no place for it."""
    if not experiment.images:
        return experiment
    noise = tuple(panel.read_noise for panel in source.geometry(experiment.images[0].source_index).panels)
    if not any(noise):
        return experiment
    return replace(experiment, geometries=tuple(with_read_noise(g, noise) for g in experiment.geometries))


def collect(source: ImageSource, experiment: Experiment, steps: Steps, around: Surroundings) -> VoxelSums:
    """Images -> sums: slow, once. The maskers of `steps` know the data."""
    grid = steps.grid.build(experiment)
    around.gridded(grid, len(experiment.images))
    work = ChunkWork(source, experiment, grid, steps.maskers, steps.correctors, steps.accumulator, around.write_pixels)
    sink = around.make_sink(grid, tuple(image.name for image in experiment.images))
    n_images, step = len(experiment.images), around.chunk_size
    chunks = [range(start, min(start + step, n_images)) for start in range(0, n_images, step)]
    sink.collect(work, chunks, around.mapper)
    return sink.finish()


def reindex(
    sums: VoxelSums, experiment: Experiment, reindexer: Reindexer, around: Surroundings
) -> tuple[VoxelSums, Experiment]:
    """Sums -> sums of crystals that are indexed in one way; the same objects where nothing changes.

    Raises:
        DataError: no image is left.
    """
    reindexing = reindexer.reindex(sums, experiment)
    if reindexing.changes_nothing:
        return sums, experiment
    reindexed = reindexed_experiment(experiment, reindexing)
    if not reindexed.images:
        raise DataError(_nothing_left(reindexed))
    sink = around.make_sink(sums.grid, tuple(image.name for image in reindexed.images))
    for table in reindexed_tables(sums.tables(), reindexing, sums.grid):
        sink.append(table)
    return sink.finish(), reindexed


def fit_scales(sums: VoxelSums, scaler: Scaler, experiment: Experiment | None) -> Scales:
    """Sums -> scales; those that would make a wrong map in silence are refused.

    Raises:
        DataError: a scale is no positive number.
    """
    scales = scaler.fit(sums, experiment)
    for name, scale in zip(sums.image_names, scales.per_image, strict=True):
        if not 0 < scale < np.inf:
            raise DataError(
                f"scaler {scaler.name!r} gives {name} the scale {scale:g}, which is no positive number: leave that "
                "image out, or take another scaler"
            )
    return scales


def warn_of_faults(sums: VoxelSums, scales: Scales, steps: Steps, experiment: Experiment, voxels: np.ndarray) -> None:
    """Warn of corrections and of a symmetry that observations of the same voxels (n,) deny."""
    names = tuple(corrector.name for corrector in steps.correctors)
    checks = [*response_checks(sums, scales, experiment, names, voxels), laue_check(sums, scales, voxels)]
    for check in checks:
        if check is not None and check.complaint:
            logger.warning("%s", check.complaint)


def maker_of(scaler: Scaler) -> PluginRecord:
    """Return which scaler a model came from: of scales that were read from a file, the one that made the file."""
    return getattr(scaler, "maker", None) or record_of("scaler", scaler)


def merge(sums: VoxelSums, scales: Scales, steps: MergingSteps, experiment: Experiment | None) -> AbsoluteMap:
    """Sums and scales -> map: fast, run again at will."""
    return steps.absolute_scaler.scale(steps.merger.merge(sums, scales), scales, experiment)


def _nothing_left(experiment: Experiment) -> str:
    """Say why no image is left, in one line, and what to try."""
    stage, number = Counter(rejected.stage for rejected in experiment.rejected).most_common(1)[0]
    example = next(rejected for rejected in experiment.rejected if rejected.stage == stage)
    return (
        f"no image is left: {number} of {len(experiment.rejected)} were rejected at {stage} (for example "
        f"{example.name}: {example.reason}). Try: check crystal.unit_cell, crystal.reference and the geometry, or "
        "loosen the limits of validator.*"
    )
