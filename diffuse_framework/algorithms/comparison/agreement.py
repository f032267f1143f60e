"""How well two maps agree, from sums over blocks of reciprocal space that also give the intervals.

All figures follow from sums per block, kind of voxel and shell. Blocks drawn again with replacement (the bootstrap)
give the intervals: neighbouring voxels, whose noise and signal may be related, are drawn together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from diffuse_framework.algorithms.comparison.alignment import Aligned, isotropic

__all__ = ["Figures", "Sums", "block_sums", "figures", "redrawn"]

N_BLOCKS = 200

# Sums, by place: number; of A - B, scaled: squares over the variance, absolute values, and those of A.
_NUMBER, _CHI, _APART, _SIZE = 0, 1, 2, 3
_N_SINGLE = 4
# Moments of a pair (x, y): weight, x, y, xx, yy, xy, and the variances of x and y.
_N_MOMENTS = 8
# Pairs: A and B; the same with weights of inverse variances; the same in voxels that every half map has; the halves of
# A and of B there. Each for whole intensities and for their anisotropic parts.
MAPS, WEIGHTED, HALVED, HALVES_A, HALVES_B = range(5)


@njit(cache=True, nogil=True)
def _add_pair(sums, w, x, y, vx, vy):
    sums[0] += w
    sums[1] += w * x
    sums[2] += w * y
    sums[3] += w * x * x
    sums[4] += w * y * y
    sums[5] += w * x * y
    sums[6] += w * vx
    sums[7] += w * vy


@njit(cache=True, nogil=True)
def _sum_up(block, kind, shell, a, b, iso_a, iso_b, va, vb, halves_a, halves_b, means, single, pairs):
    with_a, with_b = halves_a.shape[1] > 0, halves_b.shape[1] > 0
    for n in range(len(a)):
        g, c, s = block[n], kind[n], shell[n]
        v = va[n] + vb[n]
        w = 1 / v if v > 0 else 0.0
        apart = a[n] - b[n]
        one = single[g, c, s]
        one[0] += 1
        one[1] += apart * apart * w
        one[2] += abs(apart)
        one[3] += abs(a[n])
        halved = with_a or with_b
        if with_a:
            halved = halved and np.isfinite(halves_a[0, n] + halves_a[1, n])
        if with_b:
            halved = halved and np.isfinite(halves_b[0, n] + halves_b[1, n])
        for part in range(2):
            x = a[n] - (iso_a[n] if part else means[0])
            y = b[n] - (iso_b[n] if part else means[1])
            _add_pair(pairs[g, c, s, 0, part], 1.0, x, y, va[n], vb[n])
            _add_pair(pairs[g, c, s, 1, part], w, x, y, va[n], vb[n])
            if halved:
                _add_pair(pairs[g, c, s, 2, part], 1.0, x, y, va[n], vb[n])
            if halved and with_a:
                to = x - a[n]
                _add_pair(pairs[g, c, s, 3, part], 1.0, halves_a[0, n] + to, halves_a[1, n] + to, 0.0, 0.0)
            if halved and with_b:
                to = y - b[n]
                _add_pair(pairs[g, c, s, 4, part], 1.0, halves_b[0, n] + to, halves_b[1, n] + to, 0.0, 0.0)


@njit(cache=True, nogil=True)
def _blocks(voxel, low, dimensions, divisions, n_blocks, result):
    plane = dimensions[1] * dimensions[2]
    for n in range(len(voxel)):
        i, rest = divmod(voxel[n], plane)
        j, k = divmod(rest, dimensions[2])
        x, y, z = (i + low[0]) // divisions[0], (j + low[1]) // divisions[1], (k + low[2]) // divisions[2]
        mixed = (x * 73856093) ^ (y * 19349663) ^ (z * 83492791)
        mixed ^= mixed >> 13
        result[n] = (mixed * 1274126177 >> 7) % n_blocks


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over voxels, from which all figures follow.

    Attributes:
        single: (blocks, kinds, shells, 4).
        pairs: (blocks, kinds, shells, 5 pairs, whole or anisotropic, 8 moments).
        edges: (shells + 1,) of the shells in |q|, 1/angstrom.
        errors: whether A and B have any.
        halves: whether A and B have half maps.
    """

    single: np.ndarray
    pairs: np.ndarray
    edges: np.ndarray
    errors: tuple[bool, bool]
    halves: tuple[bool, bool]


