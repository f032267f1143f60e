"""From the asymmetric unit of a map to boxes of reciprocal and of real space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.errors import DataError
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import Cell, cell_of_metric

__all__ = ["Box", "BoxTooLarge", "asymmetric_box_of", "delta_pdf", "reciprocal_map_cell", "whole_box"]

# Larger boxes are refused rather than left to fill the memory.
MAX_BOX = 2**30


class BoxTooLarge(DataError):
    """A box that no memory holds."""


@dataclass(frozen=True, eq=False)
class Box:
    """Values on a rectangular box of voxels.

    Attributes:
        values: (n_h, n_k, n_l), NaN where there is none.
        index_min: (3,) voxel index of the first.
        divisions: (3,) voxels per reciprocal lattice vector.
    """

    values: np.ndarray
    index_min: tuple[int, ...]
    divisions: tuple[int, ...]

    def axis(self, number: int) -> np.ndarray:
        """Return fractional Miller indices (n,) along one axis."""
        return (self.index_min[number] + np.arange(self.values.shape[number])) / self.divisions[number]


def asymmetric_box_of(grid: VoxelGrid, voxel: np.ndarray, values: np.ndarray) -> Box:
    """Return the grid's own box, which holds the asymmetric unit.

    Args:
        grid: to which the voxels belong.
        voxel, values: (n,).
    """
    box = np.full(grid.size, np.nan)
    box[voxel] = values
    return Box(box.reshape(grid.dimensions), grid.index_min, grid.divisions)


def whole_box(grid: VoxelGrid, voxel: np.ndarray, values: np.ndarray) -> Box:
    """Return all of reciprocal space to the resolution limit, by the symmetry of the Laue group.

    The box is centred on the origin and its sides are odd. Voxels beyond the limit are NaN.

    Args:
        grid: to which the voxels belong.
        voxel, values: (n,).

    Raises:
        BoxTooLarge: the box does not fit into memory.
    """
    lengths = np.linalg.norm(np.linalg.inv(grid.reciprocal_basis), axis=1)
    limits = np.floor(lengths / grid.d_min * np.array(grid.divisions) + 1e-6).astype(np.int64)
    shape = tuple(int(n) for n in 2 * limits + 1)
    if np.prod(shape, dtype=float) > MAX_BOX:
        raise BoxTooLarge(
            f"the whole of reciprocal space is {' x '.join(map(str, shape))} voxels, more than a box may hold"
        )
    table = np.full(grid.size, np.nan)
    table[voxel] = values
    box = np.empty(shape)
    columns = [np.arange(-limit, limit + 1) for limit in limits]
    low, dimensions = np.array(grid.index_min), np.array(grid.dimensions)
    # One plane at a time: the indices of a whole box would be four times its size.
    plane = np.stack(np.meshgrid([0], columns[1], columns[2], indexing="ij"), -1).reshape(-1, 3)
    for row, i in enumerate(columns[0]):
        plane[:, 0] = i
        at = fold(plane, grid.symmetry, grid.divisions)[0] - low
        inside = ((at >= 0) & (at < dimensions)).all(axis=1)
        found = np.full(len(plane), np.nan)
        found[inside] = table[np.ravel_multi_index(tuple(at[inside].T), grid.dimensions)]
        box[row] = found.reshape(shape[1:])
    return Box(box, tuple(-int(limit) for limit in limits), grid.divisions)


def delta_pdf(grid: VoxelGrid, box: Box, window: str = "gaussian") -> tuple[np.ndarray, Cell]:
    """Return the Fourier transform of a whole box: the three-dimensional pair distribution function.

    P(r) = integral of I(q) w(q) cos(2 pi q.r) dV_q; of diffuse scattering without Bragg peaks it is the
    3D-delta-PDF (Weber & Simonov (2012), Z. Kristallogr. 227, 238). Missing voxels count as 0, which is
    why the isotropic part is best removed first. Voxels n per reciprocal lattice vector reach n cells
    in real space.

    Args:
        grid: of the map.
        box: of `whole_box`.
        window: "gaussian", which falls to exp(-4) at the resolution limit, "hann", or "flat".

    Returns:
        Values (n_h, n_k, n_l) over the supercell of `divisions` cells, the origin at [0, 0, 0], in units of
        the intensity per cubic angstrom; and the supercell.
    """
    q_squared = np.zeros(box.values.shape)
    metric = grid.reciprocal_basis.T @ grid.reciprocal_basis
    axes = np.meshgrid(*(box.axis(number) for number in range(3)), indexing="ij", sparse=True)
    for a in range(3):
        for b in range(3):
            q_squared += metric[a, b] * axes[a] * axes[b]
    x = np.sqrt(q_squared) * grid.d_min
    if window == "gaussian":
        weight = np.exp(-4 * x**2)
    elif window == "hann":
        weight = np.where(x < 1, 0.5 * (1 + np.cos(np.pi * np.minimum(x, 1))), 0)
    else:
        weight = np.ones_like(x)
    values = np.nan_to_num(box.values) * weight
    voxel_volume = abs(np.linalg.det(grid.reciprocal_basis)) / np.prod(box.divisions)
    transform = np.fft.fftn(np.fft.ifftshift(values)).real * voxel_volume
    # Voxels 1/n apart repeat after n cells.
    step = grid.reciprocal_basis / np.array(box.divisions, float)
    return transform, cell_of_metric(step.T @ step)


def reciprocal_map_cell(grid: VoxelGrid, shape: tuple[int, ...], scale: float) -> Cell:
    """Return the "unit cell" of a box of reciprocal space written as if it were one of real space.

    Args:
        grid: of the map.
        shape: (3,) of the box.
        scale: map angstrom per 1/angstrom.
    """
    edges = grid.reciprocal_basis * (np.array(shape) / np.array(grid.divisions)) * scale
    return cell_of_metric(np.linalg.inv(edges.T @ edges))
