"""The reflections of an image: where they are predicted, what they count, which show, and masks of their size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.algorithms.geometry import (
    cross,
    highest_resolution,
    lengths,
    rays_near,
    reflections_near_ewald,
    turned,
)
from diffuse_framework.algorithms.masking.bad_pixels import BLOCK
from diffuse_framework.algorithms.masking.shapes import lattice_possible
from diffuse_framework.algorithms.rotation import crossings
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry

N_BINS = 6
"""Bins of resolution, of equal width in |q|."""

CORE = 2.5
"""Radius in pixels within which the photons of a reflection are counted, and always masked."""

# Around a peak: where its surroundings are taken from.
_INNER, _OUTER = 5.0, 8.0
# Standard deviations with which a reflection shows, however far it is from the sphere.
_SHOWS = 4.0


@dataclass(frozen=True, eq=False)
class Predicted:
    """Reflections near an image; one that is near two panels has a row for each.

    Attributes:
        panel: (n,) panel numbers.
        px: (n, 2) pixel coordinates (fast, slow).
        off: (n,) distance from the Ewald sphere at its nearest, 1/angstrom.
        q: (n,) |q| in 1/angstrom.
    """

    panel: np.ndarray
    px: np.ndarray
    off: np.ndarray
    q: np.ndarray

    def where(self, kept: np.ndarray) -> Predicted:
        """Return some of them."""
        return Predicted(self.panel[kept], self.px[kept], self.off[kept], self.q[kept])

    def by_lines(self) -> Predicted:
        """Return them in the order of panels and lines, so that loops over them find pixels in the caches."""
        line = np.clip(self.px[:, 1], 0, 32767).astype(np.int16)
        order = np.argsort(line, kind="stable")
        if len(self.panel) and self.panel[0] != self.panel[-1]:
            order = order[np.argsort(self.panel[order], kind="stable")]
        return self.where(order)


def predict(
    image: Image,
    geometry: Geometry,
    width: float,
    conditions: np.ndarray,
    margin_px: float,
    d_min: float = 0.0,
    mosaic_width_deg: float = 0.0,
) -> Predicted:
    """Return the reflections that come as near to the Ewald sphere as `width` while an image is taken.

    Args:
        image: its rotation, and the orientations of all its lattices.
        geometry: beam and panels.
        width: 1/angstrom.
        conditions: rows of `shapes.centring_conditions`.
        margin_px: how far beside a panel a reflection still counts.
        d_min: resolution limit, angstrom; 0 for that of the detector.
        mosaic_width_deg: full angular width; adds half of it times |q| to the width.
    """
    if image.other_lattices:
        options = (geometry, width, conditions, margin_px, d_min, mosaic_width_deg)
        found = [predict(lattice, *options) for lattice in image.each_lattice()]
        return Predicted(
            *(np.concatenate([getattr(one, name) for one in found]) for name in ("panel", "px", "off", "q"))
        )
    beam = geometry.beam
    limit = max(d_min, highest_resolution(geometry))
    hkl = reflections_near_ewald(image.setting_matrix, beam, limit, width, mosaic_width_deg, image.rotation)
    hkl = hkl[lattice_possible(hkl, conditions)]
    q = turned(image.setting_matrix, hkl)
    length = lengths(q)
    if image.rotation is not None:
        _, q = crossings(q, beam, image.rotation)
    s1 = q + beam.s0
    off = np.abs(lengths(s1) - 1 / beam.wavelength)
    panel, px, ray = rays_near(geometry, s1, margin_px)
    return Predicted(panel, px, off[ray], length[ray])


@njit(cache=True, nogil=True, inline="always")
def _segment(values, bad, i, first, end, low, most):
    """Return number and sum of the pixels first ... end - 1 of line i that count."""
    n, total = 0, 0.0
    for j in range(first, end):
        value = values[i, j]
        # Free of branches: which pixels count is not to be guessed.
        use = (value >= low) & (value <= most) & (not bad[i, j])
        n += use
        total += value if use else 0
    return n, total


@njit(cache=True, nogil=True)
def _sums(values, bad, px, levels, gain, pedestal, low, high, noise, core, inner, outer, out):
    """Sum line by line and, of each line, block by block: ends and limits are not worked out for every pixel."""
    n_slow, n_fast = values.shape
    core2, inner2, outer2 = core * core, inner * inner, outer * outer
    for n in range(len(px)):
        fast, slow = px[n, 0], px[n, 1]
        n_core, in_core, level_core, n_ring, in_ring, level_ring = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(max(int(np.ceil(slow - outer - 0.5)), 0), min(int(np.floor(slow + outer - 0.5)) + 1, n_slow)):
            y2 = (i + 0.5 - slow) ** 2
            half = np.sqrt(max(outer2 - y2, 0.0))
            start, stop = max(int(np.ceil(fast - half - 0.5)), 0), min(int(np.floor(fast + half - 0.5)) + 1, n_fast)
            # What lies between is nearer than the ring, and some of it within the core.
            left, right, core_start, core_stop = stop, stop, stop, stop
            if y2 < inner2:
                half = np.sqrt(inner2 - y2)
                left = min(max(int(np.floor(fast - half - 0.5)) + 1, start), stop)
                right = min(max(int(np.ceil(fast + half - 0.5)), left), stop)
            if y2 <= core2:
                half = np.sqrt(core2 - y2)
                core_start = max(int(np.ceil(fast - half - 0.5)), 0)
                core_stop = min(int(np.floor(fast + half - 0.5)) + 1, n_fast)
            while start < stop:
                block = start // BLOCK
                end = min((block + 1) * BLOCK, stop)
                level = levels[i // BLOCK, block]
                most = min(high, (1.5 * level + 8 * np.sqrt(1.5 * level + noise) + 5) * gain + pedestal)
                m, total = _segment(values, bad, i, start, min(end, left), low, most)
                more, more_total = _segment(values, bad, i, max(start, right), end, low, most)
                m, total = m + more, total + more_total
                n_ring += m
                in_ring += (total - m * pedestal) / gain
                level_ring += m * level
                m, total = _segment(values, bad, i, max(start, core_start), min(end, core_stop), low, high)
                n_core += m
                in_core += (total - m * pedestal) / gain
                level_core += m * level
                start = end
        out[n, 0], out[n, 1], out[n, 2] = n_core, in_core, level_core
        out[n, 3], out[n, 4], out[n, 5] = n_ring, in_ring, level_ring


def photon_sums(
    values: np.ndarray,
    bad: np.ndarray,
    px: np.ndarray,
    levels: np.ndarray,
    gain: float,
    pedestal: float,
    trusted: tuple[float, float],
    noise: float = 0.0,
    core: float = CORE,
) -> np.ndarray:
    """Return pixels, photons and level (n, 6) within the core of each spot, and the same in a ring around it.

    Args:
        values: (slow, fast) raw values.
        bad: True (slow, fast) where they mean nothing.
        px: (n, 2) pixel coordinates (fast, slow).
        levels: photons (blocks) on this image; no NaN.
        gain, pedestal: photons = (value - pedestal) / gain.
        trusted: lowest and highest raw value that means something.
        noise: variance of a pixel that is not of counting, photons^2.
        core: radius in pixels.
    """
    out = np.empty((len(px), 6))
    low, high = map(float, trusted)
    _sums(
        values, bad, px, levels, float(gain), float(pedestal), low, high, float(noise), float(core), _INNER, _OUTER, out
    )
    return out


def shows(excess: np.ndarray, sigma: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return which reflections (n,) show by themselves, by the photons in their core above what is around them.

    Noise alone makes one in thirty thousand do so, and the soft diffuse halo of a node none that is not half as high
    as what is around it.
    """
    return (excess > _SHOWS * sigma) & (excess > 0.5 * expected)


