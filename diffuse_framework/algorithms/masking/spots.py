"""Size and shape of Bragg peaks on the detector, how far from the Ewald sphere they show, and masks that fit them.

Measured on some images, by resolution: the mean profile of strong peaks about where they are predicted, longer along
the direction of the beam's centre than across or not, and the mean photons of a reflection against its
distance from the sphere (the excitation error). A peak is then masked as far as its own photons, spread by that
profile, exceed a share of the diffuse scattering. Its own photons are counted within a core that is always masked,
so that no pixel is kept or masked for what it counts itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.algorithms.masking.bad_pixels import BLOCK, are_single
from diffuse_framework.algorithms.masking.reflections import (
    CORE,
    N_BINS,
    Predicted,
    bin_of,
    photon_sums,
    radial_directions,
    shows,
)
from diffuse_framework.model.geometry import Geometry

REACH = 14
"""Pixels from its middle as far as which a peak is measured."""

N_WIDTHS = 16
"""Bins of excitation error."""

RINGS = 9
"""Rings of a pixel's width around a reflection, in which its peak is told from the halo of its node."""

# Standard deviations that make a reflection strong, and how many strong ones a profile needs.
_STRONG = 10.0
# Where fewer of the strong ones than this have all their light in one pixel, those are no peaks.
_SINGLES = 0.3
ENOUGH = 20
_STEP = 0.5


@njit(cache=True, nogil=True)
def _highest(values, bad, px, low, high):
    """Return the highest pixel (n, 2) (slow, fast) within the core of each spot."""
    places = np.zeros((len(px), 2), np.int32)
    for n in range(len(px)):
        fast, slow = px[n, 0], px[n, 1]
        best = -np.inf
        for i in range(max(int(slow - CORE), 0), min(int(slow + CORE) + 1, values.shape[0])):
            for j in range(max(int(fast - CORE), 0), min(int(fast + CORE) + 1, values.shape[1])):
                if not bad[i, j] and low <= values[i, j] <= high and values[i, j] > best:
                    best = values[i, j]
                    places[n, 0], places[n, 1] = i, j
    return places


