"""Merged maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffuse_framework.model.contents import CellContents, Theory
from diffuse_framework.model.grid import VoxelGrid

__all__ = ["RELATIVE", "AbsoluteMap", "AbsoluteReport", "MergedMap", "ScaleEstimate", "Subtracted"]

RELATIVE = "relative"
"""The units of a map that has no absolute scale."""


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

    def __repr__(self) -> str:
        grid = self.grid
        seen = f"{len(self.voxel)} of {grid.n_voxels} voxels"
        return f"MergedMap({seen}, {grid.symmetry.space_group}, to {grid.d_min:.2f} A)"

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
        sigma_sampling: its uncertainty because shells were observed in part.
    """

    method: str
    scale: float
    sigma_counting: float
    sigma_spread: float
    q: np.ndarray
    scales: np.ndarray
    b_factor: float | None = None
    sigma_sampling: float = 0.0

    @property
    def sigma(self) -> float:
        """Uncertainty of k from all three."""
        return float(np.linalg.norm([self.sigma_counting, self.sigma_spread, self.sigma_sampling]))


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
        forward_share: of the forward peak F(000)^2, behind the beamstop, in what the atoms scatter.
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

    def to_plain(self) -> dict[str, Any]:
        """Return the content of ``absolute_scale.json``."""
        contents = self.contents
        return {
            "method": self.method,
            "estimates": {
                name: {
                    "k": one.scale,
                    "sigma": one.sigma,
                    "sigma_counting": one.sigma_counting,
                    "sigma_spread": one.sigma_spread,
                    "sigma_sampling": one.sigma_sampling,
                    "b_factor": one.b_factor,
                    "q": one.q,
                    "k_of_q": one.scales,
                }
                for name, one in self.estimates.items()
            },
            "no_estimate": self.failures,
            "limit": self.limit,
            "beamstop_share": self.beamstop_share,
            "filled_share": self.filled_share,
            "forward_share": self.forward_share,
            "profile": {
                "q": self.q,
                "total_relative": self.total,
                "bragg_relative": self.bragg,
                "completeness": self.completeness,
                "sum_f0_squared": np.interp(self.q, self.theory.q, self.theory.coherent),
                "incoherent": np.interp(self.q, self.theory.q, self.theory.incoherent),
            },
            "tables": self.theory.source,
            "cell_contents": {
                "elements": dict(zip(contents.elements, contents.counts, strict=True)),
                "ordered": dict(zip(contents.elements, contents.ordered, strict=True)),
                "solvent": dict(zip(contents.elements, contents.solvent, strict=True)),
                "electrons": contents.electrons,
                "volume": contents.cell_volume,
                "copies": contents.copies,
                "molecule_mass": contents.molecule_mass,
                "matthews_coefficient": contents.matthews,
                "solvent_fraction": contents.solvent_fraction,
                "source": contents.source,
                "notes": contents.notes,
            },
        }


@dataclass(frozen=True, eq=False)
class Subtracted:
    """What an absolute scaler took off a map besides multiplying it: a function of resolution alone.

    Attributes:
        q: (n,) |q| in 1/angstrom, ascending.
        intensity: (n,) in the map's final units, at each q.
        source: of the values.
    """

    q: np.ndarray
    intensity: np.ndarray
    source: str = ""

    def at(self, q: np.ndarray) -> np.ndarray:
        """Return what was subtracted at |q| (m,), 1/angstrom."""
        return np.interp(q, self.q, self.intensity)


@dataclass(frozen=True, eq=False)
class AbsoluteMap:
    """A merged map with what puts it on its final scale: intensity = scale x merged intensity - subtracted(|q|).

    Attributes:
        merged: the map before.
        intensity, variance: (n,) after; the variance leaves out the scale's own uncertainty.
        scale, scale_sigma: final units per relative unit and its uncertainty.
        units: of the intensity, `RELATIVE` where the map has no absolute scale.
        report: how the scale was found: an `AbsoluteReport`, or names and values (plain numbers, text, arrays, and
            lists and dictionaries of them) that say what the method likes; None for nothing to say.
        subtracted: what was subtracted, None for nothing.
    """

    merged: MergedMap
    intensity: np.ndarray
    variance: np.ndarray
    scale: float
    scale_sigma: float
    units: str
    report: AbsoluteReport | Mapping[str, Any] | None = None
    subtracted: Subtracted | None = None

    def __repr__(self) -> str:
        return f"AbsoluteMap({self.merged!r}, {self.units} units)"

    @property
    def is_absolute(self) -> bool:
        """Whether it has left its relative scale."""
        return self.units != RELATIVE

    @property
    def report_table(self) -> dict[str, Any]:
        """The report as names and values."""
        if isinstance(self.report, AbsoluteReport):
            return self.report.to_plain()
        return dict(self.report or {})

    def subtracted_at(self, voxel: np.ndarray) -> np.ndarray:
        """Return what was subtracted at voxels (m,) of the grid."""
        if self.subtracted is None:
            return np.zeros(len(voxel))
        return self.subtracted.at(np.linalg.norm(self.merged.grid.q_of(voxel), axis=1))
