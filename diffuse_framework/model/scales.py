"""What brings images to a common scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.voxels import SumsTable

__all__ = ["ErrorModel", "ImageScales", "Scales", "all_but"]


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


def all_but(rejected: np.ndarray, table: SumsTable) -> np.ndarray:
    """Return which rows of `table` aren't among the rejected, (n,).

    Args:
        rejected: (m, 4) image, voxel, operator and panel of each.
        table: rows.
    """
    result = np.ones(len(table), bool)
    if not len(rejected) or not len(table):
        return result
    here = rejected[np.isin(rejected[:, 0], np.unique(table.image))]
    maybe = np.flatnonzero(np.isin(table.voxel, here[:, 1]))
    columns = (table.image, table.voxel, table.operator, table.panel)
    keys = np.stack([column[maybe].astype(np.int64) for column in columns], axis=1)
    known = set(map(tuple, here.tolist()))
    result[maybe] = [tuple(key) not in known for key in keys.tolist()]
    return result


def _none_rejected() -> np.ndarray:
    return np.zeros((0, 4), np.int64)


@dataclass(frozen=True, eq=False)
class ImageScales:
    """One multiplicative scale per image and no offset.

    Attributes:
        per_image, per_image_sigma: (n_images,) scales, and their standard uncertainty.
        statistics: how the fit went.
        error_model: of observations.
        rejected: (n, 4) image, voxel, operator and panel of outliers.
        voxel_numbering: of the grid that these voxels belong to (`VoxelGrid.numbering`).
    """

    per_image: np.ndarray
    per_image_sigma: np.ndarray
    statistics: dict = field(default_factory=dict)
    error_model: ErrorModel = ErrorModel()
    rejected: np.ndarray = field(default_factory=_none_rejected)
    voxel_numbering: list[list[int]] = field(default_factory=list)

    def factor(self, table: SumsTable) -> np.ndarray:
        """Return the scale of each row's image."""
        return self.per_image[table.image]

    def offset(self, table: SumsTable) -> np.ndarray:
        """Return zeros."""
        return np.zeros(len(table))

    def keep(self, table: SumsTable) -> np.ndarray:
        """Return False for outliers."""
        return all_but(self.rejected, table)

    def to_plain(self) -> dict[str, Any]:
        """Return the scales, statistics, error model and outliers."""
        return {
            "per_image": self.per_image,
            "per_image_sigma": self.per_image_sigma,
            "statistics": self.statistics,
            "error_model": asdict(self.error_model),
            "rejected": self.rejected,
            "voxel_numbering": self.voxel_numbering,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ImageScales:
        """Return the scales that `to_plain` took apart."""
        return cls(
            plain["per_image"],
            plain["per_image_sigma"],
            plain["statistics"],
            ErrorModel(**plain["error_model"]),
            # Files from before outliers were rejected have none.
            plain.get("rejected", _none_rejected()),
            plain.get("voxel_numbering", []),
        )

    def on_grid(self, grid: VoxelGrid) -> ImageScales:
        """Return the scales for sums on `grid`; where it numbers voxels in another way they reject nothing."""
        return self if self.voxel_numbering == grid.numbering else replace(self, rejected=_none_rejected())

    def of_images(self, numbers: np.ndarray) -> ImageScales:
        """Return the scales of the images `numbers` (m,), in that order."""
        places = {int(number): place for place, number in enumerate(numbers)}
        kept = np.array([row for row in self.rejected if int(row[0]) in places], np.int64).reshape(-1, 4)
        kept[:, 0] = [places[int(image)] for image in kept[:, 0]]
        return replace(
            self,
            per_image=self.per_image[numbers],
            per_image_sigma=self.per_image_sigma[numbers],
            rejected=kept,
        )