def block_sums(aligned: Aligned, at_node: np.ndarray, n_shells: int) -> Sums:
    """Return the sums of two maps in shells of equal volume, apart for voxels in halos and outside.

    Args:
        aligned: the maps.
        at_node: (n,) whether each voxel lies in a halo.
        n_shells: number of shells.
    """
    a, b, q = aligned.a, aligned.b, aligned.q
    largest = float(q.max()) or 1.0
    edges = np.cbrt(np.linspace(0, largest**3, n_shells + 1))
    shell = np.minimum((n_shells * (q / largest) ** 3).astype(np.int32), n_shells - 1)
    block = np.empty(len(a), np.int32)
    # A node and what lies within half a reciprocal lattice vector of it stay together as far as a corner allows.
    grid = a.grid
    _blocks(a.voxel, np.array(grid.index_min), np.array(grid.dimensions), np.array(grid.divisions), N_BLOCKS, block)
    single = np.zeros((N_BLOCKS, 2, n_shells, _N_SINGLE))
    pairs = np.zeros((N_BLOCKS, 2, n_shells, 5, 2, _N_MOMENTS))
    none = np.zeros((2, 0))
    variances = [np.zeros(len(a)) if one.sigma is None else one.sigma**2 for one in (a, b)]
    _sum_up(
        block,
        at_node.astype(np.int8),
        shell,
        a.intensity,
        b.intensity,
        isotropic(q, a.intensity),
        isotropic(q, b.intensity),
        variances[0],
        variances[1],
        none if a.halves is None else a.halves,
        none if b.halves is None else b.halves,
        np.array([a.intensity.mean(), b.intensity.mean()]),
        single,
        pairs,
    )
    return Sums(
        single,
        pairs,
        edges,
        (a.sigma is not None, b.sigma is not None),
        (a.halves is not None, b.halves is not None),
    )


@dataclass(frozen=True, eq=False)
class Figures:
    """How well two maps agree over some voxels; NaN where a figure can't be had.

    Attributes:
        voxels: compared.
        cc, cc_anisotropic, cc_weighted, cc_anisotropic_weighted: Pearson's correlation of whole intensities and of
            their anisotropic parts, without weights and with those of inverse variances of the difference.
        cc_star_a, cc_star_b: correlation of each map's anisotropic part with the truth: from its half maps where it
            has any, else from its errors; 1 for a map that has neither and counts as exact.
        ceiling: their product: what noise allows the correlation of anisotropic parts to be.
        ceiling_total: the same for whole intensities.
        cc_halved: the correlation that stands beside the ceiling: of anisotropic parts in the voxels that every half
            map has, for which CC* is known; cc_anisotropic where there are no half maps.
        chi_squared: mean of (A - B)^2 / (variance of A + that of B), B scaled.
        r: sum |A - B| / sum |A|.
        intervals: of the figures above by name, (low, high), each containing 95 % of the values that blocks of
            reciprocal space, drawn again, give; and of `below_ceiling`, the ceiling less cc_halved.
    """

    voxels: int
    cc: float
    cc_anisotropic: float
    cc_weighted: float
    cc_anisotropic_weighted: float
    cc_star_a: float
    cc_star_b: float
    ceiling: float
    ceiling_total: float
    cc_halved: float
    chi_squared: float
    r: float
    intervals: dict[str, tuple[float, float]]

    @property
    def at_ceiling(self) -> bool | None:
        """Whether noise explains all that keeps the correlation from 1; None where there is no ceiling."""
        low, high = self.intervals.get("below_ceiling", (np.nan, np.nan))
        return None if not np.isfinite(low + high) else bool(low <= 0)

    def to_plain(self) -> dict[str, object]:
        """Return names and values, None for NaN."""
        values = {name: value for name, value in vars(self).items() if name != "intervals"}
        plain: dict[str, object] = {name: _plain(value) for name, value in values.items()}
        plain["at_ceiling"] = self.at_ceiling
        plain["intervals"] = {name: [_plain(x) for x in ends] for name, ends in self.intervals.items()}
        return plain


def _plain(value: float) -> float | None:
    return None if isinstance(value, float) and not np.isfinite(value) else value


FIGURES = (
    "cc",
    "cc_anisotropic",
    "cc_weighted",
    "cc_anisotropic_weighted",
    "cc_star_a",
    "cc_star_b",
    "ceiling",
    "ceiling_total",
    "cc_halved",
    "chi_squared",
    "r",
)


def figures(sums: Sums, drawn: Sums | None, kinds: slice, shells: slice) -> Figures:
    """Return the agreement over some kinds of voxels and shells.

    Args:
        sums: of the maps.
        drawn: of blocks drawn again (`redrawn`), for the intervals; None for none.
        kinds, shells: which are meant.
    """
    single, pairs = (_chosen(array, kinds, shells).sum(0)[None] for array in (sums.single, sums.pairs))
    whole = {name: float(value[0]) for name, value in _values(single, pairs, sums).items()}
    intervals: dict[str, tuple[float, float]] = {}
    if drawn is not None:
        again = _values(_chosen(drawn.single, kinds, shells), _chosen(drawn.pairs, kinds, shells), sums)
        for name, value in again.items():
            good = value[np.isfinite(value)]
            if len(good) > len(value) // 2:
                low, high = np.percentile(good, (2.5, 97.5))
                intervals[name] = (float(low), float(high))
    return Figures(voxels=int(single[0, _NUMBER]), intervals=intervals, **{name: whole[name] for name in FIGURES})


