"""Scales of an earlier run in place of a scaler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from diffuse_framework.errors import PluginError
from diffuse_framework.host.registry import PluginRecord, Registry
from diffuse_framework.io.scales import read_maker, read_scales
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums


@dataclass(frozen=True)
class StoredScaler:
    """Takes scales that were fitted before, so that a map on another grid has the same.

    Attributes:
        read: returns the scales of the images of these names, for sums on this grid.
        maker: the scaler that fitted them.
    """

    name: ClassVar[str] = "stored"
    phil: ClassVar[str] = ""
    read: Callable[[tuple[str, ...], VoxelGrid], Scales]
    maker: PluginRecord

    @classmethod
    def of_file(cls, path: Path, registry: Registry) -> StoredScaler:
        """Return the scaler that takes the scales of a file.

        Raises:
            DataError: it is no file of scales.
        """
        return cls(partial(read_scales, path, registry=registry), read_maker(path))

    @classmethod
    def from_params(cls, params: Any) -> StoredScaler:
        """Refuse: a command makes it from input.scales, PHIL can't choose it.

        Raises:
            PluginError: always.
        """
        raise PluginError("the scaler 'stored' is chosen by input.scales= and not by name")

    def fit(self, sums: VoxelSums, experiment: Experiment | None) -> Scales:
        """Return the stored scales of the images in the sums."""
        return self.read(sums.image_names, sums.grid)

    @classmethod
    def scales_from_plain(cls, plain: Mapping[str, Any], image_names: tuple[str, ...], grid: VoxelGrid) -> Scales:
        """Refuse: what it gives belongs to the scaler that fitted it.

        Raises:
            PluginError: always.
        """
        raise PluginError("the scaler 'stored' makes no model of its own")
