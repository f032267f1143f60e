"""Smooth functions from control points, as in DIALS's Gaussian smoothers.

A value is the mean of the three nearest control points weighted by a Gaussian of their distance
(Evans & Murshudov 2013, Acta Cryst. D69, 1204, section 2.1; `dials.algorithms.refinement`'s
``gaussian_smoother.h``). In two and three dimensions the weights are products of those along each
axis, because every axis here has the same relative width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import sparse

from diffuse_framework.errors import ConfigError

# Of the Gaussian, in units of the spacing: DIALS's choice where three points are averaged.
WIDTH = 0.7

# Relative weight of a control point one spacing away.
_NEXT = float(np.exp(-1 / WIDTH**2))


@dataclass(frozen=True)
class Axis:
    """Control points of one coordinate.

    With one value the function is constant. Otherwise there are three, at the ends and in the
    middle, or ``n + 2`` for n >= 3 intervals, half a spacing off the ends of each interval.

    Attributes:
        start: coordinate at which the first interval begins.
        spacing: length of an interval, in the coordinate's unit.
        n_values: number of control points: 1, 3, 5, 6, 7, ...
    """

    start: float
    spacing: float
    n_values: int

    @property
    def n_intervals(self) -> int:
        """Number of intervals between start and end; 0 for a constant."""
        return {1: 0, 3: 2}.get(self.n_values, self.n_values - 2)

    @property
    def positions(self) -> np.ndarray:
        """Coordinates of the control points, (n_values,)."""
        shift = 0.0 if self.n_values <= 3 else -0.5
        return self.start + self.spacing * (np.arange(self.n_values) + shift)


CONSTANT = Axis(0.0, 1.0, 1)


def axis_over(low: float, high: float, spacing: float | None) -> Axis:
    """Return an axis from `low` to `high` with intervals of about `spacing`, at least two.

    Args:
        low, high: ends of the range, in the unit of `spacing`.
        spacing: wanted distance of control points; None for a constant.

    Raises:
        ConfigError: a spacing that is not positive.
    """
    if spacing is None or high <= low:
        return CONSTANT
    if not spacing > 0:
        raise ConfigError(f"control points {spacing} apart: a spacing must be above 0, or None for a constant")
    intervals = max(2, round((high - low) / spacing))
    return Axis(low, (high - low) / intervals, 3 if intervals == 2 else intervals + 2)


@njit(cache=True, error_model="numpy", inline="always")
def weights_at(x, start, spacing, n_values):
    """Return the first of three neighbouring control points and their weights, which sum to 1."""
    if n_values == 1:
        return 0, 1.0, 0.0, 0.0
    z = (x - start) / spacing
    if n_values == 3:
        z = min(max(z, 0.0), 2.0)
        first = 0
        middle = 1.0
    else:
        z = min(max(z, 0.0), n_values - 2.0)
        # iround(z - 1.5) + 1, where halves round away from zero.
        first = int(np.floor(z - 1.0)) + 1 if z >= 1.5 else int(np.ceil(z - 2.0)) + 1
        middle = first + 0.5
    # Relative to the middle one the outer weights are k r and k / r: one exponential, not three.
    r = np.exp(-2 * (z - middle) / (WIDTH * WIDTH))
    below, above = _NEXT * r, _NEXT / r
    if first < 0:
        # At the ends there are two, of a triple that is moved inside so that it may always be read.
        scale = 1 / (1 + above)
        return 0, scale, above * scale, 0.0
    if first + 3 > n_values:
        scale = 1 / (1 + below)
        return first - 1, 0.0, below * scale, scale
    scale = 1 / (1 + below + above)
    return first, below * scale, scale, above * scale


@njit(cache=True, error_model="numpy")
def _many(x, start, spacing, n_values, first, weights):
    for row in range(len(x)):
        first[row], weights[row, 0], weights[row, 1], weights[row, 2] = weights_at(x[row], start, spacing, n_values)


@njit(cache=True, error_model="numpy")
def _line(x, start, spacing, n_values, values, out):
    for row in range(len(x)):
        if row > 0 and x[row] == x[row - 1]:
            out[row] = out[row - 1]
            continue
        first, w0, w1, w2 = weights_at(x[row], start, spacing, n_values)
        out[row] = w0 * values[first]
        if n_values > 1:
            out[row] += w1 * values[first + 1] + w2 * values[first + 2]


def line_at(axis: Axis, values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return what control points (n_values,) make at `x` (n,), (n,); fastest where equal x follow each other."""
    result = np.empty(len(x))
    _line(x, axis.start, axis.spacing, axis.n_values, values, result)
    return result


def weight_matrix(axis: Axis, x: np.ndarray) -> sparse.csr_matrix:
    """Return the matrix (n, n_values) that turns control points into values at `x` (n,)."""
    x = np.ascontiguousarray(x, float)
    first, weights = np.zeros(len(x), np.int64), np.zeros((len(x), 3))
    _many(x, axis.start, axis.spacing, axis.n_values, first, weights)
    row = np.repeat(np.arange(len(x)), 3)
    column = np.minimum(first[:, None] + np.arange(3), axis.n_values - 1).ravel()
    matrix = sparse.csr_matrix((weights.ravel(), (row, column)), (len(x), axis.n_values))
    matrix.eliminate_zeros()
    return matrix


def second_differences(n_values: int) -> sparse.csr_matrix:
    """Return the matrix (n - 2, n) of second differences along control points; empty for fewer than 3."""
    rows = max(n_values - 2, 0)
    if not rows:
        return sparse.csr_matrix((0, n_values))
    return sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], (rows, n_values), format="csr")
