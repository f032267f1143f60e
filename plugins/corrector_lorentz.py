"""A Lorentz factor, for comparison with maps that were made with one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.factors import lorentz_inverse_q, lorentz_still
from diffuse_framework.algorithms.geometry import of_pixels
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.pixels import Background

PHIL = """
form = *sin_two_theta inverse_q
  .type = choice
  .help = "Which factor: 1/sin(2 theta), or 1/(wavelength |q|) = 1/(2 sin theta)."
"""


@dataclass(frozen=True)
class LorentzCorrector:
    """Gives each pixel a Lorentz factor. Continuous scattering needs none: only for comparisons.

    An intensity per solid angle and exposure time is a differential cross-section already.
    """

    name: ClassVar[str] = "lorentz"
    phil: ClassVar[str] = PHIL
    form: str = "sin_two_theta"

    @classmethod
    def from_params(cls, params: Any) -> LorentzCorrector:
        """Return the corrector that the parameters describe."""
        return cls(form=params.form)

    def factor(self, geometry: Geometry) -> tuple[np.ndarray, ...]:
        """Return the Lorentz factor of each pixel, (slow, fast) per panel, finite at the direct beam."""
        lorentz = lorentz_still if self.form == "sin_two_theta" else lorentz_inverse_q
        return tuple(of_pixels(panel, lambda mm: lorentz(mm, geometry.beam)) for panel in geometry.panels)

    def background(self, image: Image, geometry: Geometry) -> Background | None:
        """Return None."""
        return None


@hookimpl
def diffuse_correctors() -> list[type]:
    """Offer the corrector."""
    return [LorentzCorrector]
