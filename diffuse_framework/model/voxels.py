"""Additive sums per image and voxel: what images become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np

from diffuse_framework.model.grid import VoxelGrid

__all__ = ["COLUMNS", "COLUMN_TYPES", "ROW_BYTES", "SumsInMemory", "SumsTable", "VoxelSums", "concatenate"]


@dataclass(frozen=True, eq=False)
class SumsTable:
    """Sums over the pixels of one image that fall into one voxel, a row each.

    Pixels that reach a voxel through different symmetry operations, or on different
    panels, have rows of their own: each row is one patch of one panel, so that its mean
    position means something to a scaling model. Rows add: the union of two tables, in any
    order, holds all there is to know.

    Attributes:
        image: (n,) int32, index into `Experiment.images`.
        voxel: (n,) int64, voxel number of the grid.
        operator: (n,) uint8, the operator of the Laue group that maps the pixels' own index
            to the asymmetric unit.
        panel: (n,) uint16.
        counts: (n,) photons in diffuse pixels.
        background: (n,) expected photons of the background in them.
        background_variance: (n,) what of the counts' variance is not of counting them: that of the background
            expected, and the square of the read noise for each pixel.
        exposure: (n,) sum of exposure time x response, s sr.
        pixels: (n,) number of diffuse pixels; a fraction where a turning crystal took a pixel
            through several voxels.
        fast, slow: (n,) their mean position in pixels.
        bragg_counts, bragg_background, bragg_background_variance, bragg_exposure,
            bragg_pixels: (n,) the same sums for pixels masked as Bragg peaks.
        share_squares: (n,) sum of the squares of the shares of diffuse pixels: a photon that m voxels share adds
            1/m to the counts of each, and 1/m^2 to their variance. As `pixels` where it is not given.
    """

    image: np.ndarray
    voxel: np.ndarray
    operator: np.ndarray
    panel: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    background_variance: np.ndarray
    exposure: np.ndarray
    pixels: np.ndarray
    fast: np.ndarray
    slow: np.ndarray
    bragg_counts: np.ndarray
    bragg_background: np.ndarray
    bragg_background_variance: np.ndarray
    bragg_exposure: np.ndarray
    bragg_pixels: np.ndarray
    # A factory, so that the class has no attribute of that name: stored tables read a column that isn't there yet.
    share_squares: np.ndarray = field(default_factory=lambda: None)  # type: ignore[arg-type,return-value]

    def __post_init__(self) -> None:
        """Take pixels to be whole where nothing says how they are shared."""
        if self.share_squares is None:
            object.__setattr__(self, "share_squares", self.pixels)

    def __len__(self) -> int:
        return len(self.image)

    def select(self, rows: np.ndarray) -> SumsTable:
        """Return the rows of a boolean or integer selection."""
        return SumsTable(**{name: getattr(self, name)[rows] for name in COLUMNS})


COLUMNS = tuple(column.name for column in fields(SumsTable))

# Sums are formed in double precision and kept in single: 6e-8 is far below any counting error.
COLUMN_TYPES: dict[str, np.dtype] = dict.fromkeys(COLUMNS, np.dtype(np.float32)) | {
    "image": np.dtype(np.int32),
    "voxel": np.dtype(np.int64),
    "operator": np.dtype(np.uint8),
    "panel": np.dtype(np.uint16),
}
ROW_BYTES = sum(kind.itemsize for kind in COLUMN_TYPES.values())


def concatenate(tables: list[SumsTable]) -> SumsTable:
    """Return one table with the rows of all, in order; empty for no tables."""
    if len(tables) == 1:
        return tables[0]
    return SumsTable(
        **{
            name: np.concatenate([getattr(table, name) for table in tables])
            if tables
            else np.zeros(0, COLUMN_TYPES[name])
            for name in COLUMNS
        }
    )


class VoxelSums(Protocol):
    """All sums of a data set, read table by table so that they need not fit in memory."""

    @property
    def grid(self) -> VoxelGrid:
        """The grid that the voxel numbers belong to."""

    @property
    def image_names(self) -> tuple[str, ...]:
        """Names of the images, in the order of the column `image`."""

    def tables(self) -> Iterator[SumsTable]:
        """Yield all rows, in pieces of moderate size, the same pieces every time."""


@dataclass(frozen=True, eq=False)
class SumsInMemory:
    """Sums small enough to keep."""

    grid: VoxelGrid
    image_names: tuple[str, ...]
    pieces: tuple[SumsTable, ...]

    def __repr__(self) -> str:
        return f"SumsInMemory({sum(map(len, self.pieces))} sums of {len(self.image_names)} images)"

    def tables(self) -> Iterator[SumsTable]:
        """Yield the pieces."""
        return iter(self.pieces)
