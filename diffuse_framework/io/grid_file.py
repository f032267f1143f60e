"""A voxel grid as plain numbers, for JSON files and HDF5 attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.grid import VoxelGrid


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
    """
    crystal, numbering = numbers["crystal_avg_ref"], numbers["voxel_numbering"]
    symmetry = Symmetry(
        crystal["space_group"],
        crystal["laue_group"],
        np.array(numbers["symmetry"]["operators"], np.int64),
        np.array(numbers["symmetry"]["asu_matrix"], np.int64),
    )
    return VoxelGrid(
        cell=tuple(crystal["unit_cell"]),
        symmetry=symmetry,
        divisions=(numbers["ndiv_h"], numbers["ndiv_k"], numbers["ndiv_l"]),
        index_min=tuple(numbering["index_min"]),
        dimensions=tuple(numbering["dimensions"]),
        d_min=numbers["resolution"]["d_min"],
        d_max=numbers["resolution"]["d_max"] or np.inf,
        n_voxels=numbers["total_voxels"],
    )