def bin_of(q: np.ndarray, q_max: float) -> np.ndarray:
    """Return the bin of resolution (n,) of |q| (n,)."""
    return np.clip((q / q_max * N_BINS).astype(np.int64), 0, N_BINS - 1)


def radial_directions(geometry: Geometry, panel: int, px: np.ndarray) -> np.ndarray:
    """Return unit vectors (n, 2) (fast, slow) on a panel that point away from where the beam hits its plane."""
    model = geometry.panels[panel]
    normal = cross(model.fast_axis, model.slow_axis)
    ahead = geometry.beam.s0 @ normal
    beam = geometry.beam.s0 * (model.origin_mm @ normal / ahead) if abs(ahead) > 1e-9 else np.zeros(3)
    centre = np.array([(beam - model.origin_mm) @ model.fast_axis, (beam - model.origin_mm) @ model.slow_axis])
    away = px - centre / np.array(model.pixel_size_mm)
    return away / np.maximum(np.hypot(away[:, 0], away[:, 1]), 1e-9)[:, None]


@njit(cache=True, nogil=True)
def _paint_ellipses(classes, px, along, semi, across, pixel_class):
    n_slow, n_fast = classes.shape
    for n in range(len(px)):
        fast, slow = px[n, 0], px[n, 1]
        a, b = semi[n], across[n]
        reach = max(a, b)
        for i in range(max(int(slow - reach - 0.5), 0), min(int(slow + reach + 0.5) + 1, n_slow)):
            for j in range(max(int(fast - reach - 0.5), 0), min(int(fast + reach + 0.5) + 1, n_fast)):
                x, y = j + 0.5 - fast, i + 0.5 - slow
                u = (x * along[n, 0] + y * along[n, 1]) / a
                v = (-x * along[n, 1] + y * along[n, 0]) / b
                if u * u + v * v <= 1:
                    classes[i, j] = min(classes[i, j], pixel_class)


