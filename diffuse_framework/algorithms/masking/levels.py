"""What pixels count away from peaks: a level per block of pixels, and how bright each image is beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.algorithms.masking.bad_pixels import BLOCK, filled
from diffuse_framework.model.geometry import Panel

# Pixels that are enough to tell how bright an image is.
_ENOUGH = 20_000
_CYCLES = 8
_LEAST_LEVEL = 1e-3


@njit(cache=True, nogil=True)
def _sample(values, blocks, step, gain, pedestal, low, high, noise, found):
    """Write photons, level and least variance of every `step`-th pixel to `found`; return how many there are."""
    n = 0
    for slow in range(step // 2, values.shape[0], step):
        for fast in range(step // 2, values.shape[1], step):
            value, level = values[slow, fast], blocks[slow // BLOCK, fast // BLOCK]
            if low <= value <= high and np.isfinite(level):
                found[n, 0], found[n, 1], found[n, 2] = (value - pedestal) / gain, level, 1 + noise
                n += 1
    return n


@njit(cache=True, nogil=True)
def _brightness(found):
    photons, level = found[:, 0].sum(), found[:, 1].sum()
    if not level > 0:
        return 1.0
    ratio = max(photons / level, 1e-6)
    for _ in range(_CYCLES):
        before = ratio
        photons = level = 0.0
        for n in range(len(found)):
            expected = ratio * found[n, 1]
            if found[n, 0] <= 2 * expected + 6 * np.sqrt(expected + found[n, 2]):
                photons += found[n, 0]
                level += found[n, 1]
        ratio = max(photons / max(level, 1e-12), 1e-6)
        if ratio == before:
            break
    return ratio


@dataclass(frozen=True, eq=False)
class Levels:
    """Mean photons of the blocks of a detector, on an image of brightness 1.

    Attributes:
        panels: one float32 array (blocks along slow, blocks along fast) per panel; NaN where nothing was ever seen.
    """

    panels: tuple[np.ndarray, ...]

    def brightness(self, counts: tuple[np.ndarray, ...], panels: tuple[Panel, ...]) -> float:
        """Return how bright an image is, from some of its pixels, peaks left out.

        Args:
            counts: (slow, fast) raw values of each panel.
            panels: which say what they mean.
        """
        step = max(int(np.sqrt(sum(values.size for values in counts) / _ENOUGH)) | 1, 1)
        sampled = []
        for values, panel, blocks in zip(counts, panels, self.panels, strict=True):
            found = np.empty((-(-values.shape[0] // step) * -(-values.shape[1] // step), 3))
            low, high = map(float, panel.trusted_range)
            gain, pedestal, noise = float(panel.gain), float(panel.pedestal), float(panel.read_noise**2)
            n = _sample(values, blocks, step, gain, pedestal, low, high, noise, found)
            sampled.append(found[:n])
        return float(_brightness(np.concatenate(sampled)))

    def on(self, counts: tuple[np.ndarray, ...], panels: tuple[Panel, ...]) -> tuple[np.ndarray, ...]:
        """Return the photons (blocks) of each panel that pixels of an image should count, 0 where nothing is known."""
        brightness = self.brightness(counts, panels)
        return tuple(np.nan_to_num(blocks.astype(float)) * brightness for blocks in self.panels)


def brightness_of(means: tuple[np.ndarray, ...]) -> float:
    """Return how bright an image is whose panels have blocks of these means, NaN where too little was seen."""
    known = np.concatenate([panel[np.isfinite(panel)] for panel in means])
    return max(float(np.median(known)), float(known.mean()) / 4, _LEAST_LEVEL) if len(known) else _LEAST_LEVEL


def mean_levels(samples: list[tuple[np.ndarray, ...]]) -> Levels:
    """Return the levels of a sample of images; for each image and panel the means of its blocks, NaN for unknown."""
    brightness = [brightness_of(image) for image in samples]
    panels = []
    for means in zip(*samples, strict=True):
        total, weight = np.zeros(means[0].shape), np.zeros(means[0].shape)
        for mean, bright in zip(means, brightness, strict=True):
            seen = np.isfinite(mean)
            total[seen] += mean[seen]
            weight[seen] += bright
        with np.errstate(invalid="ignore", divide="ignore"):
            panels.append(filled(total / weight).astype(np.float32))
    return Levels(tuple(panels))
