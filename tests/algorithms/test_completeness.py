from __future__ import annotations

import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.completeness import resolution_shells, voxels_possible
from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.testing.fakes import grid_of, orthorhombic_grid

CELLS = {
    "P1": (11.0, 12.0, 13.0, 80.0, 85.0, 95.0),
    "P21": (11.0, 12.0, 13.0, 90.0, 105.0, 90.0),
    "P212121": (11.0, 12.0, 13.0, 90.0, 90.0, 90.0),
    "P43212": (12.0, 12.0, 17.0, 90.0, 90.0, 90.0),
    "P3121": (12.0, 12.0, 17.0, 90.0, 90.0, 120.0),
    "P6522": (12.0, 12.0, 17.0, 90.0, 90.0, 120.0),
    "I23": (14.0, 14.0, 14.0, 90.0, 90.0, 90.0),
}


def every_voxel(grid):
    """The voxels of the asymmetric unit within the limits of resolution, found by folding each of the box."""
    voxel = np.arange(grid.size)
    index = grid.index_of(voxel)
    q = np.linalg.norm(grid.q_of(voxel), axis=1)
    inside = (fold(index, grid.symmetry, grid.divisions)[0] == index).all(axis=1)
    return voxel[inside & (q <= (1 + 1e-9) / grid.d_min) & (q >= (1 - 1e-9) / grid.d_max)]


@pytest.mark.parametrize("space_group", CELLS)
@pytest.mark.parametrize("d_max", [np.inf, 6.0])
def test_a_map_of_all_voxels_is_complete_in_every_shell(space_group, d_max):
    grid = grid_of(symmetry_of(space_group), CELLS[space_group], (2, 2, 2), 2.0, d_max)
    voxel = every_voxel(grid)
    shells = resolution_shells(grid, voxel, 7)
    assert len(voxel) == grid.n_voxels == shells.possible.sum()
    assert (shells.completeness == 1).all()
    half = resolution_shells(grid, voxel[1::2], 7)
    assert (half.completeness < 1).all() and half.observed.sum() == len(voxel[1::2])


def test_an_empty_shell_has_no_completeness_and_an_empty_map_none_at_all():
    grid = orthorhombic_grid()
    assert voxels_possible(grid, np.array([5.0, 6.0])).tolist() == [0]
    nothing = resolution_shells(grid, np.zeros(0, np.int64), 5)
    assert (nothing.completeness == 0).all() and nothing.possible.sum() == grid.n_voxels
