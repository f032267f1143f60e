"""The share of photons that the sensor absorbs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.factors import efficiency
from diffuse_framework.algorithms.geometry import of_pixels
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry, Panel
from diffuse_framework.model.pixels import Background
from diffuse_framework.services.attenuation import sensor_mu_per_mm

logger = logging.getLogger(__name__)

PHIL = """
material = None
  .type = str
  .help = "Sensor material: an element such as Si, or CdTe or GaAs. Its absorption at the beam's"
          "wavelength replaces that of the image header."
thickness = None
  .type = float(value_min=0)
  .help = "Thickness of the sensor in mm, instead of that of the image header."
mu = None
  .type = float(value_min=0)
  .help = "Linear absorption of the sensor in 1/mm, instead of that of the image header or the material."
"""


@dataclass(frozen=True)
class EfficiencyCorrector:
    """Gives each pixel its sensor's efficiency: 1 - exp(-mu t / |n . u|)."""

    name: ClassVar[str] = "efficiency"
    phil: ClassVar[str] = PHIL
    material: str | None = None
    thickness_mm: float | None = None
    mu_per_mm: float | None = None

    @classmethod
    def from_params(cls, params: Any) -> EfficiencyCorrector:
        """Return the corrector that the parameters describe."""
        return cls(material=params.material, thickness_mm=params.thickness, mu_per_mm=params.mu)

    def factor(self, geometry: Geometry) -> tuple[np.ndarray, ...] | None:
        """Return the efficiency at each pixel, (slow, fast) per panel.

        Where a sensor's thickness or absorption is unknown there is none to correct for: the
        factor is None for all panels, and a warning says so.

        Raises:
            ConfigError: a material that is in no table.
        """
        panels = [self._overridden(panel, geometry.beam.wavelength) for panel in geometry.panels]
        for panel in panels:
            # Without this test an unknown sensor would absorb nothing, and intensities be infinite.
            if not (panel.mu_per_mm > 0 and panel.thickness_mm > 0):
                logger.warning(
                    "The sensor of panel %r has thickness %g mm and absorption %g /mm: no correction for its "
                    "efficiency. Give thickness and material (or mu) if it is known",
                    panel.name,
                    panel.thickness_mm,
                    panel.mu_per_mm,
                )
                return None
        return tuple(
            of_pixels(panel, partial(efficiency, panel=sensor))
            for panel, sensor in zip(geometry.panels, panels, strict=True)
        )

    def background(self, image: Image, geometry: Geometry) -> Background | None:
        """Return None."""
        return None

    def _overridden(self, panel: Panel, wavelength: float) -> Panel:
        """Return the panel with the sensor that the parameters and the header give."""
        thickness_mm = panel.thickness_mm if self.thickness_mm is None else self.thickness_mm
        mu_per_mm = panel.mu_per_mm
        if self.mu_per_mm is not None:
            mu_per_mm = self.mu_per_mm
        elif self.material:
            mu_per_mm = _from_table(self.material, wavelength)
        elif panel.material and not mu_per_mm > 0:
            mu_per_mm = _from_table(panel.material, wavelength)
        return replace(panel, thickness_mm=thickness_mm, mu_per_mm=mu_per_mm)


def _from_table(material: str, wavelength: float) -> float:
    try:
        return sensor_mu_per_mm(material, wavelength)
    except ConfigError as error:
        raise ConfigError(
            f"{error}. Set corrector.efficiency.material, or corrector.efficiency.mu to the absorption in 1/mm"
        ) from error


@hookimpl
def diffuse_correctors() -> list[type]:
    """Offer the corrector."""
    return [EfficiencyCorrector]
