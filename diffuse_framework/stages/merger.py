"""Stage 7: one value per voxel."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums

__all__ = ["Merger"]


class Merger(Protocol):
    """Merges the scaled observations of each voxel."""

    name: ClassVar[str]
    phil: ClassVar[str]

    @classmethod
    def from_params(cls, params: Any) -> Merger:
        """Return the merger that the parameters describe."""

    def merge(self, sums: VoxelSums, scales: Scales) -> MergedMap:
        """Return the merged map on the scale of `scales`."""
