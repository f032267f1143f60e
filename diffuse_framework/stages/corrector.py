"""Stage 3: what a pixel's count stands for."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np

from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.pixels import Background

__all__ = ["Corrector"]


class Corrector(Protocol):
    """One factor of a pixel's response, or a background to subtract.

    Factors multiply the expected count: solid angle, polarisation, efficiency, transmission.
    A correction that multiplies intensities, as other programs have it, is the reciprocal.
    """

    name: ClassVar[str]
    phil: ClassVar[str]

    @classmethod
    def from_params(cls, params: Any) -> Corrector:
        """Return the corrector that the parameters describe."""

    def factor(self, geometry: Geometry) -> tuple[np.ndarray, ...] | None:
        """Return one (slow, fast) array per panel, None where the factor is 1 everywhere."""

    def background(self, image: Image, geometry: Geometry) -> Background | None:
        """Return the background of one image, None where there is none."""
