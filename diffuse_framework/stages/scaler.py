"""Stage 6: bringing images to one relative scale."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums

__all__ = ["Scaler"]


class Scaler(Protocol):
    """Fits a scaling model to the sums."""

    name: ClassVar[str]
    phil: ClassVar[str]

    @classmethod
    def from_params(cls, params: Any) -> Scaler:
        """Return the scaler that the parameters describe."""

    def fit(self, sums: VoxelSums, experiment: Experiment | None) -> Scales:
        """Return the fitted model; its scales have mean 1.

        Args:
            sums: read as often as the fit needs, table by table.
            experiment: for models that need more than the sums hold; None when scaling is
                run again from the sums alone.
        """
