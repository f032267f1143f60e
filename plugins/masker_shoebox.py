"""Bragg peaks, masked where integration took pixels for foreground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.masking.shapes import paint_panels
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.stages.work import Mapper

PHIL = """
grow = 0
  .type = int(value_min=0, allow_none=False)
  .help = "Pixels added around each foreground, in pixels."
"""


@dataclass(frozen=True)
class ShoeboxMasker:
    """Marks Bragg peaks where integration found foreground; they go to the second channel."""

    name: ClassVar[str] = "shoebox"
    phil: ClassVar[str] = PHIL
    grow: int = 0

    @classmethod
    def from_params(cls, params: Any) -> ShoeboxMasker:
        """Return the masker that the parameters describe."""
        return cls(grow=params.grow)

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> ShoeboxMasker:
        """Return itself, if there are foregrounds to mask.

        Raises:
            ConfigError: integration kept no foreground on one or more images.
        """
        without = [image.name for image in experiment.images if len(image.spots) and not len(image.spots.foreground)]
        if without or not any(len(image.spots.foreground) for image in experiment.images):
            which = f"{len(without)} of {len(experiment.images)} images" if without else "any image"
            raise ConfigError(
                f"masker 'shoebox' needs the foregrounds of integration, but there are none on {which}"
                f"{f', {without[0]} first' if without else ''}. Let the indexer integrate and keep them "
                "(shoeboxes=True), or choose masker 'bragg'"
            )
        return self

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return None: every image has its own reflections."""
        return None

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return Bragg on the foregrounds of `image`, grown."""
        foreground = image.spots.foreground
        # A foreground pixel is named by its corner, and marked from its centre.
        centres_px = foreground[:, :0:-1] + 0.5
        shapes = [panel.shape for panel in geometry.panels]
        return PixelMask(paint_panels(shapes, foreground[:, 0], centres_px, self.grow + 0.1, disk=False))


@hookimpl
def diffuse_maskers() -> list[type]:
    """Offer the masker."""
    return [ShoeboxMasker]
