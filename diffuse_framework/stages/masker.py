"""Stage 2: which pixels count, and as what."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.stages.work import Mapper

__all__ = ["Masker"]


class Masker(Protocol):
    """Marks pixels as untrusted or as part of a Bragg peak.

    The masks of all maskers are combined by the smallest class, so each says only what it
    removes and none depends on another.
    """

    name: ClassVar[str]
    phil: ClassVar[str]

    @classmethod
    def from_params(cls, params: Any) -> Masker:
        """Return the masker that the parameters describe."""

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> Masker:
        """Return a masker that has read what it needs of the data set; often itself."""

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return the mask that all images of one geometry share, None where there is none."""

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return the mask of one image, None where there is none."""
