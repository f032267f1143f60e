"""Pixels that behave unlike their surroundings on nearly every image.

What a pixel should count is told by its surroundings: blocks of 8 x 8 pixels, image by
image, so that images of any brightness can be added. The sums over the images are then held
against Bennett's inequality, which bounds the chance of a deviation from above; for Poisson
counts it is Chernoff's bound (Boucheron, Lugosi & Massart (2013), Concentration Inequalities,
section 2.7). A pixel is bad only if that bound, a deviation by a factor, and the pixel's own
neighbours agree: the neighbours tell a bad pixel from the edge of a shadow. A pixel that is bright now and
then, without the neighbours that a Bragg peak has, is told by the number of images on which it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.ndimage import distance_transform_edt

__all__ = ["Criteria", "PixelHistory", "block_levels", "photons_of"]

BLOCK = 8
"""Width of a block in pixels."""

_LEAST_IN_BLOCK = 16
INVALID = np.int16(-32768)
"""Stands for a pixel that says nothing on an image."""

_LARGEST = 32767

# Photons per pixel below which images count as equally bright.
_LEAST_LEVEL = 0.01

GOOD, HOT, DEAD, NEGATIVE, UNDECIDED, UNJUDGED = (np.uint8(number) for number in range(6))

# Of the 24 pixels around one so many must have been seen.
_LEAST_NEIGHBOURS = 8
# On so many images a pixel without a bright neighbour is bright: one such image is a cosmic ray's.
_FLICKERS = 2
# Of a bright pixel's excess its neighbours have less than this where no Bragg peak made it.
_SHARED = 0.15
# Standard deviations above three halves of the level, and photons, from which on a pixel is bright on one image.
_SIGMAS, _PHOTONS = 8.0, 5.0


@njit(cache=True, nogil=True)
def _photons(values, usable, gain, pedestal, out):
    for slow in range(values.shape[0]):
        for fast in range(values.shape[1]):
            if usable[slow, fast] == 2:
                photons = np.rint((values[slow, fast] - pedestal) / gain)
                out[slow, fast] = min(max(photons, -_LARGEST), _LARGEST)
            else:
                out[slow, fast] = -32768


def photons_of(values: np.ndarray, classes: np.ndarray, gain: float, pedestal: float) -> np.ndarray:
    """Return whole photons (slow, fast) int16, `INVALID` for pixels that are not diffuse.

    Args:
        values: (slow, fast) raw values.
        classes: (slow, fast) uint8 of `model.conventions`.
        gain, pedestal: photons = (value - pedestal) / gain.
    """
    out = np.empty(values.shape, np.int16)
    _photons(values, classes, float(gain), float(pedestal), out)
    return out


@njit(cache=True, nogil=True)
def _middle(numbers, counts):
    """Return the median of whole numbers (n,), by counting them where they lie close together."""
    n = len(numbers)
    low = high = numbers[0]
    for i in range(1, n):
        low, high = min(low, numbers[i]), max(high, numbers[i])
    if high - low >= len(counts):
        return np.median(numbers)
    counts[: high - low + 1] = 0
    for i in range(n):
        counts[numbers[i] - low] += 1
    # The two in the middle, which are one where n is odd.
    first = seen = 0
    while seen <= (n - 1) // 2:
        seen += counts[first]
        first += 1
    second = first
    while seen <= n // 2:
        seen += counts[second]
        second += 1
    return low + (first + second - 2) / 2


@njit(cache=True, nogil=True)
def _levels(photons, mean, variance):
    n_slow, n_fast = photons.shape
    block = np.empty(BLOCK * BLOCK, np.int64)
    twice = np.empty(BLOCK * BLOCK, np.int64)
    counts = np.empty(256, np.int64)
    for b in range(mean.shape[0]):
        for c in range(mean.shape[1]):
            n = 0
            for slow in range(b * BLOCK, min((b + 1) * BLOCK, n_slow)):
                for fast in range(c * BLOCK, min((c + 1) * BLOCK, n_fast)):
                    if photons[slow, fast] != -32768:
                        block[n] = photons[slow, fast]
                        n += 1
            mean[b, c] = variance[b, c] = np.nan
            if n < _LEAST_IN_BLOCK:
                continue
            middle = _middle(block[:n], counts)
            # The median may be a half: twice the distances are whole.
            for i in range(n):
                twice[i] = abs(2 * block[i] - np.int64(2 * middle))
            spread = _middle(twice[:n], counts) / 2 * 1.4826
            width = 6 * max(spread, np.sqrt(abs(middle) + 1))
            used, total, squares = 0, 0.0, 0.0
            for i in range(n):
                if abs(block[i] - middle) <= width:
                    used += 1
                    total += block[i]
                    squares += block[i] * block[i]
            mean[b, c] = total / used
            variance[b, c] = max(squares / used - (total / used) ** 2, 0.0)


def block_levels(photons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of each block of one image, outliers left out.

    Args:
        photons: (slow, fast) of `photons_of`.

    Returns:
        Two float32 arrays (blocks along slow, blocks along fast), NaN where a block has too
        few valid pixels.
    """
    shape = tuple(-(-n // BLOCK) for n in photons.shape)
    mean, variance = np.empty(shape, np.float32), np.empty(shape, np.float32)
    _levels(photons, mean, variance)
    return mean, variance


def filled(blocks: np.ndarray) -> np.ndarray:
    """Return blocks with those that have no value (NaN) given that of the nearest one that has."""
    missing = ~np.isfinite(blocks)
    if missing.all() or not missing.any():
        return blocks
    nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return blocks[tuple(nearest)]


def bright_above(levels: np.ndarray, variances: np.ndarray | None = None, noise: float = 0.0) -> np.ndarray:
    """Return the photons above which a pixel is bright on one image, infinite where no level is known.

    Three halves of the level leave room for what differs from image to image, and eight standard deviations
    of that for noise: a Poisson variable exceeds them less than once in 10^9.

    Args:
        levels: what a pixel should count; NaN where that is not known.
        variances: likewise; that of counted photons, and of the noise they are read with, where they are not given.
        noise: variance of a pixel that is not of counting, photons^2.
    """
    level = 1.5 * np.maximum(levels.astype(float), 1e-3)
    variance = level if variances is None else np.maximum(level, 1.5 * variances)
    if variances is None:
        return np.where(np.isfinite(level), level + _SIGMAS * np.sqrt(level + noise) + _PHOTONS, np.inf)
    # Where the variance exceeds the mean a photon counts for more than one.
    jump = np.minimum(variance / level, np.sqrt(variance) + 1)
    return np.where(np.isfinite(level), level + _SIGMAS * np.sqrt(variance) + _PHOTONS * jump, np.inf)


@njit(cache=True, nogil=True)
def _bright(values, limits, highest, found):
    n = 0
    n_slow, n_fast = values.shape
    of_pixel, above = np.empty(n_fast, values.dtype), np.zeros(-(-n_fast // 8) * 8, np.uint8)
    # Few pixels are bright: eight are asked at a time.
    eights = above.view(np.uint64)
    for slow in range(n_slow):
        line = values[slow]
        if slow % BLOCK == 0:
            for c in range(limits.shape[1]):
                of_pixel[c * BLOCK : (c + 1) * BLOCK] = limits[slow // BLOCK, c]
        # Free of branches, so that a compiler does many pixels at a time.
        for fast in range(n_fast):
            above[fast] = np.uint8(1) if (line[fast] > of_pixel[fast]) & (line[fast] <= highest) else np.uint8(0)
        for eight in range(len(eights)):
            if eights[eight] == 0:
                continue
            for fast in range(8 * eight, min(8 * eight + 8, n_fast)):
                if above[fast]:
                    if n < len(found):
                        found[n, 0], found[n, 1] = slow, fast
                    n += 1
    return n


def bright_pixels(
    values: np.ndarray, limits: np.ndarray, gain: float, pedestal: float, highest: float = np.inf
) -> np.ndarray:
    """Return the pixels (n, 2) (slow, fast) of a panel that count more than their block's limit.

    Args:
        values: (slow, fast) raw values.
        limits: photons (blocks), infinite where none is known.
        gain, pedestal: photons = (value - pedestal) / gain.
        highest: raw value that still means something.
    """
    raw = limits * gain + pedestal
    # The same type on both sides lets the compiler compare many pixels at once.
    if values.dtype.kind in "iu":
        largest = np.iinfo(values.dtype).max
        raw = np.where(raw < largest, raw, largest)
        highest = int(min(highest, largest))
    raw = raw.astype(values.dtype)
    found = np.empty((1 << 16, 2), np.int32)
    while True:
        n = _bright(values, raw, values.dtype.type(highest), found)
        if n <= len(found):
            return found[:n].copy()
        found = np.empty((n, 2), np.int32)


@njit(cache=True, nogil=True)
def _are_single(values, pixels, levels, gain, pedestal, low, high, noise, single):
    n_slow, n_fast = values.shape
    for n in range(len(pixels)):
        slow, fast = pixels[n, 0], pixels[n, 1]
        level = levels[slow // BLOCK, fast // BLOCK]
        excess = (values[slow, fast] - pedestal) / gain - level
        most = max(_SHARED * excess, 4 * np.sqrt(level + 1 + noise))
        alone = True
        for i in range(max(slow - 1, 0), min(slow + 2, n_slow)):
            for j in range(max(fast - 1, 0), min(fast + 2, n_fast)):
                value = values[i, j]
                if (i != slow or j != fast) and low <= value <= high:
                    alone &= (value - pedestal) / gain - level <= most
        single[n] = alone


def are_single(
    values: np.ndarray,
    pixels: np.ndarray,
    levels: np.ndarray,
    gain: float,
    pedestal: float,
    trusted: tuple[float, float],
    noise: float = 0.0,
) -> np.ndarray:
    """Return which bright pixels (n,) have no neighbour that shares their light, as the neighbours in a peak do.

    Args:
        values: (slow, fast) raw values.
        pixels: (n, 2) of `bright_pixels`.
        levels: photons (blocks) on this image.
        gain, pedestal: photons = (value - pedestal) / gain.
        trusted: lowest and highest raw value that means something.
        noise: variance of a pixel that is not of counting, photons^2.
    """
    single = np.empty(len(pixels), bool)
    low, high = map(float, trusted)
    _are_single(values, pixels, levels.astype(float), float(gain), float(pedestal), low, high, float(noise), single)
    return single


@njit(cache=True, nogil=True)
def _add(photons, mean, word, bit, total, missed, lowest, largest):
    """Add an image. Loops are so plain, and free of branches, that a compiler does many pixels at a time."""
    n_fast = photons.shape[1]
    line = np.empty(n_fast, np.int16)
    none = np.uint32(0)
    for slow in range(photons.shape[0]):
        line[:] = photons[slow]
        for c in range(mean.shape[1]):
            if np.isnan(mean[slow // BLOCK, c]):
                line[c * BLOCK : (c + 1) * BLOCK] = INVALID
        totals, lows, misses = total[slow], lowest[slow], missed[word, slow]
        for fast in range(n_fast):
            value = line[fast]
            valid = value != INVALID
            totals[fast] += value if valid else np.int16(0)
            misses[fast] |= none if valid else bit
            lows[fast] = value if valid and value < lows[fast] else lows[fast]
        for place in range(len(largest)):
            # The largest stays, the other goes on to the next place. What is invalid is smaller than all.
            here = largest[place, slow]
            for fast in range(n_fast):
                value, kept = line[fast], here[fast]
                here[fast] = value if value > kept else kept
                line[fast] = kept if value > kept else value


@njit(cache=True)
def _count_valid(n_images, missed, n_valid):
    n_valid[:] = n_images
    for word in range(len(missed)):
        for slow in range(n_valid.shape[0]):
            for fast in range(n_valid.shape[1]):
                bits = missed[word, slow, fast]
                while bits:
                    bits &= bits - np.uint32(1)
                    n_valid[slow, fast] -= 1


@njit(cache=True)
def _surroundings(slow, fast, blocks, totals, missed):
    """Sums of a block's mean, variance, sameness and level over the images on which a pixel was valid."""
    b, c = slow // BLOCK, fast // BLOCK
    mean, variance, sameness, level = totals[b, c, 0], totals[b, c, 1], totals[b, c, 2], totals[b, c, 3]
    for word in range(len(missed)):
        bits, image = missed[word, slow, fast], 32 * word
        while bits:
            if bits & np.uint32(1):
                mean -= blocks[image, b, c, 0]
                variance -= blocks[image, b, c, 1]
                sameness -= blocks[image, b, c, 2]
                level -= blocks[image, b, c, 3]
            bits >>= np.uint32(1)
            image += 1
    return mean, variance, sameness, level


@njit(cache=True)
def _bennett(deviation, variance, jump):
    """Exponent of Bennett's bound: P(S - E >= deviation) <= exp(-exponent)."""
    u = jump * deviation / variance
    return variance / (jump * jump) * ((1 + u) * np.log1p(u) - u)


@njit(cache=True)
def _lower(deviation, variance):
    """Exponent for E - S >= deviation: Chernoff's down to no count, and a Gaussian's below."""
    u = deviation / variance
    if u < 1:
        return variance * ((1 - u) * np.log1p(-u) + u)
    return deviation * deviation / (2 * variance)


@njit(cache=True)
def _judge(
    total,
    missed,
    lowest,
    largest,
    n_valid,
    ever,
    blocks,
    totals,
    least_valid,
    exponent,
    hot_factor,
    dead_factor,
    verdict,
):
    n_slow, n_fast = total.shape
    around = np.empty(24, np.float64)
    for slow in range(n_slow):
        for fast in range(n_fast):
            n = n_valid[slow, fast]
            verdict[slow, fast] = UNDECIDED
            if n < least_valid:
                if ever[slow, fast]:
                    verdict[slow, fast] = UNJUDGED
                continue
            mean, variance, sameness, level = _surroundings(slow, fast, blocks, totals, missed)
            variance = max(variance, mean, 0.3)
            # Four standard deviations of a mean over 16 pixels: its own error never marks a pixel.
            margin = 4 * np.sqrt(variance / _LEAST_IN_BLOCK)
            count = float(total[slow, fast])
            # Without its largest counts, so that a Bragg peak now and then does not make it hot.
            n_trimmed = min((n + 3) // 4, len(largest))
            trimmed, kept = count, mean * (1 - n_trimmed / n)
            for place in range(n_trimmed):
                trimmed -= largest[place, slow, fast]
            kind = GOOD
            above = trimmed - kept - margin
            below = mean - count - margin
            if above > 0 and trimmed > hot_factor * kept:
                # Where the variance exceeds the mean a photon counts for more than one.
                jump = max(1.0, variance / max(mean, np.sqrt(variance)))
                if _bennett(above, variance, jump) >= exponent:
                    kind = HOT
            elif below > 0 and count <= dead_factor * mean and _lower(below, variance) >= exponent:
                kind = NEGATIVE if count < 0 else DEAD
            stuck = kind == GOOD and sameness * (n - 1) / n >= exponent and lowest[slow, fast] == largest[0, slow, fast]
            if kind == GOOD and not stuck:
                # Could a pixel that counts nothing be told from a good one?
                decided = mean - margin > 0 and _lower(mean - margin, variance) >= exponent
                verdict[slow, fast] = GOOD if decided else UNDECIDED
                continue
            deviation = trimmed - kept if kind == HOT else count - mean
            m = n_stuck = 0
            for i in range(max(slow - 2, 0), min(slow + 3, n_slow)):
                for j in range(max(fast - 2, 0), min(fast + 3, n_fast)):
                    if (i != slow or j != fast) and n_valid[i, j] >= least_valid:
                        # A neighbour may have been valid on brighter or dimmer images.
                        its_level = _surroundings(i, j, blocks, totals, missed)[3]
                        around[m] = total[i, j] * (level / its_level) - mean
                        n_stuck += lowest[i, j] == largest[0, i, j]
                        m += 1
            if m < _LEAST_NEIGHBOURS:
                # In a corner of a detector, or among gaps, only what no shadow's edge explains.
                if kind == HOT and trimmed > 2 * hot_factor * kept:
                    verdict[slow, fast] = HOT
                continue
            if stuck:
                # In a shadow all are stuck, at no count.
                verdict[slow, fast] = DEAD if n_stuck <= m // 3 else GOOD
                continue
            # Two thirds of the neighbours must not share half of the deviation.
            ordered = np.sort(around[:m])
            if kind == HOT:
                # What the neighbours lack of their largest counts is not known: theirs are whole.
                alone = deviation > 2 * ordered[m - 1 - m // 3]
            else:
                alone = deviation < 2 * ordered[m // 3]
            verdict[slow, fast] = kind if alone else GOOD


@dataclass(frozen=True)
class Criteria:
    """When a pixel is bad.

    Attributes:
        false_alarm: bound on the probability that noise alone makes a pixel look bad.
        hot_factor: a hot pixel counts more than this times its surroundings.
        dead_factor: a dead pixel counts less than this times its surroundings.
    """

    false_alarm: float = 1e-9
    hot_factor: float = 1.5
    dead_factor: float = 0.1


class PixelHistory:
    """Sums of one panel over a sample of images; its memory hardly grows with the sample."""

    def __init__(self, shape: tuple[int, ...], n_images: int, least_valid: int = 5) -> None:
        """Prepare for a panel of `shape` (slow, fast) and a sample of `n_images`, or more.

        A pixel is judged from `least_valid` images on.
        """
        self._least_valid = max(2, min(least_valid, n_images))
        n_largest = min(max(1, -(-n_images // 4)), 8)
        self._n_images = 0
        self._total = np.zeros(shape, np.int32)
        # A bit for each image on which a pixel was not valid.
        self._missed = np.zeros((0, *shape), np.uint32)
        self._ever = np.zeros(shape, bool)
        self._spikes = np.zeros(shape, np.uint8)
        self._lowest = np.full(shape, _LARGEST, np.int16)
        self._largest = np.full((n_largest, *shape), -_LARGEST, np.int16)
        # Of each block on each image, 0 where there was nothing of it: mean, variance, sameness and level.
        self._blocks: list[np.ndarray] = []

    def add(self, photons: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
        """Add one image: what `photons_of` and `block_levels` return."""
        # Blocks of which too little is seen count what the nearest ones do.
        mean, variance = filled(mean), filled(variance)
        seen = np.isfinite(mean)
        level = max(float(np.median(mean[seen])), _LEAST_LEVEL) if seen.any() else _LEAST_LEVEL
        # No value of a Poisson variable is likelier than 1/sqrt(2 e mean); where a detector
        # blurs, counts vary less.
        sameness = np.maximum(0.5 * np.log(5.4366 * np.maximum(np.minimum(mean, variance), 0.184)), 0)
        here = np.stack([mean, variance, sameness, np.full_like(mean, level)], -1)
        self._blocks.append(np.where(seen[..., None], here, 0).astype(np.float32))
        word, bit = divmod(self._n_images, 32)
        if word == len(self._missed):
            self._missed = np.concatenate([self._missed, np.zeros((1, *self._total.shape), np.uint32)])
        _add(photons, mean, word, np.uint32(1 << bit), self._total, self._missed, self._lowest, self._largest)
        self._n_images += 1
        self._ever |= photons != INVALID
        if not seen.any():
            return
        # Where a photon counts for many, a block may by chance hold none but zeros.
        limits = bright_above(
            np.maximum(mean, 0.3 * np.nanmean(mean)), np.maximum(variance, 0.3 * np.nanmean(variance))
        )
        pixels = bright_pixels(photons, limits, 1.0, 0.0)
        slow, fast = pixels[are_single(photons, pixels, mean, 1.0, 0.0, (-_LARGEST, _LARGEST))].T
        self._spikes[slow, fast] = np.minimum(self._spikes[slow, fast], 254) + 1

    def judge(self, criteria: Criteria) -> np.ndarray:
        """Return the verdict (slow, fast) uint8: good, hot, dead, negative, undecided or unjudged.

        Undecided are pixels so dim that a dead one would look the same, and those never valid; unjudged those that
        were valid on too few images.
        """
        verdict = np.empty(self._total.shape, np.uint8)
        blocks = np.array(self._blocks)
        _judge(
            self._total,
            self._missed,
            self._lowest,
            self._largest,
            self._n_valid(),
            self._ever,
            blocks,
            blocks.sum(axis=0, dtype=float),
            self._least_valid,
            -np.log(criteria.false_alarm),
            criteria.hot_factor,
            criteria.dead_factor,
            verdict,
        )
        verdict[self._spikes >= _FLICKERS] = HOT
        return verdict

    @property
    def seen(self) -> np.ndarray:
        """True (slow, fast) where a pixel was valid on enough images to be judged."""
        return self._n_valid() >= self._least_valid

    @property
    def n_unjudged(self) -> int:
        """Number of pixels that were valid, but on too few images."""
        return int(np.count_nonzero(self._ever & ~self.seen))

    def _n_valid(self) -> np.ndarray:
        """Return the number of images (slow, fast) on which each pixel was valid."""
        n_valid = np.empty(self._total.shape, np.int32)
        _count_valid(self._n_images, self._missed, n_valid)
        return n_valid
