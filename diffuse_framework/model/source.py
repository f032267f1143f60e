"""Where images come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from diffuse_framework.model.geometry import Geometry

__all__ = ["Frame", "ImageSource"]


@dataclass(frozen=True, eq=False)
class Frame:
    """The raw values of one image.

    Attributes:
        name: of the image, unique in its source.
        counts: one ``[slow, fast]`` array per panel, integer or floating, as read.
    """

    name: str
    counts: tuple[np.ndarray, ...]


class ImageSource(Protocol):
    """A list of images that can be read in any order, in any process.

    A source pickles as paths and opens its files when first asked to read.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """One unique name per image."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> Frame:
        """Read image number `index` of the source.

        Raises:
            DataError: the file is missing, truncated or corrupt.
        """

    def geometry(self, index: int) -> Geometry:
        """Beam and detector of image number `index`, before indexing."""

    def exposure_s(self, index: int) -> float:
        """Exposure time in seconds of image number `index`, 1 where unknown."""

    def stamp(self, index: int) -> str:
        """A text that changes when image number `index` does."""

    def trusted_pixels(self, index: int) -> tuple[np.ndarray, ...] | None:
        """Mask that came with image number `index`, True where a pixel may be used; None where none did.

        Images that share a geometry share it.
        """
