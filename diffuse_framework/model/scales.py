"""What brings images to a common scale."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from diffuse_framework.model.voxels import SumsTable

__all__ = ["ErrorModel", "ImageScales", "Scales"]


@dataclass(frozen=True)
class ErrorModel:
    """What the variance of an observation is beyond counting.

    ``variance = inflation * (counting variance + (fraction * signal)^2)``, signal being the counts
    expected from the crystal.
    """

    inflation: float = 1.0
    fraction: float = 0.0


class Scales(Protocol):
    """A fitted scaling model.

    Expected counts of a row are ``exposure * (factor * I + offset) + background``, where I is
    the intensity of its voxel.
    """

    @property
    def per_image(self) -> np.ndarray:
        """(n_images,) the scale of each image; their mean is 1."""

    @property
    def per_image_sigma(self) -> np.ndarray:
        """(n_images,) its standard uncertainty."""

    @property
    def statistics(self) -> dict:
        """How the fit went, in plain numbers, strings and lists."""

    def factor(self, table: SumsTable) -> np.ndarray:
        """Return the multiplicative part for each row of `table`, (n,)."""

    def offset(self, table: SumsTable) -> np.ndarray:
        """Return the additive part for each row of `table`, (n,)."""

    def keep(self, table: SumsTable) -> np.ndarray:
        """Return which rows of `table` are to be merged, (n,): all but outliers."""

    @property
    def error_model(self) -> ErrorModel:
        """The variance of observations."""


@dataclass(frozen=True, eq=False)
class ImageScales:
    """One multiplicative scale per image and no offset."""

    per_image: np.ndarray
    per_image_sigma: np.ndarray
    statistics: dict = field(default_factory=dict)
    error_model: ErrorModel = ErrorModel()

    def factor(self, table: SumsTable) -> np.ndarray:
        """Return the scale of each row's image."""
        return self.per_image[table.image]

    def offset(self, table: SumsTable) -> np.ndarray:
        """Return zeros."""
        return np.zeros(len(table))

    def keep(self, table: SumsTable) -> np.ndarray:
        """Return True for every row."""
        return np.ones(len(table), bool)
