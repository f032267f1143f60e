"""The scale and the isotropic offset between two maps that both have errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.errors import ConfigError

__all__ = ["SCALES", "Scaling", "fit_scaling"]

SCALES = ("single", "shells", "none")

# More voxels than this are sampled evenly: the scale is then known to better than one in a thousand.
_ENOUGH = 1_000_000
_MOST_CYCLES = 50


@dataclass(frozen=True, eq=False)
class Scaling:
    """What B is multiplied by and what is added to it, to be on the scale of A.

    Attributes:
        q: (m,) points of |q| in 1/angstrom, between which both are linear.
        factor: (m,) that multiplies B.
        offset: (m,) that is added, in units of A.
        found: whether the maps told the scale; if not, it is the ratio of their spreads.
    """

    q: np.ndarray
    factor: np.ndarray
    offset: np.ndarray
    found: bool = True

    def at(self, q: np.ndarray) -> tuple[np.ndarray | float, np.ndarray | float]:
        """Return factor and offset at |q| (n,); numbers where they are constant."""
        parts = []
        for values in (self.factor, self.offset):
            constant = (values == values[0]).all()
            parts.append(float(values[0]) if constant else np.interp(q, self.q, values))
        return parts[0], parts[1]


@njit(cache=True, nogil=True)
def _equations(a, b, variance_a, variance_b, q, low, step, factor, offset, single, with_factor, with_offset):
    """Return matrix and right side of the linear equations that one cycle solves (see `fit_scaling`)."""
    m = len(factor)
    n_factors = (1 if single else m) if with_factor else 0
    size = n_factors + (m if with_offset else 0)
    matrix, right = np.zeros((size, size)), np.zeros(size)
    where, z, x = np.zeros(4, np.int64), np.zeros(4), np.zeros(4)
    for n in range(len(a)):
        t = min(max((q[n] - low) / step, 0.0), m - 1.0)
        node = min(int(t), m - 2)
        f = t - node
        k = factor[node] * (1 - f) + factor[node + 1] * f
        c = offset[node] * (1 - f) + offset[node + 1] * f
        variance = variance_a[n] + k * k * variance_b[n]
        if variance <= 0:
            continue
        w = 1 / variance
        true_b = b[n] + k * variance_b[n] * w * (a[n] - k * b[n] - c)
        terms = 0
        known = 0.0
        if with_factor:
            if single:
                where[0], z[0], x[0] = 0, true_b, b[n]
                terms = 1
            else:
                where[0], z[0], x[0] = node, true_b * (1 - f), b[n] * (1 - f)
                where[1], z[1], x[1] = node + 1, true_b * f, b[n] * f
                terms = 2
        else:
            known = k * b[n]
        if with_offset:
            where[terms], z[terms], x[terms] = n_factors + node, 1 - f, 1 - f
            where[terms + 1], z[terms + 1], x[terms + 1] = n_factors + node + 1, f, f
            terms += 2
        for i in range(terms):
            right[where[i]] += w * z[i] * (a[n] - known)
            for j in range(terms):
                matrix[where[i], where[j]] += w * z[i] * x[j]
    return matrix, right


def fit_scaling(
    a: np.ndarray,
    b: np.ndarray,
    sigma_a: np.ndarray | None,
    sigma_b: np.ndarray | None,
    q: np.ndarray,
    scale: str = "single",
    offset: bool = True,
    nodes: int = 11,
) -> Scaling:
    """Return the scale k and the offset c(|q|) for which a = k b + c, both maps having errors.

    It minimises sum (a - k b - c)^2 / (sigma_a^2 + k^2 sigma_b^2), which is unbiased where a regression on a noisy b
    would find k too small (Deming's regression; York et al. (2004), Am. J. Phys. 72, 367). Each cycle solves the
    linear equations sum w (a - k b - c) z = 0, with z the estimated true b for k and 1 for c.
    A map without errors counts as exact; where neither has any, both are taken to be as noisy in proportion to their
    spread.

    Args:
        a, b: (n,) intensities of the same voxels.
        sigma_a, sigma_b: (n,) or None.
        q: (n,) 1/angstrom.
        scale: "single", "shells" (a function of |q|) or "none" (k = 1).
        offset: whether c is fitted; 0 if not.
        nodes: points of |q| between which functions of it are linear.

    Raises:
        ConfigError: a scale that isn't one of these, or fewer than two nodes.
    """
    if scale not in SCALES:
        raise ConfigError(f"scale={scale}: there are {', '.join(SCALES)}")
    if nodes < 2:
        raise ConfigError(f"functions of |q| need two nodes at least, not {nodes}")
    low, high = float(q.min()), float(q.max())
    points = np.linspace(low, high if high > low else low + 1e-6, nodes)
    ones, nothing = np.ones(nodes), np.zeros(nodes)
    if scale == "none" and not offset:
        return Scaling(points, ones, nothing)
    step = max(1, -(-len(a) // _ENOUGH))
    a, b, q = (np.ascontiguousarray(x[::step], float) for x in (a, b, q))
    # Both of size 1: the equations of a factor and of an offset have the same weight whatever the units.
    size_a, size_b = (float(np.abs(x).mean()) or 1.0 for x in (a, b))
    a, b = a / size_a, b / size_b
    first = _ratio_of_spreads(a, b, q, points, offset)
    if sigma_a is None and sigma_b is None:
        variances = [np.ones(len(a)), np.full(len(a), 1 / first**2)]
    else:
        variances = [
            np.zeros(len(a)) if sigma is None else (sigma[::step] / size) ** 2
            for sigma, size in ((sigma_a, size_a), (sigma_b, size_b))
        ]
    # A voxel that both call exact would weigh infinitely much, and is left out; unless all are.
    if not (variances[0] + variances[1] > 0).any():
        variances = [np.ones(len(a)), np.full(len(a), 1 / first**2)]
    factor = ones * (size_b / size_a if scale == "none" else first)
    constant = nothing.copy()
    for _ in range(_MOST_CYCLES):
        new_factor, new_offset = _cycle(a, b, variances, q, points, factor, constant, scale, offset)
        if not np.isfinite(new_factor).all() or (new_factor <= 0).any():
            return Scaling(points, ones * first * size_a / size_b, nothing, found=False)
        change = max(np.abs(new_factor - factor).max() / np.abs(factor).max(), np.abs(new_offset - constant).max())
        factor, constant = new_factor, new_offset
        if change < 1e-7:
            break
    return Scaling(points, factor * size_a / size_b, constant * size_a)


def _cycle(
    a: np.ndarray,
    b: np.ndarray,
    variances: list[np.ndarray],
    q: np.ndarray,
    points: np.ndarray,
    factor: np.ndarray,
    constant: np.ndarray,
    scale: str,
    offset: bool,
) -> tuple[np.ndarray, np.ndarray]:
    matrix, right = _equations(
        a,
        b,
        variances[0],
        variances[1],
        q,
        points[0],
        points[1] - points[0],
        factor,
        constant,
        scale == "single",
        scale != "none",
        offset,
    )
    # A node that no voxel is near takes what costs least.
    solution = np.linalg.lstsq(matrix, right, rcond=1e-12)[0]
    n = len(solution) - (len(points) if offset else 0)
    if scale == "single":
        factor = np.full(len(points), solution[0])
    elif scale == "shells":
        factor = solution[:n]
    return factor, solution[n:] if offset else constant


def _ratio_of_spreads(a: np.ndarray, b: np.ndarray, q: np.ndarray, points: np.ndarray, offset: bool) -> float:
    """Return the ratio of the standard deviations within shells; without an offset that of the sums, if positive."""
    if not offset and a.sum() > 0 and b.sum() > 0:
        return float(a.sum() / b.sum())
    shell = np.clip(np.searchsorted(points, q) - 1, 0, len(points) - 2)
    n = np.maximum(np.bincount(shell, minlength=len(points)), 1)
    spread = [float(((x - (sum_by(shell, x, len(points)) / n)[shell]) ** 2).sum()) for x in (a, b)]
    return float(np.sqrt(spread[0] / spread[1])) if min(spread) > 0 else 1.0
