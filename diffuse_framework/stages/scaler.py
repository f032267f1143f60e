"""Stage 6: bringing images to one relative scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid
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

    @classmethod
    def scales_from_plain(cls, plain: Mapping[str, Any], image_names: tuple[str, ...], grid: VoxelGrid) -> Scales:
        """Return the model that its `to_plain` took apart, as it was.

        Args:
            plain: what `to_plain` gave; arrays come back as arrays.
            image_names: of the images it was fitted to, in order.
            grid: of the sums it is wanted for: another one than it was fitted on where a map is made on finer voxels.

        Raises:
            DataError: the model means nothing on this grid.
        """
