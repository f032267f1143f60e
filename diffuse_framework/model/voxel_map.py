"""A map as other programs know one: intensities of voxels, however they came about."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import RELATIVE, AbsoluteMap, MergedMap

__all__ = ["VoxelMap", "half_intensities"]


@dataclass(frozen=True, eq=False)
class VoxelMap:
    """Intensities on a voxel grid with what is known of them; only voxels that have one have a row.

    Attributes:
        grid: the voxel grid.
        voxel: (n,) voxel numbers, ascending.
        intensity: (n,) finite.
        sigma: (n,) standard uncertainty; None where none is known.
        halves: (2, n) intensities of the maps of two halves of the data, NaN where a half has none; None for no
            half maps.
        pixels, multiplicity, photons: (n,) measured pixels, observations and counts of a voxel; None where unknown.
        units: of the intensity.
        name: of where it comes from.
    """

    grid: VoxelGrid
    voxel: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray | None = None
    halves: np.ndarray | None = None
    pixels: np.ndarray | None = None
    multiplicity: np.ndarray | None = None
    photons: np.ndarray | None = None
    units: str = RELATIVE
    name: str = ""

    def __len__(self) -> int:
        return len(self.voxel)

    def __repr__(self) -> str:
        cell = " ".join(f"{x:.2f}" for x in self.grid.cell)
        known = "with errors" if self.sigma is not None else "without errors"
        return (
            f"VoxelMap({self.name!r}: {len(self)} voxels {known}, {self.grid.symmetry.space_group}, cell {cell}, "
            f"divisions {self.grid.divisions}, {self.units} units)"
        )

    def select(self, rows: np.ndarray) -> VoxelMap:
        """Return the voxels of a boolean or integer selection that leaves them ascending."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {name: own[name][..., rows] for name in _COLUMNS if own[name] is not None}
        return replace(self, voxel=self.voxel[rows], **arrays)

    @classmethod
    def of(cls, final: AbsoluteMap, halves: tuple[MergedMap, MergedMap] | None = None, name: str = "") -> VoxelMap:
        """Return the map of a run on its final scale.

        Args:
            final: the map.
            halves: maps of two halves of the images, on the relative scale of the map.
            name: of it.
        """
        merged = final.merged
        half = None
        if halves is not None:
            half = final.scale * half_intensities(merged.voxel, halves) - final.subtracted_at(merged.voxel)
        return cls(
            merged.grid,
            merged.voxel,
            final.intensity,
            np.sqrt(final.variance),
            half,
            merged.pixels,
            merged.multiplicity,
            merged.counts,
            final.units,
            name,
        )


_COLUMNS = ("intensity", "sigma", "halves", "pixels", "multiplicity", "photons")


def half_intensities(voxel: np.ndarray, halves: tuple[MergedMap, MergedMap]) -> np.ndarray:
    """Return the intensities (2, n) of half maps at voxels (n,), ascending; NaN where a half has none."""
    result = np.full((2, len(voxel)), np.nan)
    for row, half in zip(result, halves, strict=True):
        _, here, there = np.intersect1d(voxel, half.voxel, assume_unique=True, return_indices=True)
        row[here] = half.intensity[there]
    return result
