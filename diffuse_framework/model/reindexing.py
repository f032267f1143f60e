"""How crystals that were indexed in different ways are brought to one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Reindexing", "unchanged"]


@dataclass(frozen=True, eq=False)
class Reindexing:
    """What becomes of the indexing of each image.

    Attributes:
        operators: (n_images, 3, 3) integers: ``operators[n] @ hkl`` are the new Miller indices of image n.
        keep: (n_images,) False for images that are left out, because nothing tells how to index them.
    """

    operators: np.ndarray
    keep: np.ndarray

    @property
    def changes_nothing(self) -> bool:
        """Whether every image stays as it is."""
        return bool(self.keep.all()) and not (self.operators != np.eye(3, dtype=np.int64)).any()


def unchanged(n_images: int) -> Reindexing:
    """Return the re-indexing that leaves all images as they are."""
    return Reindexing(np.tile(np.eye(3, dtype=np.int64), (n_images, 1, 1)), np.ones(n_images, bool))
