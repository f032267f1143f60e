"""Voxels at the nodes of the reciprocal lattice, where Bragg peaks and the halos around them are, and those between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.algorithms.masking.shapes import centring_conditions
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.grid import VoxelGrid

__all__ = ["Halo", "in_halo"]


@dataclass(frozen=True)
class Halo:
    """The surroundings of a node that count as its halo.

    Attributes:
        shape: "box", voxels whose centre is within `size` of a node along every axis, or "ellipsoid", those whose
            distances along the axes, divided by `size`, have squares that sum to 1 at most.
        size: (3,) half edges or half axes along h, k and l, in reciprocal lattice units; 0 takes only voxels centred
            on a node.
    """

    shape: str = "box"
    size: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.shape not in ("box", "ellipsoid"):
            raise ConfigError(f"the shape of a halo is box or ellipsoid, not {self.shape!r}")
        if len(self.size) != 3 or not all(0 <= x <= 0.5 for x in self.size):
            raise ConfigError(
                f"the size of a halo is three numbers from 0 to 0.5 reciprocal lattice units, not {self.size}"
            )


@njit(cache=True, nogil=True)
def _near(voxel, low, dimensions, divisions, ellipsoid, size, conditions, result):
    plane = dimensions[1] * dimensions[2]
    place = np.zeros(3, np.int64)
    for n in range(len(voxel)):
        place[0], rest = divmod(voxel[n], plane)
        place[1], place[2] = divmod(rest, dimensions[2])
        inside, total = True, 0.0
        node = np.zeros(3, np.int64)
        for axis in range(3):
            index = place[axis] + low[axis]
            node[axis] = (2 * index + divisions[axis]) // (2 * divisions[axis])
            off = abs(index - node[axis] * divisions[axis]) / divisions[axis]
            inside = inside and off <= size[axis] + 1e-9
            if size[axis] > 0:
                total += (off / size[axis]) ** 2
        inside = inside and (not ellipsoid or total <= 1 + 1e-9)
        for row in range(len(conditions)):
            c = conditions[row]
            inside = inside and (c[0] * node[0] + c[1] * node[1] + c[2] * node[2]) % c[3] == 0
        result[n] = inside


def in_halo(grid: VoxelGrid, voxel: np.ndarray, halo: Halo) -> np.ndarray:
    """Return which voxels (n,) lie in the halo of a node of the reciprocal lattice, (n,) bool.

    Points that the lattice's centring extinguishes are no nodes; those that screw axes and glides extinguish are.

    Args:
        grid: of the voxels.
        voxel: (n,) their numbers.
        halo: its shape.
    """
    result = np.empty(len(voxel), bool)
    _near(
        voxel,
        np.array(grid.index_min),
        np.array(grid.dimensions),
        np.array(grid.divisions),
        halo.shape == "ellipsoid",
        np.array(halo.size, float),
        centring_conditions(grid.symmetry.space_group),
        result,
    )
    return result
