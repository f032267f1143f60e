"""What brings images to a common scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

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

    def to_plain(self) -> dict[str, Any]:
        """Return all of the model as text, numbers, None, arrays, and lists and dictionaries of them.

        The scaler that made it turns them into the same model again (`stages.scaler.Scaler.scales_from_plain`).
        """


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

    def to_plain(self) -> dict[str, Any]:
        """Return the scales, statistics and error model."""
        return {
            "per_image": self.per_image,
            "per_image_sigma": self.per_image_sigma,
            "statistics": self.statistics,
            "error_model": asdict(self.error_model),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ImageScales:
        """Return the scales that `to_plain` took apart."""
        return cls(
            plain["per_image"], plain["per_image_sigma"], plain["statistics"], ErrorModel(**plain["error_model"])
        )

    def of_images(self, numbers: np.ndarray) -> ImageScales:
        """Return the scales of the images `numbers` (m,), in that order."""
        return replace(self, per_image=self.per_image[numbers], per_image_sigma=self.per_image_sigma[numbers])
