"""The solid angle that a pixel covers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.factors import solid_angle
from diffuse_framework.algorithms.geometry import of_pixels
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.pixels import Background


@dataclass(frozen=True)
class SolidAngleCorrector:
    """Gives each pixel its solid angle: area x |n . u| / r^2."""

    name: ClassVar[str] = "solid_angle"
    phil: ClassVar[str] = ""

    @classmethod
    def from_params(cls, params: Any) -> SolidAngleCorrector:
        """Return the corrector; it has no parameters."""
        return cls()

    def factor(self, geometry: Geometry) -> tuple[np.ndarray, ...]:
        """Return the solid angle of each pixel in sr, (slow, fast) per panel."""
        return tuple(of_pixels(panel, partial(solid_angle, panel=panel)) for panel in geometry.panels)

    def background(self, image: Image, geometry: Geometry) -> Background | None:
        """Return None."""
        return None


@hookimpl
def diffuse_correctors() -> list[type]:
    """Offer the corrector."""
    return [SolidAngleCorrector]
