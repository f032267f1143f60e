"""Grids of maps that come from anywhere, and whether two of them can be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numba import njit

from diffuse_framework.algorithms.lattice import symmetrized_cell
from diffuse_framework.algorithms.symmetry import asymmetric_box, fold, fold_one, q_squared, voxel_operators
from diffuse_framework.errors import DataError, GeometryError
from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import Cell, reciprocal_basis
from diffuse_framework.model.maps import RELATIVE
from diffuse_framework.model.voxel_map import VoxelMap

__all__ = [
    "common_grid",
    "grid_to",
    "make_map",
    "moved_numbers",
    "numbers_on",
    "q_lengths",
    "require_same_cell",
    "symmetrised",
    "with_symmetry_of_both",
]

# Mates whose intensities differ by less than this, relative to the mean, are copies of one measurement: what single
# precision leaves of them.
_COPIES = 1e-5


def grid_to(
    cell: Cell, symmetry: Symmetry, divisions: tuple[int, ...], d_min: float, d_max: float = np.inf
) -> VoxelGrid:
    """Return the grid that holds the asymmetric unit from d_max to d_min, angstrom.

    Raises:
        GeometryError: divisions that the symmetry does not allow, or no voxel within the limits.
    """
    divisions = tuple(int(n) for n in divisions)
    cell = symmetrized_cell(cell, symmetry.operators)
    count, low, high = asymmetric_box(symmetry, divisions, reciprocal_basis(cell), d_min, d_max)
    dimensions = tuple(int(n) for n in high - low + 1)
    if np.prod(dimensions, dtype=float) >= 2**31:
        raise GeometryError(f"a grid of {' x '.join(map(str, dimensions))} voxels is too large; raise d_min")
    return VoxelGrid(
        cell, symmetry, divisions, tuple(int(n) for n in low), dimensions, float(d_min), float(d_max), int(count)
    )


def numbers_on(grid: VoxelGrid, index: np.ndarray) -> np.ndarray:
    """Return the voxel numbers (n,) of voxel indices (n, 3), folded by symmetry; -1 for those outside the grid."""
    place = fold(index, grid.symmetry, grid.divisions)[0] - np.array(grid.index_min)
    inside = ((place >= 0) & (place < np.array(grid.dimensions))).all(axis=1)
    numbers = np.full(len(index), -1, np.int64)
    numbers[inside] = np.ravel_multi_index(tuple(place[inside].T), grid.dimensions)
    return numbers


@njit(cache=True, nogil=True)
def _moved(voxel, old, matrix, new, operators, cuts, laue, result):
    low, dimensions = old
    new_low, new_dimensions = new
    plane = dimensions[1] * dimensions[2]
    for n in range(len(voxel)):
        i, rest = divmod(voxel[n], plane)
        j, k = divmod(rest, dimensions[2])
        i, j, k = i + low[0], j + low[1], k + low[2]
        _, x, y, z = fold_one(
            matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k,
            matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k,
            matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k,
            operators,
            cuts,
            laue,
        )
        x, y, z = x - new_low[0], y - new_low[1], z - new_low[2]
        inside = 0 <= x < new_dimensions[0] and 0 <= y < new_dimensions[1] and 0 <= z < new_dimensions[2]
        result[n] = (x * new_dimensions[1] + y) * new_dimensions[2] + z if inside else -1


def moved_numbers(old: VoxelGrid, voxel: np.ndarray, new: VoxelGrid, operator: np.ndarray | None = None) -> np.ndarray:
    """Return the numbers (n,) that voxels have on a grid of the same divisions, -1 outside of it.

    Args:
        old: grid of the voxels.
        voxel: (n,) their numbers.
        new: grid, by whose symmetry they are folded.
        operator: (3, 3) integers that act on voxel indices before.
    """
    matrix = np.eye(3, dtype=np.int64) if operator is None else np.ascontiguousarray(operator, np.int64)
    result = np.empty(len(voxel), np.int64)
    boxes = [(np.array(grid.index_min), np.array(grid.dimensions)) for grid in (old, new)]
    _moved(voxel, boxes[0], matrix, boxes[1], *voxel_operators(new.symmetry, new.divisions), result)
    return result


def make_map(
    cell: Cell,
    symmetry: Symmetry,
    divisions: tuple[int, ...],
    index: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray | None = None,
    halves: np.ndarray | None = None,
    units: str = RELATIVE,
    name: str = "",
) -> VoxelMap:
    """Return the map of voxel indices and intensities, symmetry mates merged.

    Args:
        cell: angstrom and degrees.
        symmetry: of the map.
        divisions: voxels per reciprocal lattice vector.
        index: (n, 3) integer voxel indices, anywhere in reciprocal space.
        intensity: (n,); what isn't finite is left out.
        sigma: (n,) or None.
        halves: (2, n) or None.
        units: of the intensity.
        name: of the map.

    Raises:
        DataError: no finite intensity.
        GeometryError: divisions that the symmetry does not allow.
    """
    known = np.isfinite(intensity)
    if sigma is not None:
        # An error of infinity or of zero is how some programs mark what they filled in.
        known &= np.isfinite(sigma) & (sigma > 0)
    if not known.any():
        raise DataError(f"{name or 'the map'} holds no finite intensity")
    index, intensity = index[known], np.asarray(intensity[known], float)
    basis = reciprocal_basis(cell)
    q = np.linalg.norm((index / np.array(divisions, float)) @ basis.T, axis=1)
    grid = grid_to(cell, symmetry, divisions, 1 / max(float(q.max()) * (1 + 1e-6), 1e-6))
    return merge_mates(
        grid,
        numbers_on(grid, index),
        intensity,
        None if sigma is None else np.asarray(sigma[known], float),
        None if halves is None else np.asarray(halves[:, known], float),
        units,
        name,
    )


def merge_mates(
    grid: VoxelGrid,
    numbers: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray | None = None,
    halves: np.ndarray | None = None,
    units: str = RELATIVE,
    name: str = "",
) -> VoxelMap:
    """Return the map of voxel numbers (n,) that may occur several times: plain means of mates.

    The error of a mean of independent values is what follows from theirs; mates that are equal to rounding are
    copies, whose error none of them lowers.

    Args:
        grid: of the numbers; -1 is left out.
        numbers, intensity, sigma, halves: see `make_map`.
        units: of the intensity.
        name: of the map.
    """
    inside = numbers >= 0
    if not inside.all():
        numbers, intensity = numbers[inside], intensity[inside]
        sigma = None if sigma is None else sigma[inside]
        halves = None if halves is None else halves[:, inside]
    voxel, row = _unique(grid, numbers)
    n = np.bincount(row, minlength=len(voxel))
    mean = np.bincount(row, intensity, len(voxel)) / n
    variance = None
    if sigma is not None:
        apart = float(np.abs(intensity - mean[row]).max(initial=0.0))
        copies = apart <= _COPIES * float(np.abs(mean).mean())
        variance = np.bincount(row, sigma**2, len(voxel)) / (n if copies else n**2)
    both = None if halves is None else np.stack([np.bincount(row, half, len(voxel)) / n for half in halves])
    return VoxelMap(grid, voxel, mean, None if variance is None else np.sqrt(variance), both, units=units, name=name)


def _unique(grid: VoxelGrid, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers that occur, ascending, and which of them each one is."""
    seen = np.zeros(grid.size, bool)
    seen[numbers] = True
    voxel = np.flatnonzero(seen)
    place = np.zeros(grid.size, np.int32)
    place[voxel] = np.arange(len(voxel))
    return voxel, place[numbers]


