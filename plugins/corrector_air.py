"""The share of photons that reach the detector through air, or partly through helium."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.factors import transmission
from diffuse_framework.algorithms.geometry import of_pixels
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.pixels import Background
from diffuse_framework.services.attenuation import gas_mu_per_mm

PHIL = """
temperature = 293.15
  .type = float(value_min=1, allow_none=False)
  .help = "Temperature of the air in kelvin."
pressure = 1.0
  .type = float(value_min=0, allow_none=False)
  .help = "Pressure of the air in atmospheres."
helium_share = 0.0
  .type = float(value_min=0, value_max=1, allow_none=False)
  .help = "Share of the path from sample to detector that is filled with helium, 0 to 1."
mu = None
  .type = float(value_min=0)
  .help = "Linear absorption of whatever fills the path in 1/mm, instead of the one computed from the"
          "composition of dry air; 0 for vacuum."
"""


@dataclass(frozen=True)
class AirCorrector:
    """Gives each pixel the transmission of the path to it: exp(-mu r)."""

    name: ClassVar[str] = "air"
    phil: ClassVar[str] = PHIL
    temperature_k: float = 293.15
    pressure_atm: float = 1.0
    helium_share: float = 0.0
    mu_per_mm: float | None = None

    @classmethod
    def from_params(cls, params: Any) -> AirCorrector:
        """Return the corrector that the parameters describe."""
        return cls(
            temperature_k=params.temperature,
            pressure_atm=params.pressure,
            helium_share=params.helium_share,
            mu_per_mm=params.mu,
        )

    def factor(self, geometry: Geometry) -> tuple[np.ndarray, ...] | None:
        """Return the transmission to each pixel, (slow, fast) per panel; None in vacuum.

        Raises:
            ConfigError: a wavelength that the attenuation tables do not have.
        """
        mu_per_mm = self._mu_per_mm(geometry.beam.wavelength)
        if mu_per_mm == 0:
            return None
        return tuple(of_pixels(panel, lambda mm: transmission(mm, mu_per_mm)) for panel in geometry.panels)

    def background(self, image: Image, geometry: Geometry) -> Background | None:
        """Return None."""
        return None

    def _mu_per_mm(self, wavelength: float) -> float:
        if self.mu_per_mm is not None:
            return self.mu_per_mm
        air, helium = (
            gas_mu_per_mm(gas, wavelength, self.temperature_k, self.pressure_atm) for gas in ("air", "helium")
        )
        return (1 - self.helium_share) * air + self.helium_share * helium


@hookimpl
def diffuse_correctors() -> list[type]:
    """Offer the corrector."""
    return [AirCorrector]
