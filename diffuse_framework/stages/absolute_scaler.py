"""Stage 8: electron units."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.maps import AbsoluteMap, MergedMap
from diffuse_framework.model.scales import Scales

__all__ = ["AbsoluteScaler"]


class AbsoluteScaler(Protocol):
    """Puts a merged map on its final scale."""

    name: ClassVar[str]
    phil: ClassVar[str]

    @classmethod
    def from_params(cls, params: Any) -> AbsoluteScaler:
        """Return the absolute scaler that the parameters describe."""

    def scale(self, merged: MergedMap, scales: Scales, experiment: Experiment | None) -> AbsoluteMap:
        """Return the map on its final scale.

        Args:
            merged: the map on the scale of `scales`.
            scales: the scaling model, for methods that scale Bragg intensities with it.
            experiment: the Bragg intensities; None when merging is run again from the sums alone.
        """
