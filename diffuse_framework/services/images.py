"""Images beside those of the run, for plugins that read some of their own: backgrounds, flat fields."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffuse_framework.adapters.images.open import files_of, images_from_files, open_source
from diffuse_framework.adapters.images.sequences import middle_angles_deg
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.model.source import ImageSource

__all__ = ["files_of", "middle_angles_deg", "open_images", "open_stills"]


def open_images(paths: Iterable[str | Path]) -> ImageSource:
    """Return the source of image files, stills or sweeps as their headers say.

    Raises:
        DataError: no images, or files that dxtbx can't read as images.
        GeometryError: stills and rotations together, or two detectors.
    """
    return open_source(images_from_files([str(path) for path in paths]))


def open_stills(paths: Iterable[str | Path]) -> ImageSource:
    """Return the source of image files as single images, whatever their headers say of a rotation.

    Raises:
        DataError: no images, or files that dxtbx can't read as images.
        GeometryError: two detectors.
    """
    return DxtbxSource(images_from_files([str(path) for path in paths]))