def symmetrised(one: VoxelMap, symmetry: Symmetry) -> VoxelMap:
    """Return a map averaged over a higher symmetry.

    Args:
        one: the map.
        symmetry: whose operators include those of the map.

    Raises:
        GeometryError: divisions that it does not allow.
    """
    grid = grid_to(one.grid.cell, symmetry, one.grid.divisions, one.grid.d_min, one.grid.d_max)
    numbers = moved_numbers(one.grid, one.voxel, grid)
    return merge_mates(grid, numbers, one.intensity, one.sigma, one.halves, one.units, one.name)


def with_symmetry_of_both(a: VoxelMap, b: VoxelMap) -> tuple[VoxelMap, VoxelMap, list[str]]:
    """Return both maps in one symmetry: the map of the lower one is averaged over that of the other.

    Returns:
        Both, and what was done, in sentences.

    Raises:
        DataError: the Laue group of neither holds that of the other.
    """
    first, second = (_as_set(one.grid.symmetry) for one in (a, b))
    if first == second:
        return a, b, []
    if second < first:
        return a, symmetrised(b, a.grid.symmetry), [_averaged("B", b, a)]
    if first < second:
        return symmetrised(a, b.grid.symmetry), b, [_averaged("A", a, b)]
    raise DataError(
        f"{a.name or 'A'} has Laue group {a.grid.symmetry.laue_group} ({a.grid.symmetry.space_group}) and "
        f"{b.name or 'B'} {b.grid.symmetry.laue_group} ({b.grid.symmetry.space_group}), and neither is part of the "
        "other: bring them to one setting first"
    )


