"""How sure it is in which way a crystal is indexed: a likelihood ratio, and its spread under chance.

Photons of crystal c in voxel v are Poisson numbers. If the crystal is indexed in way o their mean is
``E (1 + f_o)``: E is the mean of the voxel's resolution shell times the crystal's exposure, and f_o what the other
crystals say of the voxel to which way o brings them, shrunk towards 0 by the noise of what they say (the best linear
estimate, ``k = tau^2 / (tau^2 + 1 / W)`` with tau^2 the variance of the true departures in a shell and W the photons
that others were expected to leave there). The logarithm of the likelihood ratio of two ways is then

    D = sum_v [n_v ln(1 + f_v) - E_v f_v]  in one way  -  the same in the other.

That is right for a perfect model only, so it is calibrated. D is a sum over blocks of reciprocal space that share no
photons, and its variance is measured by them, ``V = sum_b D_b^2``, as Vuong (1989), Econometrica 57, 307, does for
models of which neither need be right: where the data can't tell two ways apart, D_b is as often positive as negative
and D / sqrt(V) follows the standard normal distribution. Where they can, D is near +mu or -mu, as the one or the other
way is right, with mu proportional to V (in a perfect model V / 2), so that the calibrated logarithm of the likelihood
ratio, of two normal distributions, is

    ln LR = 2 mu D / V = kappa D,        kappa = 2 sum_c D_c / sum_c V_c.

(A likelihood from the measured mean and variance of a statistic: Wood (2010), Nature 466, 1102.) For kappa stands its
lower limit, three standard deviations down and at least 0: pairs of crystals are counted twice, from either side, so
that ``var(sum_c D_c) = 2 sum_c V_c``. If all is noise kappa is 0, and nothing is certain.

What the others say depends on how they are indexed in turn, and indexings that were chosen to agree do agree, noise
included. So indexings are chosen on one half of the blocks and tested on the other, and the other way about (data
splitting: Cox (1975), Biometrika 62, 441). Blocks are orbits of reciprocal cells under the symmetry of the lattice: no
way of indexing takes a photon from one half to the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.binning import shell_numbers, sum_by
from diffuse_framework.model.grid import VoxelGrid

# The logarithm of a likelihood ratio that is beyond doubt, and the standard deviations that D must be from 0: a ratio
# that few blocks make is none.
CERTAIN, _FEWEST_SIGMAS = float(np.log(1e4)), 2.0
_SIGMAS_DOWN = 3.0
# Voxels that two crystals must share before they are compared.
FEWEST_SHARED = 30
_N_SHELLS = 20
_LARGEST_DIP = -0.9


@dataclass(frozen=True, eq=False)
class Departures:
    """What one crystal shows in one way of indexing: departures from the mean of its resolution shells.

    Attributes:
        voxel: (n,) numbers of voxels.
        block: (n,) of the blocks of the voxels.
        departure: (n,) photons over expected photons, less 1.
        weight: (n,) photons expected from the mean of the shell.
    """

    voxel: np.ndarray
    block: np.ndarray
    departure: np.ndarray
    weight: np.ndarray

    def select(self, which: np.ndarray) -> Departures:
        """Return some of the voxels."""
        return Departures(self.voxel[which], self.block[which], self.departure[which], self.weight[which])


@dataclass(frozen=True, eq=False)
class Evidence:
    """How well crystals fit the others in each way of indexing; nothing is known where too few voxels are shared.

    Attributes:
        difference: (n_crystals, n_ways, n_ways) D of one way and another.
        variance: V of the same.
        calibration: kappa.
    """

    difference: np.ndarray
    variance: np.ndarray
    calibration: float

    @property
    def best(self) -> np.ndarray:
        """The likeliest way of each crystal, (n_crystals,); the first where nothing is known."""
        return np.argmax(self.difference[:, :, 0], axis=1)

    @property
    def log_ratio(self) -> np.ndarray:
        """Logarithm of the likelihood ratio of the likeliest way to each, (n_crystals, n_ways); 0 if too few tell."""
        crystals, best = np.arange(len(self.difference)), self.best
        difference, variance = self.difference[crystals, best], self.variance[crystals, best]
        return np.where(difference >= _FEWEST_SIGMAS * np.sqrt(variance), self.calibration * difference, 0)

    @property
    def lead(self) -> np.ndarray:
        """Logarithm of the likelihood ratio of the likeliest way to the next, (n_crystals,)."""
        found = self.log_ratio.copy()
        found[np.arange(len(found)), self.best] = np.inf
        return found.min(axis=1)

    def renamed(self, numbers: list[int]) -> Evidence:
        """Return the evidence with way n called ``numbers[n]``."""
        back = np.argsort(numbers)
        return Evidence(self.difference[:, back][:, :, back], self.variance[:, back][:, :, back], self.calibration)


class Blocks:
    """The reciprocal cells of a grid, those together that an operation of the lattice takes to each other."""

    def __init__(self, grid: VoxelGrid, operators: np.ndarray, rng: np.random.Generator) -> None:
        """Number the blocks of a grid, and halve them at random.

        Args:
            grid: of the sums.
            operators: (n, 3, 3) ways of indexing.
            rng: deals the blocks out to the halves.
        """
        self._grid = grid
        divisions = np.array(grid.divisions)
        ends = np.array([grid.index_min, np.array(grid.index_min) + np.array(grid.dimensions) - 1])
        low, high = np.rint(ends / divisions).astype(np.int64)
        self._low, self._shape = low, tuple(int(n) for n in high - low + 1)
        hkl = np.indices(self._shape).reshape(3, -1).T + low
        # Operators have entries -1, 0 and 1: an index grows threefold at most.
        base = 2 * 3 * int(np.abs(hkl).max(initial=1)) + 1
        powers = np.array([base * base, base, 1])
        keys = np.full(len(hkl), -np.inf)
        for operator in operators:
            for own in grid.symmetry.operators.astype(np.int64):
                keys = np.maximum(keys, hkl @ (own @ operator).T @ powers)
        found, self._number = np.unique(keys, return_inverse=True)
        self.n_blocks = len(found)
        self.first_half = rng.random(self.n_blocks) < 0.5

    def of(self, voxel: np.ndarray) -> np.ndarray:
        """Return the number of the block (n,) of voxels (n,)."""
        hkl = np.rint(self._grid.index_of(voxel) / np.array(self._grid.divisions)).astype(np.int64)
        return self._number[np.ravel_multi_index(tuple((hkl - self._low).T), self._shape)]


def together(halves: list[Evidence], chosen: list[np.ndarray], renamings: list[list[int]]) -> Evidence:
    """Return the evidence of both halves of reciprocal space.

    The indexing that all crystals of a half share is arbitrary; that of the second is turned to the one in which both
    agree best.

    Args:
        halves: evidence of each half.
        chosen: for each half the ways (n_crystals,) that were chosen on the other.
        renamings: of ways, for all indexings that the crystals may share.
    """
    told = uncertainty = 0.0
    for half, ways in zip(halves, chosen, strict=True):
        crystals = np.arange(len(ways))
        told += half.difference[crystals, ways].sum()
        uncertainty += half.variance[crystals, ways].sum()
    lower = told - _SIGMAS_DOWN * np.sqrt(2 * uncertainty)
    first = halves[0]
    sums = []
    for numbers in renamings:
        second = halves[1].renamed(numbers)
        sums.append(
            Evidence(
                first.difference + second.difference,
                first.variance + second.variance,
                max(2 * lower / uncertainty, 0.0) if uncertainty > 0 else 0.0,
            )
        )
    return max(sums, key=lambda both: both.difference.max(axis=(1, 2)).sum())


def weigh(departures: list[list[Departures]], chosen: np.ndarray, grid: VoxelGrid, n_blocks: int) -> Evidence:
    """Return how well each crystal fits all others in each way of indexing, without calibration; see the module.

    Args:
        departures: of each crystal, what it shows in each way.
        chosen: (n_crystals,) the way in which each stands among the others.
        grid: of the voxels.
        n_blocks: number of blocks.
    """
    total, weight = np.zeros(grid.size), np.zeros(grid.size)
    for ways, number in zip(departures, chosen, strict=True):
        add(ways[number], total, weight, 1)
    spread = _true_variance(total, weight, grid)
    n_ways = len(departures[0])
    sums, variances = np.zeros((2, len(departures), n_ways, n_ways))
    for crystal, (ways, number) in enumerate(zip(departures, chosen, strict=True)):
        add(ways[number], total, weight, -1)
        if all(np.count_nonzero(weight[way.voxel] > 1e-6) >= FEWEST_SHARED for way in ways):
            found = np.array([_log_likelihood(way, total, weight, spread, n_blocks) for way in ways])
            difference = found[:, None] - found[None]
            sums[crystal], variances[crystal] = difference.sum(axis=2), (difference**2).sum(axis=2)
        add(ways[number], total, weight, 1)
    return Evidence(sums, variances, 1.0)


def add(way: Departures, total: np.ndarray, weight: np.ndarray, sign: int) -> None:
    """Add what a crystal shows to the sums over crystals, or take it away again (sign -1), in place."""
    total[way.voxel] += sign * way.weight * way.departure
    weight[way.voxel] += sign * way.weight


def _true_variance(total: np.ndarray, weight: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """Return the variance of the true departures in the shell of each voxel, (grid.size,), the noise taken off.

    A departure d of W expected photons has ``mean of W d^2 = W tau^2 + 1``.
    """
    (voxel,) = np.nonzero(weight > 1e-6)
    result = np.zeros(grid.size)
    if len(voxel) == 0:
        return result
    shell, _ = shell_numbers(np.linalg.norm(grid.q_of(voxel), axis=1), _N_SHELLS)
    excess = sum_by(shell, total[voxel] ** 2 / weight[voxel] - 1, _N_SHELLS)
    tau2 = np.maximum(excess, 0) / np.maximum(sum_by(shell, weight[voxel], _N_SHELLS), 1e-300)
    result[voxel] = tau2[shell]
    return result


def _log_likelihood(
    way: Departures, total: np.ndarray, weight: np.ndarray, spread: np.ndarray, n_blocks: int
) -> np.ndarray:
    """Return the log-likelihood of each block (n_blocks,), but for what all ways have in common."""
    others, tau2 = np.maximum(weight[way.voxel], 0), spread[way.voxel]
    # k d = tau^2 W / (tau^2 W + 1) x total / W.
    told = np.where(others > 1e-6, tau2 * total[way.voxel] / (tau2 * others + 1), 0.0)
    told = np.maximum(told, _LARGEST_DIP)
    photons = way.weight * (1 + way.departure)
    return sum_by(way.block, photons * np.log1p(told) - way.weight * told, n_blocks)
