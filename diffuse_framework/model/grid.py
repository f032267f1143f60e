"""The voxel grid of reciprocal space."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.lattice import Cell, reciprocal_basis

__all__ = ["VoxelGrid"]


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """A box of voxels that holds the asymmetric unit of reciprocal space.

    The voxel with integer index ``(i, j, k)`` is centred on ``(i/n_h, j/n_k, k/n_l)``. Its
    number in all arrays is ``((i - i_min) * n_j + j - j_min) * n_k + k - k_min``. Voxels of
    the box outside the asymmetric unit or beyond the resolution limits stay empty.

    Attributes:
        cell: reference unit cell, angstrom and degrees.
        symmetry: of the crystal.
        divisions: (n_h, n_k, n_l) voxels per reciprocal lattice vector.
        index_min: (3,) smallest voxel index of the box.
        dimensions: (3,) voxels along each axis of the box.
        d_min, d_max: resolution limits in angstrom; d_max is infinite where there is none.
        n_voxels: voxels of the asymmetric unit within the limits.
    """

    cell: Cell
    symmetry: Symmetry
    divisions: tuple[int, ...]
    index_min: tuple[int, ...]
    dimensions: tuple[int, ...]
    d_min: float
    d_max: float
    n_voxels: int

    @property
    def size(self) -> int:
        """Voxels in the box."""
        return int(np.prod(self.dimensions, dtype=np.int64))

    @property
    def numbering(self) -> list[list[int]]:
        """Divisions, smallest index and dimensions, from which the numbers of voxels follow."""
        return [[int(n) for n in three] for three in (self.divisions, self.index_min, self.dimensions)]

    @cached_property
    def reciprocal_basis(self) -> np.ndarray:
        """(3, 3) B of the reference cell, so that Cartesian ``q = B hkl`` in 1/angstrom."""
        return reciprocal_basis(self.cell)

    def index_of(self, voxels: np.ndarray) -> np.ndarray:
        """Return (n, 3) integer voxel indices (i, j, k) of voxel numbers (n,)."""
        return np.stack(np.unravel_index(voxels, self.dimensions), axis=-1) + np.array(self.index_min)

    def hkl_of(self, voxels: np.ndarray) -> np.ndarray:
        """Return (n, 3) fractional Miller indices of the centres of voxel numbers (n,)."""
        return self.index_of(voxels) / np.array(self.divisions, float)

    def q_of(self, voxels: np.ndarray) -> np.ndarray:
        """Return (n, 3) Cartesian scattering vectors of voxel centres, 1/angstrom."""
        return self.hkl_of(voxels) @ self.reciprocal_basis.T
