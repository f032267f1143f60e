"""The story: images -> orientations -> sums -> scales -> map."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import AbsoluteMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.source import ImageSource
from diffuse_framework.model.voxels import SumsInMemory, SumsTable, VoxelSums
from diffuse_framework.pipeline.chunk import ChunkWork, PixelWriter
from diffuse_framework.pipeline.reindexing import ResolveAmbiguity
from diffuse_framework.pipeline.unreadable import on_readable
from diffuse_framework.stages.masker import Masker
from diffuse_framework.stages.scaler import Scaler
from diffuse_framework.stages.steps import Steps
from diffuse_framework.stages.work import Mapper


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
        watch: called with the name of each part of the story; a context around it.
        chunk_size: images a worker takes at a time.
        write_pixels: called by workers with each image's mask and corrected pixels.
    """

    folder: Path
    mapper: Mapper
    make_sink: Callable[[VoxelGrid, tuple[str, ...]], Sink] = MemorySink
    watch: Callable[[str], AbstractContextManager] = nullcontext
    chunk_size: int = 4
    write_pixels: PixelWriter | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """All that a run ends with; `maskers` know the data."""

    experiment: Experiment
    sums: VoxelSums
    scales: Scales
    map: AbsoluteMap
    maskers: tuple[Masker, ...] = ()


def process(
    source: ImageSource,
    steps: Steps,
    hints: CrystalHints,
    validate: Callable[[Experiment], Experiment],
    around: Surroundings,
    agree: ResolveAmbiguity | None = None,
) -> Outcome:
    """Go from images to the final map.

    Args:
        source: all images.
        steps: the chosen plugins.
        hints: what is known of the crystal.
        validate: sets aside images whose indexing can't be trusted.
        around: where and how.
        agree: brings crystals to one indexing; None trusts that they are.
    """

    def add_up(experiment: Experiment) -> tuple[Experiment, tuple[Masker, ...], VoxelSums]:
        maskers = tuple(masker.prepare(source, experiment, around.mapper) for masker in steps.maskers)
        return experiment, maskers, collect(source, experiment, replace(steps, maskers=maskers), around)

    with around.watch("indexing"):
        experiment = steps.indexer.index(source, hints, around.folder, around.mapper)
        left_out = getattr(source, "left_out", ())
        experiment = replace(experiment, rejected=(*left_out, *experiment.rejected))
        experiment = on_readable(validate, source, experiment, around.mapper)
    with around.watch("adding up"):
        experiment, maskers, sums = on_readable(add_up, source, experiment, around.mapper)
    if agree is not None:
        with around.watch("comparing crystals"):
            sums, experiment = agree(sums, experiment, around.make_sink)
    scales, final = reduce_sums(sums, steps, experiment, around)
    return Outcome(experiment, sums, scales, final, maskers)


def collect(source: ImageSource, experiment: Experiment, steps: Steps, around: Surroundings) -> VoxelSums:
    """Images -> sums: slow, once. The maskers of `steps` know the data."""
    grid = steps.grid.build(experiment)
    work = ChunkWork(source, experiment, grid, steps.maskers, steps.correctors, steps.accumulator, around.write_pixels)
    sink = around.make_sink(grid, tuple(image.name for image in experiment.images))
    n_images, step = len(experiment.images), around.chunk_size
    chunks = [range(start, min(start + step, n_images)) for start in range(0, n_images, step)]
    sink.collect(work, chunks, around.mapper)
    return sink.finish()


def reduce_sums(
    sums: VoxelSums, steps: Steps, experiment: Experiment | None, around: Surroundings
) -> tuple[Scales, AbsoluteMap]:
    """Sums -> map: fast, run again at will."""
    with around.watch("scaling"):
        scales = steps.scaler.fit(sums, experiment)
        _check_scales(scales, sums.image_names, steps.scaler)
    with around.watch("merging"):
        merged = steps.merger.merge(sums, scales)
        return scales, steps.absolute_scaler.scale(merged, scales, experiment)


def _check_scales(scales: Scales, image_names: tuple[str, ...], scaler: Scaler) -> None:
    """Refuse scales that would make a wrong map in silence.

    Raises:
        DataError: a scale is no positive number.
    """
    for name, scale in zip(image_names, scales.per_image, strict=True):
        if not 0 < scale < np.inf:
            raise DataError(
                f"scaler {scaler.name!r} gives {name} the scale {scale:g}, which is no positive number: leave that "
                "image out, or take another scaler"
            )
