"""What leaks past the mask of Bragg peaks: pixels next to it against those further out, by resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_cdt

from diffuse_framework.algorithms.geometry import of_pixels, scattering_vectors
from diffuse_framework.algorithms.masking.bad_pixels import BLOCK
from diffuse_framework.algorithms.masking.shapes import within_range
from diffuse_framework.algorithms.masking.spots import N_BINS, bin_of
from diffuse_framework.model.conventions import BRAGG, DIFFUSE
from diffuse_framework.model.geometry import Geometry

FAR = 7
"""Pixels from the mask at which nothing of a peak is left; those from there to twice as far stand for the rest."""

MOST_GROWTH = 3
_SIGMAS = 3.0


@dataclass(frozen=True, eq=False)
class Leaks:
    """Sums over images, by bin of resolution and by distance from the mask; the last distance is far.

    Attributes:
        photons, expected, variance: (bins, FAR) photons, the level there, and the variance of the photons.
        masked, seen: (bins,) pixels masked as Bragg, and all that can be used.
    """

    photons: np.ndarray
    expected: np.ndarray
    masked: np.ndarray
    seen: np.ndarray

    def excess(self) -> tuple[np.ndarray, np.ndarray]:
        """Return by how much pixels exceed those far from the mask, relative (bins, FAR - 1), and its error."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = self.photons / self.expected
            error = ratio / np.sqrt(np.maximum(self.photons, 1))
            excess = ratio[:, :-1] / ratio[:, -1:] - 1
            sigma = np.hypot(error[:, :-1] / ratio[:, -1:], error[:, -1:] / ratio[:, -1:])
        good = np.isfinite(excess) & np.isfinite(sigma)
        return np.where(good, excess, 0.0), np.where(good, sigma, np.inf)

    def beside(self) -> float:
        """Return the excess of pixels next to the mask, over all resolutions."""
        weight = self.expected[:, 0]
        return float((self.excess()[0][:, 0] * weight).sum() / max(weight.sum(), 1e-9))

    def total(self) -> float:
        """Return the excess of all pixels that are not masked, as a share of all photons in them."""
        excess = np.maximum(self.excess()[0], 0) * self.expected[:, :-1]
        return float(excess.sum() / max(self.expected.sum(), 1e-9))


def nothing_leaked() -> Leaks:
    """Return what no image says."""
    return Leaks(np.zeros((N_BINS, FAR)), np.zeros((N_BINS, FAR)), np.zeros(N_BINS), np.zeros(N_BINS))


def add_leaks(one: Leaks, other: Leaks) -> Leaks:
    """Return the sum of two."""
    return Leaks(*(a + b for a, b in zip(vars(one).values(), vars(other).values(), strict=True)))


def leaks_around(
    counts: tuple[np.ndarray, ...],
    classes: tuple[np.ndarray, ...],
    geometry: Geometry,
    levels: tuple[np.ndarray, ...],
    q_max: float,
) -> Leaks:
    """Return what one image says.

    Args:
        counts: (slow, fast) raw values of each panel.
        classes: (slow, fast) of the Bragg mask, of each panel.
        geometry: beam and panels.
        levels: photons (blocks) on this image, of each panel.
        q_max: of the detector, 1/angstrom.
    """
    total = nothing_leaked()
    for values, mask, panel, blocks in zip(counts, classes, geometry.panels, levels, strict=True):
        q = of_pixels(panel, lambda mm: np.linalg.norm(scattering_vectors(mm, geometry.beam), axis=-1))
        bins = bin_of(q, q_max)
        usable = within_range(values, *panel.trusted_range) == DIFFUSE
        level = np.repeat(np.repeat(blocks, BLOCK, 0), BLOCK, 1)[: panel.shape[0], : panel.shape[1]]
        photons = (values - panel.pedestal) / panel.gain
        distance = distance_transform_cdt(mask > BRAGG, "chessboard")
        # Single bright pixels are no part of a peak's foot.
        usual = usable & (photons <= 2 * level + 8 * np.sqrt(level) + 5) & np.isfinite(level)
        near = usual & (distance >= 1) & (distance < 2 * FAR)
        at = bins[near] * FAR + np.minimum(distance[near], FAR) - 1
        for sums, what in ((total.photons, photons), (total.expected, level)):
            sums += np.bincount(at, what[near], N_BINS * FAR).reshape(N_BINS, FAR)
        total.masked[:] += np.bincount(bins[usable & (mask == BRAGG)], minlength=N_BINS)
        total.seen[:] += np.bincount(bins[usable], minlength=N_BINS)
    return total


def needed_growth(leaks: Leaks, share: float) -> np.ndarray:
    """Return by how many pixels (bins,) masks must grow until what is next to them exceeds no more than a share."""
    excess, sigma = leaks.excess()
    too_much = (excess > share) & (excess > _SIGMAS * sigma)
    # From the mask outwards, up to the first distance at which all is well.
    growth = np.cumprod(too_much, axis=1).sum(axis=1)
    return np.minimum(growth, MOST_GROWTH).astype(float)
