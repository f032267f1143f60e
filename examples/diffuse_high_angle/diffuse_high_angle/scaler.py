"""Electron units from the scattering at high angle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.maps import AbsoluteMap, MergedMap, Subtracted
from diffuse_framework.model.scales import Scales

PHIL = """
atoms = 1000.0
  .type = float(value_min=1e-6, allow_none=False)
  .help = "What the atoms of a unit cell scatter on their own beyond d_max: the sum of f0^2 and incoherent"
          "scattering, in electron units."
incoherent = 0.0
  .type = float(value_min=0, allow_none=False)
  .help = "How much of that is incoherent; it is subtracted from the map."
d_max = 3.0
  .type = float(value_min=0.1, allow_none=False)
  .help = "Voxels of lower resolution (larger d) don't count, in angstrom."
"""


@dataclass(frozen=True)
class HighAngleScaler:
    """Sets the mean total scattering at high angle to what the atoms scatter on their own."""

    name: ClassVar[str] = "high_angle"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 1
    atoms: float = 1000.0
    incoherent: float = 0.0
    d_max: float = 3.0

    @classmethod
    def from_params(cls, params: Any) -> HighAngleScaler:
        """Return the scaler that the parameters describe."""
        return cls(params.atoms, params.incoherent, params.d_max)

    def scale(self, merged: MergedMap, scales: Scales, experiment: Experiment | None) -> AbsoluteMap:
        """Return the map in electron units per cell.

        Raises:
            DataError: no voxel is of that resolution, or they do not scatter.
        """
        q = np.linalg.norm(merged.grid.q_of(merged.voxel), axis=1)
        beyond = q * self.d_max >= 1
        total = float(merged.total_intensity[beyond].mean()) if beyond.any() else 0.0
        if not total > 0:
            raise DataError(
                f"the map scatters nothing beyond {self.d_max:g} A: raise absolute_scaler.high_angle.d_max, or lower "
                "grid.hkl.d_min"
            )
        k = self.atoms / total
        sigma = k * float(np.sqrt(merged.total_variance[beyond].sum())) / beyond.sum() / total
        limits = np.array([0.0, 1.1 / merged.grid.d_min])
        return AbsoluteMap(
            merged=merged,
            intensity=k * merged.intensity - self.incoherent,
            variance=k**2 * merged.variance,
            scale=k,
            scale_sigma=sigma,
            units="electron units per unit cell",
            report={
                "method": self.name,
                "atoms": self.atoms,
                "voxels": int(beyond.sum()),
                "mean_total_relative": total,
                "resolution": [self.d_max, merged.grid.d_min],
            },
            subtracted=Subtracted(limits, np.full(2, self.incoherent), "absolute_scaler.high_angle.incoherent"),
        )


@hookimpl
def diffuse_absolute_scalers() -> list[type]:
    """Offer the scaler."""
    return [HighAngleScaler]
