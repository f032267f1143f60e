"""Multiplies the map by a number that was found elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.maps import AbsoluteMap, MergedMap
from diffuse_framework.model.scales import Scales

PHIL = """
factor = 1.0
  .type = float(value_min=1e-30, allow_none=False)
  .help = "Electron units per relative unit."
sigma = 0.0
  .type = float(value_min=0, allow_none=False)
  .help = "Its standard uncertainty, in the same units."
"""


@dataclass(frozen=True)
class TemplateAbsoluteScaler:
    """Multiplies the map by a number that was found elsewhere."""

    name: ClassVar[str] = "template"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 1
    factor: float = 1.0
    sigma: float = 0.0

    @classmethod
    def from_params(cls, params: Any) -> TemplateAbsoluteScaler:
        """Return the scaler that the parameters describe."""
        return cls(params.factor, params.sigma)

    def scale(self, merged: MergedMap, scales: Scales, experiment: Experiment | None) -> AbsoluteMap:
        """Return the map times the factor; the factor's own uncertainty is not in the variance."""
        return AbsoluteMap(
            merged=merged,
            intensity=self.factor * merged.intensity,
            variance=self.factor**2 * merged.variance,
            scale=self.factor,
            scale_sigma=self.sigma,
            units="electrons^2 per unit cell",
        )


@hookimpl
def diffuse_absolute_scalers() -> list[type]:
    """Offer the scaler."""
    return [TemplateAbsoluteScaler]
