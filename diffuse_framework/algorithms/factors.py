"""The factors of a pixel's response; each multiplies the expected count.

All take laboratory positions ``(..., 3)`` in mm and return ``(...)`` arrays.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_framework.algorithms.geometry import panel_normal
from diffuse_framework.model.geometry import Beam, Panel

__all__ = ["efficiency", "lorentz_inverse_q", "lorentz_still", "polarization", "solid_angle", "transmission"]


@njit(cache=True, nogil=True, error_model="numpy")
def _along(positions, vector, distance, cosine):
    for n in range(len(positions)):
        x, y, z = positions[n, 0], positions[n, 1], positions[n, 2]
        distance[n] = np.sqrt(x * x + y * y + z * z)
        cosine[n] = (x * vector[0] + y * vector[1] + z * vector[2]) / distance[n]


def _seen_along(positions_mm: np.ndarray, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances (...) from the sample, and the directions' components (...) along a vector (3,).

    One pass: a detector's pixels and the arrays in between do not fit a cache.
    """
    positions = np.ascontiguousarray(positions_mm, float)
    distance, cosine = np.empty(positions.shape[:-1]), np.empty(positions.shape[:-1])
    _along(positions.reshape(-1, 3), np.asarray(vector, float), distance.reshape(-1), cosine.reshape(-1))
    return distance, cosine


def solid_angle(positions_mm: np.ndarray, panel: Panel) -> np.ndarray:
    """Return the solid angle of each pixel in sr: area x |n . u| / r^2."""
    distance, cosine = _seen_along(positions_mm, panel_normal(panel))
    area = panel.pixel_size_mm[0] * panel.pixel_size_mm[1]
    return area * np.abs(cosine) / distance**2


def polarization(positions_mm: np.ndarray, beam: Beam) -> np.ndarray:
    """Return the polarisation factor, 1 at zero scattering angle.

    Kahn et al. (1982), J. Appl. Cryst. 15, 330, as DIALS has it:
    P = (1 - 2f)(1 - (k.u)^2) + f (1 + (u.u0)^2).
    """
    fraction = beam.polarization_fraction
    _, along_normal = _seen_along(positions_mm, beam.polarization_normal)
    _, along_beam = _seen_along(positions_mm, beam.s0 / np.linalg.norm(beam.s0))
    return (1 - 2 * fraction) * (1 - along_normal**2) + fraction * (1 + along_beam**2)


def efficiency(positions_mm: np.ndarray, panel: Panel) -> np.ndarray:
    """Return the share of photons the sensor absorbs: 1 - exp(-mu t / |n . u|)."""
    _, cosine = _seen_along(positions_mm, panel_normal(panel))
    return -np.expm1(-panel.mu_per_mm * panel.thickness_mm / np.abs(cosine))


def transmission(positions_mm: np.ndarray, mu_per_mm: float) -> np.ndarray:
    """Return the share of photons a gas of linear absorption `mu_per_mm` lets through."""
    return np.exp(-mu_per_mm * np.linalg.norm(positions_mm, axis=-1))


def lorentz_still(positions_mm: np.ndarray, beam: Beam) -> np.ndarray:
    """Return 1/sin(2 theta), the still's Lorentz factor of powder-like averaging.

    An intensity per solid angle needs none (it is a differential cross-section); this is
    for comparing with maps made the other way.
    """
    _, along_beam = _seen_along(positions_mm, beam.s0 / np.linalg.norm(beam.s0))
    return 1 / np.sqrt(np.maximum(1 - along_beam**2, 1e-12))


def lorentz_inverse_q(positions_mm: np.ndarray, beam: Beam) -> np.ndarray:
    """Return 1/(wavelength |q|) = 1/(2 sin theta), the other form in use; see `lorentz_still`."""
    _, along_beam = _seen_along(positions_mm, beam.s0 / np.linalg.norm(beam.s0))
    return 1 / np.sqrt(np.maximum(2 - 2 * along_beam, 1e-12))
