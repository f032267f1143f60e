"""Leaves the map on its relative scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.maps import RELATIVE, AbsoluteMap, MergedMap
from diffuse_framework.model.scales import Scales

PHIL = ""


@dataclass(frozen=True)
class UnitScaler:
    """Multiplies by one: the map stays on its relative scale."""

    name: ClassVar[str] = "unit"
    phil: ClassVar[str] = PHIL

    @classmethod
    def from_params(cls, params: Any) -> UnitScaler:
        """Return the scaler; it has no parameters."""
        return cls()

    def scale(self, merged: MergedMap, scales: Scales, experiment: Experiment | None) -> AbsoluteMap:
        """Return the map as it is."""
        return AbsoluteMap(merged, merged.intensity, merged.variance, 1.0, 0.0, RELATIVE)


@hookimpl
def diffuse_absolute_scalers() -> list[type]:
    """Offer the scaler."""
    return [UnitScaler]