def _chosen(array: np.ndarray, kinds: slice, shells: slice) -> np.ndarray:
    return array[:, kinds, shells].sum(axis=(1, 2))


def redrawn(sums: Sums, rng: np.random.Generator, samples: int) -> Sums | None:
    """Return sums over blocks drawn again with replacement, (samples, ...) in place of (blocks, ...).

    None where there is nothing to draw from.

    Args:
        sums: of the maps.
        rng: draws.
        samples: how often.
    """
    filled = sums.single[..., _NUMBER].any(axis=(1, 2))
    n = int(filled.sum())
    if samples == 0 or n < 2:
        return None
    drawn = rng.multinomial(n, np.full(n, 1 / n), samples).astype(float)
    single, pairs = (
        (drawn @ array[filled].reshape(n, -1)).reshape(samples, *array.shape[1:]) for array in (sums.single, sums.pairs)
    )
    return replace(sums, single=single, pairs=pairs)


@dataclass(frozen=True, eq=False)
class _Moments:
    """Central moments of a pair, (m,) each."""

    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    variance_x: np.ndarray
    variance_y: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray) -> _Moments:
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = sums / sums[:, :1]
        x, y = mean[:, 1], mean[:, 2]
        return cls(mean[:, 3] - x * x, mean[:, 4] - y * y, mean[:, 5] - x * y, mean[:, 6], mean[:, 7])

    @property
    def correlation(self) -> np.ndarray:
        norm = np.maximum(self.xx, 0) * np.maximum(self.yy, 0)
        return np.divide(self.xy, np.sqrt(norm), out=np.full(len(norm), np.nan), where=norm > 0)


def _values(single: np.ndarray, pairs: np.ndarray, sums: Sums) -> dict[str, np.ndarray]:
    """Return all figures of sums (m, 4) and (m, 3, 2, 2, 8), (m,) each."""
    few = single[:, _NUMBER] < 3
    moments = {(pair, part): _Moments.of(pairs[:, pair, part]) for pair in range(5) for part in range(2)}
    if not any(sums.halves):
        # Then the ceiling belongs to all voxels.
        moments |= {(HALVED, part): moments[MAPS, part] for part in range(2)}
    unknown = np.full(len(single), np.nan)
    any_errors = any(sums.errors)
    values = {
        "cc": moments[MAPS, 0].correlation,
        "cc_anisotropic": moments[MAPS, 1].correlation,
        "cc_weighted": moments[WEIGHTED, 0].correlation if any_errors else unknown,
        "cc_anisotropic_weighted": moments[WEIGHTED, 1].correlation if any_errors else unknown,
        "cc_halved": moments[HALVED, 1].correlation,
    }
    stars = [[_star(moments, sums, letter, part) for letter in range(2)] for part in range(2)]
    values["cc_star_a"], values["cc_star_b"] = stars[1]
    known = any_errors or any(sums.halves)
    values["ceiling_total"], values["ceiling"] = (first * second if known else unknown for first, second in stars)
    values["below_ceiling"] = values["ceiling"] - values["cc_halved"]
    with np.errstate(invalid="ignore", divide="ignore"):
        values["chi_squared"] = single[:, _CHI] / single[:, _NUMBER] if any_errors else unknown
        values["r"] = single[:, _APART] / single[:, _SIZE]
    return {name: np.where(few, np.nan, value) for name, value in values.items()}


def _star(moments: dict[tuple[int, int], _Moments], sums: Sums, letter: int, part: int) -> np.ndarray:
    """Return the correlation of a map with the truth, (m,): NaN where its noise is all it shows.

    It is the square root of what is true of the map's variance. Half maps share what is true and no noise, so that
    their covariance is its variance; for halves of equal noise this is sqrt(2 CC1/2 / (1 + CC1/2)) (Karplus &
    Diederichs (2012), Science 336, 1030), and it holds where they differ.
    """
    pair = moments[HALVED, part]
    total, noise = (pair.xx, pair.variance_x) if letter == 0 else (pair.yy, pair.variance_y)
    if sums.halves[letter]:
        true = moments[HALVES_A + letter, part].xy
    elif sums.errors[letter]:
        true = total - noise
    else:
        return np.ones(len(total))
    share = np.divide(true, total, out=np.full(len(total), np.nan), where=total > 0)
    return np.sqrt(np.clip(np.where(share >= 0, share, np.nan), 0, 1))
