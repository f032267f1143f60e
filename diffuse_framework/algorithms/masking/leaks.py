"""What leaks past the mask of Bragg peaks: pixels next to it against those further out, by resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from scipy.ndimage import distance_transform_cdt

from diffuse_framework.algorithms.geometry import q_at_px
from diffuse_framework.algorithms.masking.bad_pixels import BLOCK
from diffuse_framework.algorithms.masking.reflections import N_BINS, bin_of
from diffuse_framework.model.conventions import BRAGG
from diffuse_framework.model.geometry import Geometry

FAR = 7
"""Pixels from the mask at which nothing of a peak is left; those from there to twice as far stand for the rest."""

MOST_GROWTH = 3
_SIGMAS = 3.0
_KNOWN = 10.0


@dataclass(frozen=True, eq=False)
class Leaks:
    """Sums over images, by bin of resolution and by distance from the mask; the last distance is far.

    Attributes:
        photons, expected, squares: (bins, FAR) photons, the level there, and the squares of their differences.
        masked, seen: (bins,) pixels masked as Bragg, and all that can be used.
    """

    photons: np.ndarray
    expected: np.ndarray
    squares: np.ndarray
    masked: np.ndarray
    seen: np.ndarray

    def excess(self) -> tuple[np.ndarray, np.ndarray]:
        """Return by how much pixels exceed those far from the mask, relative (bins, FAR - 1), and its error."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = self.photons / self.expected
            # Of how pixels scatter: counting, the noise they are read with, and what blocks don't tell.
            error = np.sqrt(np.maximum(self.squares, 1)) / self.expected
            excess = ratio[:, :-1] / ratio[:, -1:] - 1
            sigma = np.hypot(error[:, :-1] / ratio[:, -1:], error[:, -1:] / ratio[:, -1:])
        # Where noise hides what pixels count far away, there is nothing to compare with.
        good = np.isfinite(excess) & np.isfinite(sigma) & (ratio[:, -1:] > _KNOWN * error[:, -1:])
        return np.where(good, excess, 0.0), np.where(good, sigma, np.inf)

    def beside(self) -> float:
        """Return the excess of pixels next to the mask, over all resolutions."""
        excess, sigma = self.excess()
        weight = np.where(np.isfinite(sigma[:, 0]), self.expected[:, 0], 0.0)
        return float((excess[:, 0] * weight).sum() / max(weight.sum(), 1e-9))

    def total(self) -> float:
        """Return the excess of all pixels that are not masked, as a share of all photons in them."""
        excess = np.maximum(self.excess()[0], 0) * self.expected[:, :-1]
        return float(excess.sum() / max(self.expected.sum(), 1e-9))


def nothing_leaked() -> Leaks:
    """Return what no image says."""
    by_distance = (N_BINS, FAR)
    return Leaks(*(np.zeros(shape) for shape in (by_distance, by_distance, by_distance, N_BINS, N_BINS)))


def add_leaks(one: Leaks, other: Leaks) -> Leaks:
    """Return the sum of two."""
    return Leaks(*(a + b for a, b in zip(vars(one).values(), vars(other).values(), strict=True)))


@njit(cache=True, nogil=True)
def _add_leaks(values, mask, distance, blocks, bins, gain, pedestal, low, high, noise, sums, masked, seen):
    n_slow, n_fast = values.shape
    for slow in range(n_slow):
        block, level, limit, at = -1, 0.0, 0.0, 0
        for fast in range(n_fast):
            value = values[slow, fast]
            if not (low <= value <= high and abs(value) < np.inf):
                continue
            if fast // BLOCK != block:
                block = fast // BLOCK
                level, at = blocks[slow // BLOCK, block], bins[slow // BLOCK, block]
                # Single bright pixels are no part of a peak's foot.
                limit = 2 * level + 8 * np.sqrt(level + noise) + 5
            seen[at] += 1
            masked[at] += mask[slow, fast] == BRAGG
            away = distance[slow, fast]
            here = (value - pedestal) / gain
            if 1 <= away < 2 * FAR and here <= limit and np.isfinite(level):
                away = min(away, FAR) - 1
                sums[0, at, away] += here
                sums[1, at, away] += level
                sums[2, at, away] += (here - level) ** 2


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
    sums = np.zeros((3, N_BINS, FAR))
    for number, (values, mask, panel, blocks) in enumerate(zip(counts, classes, geometry.panels, levels, strict=True)):
        # The resolution hardly changes within a block.
        slow, fast = np.indices(blocks.shape).reshape(2, -1)
        centres = (np.stack([fast, slow], -1) + 0.5) * BLOCK
        bins = bin_of(np.linalg.norm(q_at_px(geometry, np.full(len(centres), number), centres), axis=1), q_max)
        distance = distance_transform_cdt(mask > BRAGG, "chessboard")
        _add_leaks(
            values,
            mask,
            distance,
            blocks,
            bins.reshape(blocks.shape),
            float(panel.gain),
            float(panel.pedestal),
            float(panel.trusted_range[0]),
            float(panel.trusted_range[1]),
            panel.read_noise**2,
            sums,
            total.masked,
            total.seen,
        )
    return replace(total, photons=sums[0], expected=sums[1], squares=sums[2])


def needed_growth(leaks: Leaks, share: float) -> np.ndarray:
    """Return by how many pixels (bins,) masks must grow until what is next to them exceeds no more than a share."""
    excess, sigma = leaks.excess()
    too_much = (excess > share) & (excess > _SIGMAS * sigma)
    # From the mask outwards, up to the first distance at which all is well.
    growth = np.cumprod(too_much, axis=1).sum(axis=1)
    return np.minimum(growth, MOST_GROWTH).astype(float)