def _averaged(letter: str, low: VoxelMap, high: VoxelMap) -> str:
    laue, other = low.grid.symmetry.laue_group, high.grid.symmetry.laue_group
    return f"{letter} is averaged from Laue group {laue} to {other}, that of the other map"


def _as_set(symmetry: Symmetry) -> frozenset[bytes]:
    return frozenset(operator.astype(np.int64).tobytes() for operator in symmetry.operators)


def require_same_cell(a: VoxelMap, b: VoxelMap, tolerance: float) -> None:
    """Check that the cells of two maps agree.

    Args:
        a, b: the maps.
        tolerance: of edges, relative; of angles, as if it were radians.

    Raises:
        DataError: they don't.
    """
    first, second = np.array(a.grid.cell), np.array(b.grid.cell)
    off = max(float(np.abs(second[:3] / first[:3] - 1).max()), float(np.radians(np.abs(second[3:] - first[3:])).max()))
    if off > tolerance:
        cells = [" ".join(f"{x:.2f}" for x in cell) for cell in (first, second)]
        raise DataError(
            f"the unit cells differ by {100 * off:.1f} %: {a.name or 'A'} has {cells[0]}, {b.name or 'B'} {cells[1]}; "
            f"for the same crystal form set cell_tolerance={np.ceil(100 * off):.0f}"
        )


def common_grid(a: VoxelGrid, b: VoxelGrid, lowest_d: float | None = None, highest_d: float | None = None) -> VoxelGrid:
    """Return the grid on which two maps of one symmetry can be compared: A's cell, the coarser divisions of each axis.

    Args:
        a, b: grids of the maps.
        lowest_d, highest_d: further resolution limits in angstrom, None for none.

    Raises:
        DataError: coarser divisions that the symmetry does not allow, or resolution limits without overlap.
    """
    divisions = tuple(min(pair) for pair in zip(a.divisions, b.divisions, strict=True))
    d_min = max(a.d_min, b.d_min, lowest_d or 0.0)
    d_max = min(a.d_max, b.d_max, highest_d or np.inf)
    if d_min >= d_max:
        raise DataError(
            f"the maps have no resolution in common: A reaches from {a.d_max:.4g} to {a.d_min:.4g} angstrom, B from "
            f"{b.d_max:.4g} to {b.d_min:.4g}"
        )
    if divisions == tuple(a.divisions):
        return a if d_min == a.d_min and d_max == a.d_max else _limited(a, d_min, d_max)
    return grid_to(a.cell, a.symmetry, divisions, d_min, d_max)


def _limited(grid: VoxelGrid, d_min: float, d_max: float) -> VoxelGrid:
    """Return a grid with the same numbers and other limits."""
    count, _, _ = asymmetric_box(grid.symmetry, grid.divisions, grid.reciprocal_basis, d_min, d_max)
    return replace(grid, d_min=d_min, d_max=d_max, n_voxels=int(count))


@njit(cache=True, nogil=True)
def _lengths(voxel, low, dimensions, metric, result):
    plane = dimensions[1] * dimensions[2]
    for n in range(len(voxel)):
        i, rest = divmod(voxel[n], plane)
        j, k = divmod(rest, dimensions[2])
        result[n] = np.sqrt(q_squared(i + low[0], j + low[1], k + low[2], metric))


def q_lengths(grid: VoxelGrid, voxel: np.ndarray) -> np.ndarray:
    """Return |q| (n,) of voxel centres, 1/angstrom, without the vectors: of large maps those are most of the memory."""
    basis = grid.reciprocal_basis / np.array(grid.divisions, float)
    result = np.empty(len(voxel))
    _lengths(voxel, np.array(grid.index_min), np.array(grid.dimensions), basis.T @ basis, result)
    return result
