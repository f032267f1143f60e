"""Whether bright pixels of stills lie beside the reflections that the geometry and the cell predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffuse_framework.model.geometry import Geometry

__all__ = ["Displacement", "displacement"]

# Distance from a lattice point, in Miller indices along each axis, up to which a bright pixel is its reflection.
_NEAR = 0.25
_FEWEST = 60
# What is beyond doubt, in standard deviations, and what matters: of the length of q, and in pixels.
_SURE, _SCALE, _PIXELS = 5.0, 0.003, 0.7


@dataclass(frozen=True)
class Displacement:
    """How bright pixels lie to the reflections that are predicted next to them.

    Attributes:
        scale, scale_error: by what part of their distance from the beam they lie further out.
        shift, shift_error: length in pixels by which all lie to one side, and its error.
        n_bright: bright pixels next to a reflection.
    """

    scale: float
    scale_error: float
    shift: float
    shift_error: float
    n_bright: int

    @property
    def complaints(self) -> tuple[str, ...]:
        """What is off, in words; nothing where all is where it should be."""
        found = []
        if abs(self.scale) > max(_SCALE, _SURE * self.scale_error):
            found.append(
                f"{abs(self.scale):.1%} further {'out' if self.scale > 0 else 'in'} than predicted (cell, distance or "
                "wavelength)"
            )
        if self.shift > max(_PIXELS, _SURE * self.shift_error):
            found.append(f"{self.shift:.1f} pixels to one side (beam centre)")
        return tuple(found)


def displacement(
    bright: Sequence[np.ndarray], settings: Sequence[np.ndarray], geometry: Geometry
) -> Displacement | None:
    """Return how bright pixels of stills lie to their lattices, None where there are too few.

    What a reflection is off the Ewald sphere by lies along the scattered beam and is left out. Of the rest a part
    proportional to q is one of scale, and a part common to all, by the cosine of 2 theta as a flat detector moves,
    one of the beam centre.

    Args:
        bright: (n, 3) scattering vectors of bright pixels of each image, by the geometry.
        settings: A (3, 3) of each image.
        geometry: of all.
    """
    s0 = geometry.beam.s0
    along = s0 / np.linalg.norm(s0)
    first = np.cross(along, (0.0, 1.0, 0.0) if abs(along[1]) < 0.9 else (1.0, 0.0, 0.0))
    first /= np.linalg.norm(first)
    axes = (first, np.cross(along, first))
    rows, apart = [], []
    for q, setting in zip(bright, settings, strict=True):
        hkl = q @ np.linalg.inv(setting).T
        nearest = np.rint(hkl)
        near = (np.abs(hkl - nearest) < _NEAR).all(axis=1) & nearest.any(axis=1)
        q, off = q[near], (q - nearest @ setting.T)[near]
        s1 = (q + s0) / np.linalg.norm(q + s0, axis=1, keepdims=True)
        cosine = (s1 @ along)[:, None]
        terms = [q, *(cosine * axis * np.linalg.norm(s0) for axis in axes)]
        rows.append(np.stack([_across(term, s1) for term in terms], axis=-1))
        apart.append(_across(off, s1))
    design, observed = np.concatenate(rows), np.concatenate(apart)
    n_bright = len(design)
    if n_bright < _FEWEST:
        return None
    matrix, values = design.reshape(-1, 3), observed.reshape(-1)
    weight = np.ones(n_bright)
    for _ in range(15):
        each = np.repeat(weight, 3)
        normal = (matrix * each[:, None]).T @ matrix
        fitted = np.linalg.solve(normal, (matrix * each[:, None]).T @ values)
        left = np.linalg.norm(observed - design @ fitted, axis=1)
        typical = np.median(left)
        weight = 1 / (1 + (left / (2 * typical)) ** 2) ** 2
    # Two directions of three say something.
    variance = (weight * left**2).sum() / weight.sum() / 2
    error = np.sqrt(np.diag(np.linalg.inv(normal)) * variance)
    per_pixel = _pixel_angle(geometry, along)
    shift, of_shift = (float(np.linalg.norm(x[1:])) / per_pixel for x in (fitted, error))
    return Displacement(float(fitted[0]), float(error[0]), shift, of_shift, n_bright)


def _across(vectors: np.ndarray, s1: np.ndarray) -> np.ndarray:
    """Return vectors (n, 3) without their part along unit vectors (n, 3)."""
    return vectors - (vectors * s1).sum(axis=1, keepdims=True) * s1


def _pixel_angle(geometry: Geometry, along: np.ndarray) -> float:
    """Angle, in radians, of a pixel where the beam would meet the first panel's plane."""
    panel = geometry.panels[0]
    distance = abs(float(panel.origin_mm @ along))
    return panel.pixel_size_mm[0] / max(distance, 1e-6)
