"""Masks rows in a shadow, and pixels that are far too bright."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.model.conventions import DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.stages.work import Mapper

PHIL = """
shadow_from = None
  .type = int(value_min=0)
  .help = "Pixels of this row and beyond are in a shadow, counted along the slow direction; None for no"
          "shadow."
max_photons = 1e6
  .type = float(value_min=1, allow_none=False)
  .help = "Pixels of more photons are left out."
"""


@dataclass(frozen=True)
class TemplateMasker:
    """Masks rows in a shadow, and pixels that are far too bright."""

    name: ClassVar[str] = "template"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 1
    shadow_from: int | None = None
    max_photons: float = 1e6

    @classmethod
    def from_params(cls, params: Any) -> TemplateMasker:
        """Return the masker that the parameters describe."""
        return cls(params.shadow_from, params.max_photons)

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> TemplateMasker:
        """Return a masker that has read what it needs of the data set: here itself."""
        return self

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return what is masked on every image, None where that is nothing."""
        if self.shadow_from is None:
            return None
        panels = []
        for panel in geometry.panels:
            mask = np.full(panel.shape, DIFFUSE)
            mask[self.shadow_from :] = UNTRUSTED
            panels.append(mask)
        return PixelMask(tuple(panels))

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return what is masked on this image, None where that is nothing."""
        return PixelMask(
            tuple(
                np.where((values - panel.pedestal) / panel.gain <= self.max_photons, DIFFUSE, UNTRUSTED)
                for values, panel in zip(frame.counts, geometry.panels, strict=True)
            )
        )


@hookimpl
def diffuse_maskers() -> list[type]:
    """Offer the masker."""
    return [TemplateMasker]
