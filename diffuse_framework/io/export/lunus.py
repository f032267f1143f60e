"""Boxes of reciprocal space as Lunus lattices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffuse_framework.algorithms.expansion import Box
from diffuse_framework.errors import DataError
from diffuse_framework.io.atomic import writing
from diffuse_framework.model.grid import VoxelGrid

MISSING = -32768.0
"""What Lunus has where there is no value."""


def write_lattice(path: Path, box: Box, grid: VoxelGrid) -> None:
    """Write a box as three sizes (uint32), six limits in 1/angstrom and values (float32), x = h fastest, little endian.

    Args:
        path: of the file.
        box: centred on the origin.
        grid: of the map.

    Raises:
        DataError: axes that are not at right angles, of which the format knows nothing.
    """
    if np.abs(np.array(grid.cell[3:]) - 90).max() > 0.01:
        angles = ", ".join(f"{x:g}" for x in grid.cell[3:])
        raise DataError(f"a Lunus lattice has axes at right angles, the cell's angles are {angles}; export npz or mtz")
    steps = np.linalg.norm(grid.reciprocal_basis, axis=0) / np.array(grid.divisions)
    low = np.array(box.index_min)
    high = low + np.array(box.values.shape) - 1
    limits = np.stack([low * steps, high * steps], axis=1).ravel()
    values = np.where(np.isfinite(box.values), box.values, MISSING)
    with writing(path) as temporary, temporary.open("wb") as file:
        file.write(np.array(box.values.shape, "<u4").tobytes())
        file.write(limits.astype("<f4").tobytes())
        file.write(values.transpose(2, 1, 0).astype("<f4").tobytes())
