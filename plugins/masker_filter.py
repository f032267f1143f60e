"""The pixel step and the intensity limits of the pipeline's plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.masking.shapes import every_nth, outside_intensity
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.stages.work import Mapper

PHIL = """
pixel_step = 1
  .type = int(value_min=1, allow_none=False)
  .help = "Use every n-th pixel along fast and along slow, for a quick look."
min_intensity = None
  .type = float
  .help = "Pixels of a smaller corrected intensity are left out, in photons per second and steradian"
          "at full response, background included. Limits bias dim data: where a pixel holds a"
          "few photons they cut the noise on one side and shift every mean."
max_intensity = None
  .type = float
  .help = "Pixels of a larger corrected intensity are left out, in photons per second and steradian"
          "at full response, background included. The warning of min_intensity holds here too."
"""


@dataclass(frozen=True)
class FilterMasker:
    """Removes pixels between the steps, and pixels whose corrected intensity is outside limits."""

    name: ClassVar[str] = "filter"
    phil: ClassVar[str] = PHIL
    pixel_step: int = 1
    min_intensity: float = -np.inf
    max_intensity: float = np.inf

    @classmethod
    def from_params(cls, params: Any) -> FilterMasker:
        """Return the masker that the parameters describe.

        Raises:
            ConfigError: a lower limit that is not below the upper one.
        """
        low = -np.inf if params.min_intensity is None else params.min_intensity
        high = np.inf if params.max_intensity is None else params.max_intensity
        if not low < high:
            raise ConfigError(f"min_intensity={low:g} must be smaller than max_intensity={high:g}")
        return cls(pixel_step=params.pixel_step, min_intensity=low, max_intensity=high)

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> FilterMasker:
        """Return itself."""
        return self

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return untrusted between the steps; None where every pixel is used."""
        if self.pixel_step == 1:
            return None
        return PixelMask(tuple(every_nth(panel.shape, self.pixel_step) for panel in geometry.panels))

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return untrusted outside the intensity limits; None where there are none."""
        if np.isinf(self.min_intensity) and np.isinf(self.max_intensity):
            return None
        return PixelMask(
            tuple(
                outside_intensity(
                    values,
                    response,
                    image.exposure_s,
                    panel.gain,
                    panel.pedestal,
                    self.min_intensity,
                    self.max_intensity,
                )
                for values, response, panel in zip(frame.counts, pixels.response, geometry.panels, strict=True)
            )
        )


@hookimpl
def diffuse_maskers() -> list[type]:
    """Offer the masker."""
    return [FilterMasker]
