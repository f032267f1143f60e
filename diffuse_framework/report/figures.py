"""Every plot, once; each function draws into the axes it is given."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.model.grid import VoxelGrid


def plane_values(
    grid: VoxelGrid, voxel: np.ndarray, values: np.ndarray, axis: int, level: float, reach: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the whole plane of reciprocal space where one index is constant, by symmetry.

    Args:
        grid: the voxel grid.
        voxel: (n,) numbers of the voxels that have a value.
        values: (n,).
        axis: 0, 1 or 2: the index that is constant.
        level: its value, moved to the nearest voxel centre.
        reach: resolution limit |q| in 1/angstrom; the grid's where None.

    Returns:
        Plane (rows, columns) with NaN where there is no value, and the indices along rows and
        columns, the two other axes in their order.
    """
    reach = reach or 1 / grid.d_min
    lengths = np.linalg.norm(np.linalg.inv(grid.reciprocal_basis), axis=1)
    limits = np.floor(lengths * reach * np.array(grid.divisions)).astype(int)
    rows, columns = (number for number in range(3) if number != axis)
    row_index, column_index = (np.arange(-limits[n], limits[n] + 1) for n in (rows, columns))
    index = np.empty((len(row_index), len(column_index), 3), np.int64)
    index[..., axis] = round(level * grid.divisions[axis])
    index[..., rows], index[..., columns] = row_index[:, None], column_index
    folded, _ = fold(index.reshape(-1, 3), grid.symmetry, grid.divisions)
    offset = folded - np.array(grid.index_min)
    inside = ((offset >= 0) & (offset < np.array(grid.dimensions))).all(axis=1)
    numbers = np.ravel_multi_index(offset[inside].T, grid.dimensions)
    where = np.searchsorted(voxel, numbers)
    where[where == len(voxel)] = 0
    found = voxel[where] == numbers
    plane = np.full(len(folded), np.nan)
    plane[np.flatnonzero(inside)[found]] = values[where[found]]
    return (
        plane.reshape(index.shape[:2]),
        row_index / grid.divisions[rows],
        column_index / grid.divisions[columns],
    )


def draw_plane(
    axes: Axes, plane: np.ndarray, rows: np.ndarray, columns: np.ndarray, labels: tuple[str, str], **colours
) -> AxesImage:
    """Draw a plane of `plane_values`; `labels` name rows and columns, `colours` go to imshow."""
    half_row, half_column = (0.5 * (x[1] - x[0]) if len(x) > 1 else 0.5 for x in (rows, columns))
    extent = (columns[0] - half_column, columns[-1] + half_column, rows[0] - half_row, rows[-1] + half_row)
    picture = axes.imshow(plane, origin="lower", extent=extent, aspect="auto", interpolation="nearest", **colours)
    axes.set_ylabel(labels[0])
    axes.set_xlabel(labels[1])
    return picture
