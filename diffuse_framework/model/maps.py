"""Merged maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.model.grid import VoxelGrid


@dataclass(frozen=True, eq=False)
class MergedMap:
    """A map on a relative scale; only voxels that were observed have a row.

    Attributes:
        grid: the voxel grid.
        voxel: (n,) voxel numbers, ascending.
        intensity, variance: (n,) merged diffuse intensity.
        multiplicity: (n,) number of observations: patches of pixels of one image.
        pixels: (n,) number of pixels.
        counts: (n,) photons.
        total_intensity, total_variance: (n,) diffuse and Bragg scattering together.
    """

    grid: VoxelGrid
    voxel: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    multiplicity: np.ndarray
    pixels: np.ndarray
    counts: np.ndarray
    total_intensity: np.ndarray
    total_variance: np.ndarray

    def __len__(self) -> int:
        return len(self.voxel)


@dataclass(frozen=True, eq=False)
class AbsoluteMap:
    """A merged map with what puts it on its final scale.

    Attributes:
        merged: the map before.
        intensity, variance: (n,) after; the variance leaves out the scale's own uncertainty.
        scale, scale_sigma: final units per relative unit and its uncertainty.
        units: of the intensity.
    """

    merged: MergedMap
    intensity: np.ndarray
    variance: np.ndarray
    scale: float
    scale_sigma: float
    units: str
