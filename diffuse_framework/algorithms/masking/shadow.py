"""Shadows of the beam stop, of its arm, and of whatever else stands in the way on all images.

A shadow is where pixels count far less than others of their ring of equal |q|. A ring that lies wholly in a shadow
has nothing to compare with: what it should count is taken from the rings outside it, since scattering does not fall
to nothing within a few pixels.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import (
    binary_dilation,
    binary_erosion,
    binary_fill_holes,
    binary_propagation,
    find_objects,
    gaussian_filter,
    label,
    uniform_filter,
)

from diffuse_framework.algorithms.geometry import panel_normal
from diffuse_framework.model.geometry import Geometry

# A shadow's core counts less than this of its ring, and its edge less than that of what is beside it.
DARK, DIM = 0.4, 0.85
# Photons that the mean over neighbours must rest on.
_PHOTONS = 150.0
# Of fewer than these in the widest window, darkness is noise.
_LEAST_PHOTONS = 40.0
_WIDEST = 25
# Pixels of the smallest shadow, and how far its edge reaches from the dark.
_SMALLEST, _EDGE = 40, 8
_LEAST_DIM = 0.6
# Towards the beam expected counts may fall with this power of the distance, not faster.
_POWER = 4
_QUANTILE = 0.75
# Rings that count less than this of the usual are not judged.
_FAINT = 0.15
# Photons some pixels outside a shadow's edge over those some pixels inside.
_CONTRAST = 2.0


def find_shadow(
    total: np.ndarray, seen: np.ndarray, expected: np.ndarray, ring: np.ndarray, margin: int, noise: float = 0.0
) -> np.ndarray:
    """Return True (slow, fast) in the shadows on one panel.

    Args:
        total: (slow, fast) photons over a sample of images, each divided by what the pixel would count by polarisation
            and solid angle alone, relative to their mean.
        seen: (slow, fast) sum of the brightness of the images on which each pixel was seen; 0 for none.
        expected: (rings,) of `ring_levels`: photons of a pixel of each ring per brightness.
        ring: (slow, fast) number of each pixel's ring.
        margin: pixels that are added all around.
        noise: variance of a pixel's total that is not of counting, photons^2.
    """
    if not (seen > 0).any():
        return np.zeros(total.shape, bool)
    should = expected[ring]
    photons = float(np.median((should * seen)[seen > 0]))
    window = smoothing_window(photons, noise)
    if window * window * weight_of(photons, noise) < _LEAST_PHOTONS:
        return np.zeros(total.shape, bool)
    ratio = smoothed(total, seen, window) / np.maximum(should, 1e-12)
    known = np.isfinite(ratio)
    # Where scattering itself is faint, as near the beam without air, darkness says nothing.
    bright_enough = should > _FAINT * np.median(should[seen > 0])
    dark = known & (ratio < DARK)
    labels, n = label(dark)
    if not n:
        return np.zeros(total.shape, bool)
    rate = ratio * should
    keep = np.zeros(n + 1, bool)
    for number, place in enumerate(find_objects(labels), 1):
        around = tuple(slice(max(side.start - _WIDEST, 0), side.stop + _WIDEST) for side in place)
        dark = labels[around] == number
        if (dark & bright_enough[around]).sum() >= max(_SMALLEST, window * window):
            keep[number] = has_an_edge(dark, np.where(known, rate, np.nan)[around], window)
    core = keep[labels]
    if not core.any():
        return core
    slow, fast = np.nonzero(core)
    reach = 2 * _EDGE + margin
    box = np.s_[
        max(slow.min() - reach, 0) : slow.max() + reach + 1, max(fast.min() - reach, 0) : fast.max() + reach + 1
    ]
    core, known, ratio = core[box], known[box], ratio[box]
    # The edge: outwards from the dark as long as pixels are dim beside what lies just outside.
    near = binary_dilation(core, iterations=_EDGE)
    outside = known & ~near
    local = local_level(rate[box], outside)
    # Of a crystal that turns little, what is beside a shadow is uneven by itself.
    beside = (rate[box] / local)[outside & binary_dilation(near, iterations=_EDGE)]
    uneven = 1.4826 * float(np.median(np.abs(beside - 1))) if beside.size else 0.0
    dim = np.clip(1 - 2 * uneven, _LEAST_DIM, DIM)
    shadow = binary_propagation(core, mask=near & (~known | (rate[box] < dim * local)))
    shadow = binary_fill_holes(shadow)
    whole = np.zeros(total.shape, bool)
    whole[box] = binary_dilation(shadow, iterations=margin) if margin else shadow
    return whole


def local_level(rate: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the mean over the nearest known pixels (slow, fast); infinite where none is near."""
    weight = gaussian_filter(known.astype(float), _EDGE)
    value = gaussian_filter(np.where(known, rate, 0.0), _EDGE)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 1e-4, value / weight, np.inf)


