"""Corrects for the absorption of a sheet that lies flat on the detector."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.geometry import of_pixels, panel_normal
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry, Panel
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
        return tuple(of_pixels(panel, partial(self._transmission, panel=panel)) for panel in geometry.panels)

    def background(self, image: Image, geometry: Geometry) -> Background | None:
        """Return photons that do not come from the crystal, None where there are none."""
        return None

    def _transmission(self, positions_mm: np.ndarray, panel: Panel) -> np.ndarray:
        cosine = np.abs(positions_mm @ panel_normal(panel)) / np.linalg.norm(positions_mm, axis=-1)
        # A grazing ray leaves the sheet somewhere; no factor may be zero.
        return np.exp(-self.mu_per_mm * self.thickness_mm / np.maximum(cosine, 0.01))


@hookimpl
def diffuse_correctors() -> list[type]:
    """Offer the corrector."""
    return [TemplateCorrector]
