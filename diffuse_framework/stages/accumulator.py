"""Stage 5: from pixels to sums per image and voxel."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import Background, PixelTable
from diffuse_framework.model.source import Frame
from diffuse_framework.model.voxels import SumsTable

__all__ = ["Accumulator", "ImageAdder"]


class ImageAdder(Protocol):
    """Adds images to the voxels of one grid; lives in one worker and may keep scratch memory."""

    def add(
        self,
        number: int,
        image: Image,
        frame: Frame,
        mask: PixelMask,
        background: Background | None,
        pixels: PixelTable,
        geometry: Geometry,
    ) -> SumsTable:
        """Return the sums of image `number`, rows ascending in panel, voxel and operator."""


class Accumulator(Protocol):
    """Adds the pixels of images to voxels."""

    name: ClassVar[str]
    phil: ClassVar[str]

    @classmethod
    def from_params(cls, params: Any) -> Accumulator:
        """Return the accumulator that the parameters describe."""

    def adder(self, grid: VoxelGrid) -> ImageAdder:
        """Return a new object that adds images to the voxels of `grid`."""
