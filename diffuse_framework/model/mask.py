"""Which pixels count as what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from diffuse_framework.model.conventions import BRAGG, DIFFUSE
from diffuse_framework.model.geometry import Geometry

__all__ = ["PixelMask", "all_diffuse", "combine"]


@dataclass(frozen=True, eq=False)
class PixelMask:
    """The class of every pixel: untrusted, Bragg or diffuse.

    Attributes:
        panels: one ``[slow, fast]`` array of uint8 per panel, values of
            `model.conventions`.
    """

    panels: tuple[np.ndarray, ...]

    @property
    def diffuse(self) -> tuple[np.ndarray, ...]:
        """True where a pixel counts towards the diffuse map."""
        return tuple(panel == DIFFUSE for panel in self.panels)

    @property
    def trusted(self) -> tuple[np.ndarray, ...]:
        """True where a pixel counts at all, Bragg peaks included."""
        return tuple(panel >= BRAGG for panel in self.panels)

    def count(self, pixel_class: np.uint8) -> int:
        """Number of pixels of one class."""
        return sum(int(np.count_nonzero(panel == pixel_class)) for panel in self.panels)


def all_diffuse(geometry: Geometry) -> PixelMask:
    """Return the mask that removes nothing."""
    return PixelMask(tuple(np.full(panel.shape, DIFFUSE) for panel in geometry.panels))


def combine(masks: Iterable[PixelMask]) -> PixelMask:
    """Return the mask in which every pixel has the smallest of its classes."""
    first, *others = (mask.panels for mask in masks)
    if not others:
        return PixelMask(first)
    # One array for the result, whatever the number of masks: a new one costs more than the comparison.
    combined = tuple(np.minimum(a, b) for a, b in zip(first, others[0], strict=True))
    for panels in others[1:]:
        for out, panel in zip(combined, panels, strict=True):
            np.minimum(out, panel, out=out)
    return PixelMask(combined)
