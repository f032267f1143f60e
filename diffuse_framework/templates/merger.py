"""Merges by sums of counts over sums of scaled exposure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.merging import assemble, voxel_sums
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums

PHIL = """
prior_counts = 1.0
  .type = float(value_min=0.01, value_max=10, allow_none=False)
  .help = "Counts added to those of a voxel for its variance: no photon seen is not no error."
"""


@dataclass(frozen=True)
class TemplateMerger:
    """Merges by sums of counts over sums of scaled exposure."""

    name: ClassVar[str] = "template"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 1
    prior_counts: float = 1.0

    @classmethod
    def from_params(cls, params: Any) -> TemplateMerger:
        """Return the merger that the parameters describe."""
        return cls(params.prior_counts)

    def merge(self, sums: VoxelSums, scales: Scales) -> MergedMap:
        """Return the merged map: one row for each voxel that has exposure, photons or not."""
        totals = voxel_sums(sums, scales)
        voxel = np.flatnonzero(totals["exposure"] > 0)
        seen = {name: values[voxel] for name, values in totals.items()}
        intensity = (seen["counts"] - seen["background"]) / seen["exposure"]
        counts = np.maximum(seen["counts"], 0) + self.prior_counts
        variance = (counts + seen["background_variance"]) / seen["exposure"] ** 2
        return assemble(sums.grid, voxel, intensity, variance, totals)


@hookimpl
def diffuse_mergers() -> list[type]:
    """Offer the merger."""
    return [TemplateMerger]
