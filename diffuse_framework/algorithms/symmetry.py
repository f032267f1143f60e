"""Folding voxel indices into the asymmetric unit of a Laue group.

The asymmetric units are those of the cctbx reference settings, so that folded indices are
where a crystallographer expects them (checked against cctbx in the tests).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_framework.errors import GeometryError
from diffuse_framework.model.experiment import Symmetry

__all__ = [
    "asymmetric_box",
    "fold",
    "fold_one",
    "inside_unit",
    "orbit_sizes",
    "q2_limits",
    "q_squared",
    "voxel_operators",
]

LAUE_CLASSES = (
    "-1",
    "2/m",
    "mmm",
    "4/m",
    "4/mmm",
    "-3",
    "-31m",
    "-3m1",
    "6/m",
    "6/mmm",
    "m-3",
    "m-3m",
)


@njit(cache=True, inline="always")
def inside_unit(laue, h, k, l):
    """Whether (h, k, l) lies in the asymmetric unit of Laue class number `laue`."""
    if laue == 0:
        return l > 0 or (l == 0 and (h > 0 or (h == 0 and k >= 0)))
    if laue == 1:
        return k >= 0 and (l > 0 or (l == 0 and h >= 0))
    if laue == 2:
        return h >= 0 and k >= 0 and l >= 0
    if laue == 3 or laue == 8:
        return l >= 0 and ((h >= 0 and k > 0) or (h == 0 and k == 0))
    if laue == 4 or laue == 9:
        return h >= k and k >= 0 and l >= 0
    if laue == 5:
        return (h >= 0 and k > 0) or (h == 0 and k == 0 and l >= 0)
    if laue == 6:
        return h >= k and k >= 0 and (k > 0 or l >= 0)
    if laue == 7:
        return h >= k and k >= 0 and (h > k or l >= 0)
    if laue == 10:
        return h >= 0 and ((l >= h and k > h) or (l == h and k == h))
    return k >= l and l >= h and h >= 0


@njit(cache=True, inline="always")
def fold_one(i, j, k, operators, cuts, laue):
    """Return (operator number, i, j, k) of the representative in the asymmetric unit.

    Args:
        i, j, k: integer voxel index.
        operators: (n, 3, 3) int64 in units of voxels (see `voxel_operators`).
        cuts: (n, 3, 3) int64, asymmetric-unit matrix times each operator.
        laue: number of the Laue class.
    """
    for m in range(len(operators)):
        c = cuts[m]
        if inside_unit(
            laue,
            c[0, 0] * i + c[0, 1] * j + c[0, 2] * k,
            c[1, 0] * i + c[1, 1] * j + c[1, 2] * k,
            c[2, 0] * i + c[2, 1] * j + c[2, 2] * k,
        ):
            o = operators[m]
            return (
                m,
                o[0, 0] * i + o[0, 1] * j + o[0, 2] * k,
                o[1, 0] * i + o[1, 1] * j + o[1, 2] * k,
                o[2, 0] * i + o[2, 1] * j + o[2, 2] * k,
            )
    return -1, i, j, k


@njit(cache=True)
def _fold_many(index, operators, cuts, laue, folded, operator):
    for n in range(len(index)):
        operator[n], folded[n, 0], folded[n, 1], folded[n, 2] = fold_one(
            index[n, 0], index[n, 1], index[n, 2], operators, cuts, laue
        )


def voxel_operators(symmetry: Symmetry, divisions: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return what `fold_one` needs for a grid with these divisions.

    Returns:
        Operators on voxel indices (n, 3, 3), cuts (n, 3, 3), and the number of the Laue class.

    Raises:
        GeometryError: the divisions are not invariant under the Laue group.
    """
    n = np.asarray(divisions, np.int64)
    numerator = symmetry.operators.astype(np.int64) * n[:, None]
    if (numerator % n).any():
        pairs = np.argwhere((numerator % n).any(axis=0))[0]
        axes = " and ".join("hkl"[axis] for axis in pairs)
        raise GeometryError(
            f"Laue group {symmetry.laue_group} ({symmetry.space_group}) mixes the axes {axes}, but the grid "
            f"divides h, k and l by {','.join(map(str, divisions))}: give axes that are mixed equal divisions"
        )
    operators = numerator // n
    common = np.lcm.reduce(n)
    asu = symmetry.asu_matrix.astype(np.int64) * (common // n)
    cuts = np.einsum("ab,mbc->mac", asu, operators)
    return np.ascontiguousarray(operators), np.ascontiguousarray(cuts), LAUE_CLASSES.index(symmetry.laue_group)


def fold(index: np.ndarray, symmetry: Symmetry, divisions: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return representatives (n, 3) of voxel indices (n, 3) and the operators (n,) that lead there."""
    operators, cuts, laue = voxel_operators(symmetry, divisions)
    index = np.ascontiguousarray(index, np.int64)
    folded = np.empty_like(index)
    operator = np.empty(len(index), np.int64)
    _fold_many(index, operators, cuts, laue, folded, operator)
    return folded, operator


@njit(cache=True, inline="always")
def q_squared(i, j, k, metric):
    """Return |q|^2 of an index, metric (3, 3) being that of the reciprocal axes of the index."""
    return (
        metric[0, 0] * i * i
        + metric[1, 1] * j * j
        + metric[2, 2] * k * k
        + 2 * (metric[0, 1] * i * j + metric[0, 2] * i * k + metric[1, 2] * j * k)
    )


@njit(cache=True)
def _within(i, j, metric, q2_max):
    """Return the first and the last k with q2 up to the limit; last < first where there is none."""
    nearest = -(metric[0, 2] * i + metric[1, 2] * j) / metric[2, 2]
    middle = int(np.rint(nearest))
    if q_squared(i, j, middle, metric) > q2_max:
        return middle, middle - 1
    reach = np.sqrt(max((q2_max - q_squared(i, j, nearest, metric)) / metric[2, 2], 0.0))
    first, last = int(np.ceil(nearest - reach)), int(np.floor(nearest + reach))
    # What rounding left out, or took in.
    first -= q_squared(i, j, first - 1, metric) <= q2_max
    last += q_squared(i, j, last + 1, metric) <= q2_max
    first += q_squared(i, j, first, metric) > q2_max
    last -= q_squared(i, j, last, metric) > q2_max
    return first, last


@njit(cache=True)
def _box(limits, metric, q2_min, q2_max, cut, laue):
    """Return the number of voxels of the asymmetric unit within the limits, and their bounds."""
    low = np.full(3, np.iinfo(np.int64).max)
    high = np.full(3, np.iinfo(np.int64).min)
    count = 0
    # Where the third axis is that of l, all but cubic units have of a line what is above, at or below l = 0.
    by_sign = laue < 10 and cut[0, 2] == 0 and cut[1, 2] == 0 and cut[2, 0] == 0 and cut[2, 1] == 0
    for i in range(-limits[0], limits[0] + 1):
        for j in range(-limits[1], limits[1] + 1):
            first, last = _within(i, j, metric, q2_max)
            # Lines that meet the hole at low q are gone along step by step.
            nearest = -(metric[0, 2] * i + metric[1, 2] * j) / metric[2, 2]
            whole = by_sign and q_squared(i, j, nearest, metric) >= q2_min
            k = first
            while k <= last:
                end = k
                if whole:
                    end = last if k > 0 else (0 if k == 0 else min(-1, last))
                q2 = q_squared(i, j, k, metric)
                if q2_min <= q2 <= q2_max and inside_unit(
                    laue,
                    cut[0, 0] * i + cut[0, 1] * j + cut[0, 2] * k,
                    cut[1, 0] * i + cut[1, 1] * j + cut[1, 2] * k,
                    cut[2, 0] * i + cut[2, 1] * j + cut[2, 2] * k,
                ):
                    count += end - k + 1
                    low[0], high[0] = min(low[0], i), max(high[0], i)
                    low[1], high[1] = min(low[1], j), max(high[1], j)
                    low[2], high[2] = min(low[2], k), max(high[2], end)
                k = end + 1
    return count, low, high


def q2_limits(d_min: float, d_max: float) -> tuple[float, float]:
    """Return the limits of |q|^2 in 1/angstrom^2, wide enough for voxels that lie right on them."""
    return (1 - 1e-9) / d_max**2, (1 + 1e-9) / d_min**2


def asymmetric_box(
    symmetry: Symmetry,
    divisions: tuple[int, ...],
    reciprocal_basis: np.ndarray,
    d_min: float,
    d_max: float = np.inf,
) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the number of voxels of the asymmetric unit with d_min <= d <= d_max, and its bounds.

    Returns:
        Count, smallest voxel index (3,), largest voxel index (3,).

    Raises:
        GeometryError: divisions that symmetry does not allow, or no voxel within the limits.
    """
    _, cuts, laue = voxel_operators(symmetry, divisions)
    basis = reciprocal_basis / np.array(divisions, float)
    cell_lengths = np.linalg.norm(np.linalg.inv(basis), axis=1)
    limits = np.floor(cell_lengths / d_min + 1e-9).astype(np.int64)
    count, low, high = _box(limits, basis.T @ basis, *q2_limits(d_min, d_max), cuts[0], laue)
    if count == 0:
        raise GeometryError(f"no voxel lies between d = {d_min:g} and {d_max:g} angstrom")
    return count, low, high


def orbit_sizes(index: np.ndarray, symmetry: Symmetry, divisions: tuple[int, ...]) -> np.ndarray:
    """Return how many voxels of reciprocal space each voxel index (n, 3) stands for, (n,).

    This is the order of the Laue group where a voxel lies on no symmetry element, less where it does.
    """
    operators, _, _ = voxel_operators(symmetry, divisions)
    index = np.asarray(index, np.int64)
    fixed = np.zeros(len(index), np.int64)
    for operator in operators:
        fixed += (index @ operator.T == index).all(axis=1)
    return len(operators) // fixed
