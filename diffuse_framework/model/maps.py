"""Merged maps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from diffuse_framework.model.contents import CellContents, Theory
from diffuse_framework.model.grid import VoxelGrid

__all__ = ["AbsoluteMap", "AbsoluteReport", "MergedMap", "ScaleEstimate"]


def _nothing() -> np.ndarray:
    return np.zeros(0)


def _no_voxel() -> np.ndarray:
    return np.zeros(0, np.int64)


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
        bragg_voxel: (m,) numbers of the voxels whose every pixel belongs to a Bragg peak, ascending.
            They have no diffuse intensity and no row above, but count in the total scattering.
        bragg_intensity, bragg_variance: (m,) their scattering.
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
    bragg_voxel: np.ndarray = field(default_factory=_no_voxel)
    bragg_intensity: np.ndarray = field(default_factory=_nothing)
    bragg_variance: np.ndarray = field(default_factory=_nothing)

    def __len__(self) -> int:
        return len(self.voxel)


@dataclass(frozen=True, eq=False)
class ScaleEstimate:
    """An absolute scale k as one method finds it.

    Attributes:
        method: that found it.
        scale: k, electron units per cell per relative unit.
        sigma_counting: its uncertainty from counting photons (for Wilson, also from the scatter of |F|^2).
        sigma_spread: its uncertainty from how it varies with the range of |q|.
        q: (n,) cutoffs or shells, 1/angstrom.
        scales: (n,) k up to each cutoff, or of each shell.
        b_factor: square angstrom; only from Wilson's plot.
    """

    method: str
    scale: float
    sigma_counting: float
    sigma_spread: float
    q: np.ndarray
    scales: np.ndarray
    b_factor: float | None = None

    @property
    def sigma(self) -> float:
        """Uncertainty of k from both."""
        return float(np.hypot(self.sigma_counting, self.sigma_spread))


@dataclass(frozen=True, eq=False)
class AbsoluteReport:
    """How an absolute scale was found.

    Attributes:
        contents: of the unit cell.
        theory: what its atoms scatter on their own.
        estimates: k by each method that found one.
        failures: why the others did not.
        q, total, bragg, completeness: (n,) shells of |q| in 1/angstrom, the mean total and Bragg scattering
            there in relative units, NaN where nothing was observed, and how much was.
        limit: |q| in 1/angstrom up to which shells are complete enough.
        beamstop_share, filled_share: parts of the integrated scattering that were extrapolated to
            |q| = 0, and filled in where shells are missing.
        forward_share: of the hidden forward peak F(000)^2 in what the atoms scatter.
        method: whose k was used.
    """

    contents: CellContents
    theory: Theory
    estimates: dict[str, ScaleEstimate]
    failures: dict[str, str]
    q: np.ndarray
    total: np.ndarray
    bragg: np.ndarray
    completeness: np.ndarray
    limit: float
    beamstop_share: float
    filled_share: float
    forward_share: float
    method: str = ""


@dataclass(frozen=True, eq=False)
class AbsoluteMap:
    """A merged map with what puts it on its final scale.

    Attributes:
        merged: the map before.
        intensity, variance: (n,) after; the variance leaves out the scale's own uncertainty.
        scale, scale_sigma: final units per relative unit and its uncertainty.
        units: of the intensity.
        report: how the scale was found; None where the map stays on its relative scale.
    """

    merged: MergedMap
    intensity: np.ndarray
    variance: np.ndarray
    scale: float
    scale_sigma: float
    units: str
    report: AbsoluteReport | None = None
