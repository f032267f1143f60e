"""The full scaling model, minimised by DIALS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums
from diffuse_plugins.scaler_smooth import SmoothScaler  # type: ignore[import-not-found]


@dataclass(frozen=True)
class DialsTargetScaler(SmoothScaler):
    """The model of `smooth`, by DIALS's parameter manager and Levenberg-Marquardt; for small data."""

    name: ClassVar[str] = "dials_target"
    interface: ClassVar[int] = 2

    def fit(self, sums: VoxelSums, experiment: Experiment | None) -> Scales:
        """Return the fitted model; raises as `smooth` does, and for more data than fit into memory."""
        # Here, for DIALS's scaling and refinement take a fifth of a second to load, in all programs.
        from diffuse_framework.adapters.scaling.dials_target import fit_with_dials

        return self.fitted(sums, experiment, fit_with_dials)


@hookimpl
def diffuse_scalers() -> list[type]:
    """Offer the scaler."""
    return [DialsTargetScaler]
