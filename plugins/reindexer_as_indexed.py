"""Trusts the indexing of all crystals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.reindexing import Reindexing, unchanged
from diffuse_framework.model.voxels import VoxelSums

PHIL = ""


@dataclass(frozen=True)
class AsIndexed:
    """Leaves every crystal as it was indexed."""

    name: ClassVar[str] = "as_indexed"
    phil: ClassVar[str] = PHIL

    @classmethod
    def from_params(cls, params: Any) -> AsIndexed:
        """Return the reindexer; it has no parameters."""
        return cls()

    def reindex(self, sums: VoxelSums, experiment: Experiment) -> Reindexing:
        """Return that nothing changes."""
        return unchanged(len(experiment.images))


@hookimpl
def diffuse_reindexers() -> list[type]:
    """Offer the reindexer."""
    return [AsIndexed]
