"""Voxels as a DIALS reflection table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dials.array_family import flex
from dxtbx import flumpy

from diffuse_framework.model.grid import VoxelGrid


def write_voxels(path: Path, grid: VoxelGrid, voxel: np.ndarray, values: np.ndarray, sigmas: np.ndarray | None) -> None:
    """Write a ``.refl`` file with a row per voxel.

    ``miller_index`` is the integer index in the supercell of `divisions` cells, ``hkl_fractional`` the
    fractional one in the crystal's own; ``intensity.sum.value`` and ``.variance`` hold the map.

    Args:
        path: of the file.
        grid: of the map.
        voxel, values, sigmas: (n,).
    """
    table = flex.reflection_table()
    index, q = grid.index_of(voxel), grid.q_of(voxel)
    table["miller_index"] = flex.miller_index(*(flex.int(np.ascontiguousarray(c, np.int32)) for c in index.T))
    table["hkl_fractional"] = flumpy.vec_from_numpy(np.ascontiguousarray(grid.hkl_of(voxel), float))
    table["rlp"] = flumpy.vec_from_numpy(np.ascontiguousarray(q, float))
    length = np.linalg.norm(q, axis=1)
    table["d"] = flumpy.from_numpy(np.divide(1.0, length, out=np.zeros_like(length), where=length > 0))
    table["intensity.sum.value"] = flumpy.from_numpy(np.ascontiguousarray(values, float))
    if sigmas is not None:
        table["intensity.sum.variance"] = flumpy.from_numpy(np.ascontiguousarray(sigmas, float) ** 2)
    table["id"] = flex.int(len(voxel), 0)
    table.as_file(str(path))
