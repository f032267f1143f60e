"""Sums of counts over sums of exposure, unbiased at any count rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums

PHIL = ""


@dataclass(frozen=True)
class PoissonMerger:
    """Sums of counts over sums of exposure, unbiased at any count rate."""

    name: ClassVar[str] = "poisson"
    phil: ClassVar[str] = PHIL

    @classmethod
    def from_params(cls, params: Any) -> PoissonMerger:
        """Return the merger; it has no parameters."""
        return cls()

    def merge(self, sums: VoxelSums, scales: Scales) -> MergedMap:
        """Return the merged map."""
        return poisson_merge(sums, scales)


@hookimpl
def diffuse_mergers() -> list[type]:
    """Offer the merger."""
    return [PoissonMerger]
