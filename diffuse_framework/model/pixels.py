"""What a pixel is worth, and the corrected pixels of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Background", "CorrectedPixels", "PixelTable"]


@dataclass(frozen=True, eq=False)
class PixelTable:
    """What does not change between images that share a geometry.

    Attributes:
        q: one (slow, fast, 3) float32 array per panel, 1/angstrom.
        response: one (slow, fast) float32 array per panel: the product of the
            correctors' factors (solid angle in sr, polarisation, efficiency, air), so that
            expected counts = response x exposure time x scale x intensity.
    """

    q: tuple[np.ndarray, ...]
    response: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Background:
    """Counts that do not come from the crystal.

    Attributes:
        counts: one (slow, fast) float32 array per panel: expected photons on the image.
        variance: likewise, the variance of that expectation.
    """

    counts: tuple[np.ndarray, ...]
    variance: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class CorrectedPixels:
    """The diffuse pixels of one image, one by one.

    Attributes:
        q: (n, 3) 1/angstrom.
        intensity, sigma: (n,) photons per second and steradian at full response.
        panel, fast, slow: (n,) where the pixel is.
    """

    q: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    panel: np.ndarray
    fast: np.ndarray
    slow: np.ndarray
