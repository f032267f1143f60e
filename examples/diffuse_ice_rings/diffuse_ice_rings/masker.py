"""Masks the ice and powder rings of each image."""

from __future__ import annotations

import logging
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
from diffuse_ice_rings.rings import Criteria, find_rings

logger = logging.getLogger(__name__)

PHIL = """
threshold = 5.0
  .type = float(value_min=2, allow_none=False)
  .help = "A ring stands out from the radial profile by so many standard deviations."
min_excess = 0.05
  .type = float(value_min=0, allow_none=False)
  .help = "And by at least this fraction of the scattering beneath it."
step = 0.002
  .type = float(value_min=1e-4, value_max=0.1, allow_none=False)
  .help = "Width of the bins of |q| in 1/angstrom; about that of a pixel."
max_width = 0.03
  .type = float(value_min=1e-3, value_max=0.5, allow_none=False)
  .help = "Broader humps are no rings, in 1/angstrom."
margin = 0.002
  .type = float(value_min=0, value_max=0.1, allow_none=False)
  .help = "Masked on both sides of a ring as well, in 1/angstrom."
"""


@dataclass(frozen=True)
class IceRingMasker:
    """Finds ice and powder rings on each image from its radial profile, and leaves them out."""

    name: ClassVar[str] = "ice_rings"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 1
    criteria: Criteria = Criteria()

    @classmethod
    def from_params(cls, params: Any) -> IceRingMasker:
        """Return the masker that the parameters describe."""
        return cls(Criteria(params.threshold, params.min_excess, params.step, params.max_width, params.margin))

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> IceRingMasker:
        """Return itself: every image is judged by itself."""
        return self

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return None: rings differ from image to image."""
        return None

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return untrusted on the rings of the image, None where there is none."""
        rings = find_rings(frame, geometry, pixels, self.criteria)
        if not rings:
            return None
        logger.debug(
            "%s: rings at %s angstrom", frame.name, ", ".join(f"{2 / (ring.low + ring.high):.2f}" for ring in rings)
        )
        panels = []
        for q in pixels.q:
            length = np.sqrt(np.square(q).sum(axis=-1))
            mask = np.full(length.shape, DIFFUSE)
            for ring in rings:
                mask[(length >= ring.low) & (length <= ring.high)] = UNTRUSTED
            panels.append(mask)
        return PixelMask(tuple(panels))


@hookimpl
def diffuse_maskers() -> list[type]:
    """Offer the masker."""
    return [IceRingMasker]
