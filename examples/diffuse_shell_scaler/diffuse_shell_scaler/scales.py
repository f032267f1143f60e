"""Scales of images and resolution shells, and observations that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import ErrorModel
from diffuse_framework.model.voxels import SumsTable

_COLUMNS = ("image", "voxel", "operator", "panel")


def keys_of(table: SumsTable) -> np.ndarray:
    """Return what names each row of a table, (n, 4): image, voxel, operator and panel."""
    return np.stack([getattr(table, name).astype(np.int64) for name in _COLUMNS], axis=1)


def shells_of(grid: VoxelGrid, voxel: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the shell of each voxel number (n,), between edges (n_shells + 1,) in 1/angstrom."""
    q = np.linalg.norm(grid.q_of(voxel), axis=1)
    return np.clip(np.searchsorted(edges, q, side="right") - 1, 0, len(edges) - 2)


def numbering(grid: VoxelGrid) -> list[list[int]]:
    """Return what voxel numbers of a grid mean."""
    return [[int(n) for n in three] for three in (grid.divisions, grid.index_min, grid.dimensions)]


@dataclass(frozen=True, eq=False)
class ShellScales:
    """One multiplicative scale for each image and shell.

    Attributes:
        grid: that voxel numbers belong to.
        edges: (n_shells + 1,) of the shells, |q| in 1/angstrom.
        by_shell: (n_images, n_shells) scales; the mean over the images of `per_image` is 1.
        per_image, per_image_sigma: (n_images,) the scale of each image over all shells.
        left_out: (m, 4) image, voxel, operator and panel of observations that are not merged.
        statistics: how the fit went.
    """

    grid: VoxelGrid
    edges: np.ndarray
    by_shell: np.ndarray
    per_image: np.ndarray
    per_image_sigma: np.ndarray
    left_out: np.ndarray
    statistics: dict = field(default_factory=dict)
    error_model: ErrorModel = ErrorModel()

    def factor(self, table: SumsTable) -> np.ndarray:
        """Return the scale of each row's image in its shell."""
        return self.by_shell[table.image, shells_of(self.grid, table.voxel, self.edges)]

    def offset(self, table: SumsTable) -> np.ndarray:
        """Return zeros."""
        return np.zeros(len(table))

    def keep(self, table: SumsTable) -> np.ndarray:
        """Return False for rows that are left out."""
        known = set(map(tuple, self.left_out.tolist()))
        return np.array([tuple(key) not in known for key in keys_of(table).tolist()], bool)

    def to_plain(self) -> dict[str, Any]:
        """Return all of it, and what its voxel numbers mean."""
        return {
            "edges": self.edges,
            "by_shell": self.by_shell,
            "per_image": self.per_image,
            "per_image_sigma": self.per_image_sigma,
            "left_out": self.left_out,
            "numbering": numbering(self.grid),
            "statistics": self.statistics,
            "error_model": asdict(self.error_model),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], grid: VoxelGrid) -> ShellScales:
        """Return the scales that `to_plain` took apart, for sums on `grid`."""
        # On other voxels the numbers of those that were left out mean nothing.
        same = plain["numbering"] == numbering(grid)
        return cls(
            grid,
            plain["edges"],
            plain["by_shell"],
            plain["per_image"],
            plain["per_image_sigma"],
            plain["left_out"] if same else np.zeros((0, len(_COLUMNS)), np.int64),
            plain["statistics"],
            ErrorModel(**plain["error_model"]),
        )
