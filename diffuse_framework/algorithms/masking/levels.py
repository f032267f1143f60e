"""What pixels count away from peaks: a level per block of pixels, and how bright each image is beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.masking.bad_pixels import BLOCK, filled
from diffuse_framework.model.geometry import Panel

# Pixels that are enough to tell how bright an image is.
_ENOUGH = 20_000
_CYCLES = 8
_LEAST_LEVEL = 1e-3


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
        some, level, noise = [], [], []
        for values, panel, blocks in zip(counts, panels, self.panels, strict=True):
            here = np.ascontiguousarray(values[step // 2 :: step, step // 2 :: step])
            rows, columns = (np.arange(n) * step + step // 2 for n in here.shape)
            expected = blocks[np.ix_(rows // BLOCK, columns // BLOCK)]
            kept = (here >= panel.trusted_range[0]) & (here <= panel.trusted_range[1]) & np.isfinite(expected)
            some.append((here[kept] - panel.pedestal) / panel.gain)
            level.append(expected[kept].astype(float))
            noise.append(np.full(np.count_nonzero(kept), 1 + panel.read_noise**2))
        n, e, more = np.concatenate(some), np.concatenate(level), np.concatenate(noise)
        if not len(n) or not e.sum() > 0:
            return 1.0
        ratio = max(n.sum() / e.sum(), 1e-6)
        for _ in range(_CYCLES):
            before = ratio
            kept = n <= 2 * ratio * e + 6 * np.sqrt(ratio * e + more)
            ratio = max(n[kept].sum() / max(e[kept].sum(), 1e-12), 1e-6)
            if ratio == before:
                break
        return float(ratio)

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