def paint_ellipses(
    classes: np.ndarray,
    px: np.ndarray,
    along: np.ndarray,
    radius: np.ndarray,
    stretch: np.ndarray,
    pixel_class: np.uint8,
) -> None:
    """Lower the class of pixels within ellipses, in place; each holds at least the core.

    Args:
        classes: (slow, fast) uint8.
        px: (n, 2) centres (fast, slow).
        along: (n, 2) unit vectors of the axis that is stretched.
        radius: (n,) of a circle of equal area, in pixels.
        stretch: (n,) ratio of the axes.
        pixel_class: of `model.conventions`.
    """
    semi = np.maximum(radius * np.sqrt(stretch), CORE)
    across = np.maximum(radius / np.sqrt(stretch), CORE)
    _paint_ellipses(classes, np.ascontiguousarray(px), along, semi, across, np.uint8(pixel_class))


@njit(cache=True, nogil=True)
def _stand_out(values, places, gain, pedestal, low, high, noise, out):
    n_slow, n_fast = values.shape
    around = np.empty(300, np.float64)
    for n in range(len(places)):
        slow, fast = places[n, 0], places[n, 1]
        value = (values[slow, fast] - pedestal) / gain
        out[n] = False
        top = True
        for i in range(max(slow - 2, 0), min(slow + 3, n_slow)):
            for j in range(max(fast - 2, 0), min(fast + 3, n_fast)):
                top &= not (values[slow, fast] < values[i, j] <= high)
        if not top:
            continue
        m, total = 0, 0.0
        for i in range(max(slow - 8, 0), min(slow + 9, n_slow)):
            for j in range(max(fast - 8, 0), min(fast + 9, n_fast)):
                here = values[i, j]
                if 25 <= (i - slow) ** 2 + (j - fast) ** 2 <= 64 and low <= here <= high:
                    around[m] = (here - pedestal) / gain
                    total += around[m]
                    m += 1
        level = 1.0
        if m > 8:
            # What stands out of the mean of all does so of the lower ones': most peaks need no sorting.
            level = max(1.2 * total / m, 0.01) * (1 + 1e-9)
            if value <= 1.5 * level + 8 * np.sqrt(1.5 * level + noise) + 5:
                # Without the highest, lest other peaks raise it.
                ordered = np.sort(around[:m])
                level = max(1.2 * np.mean(ordered[: (3 * m) // 4]), 0.01)
        out[n] = value > 1.5 * level + 8 * np.sqrt(1.5 * level + noise) + 5


def stand_out(
    values: np.ndarray,
    places: np.ndarray,
    gain: float,
    pedestal: float,
    trusted: tuple[float, float],
    noise: float = 0.0,
) -> np.ndarray:
    """Return which bright pixels (n,) are the highest around and stand out from what is five to eight pixels away.

    A broad feature of the diffuse scattering does not stand out; a peak does.

    Args:
        values: (slow, fast) raw values.
        places: (n, 2) (slow, fast).
        gain, pedestal, trusted, noise: as `photon_sums` has them.
    """
    out = np.empty(len(places), bool)
    low, high = map(float, trusted)
    _stand_out(values, places, float(gain), float(pedestal), low, high, float(noise), out)
    return out


@njit(cache=True, nogil=True, inline="always")
def _nine(values, bad, levels, slow, fast, low, high, sums, look):
    """Write number, raw sum and level of the pixels around one to `sums`; faults are looked for only if `look`."""
    n_slow, n_fast = values.shape
    n = total = expected = 0.0
    for i in range(max(slow - 1, 0), min(slow + 2, n_slow)):
        for j in range(max(fast - 1, 0), min(fast + 2, n_fast)):
            value = values[i, j]
            if low <= value <= high and not (look and bad[i, j]):
                n += 1.0
                total += value
                expected += levels[i // BLOCK, j // BLOCK]
    sums[0], sums[1], sums[2] = n, total, expected


@njit(cache=True, nogil=True)
def _may_show(values, bad, px, levels, gain, pedestal, low, high, noise, out):
    sums = np.zeros(3)
    for n in range(len(px)):
        fast, slow = int(np.floor(px[n, 0])), int(np.floor(px[n, 1]))
        # Faults are bright: most reflections don't show with them either, and their memory need not be fetched.
        for look in range(2):
            _nine(values, bad, levels, slow, fast, low, high, sums, look == 1)
            photons = (sums[1] - sums[0] * pedestal) / gain
            out[n] = photons > sums[2] + 1.5 * np.sqrt(sums[2] + sums[0] * noise)
            if not out[n]:
                break


def may_show(
    values: np.ndarray,
    bad: np.ndarray,
    px: np.ndarray,
    levels: np.ndarray,
    gain: float,
    pedestal: float,
    trusted: tuple[float, float],
    noise: float = 0.0,
) -> np.ndarray:
    """Return which reflections (n,) count more in their nine middle pixels than most do that don't show at all.

    A quick look that leaves few of many; arguments as `photon_sums` has them.
    """
    out = np.empty(len(px), bool)
    low, high = map(float, trusted)
    _may_show(values, bad, px, levels, float(gain), float(pedestal), low, high, float(noise), out)
    return out
