"""Electron units from the cumulative sum rule of the total scattering.

Krogh-Moe (1956), Acta Cryst. 9, 951; Norman (1957), Acta Cryst. 10, 370. The formulas are in
`algorithms.absolute.krogh_moe`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.maps import AbsoluteMap, MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.services.electron_units import PHIL as SHARED_PHIL
from diffuse_framework.services.electron_units import RANGE_PHIL, AbsoluteSettings

PHIL = SHARED_PHIL + RANGE_PHIL.format(
    what="Lowest and highest cutoff of the sum rule",
    default="0.7 of the map's limit, and the limit",
)


@dataclass(frozen=True)
class KroghMoeScaler:
    """Electron units from the cumulative sum rule of the total scattering."""

    name: ClassVar[str] = "krogh_moe"
    phil: ClassVar[str] = PHIL
    settings: AbsoluteSettings

    @classmethod
    def from_params(cls, params: Any) -> KroghMoeScaler:
        """Return the scaler; reads what the cell holds, so that a missing file is noticed at once."""
        return cls(AbsoluteSettings.from_params(params, cls.name))

    def scale(self, merged: MergedMap, scales: Scales, experiment: Experiment | None) -> AbsoluteMap:
        """Return the map in electron units per unit cell, incoherent scattering subtracted."""
        return self.settings.scale(merged, experiment, self.name)


@hookimpl
def diffuse_absolute_scalers() -> list[type]:
    """Offer the scaler."""
    return [KroghMoeScaler]