def has_an_edge(dark: np.ndarray, rate: np.ndarray, window: int) -> bool:
    """Return whether photons rise steeply from the inside of a dark region to its outside, as scattering never does.

    Args:
        dark: (slow, fast) the region, with some pixels around it.
        rate: (slow, fast) photons, NaN where unknown.
        window: width over which they are smoothed.
    """
    inside = binary_erosion(dark, iterations=1)
    inside &= ~binary_erosion(dark, iterations=4)
    near = 1 + window // 2
    outside = binary_dilation(dark, iterations=near + 3) & ~binary_dilation(dark, iterations=near)
    levels = []
    for where in (inside if inside.any() else dark, outside):
        values = rate[where]
        values = values[np.isfinite(values)]
        if not len(values):
            return False
        levels.append(float(values.mean()))
    return levels[1] > _CONTRAST * levels[0]


def ring_width(geometry: Geometry) -> float:
    """Return the width of a ring in 1/angstrom: about a pixel near the beam."""
    smallest = min(panel.pixel_size_mm[0] / abs(panel.origin_mm @ panel_normal(panel)) for panel in geometry.panels)
    return float(smallest / geometry.beam.wavelength)


def weight_of(photons: float, noise: float) -> float:
    """Return how many photons, counted without noise, tell as much as a pixel of so many with a variance of `noise`."""
    photons = max(photons, 1e-9)
    return photons / (1 + noise / photons)


def smoothing_window(photons: float, noise: float = 0.0) -> int:
    """Return the odd width of the window over which pixels of so many photons are averaged."""
    width = int(np.ceil(np.sqrt(_PHOTONS / max(weight_of(photons, noise), 1e-9))))
    return int(np.clip(width | 1, 3, _WIDEST))


def smoothed(total: np.ndarray, seen: np.ndarray, window: int) -> np.ndarray:
    """Return photons per brightness (slow, fast), averaged over a window of pixels, NaN where nothing was seen."""
    weight = uniform_filter(seen.astype(float), window, mode="constant")
    value = uniform_filter(np.where(seen > 0, total, 0).astype(float), window, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((seen > 0) & (weight > 0), value / weight, np.nan)


def ring_levels(
    totals: list[np.ndarray], seen: list[np.ndarray], radii: list[np.ndarray], noise: float = 0.0
) -> np.ndarray:
    """Return what a pixel of each ring counts where it is not in a shadow, (rings,), per brightness.

    The upper quartile of the ring; towards the beam no less than a steep power law makes of the ring outside it.
    """
    if not any((use > 0).any() for use in seen):
        return np.zeros(max(int(radius.max()) for radius in radii) + 1)
    n_rings = max(int(radius.max()) for radius in radii) + 1
    middle = np.median(np.concatenate([t[s > 0] for t, s in zip(totals, seen, strict=True)] or [np.zeros(1)]))
    window = smoothing_window(float(middle), noise)
    rings, values = [], []
    for total, use, radius in zip(totals, seen, radii, strict=True):
        mean = smoothed(total, use, window)
        known = np.isfinite(mean)
        rings.append(radius[known])
        values.append(mean[known])
    ring, value = np.concatenate(rings), np.concatenate(values)
    order = np.lexsort((value, ring))
    ring, value = ring[order], value[order]
    ends = np.searchsorted(ring, np.arange(n_rings + 1))
    level = np.full(n_rings, np.nan)
    for number in np.flatnonzero(np.diff(ends)):
        level[number] = value[ends[number] + int(_QUANTILE * (ends[number + 1] - ends[number] - 1))]
    outside = 0.0
    for number in range(n_rings - 1, -1, -1):
        here = level[number] if np.isfinite(level[number]) else 0.0
        level[number] = outside = max(here, outside * ((number + 0.5) / (number + 1.5)) ** _POWER)
    return level
