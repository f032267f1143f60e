"""Means weighted by inverse expected variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.merging import inverse_variance_merge
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums

PHIL = ""


@dataclass(frozen=True)
class InverseVarianceMerger:
    """Means weighted by inverse expected variance."""

    name: ClassVar[str] = "inverse_variance"
    phil: ClassVar[str] = PHIL

    @classmethod
    def from_params(cls, params: Any) -> InverseVarianceMerger:
        """Return the merger; it has no parameters."""
        return cls()

    def merge(self, sums: VoxelSums, scales: Scales) -> MergedMap:
        """Return the merged map."""
        return inverse_variance_merge(sums, scales)


@hookimpl
def diffuse_mergers() -> list[type]:
    """Offer the merger."""
    return [InverseVarianceMerger]
