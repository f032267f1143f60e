"""Scales of an earlier run in place of a scaler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework.errors import PluginError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums


@dataclass(frozen=True)
class StoredScaler:
    """Takes scales that were fitted before, so that a map on another grid has the same.

    Attributes:
        read: returns the scales of the images of these names, for sums on this grid.
    """

    name: ClassVar[str] = "stored"
    phil: ClassVar[str] = ""
    read: Callable[[tuple[str, ...], VoxelGrid], Scales]

    @classmethod
    def from_params(cls, params: Any) -> StoredScaler:
        """Refuse: a command makes it from input.scales, PHIL can't choose it.

        Raises:
            PluginError: always.
        """
        raise PluginError("the scaler 'stored' is chosen by input.scales= and not by name")

    def fit(self, sums: VoxelSums, experiment: Experiment | None) -> Scales:
        """Return the stored scales of the images that were added up."""
        return self.read(sums.image_names, sums.grid)
