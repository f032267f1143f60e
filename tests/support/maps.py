"""Known maps, and maps with Poisson noise drawn from them, without images."""

from __future__ import annotations

import numpy as np

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.comparison.grids import grid_to, numbers_on, q_lengths
from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import Cell
from diffuse_framework.model.voxel_map import VoxelMap
from diffuse_framework.model.voxels import COLUMN_TYPES, SumsInMemory, SumsTable

TETRAGONAL = (30.0, 30.0, 38.0, 90.0, 90.0, 90.0)


def all_voxels(
    space_group: str = "P4", cell: Cell = TETRAGONAL, divisions: tuple[int, ...] = (2, 2, 2), d_min: float = 2.5
) -> tuple[VoxelGrid, np.ndarray]:
    """Return a grid and the numbers of all voxels of its asymmetric unit within the limit."""
    grid = grid_to(cell, symmetry_of(space_group), divisions, d_min)
    voxel = np.arange(grid.size)
    index = grid.index_of(voxel)
    inside = (fold(index, grid.symmetry, divisions)[0] == index).all(axis=1)
    return grid, voxel[inside & (q_lengths(grid, voxel) <= 1 / d_min)]


def true_map(grid: VoxelGrid, voxel: np.ndarray, seed: int = 0, level: float = 20.0) -> np.ndarray:
    """Return intensities (n,): a ring in |q|, and features of each voxel's own on it."""
    q = q_lengths(grid, voxel)
    ring = 1 + np.exp(-(((q - 0.25) / 0.1) ** 2))
    return level * ring * np.random.default_rng(seed).gamma(6, 1 / 6, len(voxel))


def drawn_map(
    grid: VoxelGrid,
    voxel: np.ndarray,
    truth: np.ndarray,
    seed: int,
    exposure: float = 1.0,
    scale: float = 1.0,
    halves: bool = True,
    name: str = "",
) -> VoxelMap:
    """Return a map with Poisson noise and errors that follow from the truth, on a scale of its own."""
    rng = np.random.default_rng(seed)
    exposed = exposure * (0.5 + rng.random(len(voxel)))
    counts = rng.poisson(truth * exposed)
    half = rng.binomial(counts, 0.5)
    return VoxelMap(
        grid,
        voxel,
        scale * counts / exposed,
        scale * np.sqrt(truth * exposed) / exposed,
        scale * np.stack([2 * half, 2 * (counts - half)]) / exposed if halves else None,
        name=name,
    )


def binned(
    hkl: np.ndarray, counts: np.ndarray, exposure: np.ndarray, image: np.ndarray, grid: VoxelGrid
) -> SumsInMemory:
    """Return the sums of pixels (n,) at fractional indices (n, 3) as accumulation makes them, a row for each pixel."""
    number = numbers_on(grid, np.rint(hkl * np.array(grid.divisions)).astype(np.int64))
    use = np.flatnonzero(number >= 0)
    use = use[np.lexsort((number[use], image[use]))]
    columns = {name: np.zeros(len(use), kind) for name, kind in COLUMN_TYPES.items()}
    columns |= {
        "image": image[use].astype(np.int32),
        "voxel": number[use],
        "counts": counts[use].astype(np.float32),
        "exposure": exposure[use].astype(np.float32),
        "pixels": np.ones(len(use), np.float32),
    }
    names = tuple(f"image_{n}.cbf" for n in range(int(image.max()) + 1))
    return SumsInMemory(grid, names, (SumsTable(**columns),))
