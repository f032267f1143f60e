"""The files that single images leave behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffuse_framework.adapters.images.masks import write_mask
from diffuse_framework.io.results import file_stem, write_pixels
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import CorrectedPixels


@dataclass(frozen=True)
class ImageFiles:
    """Writes the files that single images leave behind, from inside the workers."""

    folder: Path
    masks: str
    pixels: bool

    def __call__(self, number: int, image: Image, mask: PixelMask, make_pixels: Callable[[], CorrectedPixels]) -> None:
        """Write the mask and the corrected pixels of one image, as far as they are wanted."""
        total, trusted, pixels = self._paths(image)
        if self._keeps_mask(number):
            write_mask(total, mask.diffuse)
            write_mask(trusted, mask.trusted)
        if self.pixels:
            write_pixels(pixels, image, make_pixels())

    def wrote(self, number: int, image: Image) -> bool:
        """Whether all files of an image are there."""
        total, trusted, pixels = self._paths(image)
        wanted = [total, trusted] if self._keeps_mask(number) else []
        return all(path.is_file() for path in [*wanted, *([pixels] if self.pixels else [])])

    def _keeps_mask(self, number: int) -> bool:
        return self.masks == "all" or (self.masks == "first" and number == 0)

    def _paths(self, image: Image) -> tuple[Path, Path, Path]:
        stem = self.folder / file_stem(image.name)
        names = ("total_diffuse_mask.pickle", "pixel_mask.pickle", "diffuse_data.npz")
        total, trusted, pixels = (stem.with_name(f"{stem.name}_{name}") for name in names)
        return total, trusted, pixels
