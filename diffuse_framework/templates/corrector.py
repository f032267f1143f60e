"""Corrects for the absorption of a sheet that lies flat on the detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.geometry import panel_normal, pixel_positions
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.pixels import Background

PHIL = """
thickness = 0.1
  .type = float(value_min=0, value_max=10, allow_none=False)
  .help = "Thickness of the sheet, in mm."
mu = 0.05
  .type = float(value_min=0, value_max=10, allow_none=False)
  .help = "Its linear absorption, in 1/mm."
"""


@dataclass(frozen=True)
class TemplateCorrector:
    """Corrects for the absorption of a sheet that lies flat on the detector."""

    name: ClassVar[str] = "template"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 1
    thickness_mm: float = 0.1
    mu_per_mm: float = 0.05

    @classmethod
    def from_params(cls, params: Any) -> TemplateCorrector:
        """Return the corrector that the parameters describe."""
        return cls(params.thickness, params.mu)

    def factor(self, geometry: Geometry) -> tuple[np.ndarray, ...] | None:
        """Return the share of photons that pass, (slow, fast) per panel: it multiplies the expected count."""
        factors = []
        for panel in geometry.panels:
            positions = pixel_positions(panel)
            cosine = np.abs(positions @ panel_normal(panel)) / np.linalg.norm(positions, axis=-1)
            # A grazing ray leaves the sheet somewhere; no factor may be zero.
            factors.append(np.exp(-self.mu_per_mm * self.thickness_mm / np.maximum(cosine, 0.01)))
        return tuple(factors)

    def background(self, image: Image, geometry: Geometry) -> Background | None:
        """Return photons that do not come from the crystal, None where there are none."""
        return None


@hookimpl
def diffuse_correctors() -> list[type]:
    """Offer the corrector."""
    return [TemplateCorrector]
