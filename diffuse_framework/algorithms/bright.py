"""Whether the brightest pixels of an image are where its crystal has reflections.

Needs no spot finding and no reflections: a sweep whose goniometer turns the wrong way, or by the wrong
angle, shows on its last image, whatever its files say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from diffuse_framework.algorithms.geometry import pixel_positions, scattering_vectors
from diffuse_framework.algorithms.masking import lattice_possible
from diffuse_framework.algorithms.rotation import index_sweep, n_substeps, sub_settings, turn
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.source import Frame

# Distance from an integer index, along each axis, at which a pixel belongs to a reflection.
NEAR = 0.15
# Brightest local maxima that are looked at, and fewest that mean something.
MOST, FEWEST = 200, 20
# Standard deviations above the median of a pixel's ring.
_BRIGHT = 8.0
_N_RINGS = 60
_WINDOW = 7
_MOST_STEPS = 50


@dataclass(frozen=True)
class Agreement:
    """How bright pixels lie with respect to the lattice.

    Attributes:
        n_bright: pixels looked at.
        near: fraction of them near a reciprocal lattice point at some angle of the image.
        chance: the same fraction of ordinary pixels at the same resolution.
        reversed_near, reversed_chance: both, had the crystal turned the other way.
    """

    n_bright: int
    near: float
    chance: float
    reversed_near: float
    reversed_chance: float

    @property
    def score(self) -> float:
        """1 where all bright pixels are near lattice points, 0 where no more are than by chance."""
        return (self.near - self.chance) / max(1 - self.chance, 1e-3)

    @property
    def reversed_score(self) -> float:
        """The score, had the crystal turned the other way."""
        return (self.reversed_near - self.reversed_chance) / max(1 - self.reversed_chance, 1e-3)


def agreement(frame: Frame, image: Image, geometry: Geometry, conditions: np.ndarray) -> Agreement | None:
    """Return how the bright pixels of an image lie, None where it has too few.

    Args:
        frame: its raw values.
        image: of a rotation.
        geometry: beam and panels.
        conditions: rows of `algorithms.masking.centring_conditions`.
    """
    bright, ordinary = bright_pixels(frame, geometry)
    if len(bright) < FEWEST or image.rotation is None:
        return None
    rotation = image.rotation
    back = turn(rotation.axis, np.radians([-2 * rotation.angle_deg]))[0]
    q_max = float(np.linalg.norm(bright, axis=1).max())
    sweep = index_sweep(image.setting_matrix, rotation, (1, 1, 1), 1 / q_max)
    n_steps = n_substeps(sweep, NEAR, _MOST_STEPS)
    ways = []
    for middle in (image.setting_matrix, back @ image.setting_matrix):
        settings = sub_settings(middle, rotation, n_steps)
        ways += [_fraction_near(q, settings, conditions) for q in (bright, ordinary)]
    return Agreement(len(bright), *ways)


def bright_pixels(frame: Frame, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return scattering vectors (n, 3) of the brightest local maxima, and (m, 3) of ordinary pixels.

    A pixel is bright by its excess over the median of its ring of equal |q|, in units of that
    ring's spread (from its median absolute deviation). The ordinary pixels have the same |q|.
    """
    q, excess, peak = [], [], []
    for panel, values in zip(geometry.panels, frame.counts, strict=True):
        low, high = panel.trusted_range
        trusted = (values >= low) & (values <= high)
        vectors = scattering_vectors(pixel_positions(panel), geometry.beam)
        counts = np.where(trusted, values, -np.inf).astype(float)
        q.append(vectors[trusted])
        excess.append(counts[trusted])
        peak.append((counts == ndimage.maximum_filter(counts, _WINDOW))[trusted])
    vectors, counts, is_peak = np.concatenate(q), np.concatenate(excess), np.concatenate(peak)
    if len(counts) == 0:
        return np.zeros((0, 3)), np.zeros((0, 3))
    length = np.linalg.norm(vectors, axis=1)
    ring = np.minimum((length / length.max() * _N_RINGS).astype(np.uint8), np.uint8(_N_RINGS - 1))
    # The order of small integers is found by counting them, once for both medians.
    order, ends = np.argsort(ring, kind="stable"), np.cumsum(np.bincount(ring, minlength=_N_RINGS))
    middle = _medians(counts[order], ends)
    spread = 1.4826 * _medians(np.abs(counts - middle[ring])[order], ends)
    above = (counts - middle[ring]) / np.maximum(spread[ring], 1.0)
    (rows,) = np.nonzero(is_peak & (above > _BRIGHT))
    rows = rows[np.argsort(above[rows])[::-1][:MOST]]
    same_rings = np.flatnonzero(np.isin(ring, np.unique(ring[rows])))
    return vectors[rows], vectors[same_rings[:: max(len(same_rings) // 2000, 1)]]


def _medians(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the median of each run of values (n,), runs ending before `ends` (m,); NaN for empty ones."""
    runs = np.split(values, ends[:-1])
    return np.array([np.median(run) if len(run) else np.nan for run in runs])


def _fraction_near(q: np.ndarray, settings: np.ndarray, conditions: np.ndarray) -> float:
    """Fraction of scattering vectors (n, 3) that come near a lattice point for one of the settings."""
    near = np.zeros(len(q), bool)
    for setting in settings:
        hkl = q @ np.linalg.inv(setting).T
        nearest = np.rint(hkl)
        close = (np.abs(hkl - nearest) < NEAR).all(axis=1) & nearest.any(axis=1)
        near |= close & lattice_possible(nearest.astype(int), conditions)
    return float(near.mean())
