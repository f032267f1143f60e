"""The files that single images leave behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffuse_framework.adapters.masks import write_mask
from diffuse_framework.io.outputs import file_stem, write_pixels
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import CorrectedPixels


@dataclass(frozen=True)
class ImageFiles:
    """Writes the files that single images leave behind, from inside the workers."""

    folder: Path
    masks: str
    pixels: bool

    def __call__(
        self, number: int, image: Image, mask: PixelMask, make_pixels: Callable[[], CorrectedPixels]
    ) -> None:
        """Write the mask and the corrected pixels of one image, as far as they are wanted."""
        stem = file_stem(image.name)
        if self.masks == "all" or (self.masks == "first" and number == 0):
            write_mask(self.folder / f"{stem}_total_diffuse_mask.pickle", mask.diffuse)
            write_mask(self.folder / f"{stem}_pixel_mask.pickle", mask.trusted)
        if self.pixels:
            write_pixels(self.folder / f"{stem}_diffuse_data.npz", image, make_pixels())
