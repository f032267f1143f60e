"""The polarisation of the incident beam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.factors import polarization
from diffuse_framework.algorithms.geometry import of_pixels
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.pixels import Background


@dataclass(frozen=True)
class PolarizationCorrector:
    """Gives each pixel its polarisation factor, from the beam's polarisation (see the scope geometry)."""

    name: ClassVar[str] = "polarization"
    phil: ClassVar[str] = ""

    @classmethod
    def from_params(cls, params: Any) -> PolarizationCorrector:
        """Return the corrector; it has no parameters."""
        return cls()

    def factor(self, geometry: Geometry) -> tuple[np.ndarray, ...]:
        """Return the polarisation factor of each pixel, (slow, fast) per panel, 1 at the direct beam."""
        return tuple(of_pixels(panel, lambda mm: polarization(mm, geometry.beam)) for panel in geometry.panels)

    def background(self, image: Image, geometry: Geometry) -> Background | None:
        """Return None."""
        return None


@hookimpl
def diffuse_correctors() -> list[type]:
    """Offer the corrector."""
    return [PolarizationCorrector]
