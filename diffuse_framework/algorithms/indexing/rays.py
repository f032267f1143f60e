"""The scattered rays of spots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.geometry import px_to_mm
from diffuse_framework.model.geometry import Beam, Geometry

__all__ = ["Rays", "aside_of", "rays_of"]


@dataclass(frozen=True, eq=False)
class Rays:
    """The scattered rays of spots.

    Attributes:
        q: (n, 3) scattering vectors, 1/angstrom.
        s1: (n, 3) their directions, of length 1.
        per_mm: (n,) change of q, in 1/angstrom, for a shift of the spot across the ray by 1 mm.
        aside: (2, 3) unit vectors across the incident beam.
    """

    q: np.ndarray
    s1: np.ndarray
    per_mm: np.ndarray
    aside: np.ndarray

    def __len__(self) -> int:
        return len(self.q)

    def where(self, rows: np.ndarray) -> Rays:
        """Return some of them, by number or as booleans."""
        q, s1, per_mm = (np.ascontiguousarray(values[rows]) for values in (self.q, self.s1, self.per_mm))
        return Rays(q, s1, per_mm, self.aside)

    def shifted(self, shift_mm: np.ndarray) -> np.ndarray:
        """Return the scattering vectors (n, 3) with the detector moved across the beam by (2,) mm."""
        move = shift_mm @ self.aside
        return self.q + (move - (self.s1 @ move)[:, None] * self.s1) * self.per_mm[:, None]


def rays_of(geometry: Geometry, panel: np.ndarray, px: np.ndarray) -> Rays:
    """Return the rays to pixel coordinates (n, 2) of panel numbers (n,)."""
    lab = np.empty((len(px), 3))
    for number, model in enumerate(geometry.panels):
        here = panel == number
        if here.any():
            mm = px_to_mm(model, px[here])
            lab[here] = model.origin_mm + mm[:, :1] * model.fast_axis + mm[:, 1:] * model.slow_axis
    distance = np.linalg.norm(lab, axis=1)
    s1 = lab / distance[:, None]
    beam = geometry.beam
    return Rays(s1 / beam.wavelength - beam.s0, s1, 1 / (distance * beam.wavelength), aside_of(beam))


def aside_of(beam: Beam) -> np.ndarray:
    """Return two unit vectors (2, 3) across the incident beam."""
    along = beam.s0 * beam.wavelength
    first = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(along, first)])