@njit(cache=True, nogil=True)
def _stack(values, bad, px, weight, bins, radial, levels, gain, pedestal, low, high, reach, excess, total):
    n_slow, n_fast = values.shape
    for n in range(len(px)):
        if weight[n] <= 0:
            continue
        fast, slow = px[n, 0], px[n, 1]
        for i in range(max(int(slow - reach), 0), min(int(slow + reach) + 1, n_slow)):
            for j in range(max(int(fast - reach), 0), min(int(fast + reach) + 1, n_fast)):
                value = values[i, j]
                if bad[i, j] or not (low <= value <= high):
                    continue
                x, y = j + 0.5 - fast, i + 0.5 - slow
                r2 = x * x + y * y
                if r2 > reach * reach:
                    continue
                # Not what is nearer to another strong one, or close to it.
                mine = True
                for m in range(len(px)):
                    if m != n and abs(px[m, 0] - fast) < 2 * reach and abs(px[m, 1] - slow) < 2 * reach:
                        other = (j + 0.5 - px[m, 0]) ** 2 + (i + 0.5 - px[m, 1]) ** 2
                        if other < r2 or other < 49:
                            mine = False
                if not mine:
                    continue
                u = int(np.rint(x * radial[n, 0] + y * radial[n, 1])) + reach
                v = int(np.rint(-x * radial[n, 1] + y * radial[n, 0])) + reach
                photons = (value - pedestal) / gain - levels[i // BLOCK, j // BLOCK]
                excess[bins[n], u, v] += weight[n] * photons
                total[bins[n], u, v] += 1


@njit(cache=True, nogil=True)
def _add_rings(values, bad, px, bins, steps, levels, gain, pedestal, low, high, noise, rings):
    n_slow, n_fast = values.shape
    for n in range(len(px)):
        fast, slow = px[n, 0], px[n, 1]
        for i in range(max(int(slow - RINGS), 0), min(int(slow + RINGS) + 1, n_slow)):
            for j in range(max(int(fast - RINGS), 0), min(int(fast + RINGS) + 1, n_fast)):
                value = values[i, j]
                ring = int(np.sqrt((j + 0.5 - fast) ** 2 + (i + 0.5 - slow) ** 2))
                if ring >= RINGS or bad[i, j] or not (low <= value <= high):
                    continue
                level = levels[i // BLOCK, j // BLOCK]
                photons = (value - pedestal) / gain
                # Not what belongs to another peak.
                if ring > CORE and photons > 1.5 * level + 8 * np.sqrt(1.5 * level + noise) + 5:
                    continue
                rings[bins[n], steps[n], ring, 0] += 1
                rings[bins[n], steps[n], ring, 1] += photons - level
                rings[bins[n], steps[n], ring, 2] += max(photons, 0.0) + noise


@dataclass(frozen=True, eq=False)
class Measured:
    """What one image says of its peaks, by bin of resolution; adds up over images.

    Attributes:
        excess, pixels: (bins, 2 reach + 1, 2 reach + 1) photons above the level about strong peaks, each weighted,
            and number of pixels, along and across the direction of the beam's centre.
        strong, weighted: (bins,) number of strong peaks, and their photons, weighted.
        n: (bins, widths) number of reflections by excitation error, those that show by themselves left out.
        rings: (bins, widths, radii, 3) of them, by distance in pixels: pixels, photons above the level, and the
            variance of those.
        level, pixels_in: (bins,) sum of the level in all cores, and number of their pixels.
    """

    excess: np.ndarray
    pixels: np.ndarray
    strong: np.ndarray
    weighted: np.ndarray
    n: np.ndarray
    rings: np.ndarray
    level: np.ndarray
    pixels_in: np.ndarray


def nothing_measured() -> Measured:
    """Return what no image says."""
    size = 2 * REACH + 1
    stack, by_width, by_bin = (N_BINS, size, size), (N_BINS, N_WIDTHS), (N_BINS,)
    shapes = (stack, stack, by_bin, by_bin, by_width, (*by_width, RINGS, 3), by_bin, by_bin)
    return Measured(*(np.zeros(shape) for shape in shapes))


def add_measured(one: Measured, other: Measured) -> Measured:
    """Return the sum of two."""
    return Measured(*(a + b for a, b in zip(vars(one).values(), vars(other).values(), strict=True)))


def measure(
    predicted: Predicted,
    counts: tuple[np.ndarray, ...],
    geometry: Geometry,
    levels: tuple[np.ndarray, ...],
    bad: tuple[np.ndarray, ...],
    q_max: float,
    widest: float,
) -> Measured:
    """Return what an image says of its peaks.

    Args:
        predicted: reflections as far from the Ewald sphere as `widest`.
        counts: (slow, fast) raw values of each panel.
        geometry: beam and panels.
        levels: photons (blocks) on this image, of each panel.
        bad: True (slow, fast) where a pixel means nothing, of each panel.
        q_max: of the detector, 1/angstrom.
        widest: 1/angstrom.
    """
    found = nothing_measured()
    bins = bin_of(predicted.q, q_max)
    step = np.minimum((predicted.off / widest * N_WIDTHS).astype(int), N_WIDTHS - 1)
    everything = zip(counts, geometry.panels, levels, bad, strict=True)
    for number, (values, panel, blocks, faults) in enumerate(everything):
        here = np.flatnonzero(predicted.panel == number)
        px = np.ascontiguousarray(predicted.px[here])
        noise = panel.read_noise**2
        meaning = (blocks, panel.gain, panel.pedestal, panel.trusted_range, noise)
        sums = photon_sums(values, faults, px, *meaning)
        n, photons, level, n_ring, in_ring, ring_level = sums.T
        whole = (n > 0.9 * np.pi * CORE**2) & (n_ring > 20)
        with np.errstate(invalid="ignore", divide="ignore"):
            local = np.where(n_ring > 0, in_ring / n_ring, 0.0) * n
            sigma = np.sqrt(np.maximum(photons, 1) + noise * n + (local + noise * n) * n / np.maximum(n_ring, 1))
        excess = photons - local
        strong = whole & (excess > _STRONG * sigma) & (excess > level)
        # A cosmic ray or a fault may lie where a reflection is predicted.
        places = _highest(values, faults, px[strong], *map(float, panel.trusted_range))
        single = are_single(values, places, *meaning)
        if single.mean() < _SINGLES if len(single) else False:
            strong[np.flatnonzero(strong)[single]] = False
        numbers = here[strong]
        weight = 1 / np.sqrt(excess[strong])
        low, high = map(float, panel.trusted_range)
        _stack(
            values,
            faults,
            px[strong],
            weight,
            bins[numbers],
            radial_directions(geometry, number, px[strong]),
            blocks,
            float(panel.gain),
            float(panel.pedestal),
            low,
            high,
            REACH,
            found.excess,
            found.pixels,
        )
        np.add.at(found.strong, bins[numbers], 1)
        np.add.at(found.weighted, bins[numbers], weight * excess[strong])
        # What shows by itself is masked wherever it is, and says nothing of the rest.
        usual = whole & ~shows(excess, sigma, local)
        at = (bins[here[usual]], step[here[usual]])
        np.add.at(found.n, at, 1)
        scale = (float(panel.gain), float(panel.pedestal), low, high, noise)
        _add_rings(values, faults, px[usual], *at, blocks, *scale, found.rings)
        np.add.at(found.level, bins[here[whole]], local[whole])
        np.add.at(found.pixels_in, bins[here[whole]], n[whole])
    return found


@njit(cache=True, nogil=True)
def _n_above(photons, limit, profile, bins):
    """Return at how many radii (n,) peaks exceed their limits. Profiles fall: it is the first at which they don't."""
    above = np.zeros(len(photons), np.int64)
    for n in range(len(photons)):
        for value in profile[bins[n]]:
            above[n] += photons[n] * value > limit[n]
    return above


@dataclass(frozen=True, eq=False)
class SpotModel:
    """How peaks look, by bin of resolution.

    Attributes:
        q_max: upper end of the last bin, 1/angstrom.
        stretch: (bins,) by how much longer a peak is along the direction of the beam's centre than across.
        profile: (bins, radii) share of the core's photons on one pixel, at radii in steps of half a pixel.
        width: (bins,) distance from the Ewald sphere in 1/angstrom up to which reflections matter that don't show
            by themselves; 0 where none do.
        widest: distance up to which those that show are looked for.
        usual: (bins,) mean photons in the core of reflections within that width, on a pixel level of 1.
        n_strong: peaks that were measured.
        grow: (bins,) pixels added all around.
    """

    q_max: float
    stretch: np.ndarray
    profile: np.ndarray
    width: np.ndarray
    widest: float
    usual: np.ndarray
    n_strong: int
    grow: np.ndarray

    def radius(self, q: np.ndarray, photons: np.ndarray, level: np.ndarray, share: float) -> np.ndarray:
        """Return as far as which peaks (n,) exceed a share of the level, in pixels, along a circle of equal area.

        Args:
            q: (n,) |q|, 1/angstrom.
            photons: (n,) in the core of each.
            level: (n,) diffuse photons of a pixel.
            share: of that.
        """
        bins = bin_of(q, self.q_max)
        above = _n_above(photons, share * level, self.profile, bins)
        return np.maximum(_STEP * above, CORE) + self.grow[bins]


def spot_model(measured: Measured, q_max: float, widest: float, share: float) -> SpotModel | None:
    """Return how peaks look, None where too few were measured.

    Args:
        measured: of all images.
        q_max: of the detector, 1/angstrom.
        widest: excitation error up to which reflections were predicted, 1/angstrom.
        share: of the diffuse scattering that a reflection must exceed, on the mean over its core, to show.
    """
    if measured.strong.sum() < ENOUGH:
        return None
    axis = np.arange(-REACH, REACH + 1)
    u, v = np.meshgrid(axis, axis, indexing="ij")
    r = np.hypot(u, v)
    n_radii = int(REACH / _STEP)
    stretch, profile = np.ones(N_BINS), np.zeros((N_BINS, n_radii))
    everything = [a.sum(axis=0) for a in (measured.excess, measured.pixels, measured.strong, measured.weighted)]
    for number in range(N_BINS):
        own = (measured.excess[number], measured.pixels[number], measured.strong[number], measured.weighted[number])
        excess, pixels, n, photons = own if own[2] >= ENOUGH else everything
        # Photons on a pixel at (u, v) for one photon in the core.
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(pixels > 0, excess / pixels, 0.0) * n / photons
        around = (r >= REACH - 3) & (r <= REACH) & (pixels > 0)
        mean = mean - mean[around].mean() if around.any() else mean
        noise = float(mean[around].std()) if around.any() else 0.0
        # Moments under a broad bell, so that noise further out doesn't count.
        bell = np.where(pixels > 0, mean * np.exp(-0.5 * (r / 4) ** 2), 0.0)
        moments = [max(float((bell * w).sum()), 1e-6) for w in (u * u, v * v)]
        stretch[number] = np.clip(np.sqrt(moments[0] / moments[1]), 0.5, 2.0)
        ellipse = np.hypot(u / np.sqrt(stretch[number]), v * np.sqrt(stretch[number]))
        last = 0
        for k in range(n_radii):
            here = (np.abs(ellipse - k * _STEP) <= 0.75) & (pixels > 0)
            if not here.any():
                continue
            value, error = np.average(mean[here], weights=pixels[here]), noise / np.sqrt(np.count_nonzero(here))
            if value > 3 * error:
                profile[number, k], last = value, k
            else:
                # What noise hides falls at least as the tails of a Lorentzian do, and is below what was measured.
                tail = profile[number, last] * (max(last, 2) / max(k, 2)) ** 3
                profile[number, k] = min(tail, max(value, 0) + 2 * error)
        profile[number] = np.maximum.accumulate(np.maximum(profile[number], 0)[::-1])[::-1]
    width, usual = _widths(measured, profile, widest, share)
    return SpotModel(q_max, stretch, profile, width, widest, usual, int(measured.strong.sum()), np.zeros(N_BINS))


def _widths(measured: Measured, profile: np.ndarray, widest: float, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how far from the sphere reflections matter (bins,), and their mean photons on a level of 1 (bins,).

    The mean of reflections of like resolution and excitation error is taken apart by least squares into the profile of
    a peak, a level and a parabola, which stands for the halo around a node.
    """
    width, usual, known = np.zeros(N_BINS), np.zeros(N_BINS), np.zeros(N_BINS, bool)
    r = np.arange(RINGS) + 0.5
    at = np.arange(profile.shape[1]) * _STEP
    for number in range(N_BINS):
        peak = np.interp(r, at, profile[number])
        design = np.stack([peak, np.ones(RINGS), r * r], axis=1)
        photons, errors = np.zeros(N_WIDTHS), np.full(N_WIDTHS, np.inf)
        for step in range(N_WIDTHS):
            pixels, excess, variance = measured.rings[number, step].T
            if measured.n[number, step] < 4 or (pixels == 0).any():
                continue
            weight = pixels**2 / np.maximum(variance, 1)
            normal = design.T @ (weight[:, None] * design)
            inverse = np.linalg.pinv(normal)
            photons[step] = (inverse @ design.T @ (weight * excess / pixels))[0]
            errors[step] = np.sqrt(inverse[0, 0])
        in_core = np.pi * CORE**2
        level = measured.level[number] / max(measured.pixels_in[number], 1)
        matter = (photons > share * level * in_core) & (photons > 3 * errors)
        # Could reflections on the sphere that matter be told from none?
        known[number] = matter.any() or 3 * errors[0] < 2 * share * level * in_core
        if matter.any():
            last = int(np.flatnonzero(matter)[-1])
            width[number] = (last + 1) / N_WIDTHS * widest
            inside = measured.n[number][: last + 1]
            usual[number] = (photons[: last + 1] * inside).sum() / max(inside.sum(), 1) / max(level, 1e-9)
    for number in np.flatnonzero(~known):
        if known.any():
            nearest = np.flatnonzero(known)[np.argmin(np.abs(np.flatnonzero(known) - number))]
            width[number], usual[number] = width[nearest], usual[nearest]
        else:
            width[number] = widest / 2
    return width, np.maximum(usual, 0)
