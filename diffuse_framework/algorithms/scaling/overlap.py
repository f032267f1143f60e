"""Voxels that several images observe: all that ties the scale of one image to another's."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_framework.algorithms.scaling.observations import Observations
from diffuse_framework.errors import DataError
from diffuse_framework.model.voxels import VoxelSums

__all__ = ["shared_voxels"]


def shared_voxels(sums: VoxelSums) -> np.ndarray:
    """Return which voxels (size of the grid,) have exposure from two images or more."""
    first = np.full(sums.grid.size, -1, np.int32)
    shared = np.zeros(sums.grid.size, bool)
    for table in sums.tables():
        seen = table.exposure > 0
        voxel, image = table.voxel[seen], table.image[seen]
        new = first[voxel] < 0
        first[voxel[new]] = image[new]
        shared[voxel[first[voxel] != image]] = True
    return shared


def refuse_unconnected(observations: Observations, group_of: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse groups of images that no chain of shared voxels ties to the others: their scale means nothing.

    Args:
        observations: of all images.
        group_of: (n_images,) group of each image; images of one group share a scale.
        names: of the groups.

    Raises:
        DataError: there are such groups; it names them.
    """
    tied = np.arange(len(names))
    for block in observations.blocks():
        _tie(block.first, group_of[block.rows["image"]], tied)
    roots = [_root(tied, group) for group in range(len(tied))]
    largest = max(set(roots), key=roots.count)
    alone = [name for name, r in zip(names, roots, strict=True) if r != largest]
    if alone:
        shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        raise DataError(
            f"{len(alone)} of {len(names)} images or data sets share no voxel with the rest and can't be "
            f"scaled ({shown}); use coarser voxels (grid.hkl.divisions, grid.hkl.d_min) or leave them out"
        )


@njit(cache=True)
def _root(tied, group):
    """Return the group that stands for all that are tied to `group`."""
    while tied[group] != group:
        tied[group] = tied[tied[group]]
        group = tied[group]
    return group


@njit(cache=True)
def _tie(first, group, tied):
    """Tie the groups (n_rows,) of the images that share a voxel, in `tied`: for each group another one, or itself."""
    for v in range(len(first) - 1):
        one = _root(tied, group[first[v]])
        for row in range(first[v] + 1, first[v + 1]):
            tied[_root(tied, group[row])] = one
