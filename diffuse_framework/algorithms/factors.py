"""The factors of a pixel's response; each multiplies the expected count.

All take laboratory positions ``(..., 3)`` in mm and return ``(...)`` arrays.
"""

from __future__ import annotations

import numpy as np

from diffuse_framework.algorithms.geometry import panel_normal
from diffuse_framework.model.geometry import Beam, Panel


def _directions(positions_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances (...) and unit vectors (..., 3) from the sample."""
    distance = np.linalg.norm(positions_mm, axis=-1)
    return distance, positions_mm / distance[..., None]


def solid_angle(positions_mm: np.ndarray, panel: Panel) -> np.ndarray:
    """Return the solid angle of each pixel in sr: area x |n . u| / r^2."""
    distance, direction = _directions(positions_mm)
    area = panel.pixel_size_mm[0] * panel.pixel_size_mm[1]
    return area * np.abs(direction @ panel_normal(panel)) / distance**2


def polarization(positions_mm: np.ndarray, beam: Beam) -> np.ndarray:
    """Return the polarisation factor, 1 at zero scattering angle.

    Kahn et al. (1982), J. Appl. Cryst. 15, 330, as DIALS has it:
    P = (1 - 2f)(1 - (k.u)^2) + f (1 + (u.u0)^2).
    """
    _, direction = _directions(positions_mm)
    fraction = beam.polarization_fraction
    along_normal = direction @ beam.polarization_normal
    along_beam = direction @ (beam.s0 / np.linalg.norm(beam.s0))
    return (1 - 2 * fraction) * (1 - along_normal**2) + fraction * (1 + along_beam**2)


def efficiency(positions_mm: np.ndarray, panel: Panel) -> np.ndarray:
    """Return the share of photons the sensor absorbs: 1 - exp(-mu t / |n . u|)."""
    _, direction = _directions(positions_mm)
    return -np.expm1(-panel.mu_per_mm * panel.thickness_mm / np.abs(direction @ panel_normal(panel)))


def transmission(positions_mm: np.ndarray, mu_per_mm: float) -> np.ndarray:
    """Return the share of photons a gas of linear absorption `mu_per_mm` lets through."""
    return np.exp(-mu_per_mm * np.linalg.norm(positions_mm, axis=-1))


def lorentz_still(positions_mm: np.ndarray, beam: Beam) -> np.ndarray:
    """Return 1/sin(2 theta), the still's Lorentz factor of powder-like averaging.

    An intensity per solid angle needs none (it is a differential cross-section); this is
    for comparing with maps made the other way.
    """
    _, direction = _directions(positions_mm)
    along_beam = direction @ (beam.s0 / np.linalg.norm(beam.s0))
    return 1 / np.sqrt(np.maximum(1 - along_beam**2, 1e-12))


def lorentz_inverse_q(positions_mm: np.ndarray, beam: Beam) -> np.ndarray:
    """Return 1/(wavelength |q|) = 1/(2 sin theta), the other form in use; see `lorentz_still`."""
    _, direction = _directions(positions_mm)
    along_beam = direction @ (beam.s0 / np.linalg.norm(beam.s0))
    return 1 / np.sqrt(np.maximum(2 - 2 * along_beam, 1e-12))
