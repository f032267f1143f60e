"""A voxel grid as plain numbers, for JSON files and HDF5 attributes."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np

from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import reciprocal_basis

# Of axes in angstrom, and of voxels along one.
_LONGEST, _MOST = 1e6, 1 << 20


def grid_to_numbers(grid: VoxelGrid) -> dict[str, Any]:
    """Return the grid's definition; the first seven keys are those that the visual checks read."""
    low = np.array(grid.index_min)
    high = low + np.array(grid.dimensions) - 1
    bounds = {
        f"{axis}_{side}": float(index[n] / grid.divisions[n])
        for n, axis in enumerate("hkl")
        for side, index in (("min", low), ("max", high))
    }
    return {
        "crystal_avg_ref": {
            "unit_cell": list(grid.cell),
            "space_group": grid.symmetry.space_group,
            "laue_group": grid.symmetry.laue_group,
        },
        "hkl_bounds": bounds,
        "ndiv_h": grid.divisions[0],
        "ndiv_k": grid.divisions[1],
        "ndiv_l": grid.divisions[2],
        "total_voxels": grid.n_voxels,
        "resolution": {"d_min": grid.d_min, "d_max": grid.d_max if np.isfinite(grid.d_max) else None},
        "voxel_numbering": {
            "index_min": list(grid.index_min),
            "dimensions": list(grid.dimensions),
            "meaning": "voxel = ((i - i_min) * n_j + j - j_min) * n_k + k - k_min, centred on "
            "(i/ndiv_h, j/ndiv_k, k/ndiv_l)",
        },
        "symmetry": {
            "operators": grid.symmetry.operators.tolist(),
            "asu_matrix": grid.symmetry.asu_matrix.tolist(),
        },
    }


def grid_from_numbers(numbers: dict[str, Any]) -> VoxelGrid:
    """Return the grid of `grid_to_numbers`.

    Raises:
        KeyError: something is missing.
        TypeError, ValueError: it is no number, or none that a grid can have.
    """
    crystal, numbering, limits = numbers["crystal_avg_ref"], numbers["voxel_numbering"], numbers["resolution"]
    symmetry = Symmetry(
        _text(crystal["space_group"]),
        _text(crystal["laue_group"]),
        np.array(numbers["symmetry"]["operators"], np.int64),
        np.array(numbers["symmetry"]["asu_matrix"], np.int64),
    )
    if symmetry.operators.shape[1:] != (3, 3) or symmetry.asu_matrix.shape != (3, 3) or not len(symmetry.operators):
        raise ValueError("its symmetry operators are not matrices of 3 by 3")
    grid = VoxelGrid(
        cell=tuple(float(value) for value in crystal["unit_cell"]),
        symmetry=symmetry,
        divisions=tuple(index(numbers[f"ndiv_{axis}"]) for axis in "hkl"),
        index_min=tuple(map(index, numbering["index_min"])),
        dimensions=tuple(map(index, numbering["dimensions"])),
        d_min=float(limits["d_min"]),
        d_max=np.inf if limits["d_max"] is None else float(limits["d_max"]),
        n_voxels=index(numbers["total_voxels"]),
    )
    return checked_grid(grid)


def checked_grid(grid: VoxelGrid) -> VoxelGrid:
    """Return a grid that was read if it can be one.

    Raises:
        ValueError: numbers that no grid has.
    """
    if len(grid.cell) != 6 or not all(0 < value < _LONGEST for value in grid.cell) or max(grid.cell[3:]) >= 180:
        raise ValueError(f"{grid.cell} is no unit cell")
    with np.errstate(invalid="ignore", divide="ignore"):
        if not np.isfinite(reciprocal_basis(grid.cell)).all():
            raise ValueError(f"{grid.cell} is no unit cell: its angles don't go together")
    for name in ("divisions", "index_min", "dimensions"):
        values = getattr(grid, name)
        if len(values) != 3 or max(map(abs, values)) > _MOST or (name != "index_min" and min(values) < 1):
            raise ValueError(f"{values} can't be the {name} of a grid")
    if not 0 < grid.d_min < grid.d_max:
        raise ValueError(f"its limits of resolution are {grid.d_min} and {grid.d_max}")
    if not 0 <= grid.n_voxels <= _MOST**3:
        raise ValueError(f"{grid.n_voxels} voxels")
    return grid


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} stands where a name should")
    return value
