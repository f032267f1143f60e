"""Bragg intensities of a still by summation over disks, above a plane through the pixels around each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.algorithms.indexing.spots import Spots
from diffuse_framework.model.geometry import Panel

__all__ = ["Summed", "disk_radius", "sum_reflections"]

# Between the disk and the pixels of the background, and the width of the ring that these are taken from.
_GAP, _RING = 1.5, 4.0
_LEAST_BACKGROUND = 12


@dataclass(frozen=True, eq=False)
class Summed:
    """Intensities of reflections, photons.

    Attributes:
        intensity, variance: (n,) above the background.
        background: (n,) photons in the disk.
        n_foreground, n_background: (n,) pixels.
        whole: (n,) whether all pixels of the disk could be used and enough around it; other rows mean nothing.
    """

    intensity: np.ndarray
    variance: np.ndarray
    background: np.ndarray
    n_foreground: np.ndarray
    n_background: np.ndarray
    whole: np.ndarray


def disk_radius(spots: Spots) -> float:
    """Return a radius in pixels that holds nearly all of the spots found: what stood out, and a pixel more."""
    if not len(spots):
        return 3.0
    return float(np.clip(np.sqrt(np.median(spots.n_pixels) / np.pi) + 1.5, 2.0, 8.0))


@njit(cache=True, nogil=True)
def _paint(px, radius, painted):
    n_slow, n_fast = painted.shape
    for n in range(len(px)):
        fast, slow = px[n]
        for i in range(max(int(slow - radius), 0), min(int(slow + radius) + 1, n_slow)):
            for j in range(max(int(fast - radius), 0), min(int(fast + radius) + 1, n_fast)):
                if (i + 0.5 - slow) ** 2 + (j + 0.5 - fast) ** 2 <= radius * radius:
                    painted[i, j] = 1


@njit(cache=True, nogil=True)
def _plane(moments, plane):
    """Solve the normal equations of ``a + b x + c y``; a constant where the pixels are on one side."""
    n, x, y, xx, xy, yy, v, vx, vy = moments
    # About the mean position, where the constant and the slopes part.
    mx, my, mv = x / n, y / n, v / n
    sxx, sxy, syy = xx / n - mx * mx, xy / n - mx * my, yy / n - my * my
    sx, sy = vx / n - mx * mv, vy / n - my * mv
    determinant = sxx * syy - sxy * sxy
    if determinant > 1e-3 * (sxx + syy) ** 2:
        plane[1] = (sx * syy - sy * sxy) / determinant
        plane[2] = (sy * sxx - sx * sxy) / determinant
    else:
        plane[1], plane[2] = 0.0, 0.0
    plane[0] = mv - plane[1] * mx - plane[2] * my


@njit(cache=True, nogil=True)
def _sum(values, bad, low, high, pedestal, per_value, noise2, painted, px, radius, inner, outer, out):
    n_slow, n_fast = values.shape
    moments, plane = np.empty(9), np.empty(3)
    for n in range(len(px)):
        fast, slow = px[n]
        first_i, last_i = int(np.floor(slow - outer)), int(np.floor(slow + outer)) + 1
        first_j, last_j = int(np.floor(fast - outer)), int(np.floor(fast + outer)) + 1
        limit, usable = np.inf, True
        total, raw, n_disk, sum_x, sum_y = 0.0, 0.0, 0, 0.0, 0.0
        # The second time without pixels that stand out from the plane of the first.
        for turn in range(2):
            moments[:] = 0.0
            for i in range(first_i, last_i):
                for j in range(first_j, last_j):
                    x, y = j + 0.5 - fast, i + 0.5 - slow
                    r2 = x * x + y * y
                    inside = r2 <= radius * radius
                    if not inside and (r2 < inner * inner or r2 > outer * outer):
                        continue
                    on = 0 <= i < n_slow and 0 <= j < n_fast
                    good = on and bad[i, j] == 0 and low <= values[i, j] <= high
                    if inside:
                        if not good:
                            usable = False
                        elif turn == 0:
                            photons = (values[i, j] - pedestal) * per_value
                            total, n_disk = total + photons, n_disk + 1
                            raw += max(photons, 0.0) + noise2
                            sum_x, sum_y = sum_x + x, sum_y + y
                        continue
                    if not good or painted[i, j]:
                        continue
                    v = (values[i, j] - pedestal) * per_value
                    if v > limit:
                        continue
                    moments[0] += 1
                    moments[1] += x
                    moments[2] += y
                    moments[3] += x * x
                    moments[4] += x * y
                    moments[5] += y * y
                    moments[6] += v
                    moments[7] += v * x
                    moments[8] += v * y
            if moments[0] < _LEAST_BACKGROUND or n_disk == 0:
                usable = False
                break
            _plane(moments, plane)
            mean = max(moments[6] / moments[0], 0.0)
            limit = mean + 4 * np.sqrt(mean + noise2) + 1
        if not usable:
            out[n, 5] = 0.0
            continue
        below = plane[0] * n_disk + plane[1] * sum_x + plane[2] * sum_y
        level = max(moments[6] / moments[0], 0.0) + noise2
        out[n, 0], out[n, 1] = total - below, raw + n_disk * n_disk / moments[0] * level
        out[n, 2], out[n, 3], out[n, 4], out[n, 5] = below, n_disk, moments[0], 1.0


def sum_reflections(
    counts: tuple[np.ndarray, ...],
    panels: tuple[Panel, ...],
    bad: tuple[np.ndarray, ...] | None,
    panel: np.ndarray,
    px: np.ndarray,
    radius: float,
) -> Summed:
    """Return the intensities of reflections: sums over disks above planes fitted to rings around them.

    Pixels in the disk of another reflection, and such as stand out, are no part of a background.

    Args:
        counts: (slow, fast) raw values of each panel.
        panels: their gain, pedestal, read noise and trusted range.
        bad: (slow, fast) uint8 of each panel, other than 0 where a pixel must not be used; None where all may.
        panel: (n,) of the reflections.
        px: (n, 2) pixel coordinates (fast, slow).
        radius: of the disks, pixels.
    """
    rows = np.zeros((len(px), 6))
    for number, (values, model) in enumerate(zip(counts, panels, strict=True)):
        here = np.flatnonzero(panel == number)
        if not len(here):
            continue
        unusable = np.zeros(values.shape, np.uint8) if bad is None else bad[number]
        painted = np.zeros(values.shape, np.uint8)
        centres = np.ascontiguousarray(px[here], float)
        _paint(centres, radius, painted)
        low, high = map(float, model.trusted_range)
        found = np.zeros((len(here), 6))
        numbers = (low, high, float(model.pedestal), 1 / model.gain, model.read_noise**2)
        inner = radius + _GAP
        _sum(values, unusable, *numbers, painted, centres, radius, inner, inner + _RING, found)
        rows[here] = found
    return Summed(
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3].astype(np.int32), rows[:, 4].astype(np.int32), rows[:, 5] > 0
    )
