"""Spots on a decoded image: one pass for pixels that stand out, then regions around them above the local background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.model.geometry import Panel

__all__ = ["SpotLimits", "Spots", "find_spots", "joined"]

# Around a pixel that stands out, the square that tells the background; the ring excludes its own peak.
_REACH, _INNER = 8, 2
# A region is dropped that grows beyond: an ice ring or the edge of a shadow, not a spot.
_MOST_PIXELS = 1000


@dataclass(frozen=True)
class SpotLimits:
    """What is a spot.

    Attributes:
        half_kernel: the sliding square has ``2 half_kernel + 1`` pixels a side.
        sigma_background: standard deviations by which the index of dispersion of the square exceeds 1.
        sigma_strong: standard deviations of a pixel above the background.
        min_pixels, max_pixels: of a region.
        min_significance: summed intensity over its standard deviation.
        max_separation_px: of centroid and highest pixel; two peaks in one region are no spot.
    """

    half_kernel: int = 3
    sigma_background: float = 6.0
    sigma_strong: float = 3.0
    min_pixels: int = 3
    max_pixels: int = _MOST_PIXELS
    min_significance: float = 4.0
    max_separation_px: float = 2.0


@dataclass(frozen=True, eq=False)
class Spots:
    """Spots found on one image.

    Attributes:
        panel: (n,) panel numbers.
        px: (n, 2) centroids, pixel coordinates (fast, slow).
        variance_px: (n, 2) of the centroids, in pixels squared.
        intensity: (n,) photons above the background.
        variance: (n,) of the intensity.
        background: (n,) photons a pixel.
        n_pixels: (n,) pixels of the region.
        box: (n, 4) first and last + 1 pixel along fast, then along slow.
    """

    panel: np.ndarray
    px: np.ndarray
    variance_px: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    background: np.ndarray
    n_pixels: np.ndarray
    box: np.ndarray

    def __len__(self) -> int:
        return len(self.panel)

    def where(self, rows: np.ndarray) -> Spots:
        """Return some of them, by number or as booleans."""
        return Spots(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def joined(parts: list[Spots]) -> Spots:
    """Return the spots of all parts, one or more."""
    return Spots(*(np.concatenate([getattr(part, name) for part in parts]) for name in Spots.__dataclass_fields__))


@njit(cache=True, nogil=True)
def _add_line(values, bad, low, high, pedestal, per_value, kept, sums, margin):
    """Add a line of pixels to the sums of each column (number, photons, squares), and keep it to be taken away."""
    for j in range(len(values)):
        value = values[j]
        good = (low <= value) & (value <= high) & (bad[j] == 0)
        photons = (value - pedestal) * per_value if good else 0.0
        kept[0, j] = 1.0 if good else 0.0
        kept[1, j] = photons
        sums[0, j + margin] += kept[0, j]
        sums[1, j + margin] += photons
        sums[2, j + margin] += photons * photons


@njit(cache=True, nogil=True)
def _take_line(kept, sums, margin):
    """Take away a line that `_add_line` kept."""
    for j in range(kept.shape[1]):
        photons = kept[1, j]
        sums[0, j + margin] -= kept[0, j]
        sums[1, j + margin] -= photons
        sums[2, j + margin] -= photons * photons


@njit(cache=True, nogil=True)
def _slide(sums, half, squares):
    """Fill `squares` (3, n): the sums of the columns within `half` of each."""
    size = 2 * half + 1
    n, s, q = 0.0, 0.0, 0.0
    for j in range(half + 1, size):
        n, s, q = n + sums[0, j], s + sums[1, j], q + sums[2, j]
    for j in range(squares.shape[1]):
        n += sums[0, j + size] - sums[0, j]
        s += sums[1, j + size] - sums[1, j]
        q += sums[2, j + size] - sums[2, j]
        squares[0, j], squares[1, j], squares[2, j] = n, s, q


@njit(cache=True, nogil=True)
def _seeds(values, bad, low, high, pedestal, per_value, noise2, half, sigma_background, sigma_strong, seeds):
    """List the pixels that stand out from a square around them; return how many there are.

    The variance of n Poisson counts over their mean has a standard deviation of ``sqrt(2 / (n - 1))``. Doubles add
    and take away whole numbers without a rest.
    """
    n_slow, n_fast = values.shape
    size, margin = 2 * half + 1, half + 1
    excess = np.full(size * size + 1, np.inf)
    for n in range(2, size * size + 1):
        excess[n] = 1 + sigma_background * np.sqrt(2.0 / (n - 1))
    sums, squares = np.zeros((3, n_fast + 2 * margin)), np.empty((3, n_fast))
    kept = np.zeros((size, 2, n_fast))
    above_all = np.empty(n_fast, np.uint8)
    strong2, noise32 = np.float32(sigma_strong * sigma_strong), np.float32(noise2)
    scale, zero = np.float32(per_value), np.float32(pedestal)
    found = 0
    for i in range(-half, n_slow):
        new, old = i + half, i - half - 1
        slot = kept[new % size]
        if old >= 0:
            _take_line(slot, sums, margin)
        if new < n_slow:
            _add_line(values[new], bad[new], low, high, pedestal, per_value, slot, sums, margin)
        if i < 0:
            continue
        _slide(sums, half, squares)
        line = values[i]
        # Without branches, which half of all pixels would take: many at a time.
        for j in range(n_fast):
            number, total = np.float32(squares[0, j]), np.float32(squares[1, j])
            above = (np.float32(line[j]) - zero) * scale * number - total
            above_all[j] = (above > 0) & (above * above > strong2 * number * (total + noise32 * number))
        for j in range(n_fast):
            if not above_all[j] or bad[i, j] != 0 or not (low <= line[j] <= high):
                continue
            n, s, q = squares[0, j], squares[1, j], squares[2, j]
            expected = n * (s + noise2 * n)
            if n < 2 or expected <= 0 or (q * n - s * s) * n <= excess[int(n)] * expected * (n - 1):
                continue
            if found < len(seeds):
                seeds[found, 0], seeds[found, 1] = i, j
            found += 1
    return found


@njit(cache=True, nogil=True)
def _background(values, bad, low, high, pedestal, per_value, noise2, i, j, around):
    """Mean photons a pixel around a pixel, without what stands out there; -1 where too few pixels tell it."""
    n_slow, n_fast = values.shape
    count = 0
    for y in range(max(i - _REACH, 0), min(i + _REACH + 1, n_slow)):
        for x in range(max(j - _REACH, 0), min(j + _REACH + 1, n_fast)):
            value = values[y, x]
            inner = abs(y - i) <= _INNER and abs(x - j) <= _INNER
            if inner or bad[y, x] != 0 or not (low <= value <= high):
                continue
            around[count] = (value - pedestal) * per_value
            count += 1
    if count < 10:
        return -1.0
    level = np.median(around[:count])
    for _ in range(3):
        # A median of few photons is 0: one photon more than it does not stand out.
        limit = level + 3 * np.sqrt(max(level, 0.0) + noise2) + 1
        n, s = 0, 0.0
        for m in range(count):
            if around[m] <= limit:
                n, s = n + 1, s + around[m]
        level = s / n
    return max(level, 0.0)


@njit(cache=True, nogil=True)
def _grow(values, bad, low, high, pedestal, per_value, noise2, sigma_strong, seeds, out):
    """Grow a region from each pixel that stands out, and measure it; return how many regions there are."""
    n_slow, n_fast = values.shape
    taken = np.zeros((n_slow, n_fast), np.uint8)
    around = np.empty((2 * _REACH + 1) ** 2)
    stack = np.empty((4 * _MOST_PIXELS + 8, 2), np.int32)
    region = np.empty((_MOST_PIXELS, 2), np.int32)
    found = 0
    for number in range(len(seeds)):
        i, j = seeds[number, 0], seeds[number, 1]
        if taken[i, j]:
            continue
        level = _background(values, bad, low, high, pedestal, per_value, noise2, i, j, around)
        if level < 0:
            continue
        threshold = level + sigma_strong * np.sqrt(level + noise2)
        if (values[i, j] - pedestal) * per_value <= threshold:
            continue
        stack[0, 0], stack[0, 1] = i, j
        taken[i, j] = 1
        waiting, size = 1, 0
        whole = True
        while waiting > 0:
            waiting -= 1
            y, x = stack[waiting, 0], stack[waiting, 1]
            if size == _MOST_PIXELS:
                whole = False
                break
            region[size, 0], region[size, 1] = y, x
            size += 1
            for side in range(4):
                yy = y + (1 if side == 0 else -1 if side == 1 else 0)
                xx = x + (1 if side == 2 else -1 if side == 3 else 0)
                if yy < 0 or xx < 0 or yy >= n_slow or xx >= n_fast or taken[yy, xx]:
                    continue
                value = values[yy, xx]
                if bad[yy, xx] != 0 or not (low <= value <= high):
                    continue
                if (value - pedestal) * per_value > threshold:
                    taken[yy, xx] = 1
                    stack[waiting, 0], stack[waiting, 1] = yy, xx
                    waiting += 1
        if not whole:
            continue
        total, raw, fast, slow, highest = 0.0, 0.0, 0.0, 0.0, -np.inf
        top_i, top_j = i, j
        first_i, last_i, first_j, last_j = n_slow, 0, n_fast, 0
        for m in range(size):
            y, x = region[m, 0], region[m, 1]
            photons = (values[y, x] - pedestal) * per_value
            above = photons - level
            total += above
            raw += photons + noise2
            fast += above * (x + 0.5)
            slow += above * (y + 0.5)
            if photons > highest:
                highest, top_i, top_j = photons, y, x
            first_i, last_i = min(first_i, y), max(last_i, y)
            first_j, last_j = min(first_j, x), max(last_j, x)
        fast, slow = fast / total, slow / total
        spread_fast, spread_slow = 0.0, 0.0
        for m in range(size):
            y, x = region[m, 0], region[m, 1]
            photons = (values[y, x] - pedestal) * per_value + noise2
            spread_fast += photons * (x + 0.5 - fast) ** 2
            spread_slow += photons * (y + 0.5 - slow) ** 2
        if found < len(out):
            row = out[found]
            row[0], row[1] = fast, slow
            # Of counting, and of where within a pixel a photon fell.
            row[2] = spread_fast / total**2 + 1 / (12.0 * size)
            row[3] = spread_slow / total**2 + 1 / (12.0 * size)
            row[4], row[5], row[6], row[7] = total, raw, level, size
            row[8], row[9], row[10], row[11] = first_j, last_j + 1, first_i, last_i + 1
            row[12] = np.hypot(top_j + 0.5 - fast, top_i + 0.5 - slow)
        found += 1
    return found


def find_spots(
    counts: tuple[np.ndarray, ...],
    panels: tuple[Panel, ...],
    bad: tuple[np.ndarray, ...] | None = None,
    limits: SpotLimits = SpotLimits(),
) -> Spots:
    """Return the spots of one image, in the order of panels and lines.

    A pixel begins a region where the index of dispersion of the counts around it exceeds what Poisson's statistics
    give and the pixel itself exceeds their mean (the threshold of Winter et al., Acta Cryst. D74, 85-97, 2018). The
    region is what is connected to it, by edges, above the background of a ring around.

    Args:
        counts: (slow, fast) raw values of each panel.
        panels: their gain, pedestal, read noise and trusted range.
        bad: (slow, fast) uint8 of each panel, other than 0 where a pixel must not be used; None where all may.
        limits: what is a spot.
    """
    parts = []
    for number, (values, panel) in enumerate(zip(counts, panels, strict=True)):
        unusable = np.zeros(values.shape, np.uint8) if bad is None else bad[number]
        rows = _rows(values, panel, unusable, limits)
        kept = (rows[:, 7] >= limits.min_pixels) & (rows[:, 7] <= limits.max_pixels)
        kept &= rows[:, 12] <= limits.max_separation_px
        kept &= rows[:, 4] >= limits.min_significance * np.sqrt(rows[:, 5])
        rows = rows[kept]
        rows = rows[np.lexsort((rows[:, 0], rows[:, 1]))]
        parts.append(
            Spots(
                panel=np.full(len(rows), number, np.int32),
                px=rows[:, :2].copy(),
                variance_px=rows[:, 2:4].copy(),
                intensity=rows[:, 4].copy(),
                variance=rows[:, 5].copy(),
                background=rows[:, 6].copy(),
                n_pixels=rows[:, 7].astype(np.int32),
                box=rows[:, 8:12].astype(np.int32),
            )
        )
    return joined(parts)


def _rows(values: np.ndarray, panel: Panel, bad: np.ndarray, limits: SpotLimits) -> np.ndarray:
    """Return a row of numbers for each region of one panel, as `_grow` has them."""
    low, high = map(float, panel.trusted_range)
    zero, per_value, noise2 = float(panel.pedestal), 1 / panel.gain, panel.read_noise**2
    half, dispersed, strong = limits.half_kernel, limits.sigma_background, limits.sigma_strong
    seeds = np.empty((1 << 16, 2), np.int32)
    found = _seeds(values, bad, low, high, zero, per_value, noise2, half, dispersed, strong, seeds)
    if found > len(seeds):
        seeds = np.empty((found, 2), np.int32)
        _seeds(values, bad, low, high, zero, per_value, noise2, half, dispersed, strong, seeds)
    out = np.empty((found, 13))
    n = _grow(values, bad, low, high, zero, per_value, noise2, strong, seeds[:found], out)
    return out[:n]
