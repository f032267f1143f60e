"""How single observations agree with the rest of their voxel: outliers, errors, chi squared.

All stream over the sums; memory goes with the number of voxels, not of observations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numba import njit

from diffuse_framework.algorithms.binning import shell_numbers
from diffuse_framework.algorithms.scaling_rows import shrunk_intensities
from diffuse_framework.model.scales import ErrorModel, Scales
from diffuse_framework.model.voxels import SumsTable, VoxelSums

# Bins of equal numbers, roughly, in which chi squared is reported and the error model fitted.
N_BINS = 20


@dataclass(frozen=True, eq=False)
class VoxelTotals:
    """Sums of the accepted observations of each voxel, (size of the grid,) each.

    Attributes:
        counts: photons.
        background: expected photons of background and offset.
        exposure: scaled.
        exposure_squares: sum of squares of the observations' scaled exposures.
        multiplicity: number of observations.
        background_variance: of the background.
    """

    counts: np.ndarray
    background: np.ndarray
    exposure: np.ndarray
    exposure_squares: np.ndarray
    multiplicity: np.ndarray
    background_variance: np.ndarray

    @property
    def intensity(self) -> np.ndarray:
        """Poisson estimate of the intensity; 0 where there is no exposure."""
        net = self.counts - self.background
        return np.divide(net, self.exposure, out=np.zeros_like(net), where=self.exposure > 0)


@dataclass(frozen=True, eq=False)
class Observed:
    """Accepted rows of one table with what scaling expects of them.

    Attributes:
        table: the rows.
        rows: (n,) their numbers in the table they come from.
        exposure: (n,) scaled.
        background: (n,) expected photons of background and offset.
        background_variance: (n,) of the background.
    """

    table: SumsTable
    rows: np.ndarray
    exposure: np.ndarray
    background: np.ndarray
    background_variance: np.ndarray

    def select(self, which: np.ndarray) -> Observed:
        """Return a boolean selection."""
        return Observed(
            self.table.select(which),
            self.rows[which],
            self.exposure[which],
            self.background[which],
            self.background_variance[which],
        )


Rejected = dict[int, np.ndarray]
"""For each table of the sums, by number, the numbers of its outlying rows."""


def observed(
    sums: VoxelSums, scales: Scales, rejected: Rejected | None = None
) -> Iterator[tuple[int, Observed]]:
    """Yield the number of each table and its rows that have exposure and are no outliers."""
    nothing = np.zeros(0, np.int64)
    for number, table in enumerate(sums.tables()):
        use = table.exposure > 0
        use &= scales.keep(table)
        use[(rejected or {}).get(number, nothing)] = False
        rows = np.flatnonzero(use)
        kept = table if len(rows) == len(table) else table.select(rows)
        background = kept.background + kept.exposure * scales.offset(kept)
        exposure = kept.exposure * scales.factor(kept)
        yield number, Observed(kept, rows, exposure, background, kept.background_variance)


def voxel_totals(sums: VoxelSums, scales: Scales, rejected: Rejected | None = None) -> VoxelTotals:
    """Return the sums of all accepted observations, voxel by voxel."""
    size = sums.grid.size
    totals = VoxelTotals(*(np.zeros(size) for _ in range(6)))
    for _, seen in observed(sums, scales, rejected):
        _add(totals, seen, 1.0)
    return totals


def _add(totals: VoxelTotals, seen: Observed, sign: float) -> None:
    voxel = seen.table.voxel
    _add_rows(
        voxel, seen.table.counts, seen.background, seen.exposure, seen.background_variance, sign,
        totals.counts, totals.background, totals.exposure, totals.exposure_squares, totals.multiplicity,
        totals.background_variance,
    )  # fmt: skip


@njit(cache=True)
def _add_rows(voxel, counts, background, exposure, background_variance, sign, n, b, e, e2, m, bv):
    for row in range(len(voxel)):
        v = voxel[row]
        n[v] += sign * counts[row]
        b[v] += sign * background[row]
        e[v] += sign * exposure[row]
        e2[v] += sign * exposure[row] * exposure[row]
        m[v] += sign
        bv[v] += sign * background_variance[row]


@njit(cache=True, inline="always")
def _deviance(counts, expected):
    """Twice the log-likelihood ratio of a Poisson count to its expectation."""
    expected = max(expected, 1e-12)
    if counts <= 0:
        return 2 * expected
    return max(2 * (counts * np.log(counts / expected) - counts + expected), 0.0)


@njit(cache=True)
def _signed_deviations(voxel, counts, background, exposure, inflation, fraction, n, b, e, z):
    """Fill z: how many standard deviations each row lies from the rest of its voxel."""
    for row in range(len(voxel)):
        v = voxel[row]
        rest, rest_exposure = n[v] - counts[row], e[v] - exposure[row]
        if rest_exposure <= 1e-9 * e[v]:
            z[row] = 0.0
            continue
        pooled = max((n[v] - b[v]) / e[v], 0.0)
        expected = pooled * exposure[row] + background[row]
        expected_rest = pooled * rest_exposure + b[v] - background[row]
        squared = _deviance(counts[row], expected) + _deviance(rest, expected_rest)
        # What the error model adds to the variance of the difference, relative to counting.
        signal = pooled * exposure[row]
        more = inflation * (1 + fraction * fraction * signal * signal / max(expected, 1e-12))
        own = (rest - (b[v] - background[row])) / rest_exposure
        above = (counts[row] - background[row]) / exposure[row] > own
        z[row] = np.sqrt(squared / more) * (1 if above else -1)


def deviations(seen: Observed, totals: VoxelTotals, model: ErrorModel) -> np.ndarray:
    """Return by how many standard deviations each row differs from the rest of its voxel, (n,).

    The signed square root of the likelihood ratio of one common intensity against two, the row's own
    and that of the rest: symmetric, right at a few counts, and aware of how little the rest may tell.
    """
    z = np.empty(len(seen.rows))
    _signed_deviations(
        seen.table.voxel, seen.table.counts, seen.background, seen.exposure, model.inflation, model.fraction,
        totals.counts, totals.background, totals.exposure, z,
    )  # fmt: skip
    return z


@dataclass(frozen=True, eq=False)
class Outliers:
    """Rejected observations.

    Attributes:
        rows: their numbers, table by table.
        keys: (n, 4) image, voxel, operator and panel of each.
        deviation: (n,) standard deviations from the rest of the voxel.
        disputed: voxels of two observations that disagree as much, of which none was rejected.
    """

    rows: Rejected = field(default_factory=dict)
    keys: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    deviation: np.ndarray = field(default_factory=lambda: np.zeros(0))
    disputed: int = 0

    def __len__(self) -> int:
        return len(self.keys)


def find_outliers(
    sums: VoxelSums,
    scales: Scales,
    limit: float,
    model: ErrorModel,
    max_rounds: int = 10,
    totals: VoxelTotals | None = None,
) -> Outliers:
    """Find observations that disagree with the rest of their voxel, too high or too low.

    One bad value pulls the mean, so that good ones seem to disagree with it too. Therefore each round
    rejects only the observation of a voxel that disagrees most with all others, and judges the others
    again without it. Voxels of two observations lose none: nothing says which is wrong.

    Args:
        sums: read twice per round.
        scales: of the observations.
        limit: in standard deviations.
        model: of the errors.
        max_rounds: most observations that a voxel may lose.
        totals: of all observations, where they are known already.
    """
    # A copy: it changes as observations go.
    totals = (
        voxel_totals(sums, scales)
        if totals is None
        else VoxelTotals(*(v.copy() for v in vars(totals).values()))
    )
    found: Rejected = {}
    keys, values, disputed = [], [], 0
    for round_number in range(max_rounds):
        worst = np.zeros(sums.grid.size, np.float32)
        for _, seen in observed(sums, scales, found):
            z = np.abs(deviations(seen, totals, model)).astype(np.float32)
            far = z > limit
            np.maximum.at(worst, seen.table.voxel[far], z[far])
        if round_number == 0:
            disputed = int(np.count_nonzero((worst > limit) & (totals.multiplicity == 2)))
        worst[totals.multiplicity < 3] = np.inf
        rejected_now = []
        for number, seen in observed(sums, scales, found):
            z = deviations(seen, totals, model)
            size = np.abs(z).astype(np.float32)
            out = (size > limit) & (size >= worst[seen.table.voxel])
            if not out.any():
                continue
            gone = seen.table.select(out)
            columns = (gone.image, gone.voxel, gone.operator, gone.panel)
            keys.append(np.stack([column.astype(np.int64) for column in columns], axis=1))
            values.append(z[out])
            rejected_now.append((number, seen.select(out)))
        for number, gone_rows in rejected_now:
            _add(totals, gone_rows, -1.0)
            found[number] = np.union1d(found.get(number, np.zeros(0, np.int64)), gone_rows.rows)
        if not rejected_now:
            break
    if not keys:
        return Outliers(disputed=disputed)
    return Outliers(found, np.concatenate(keys), np.concatenate(values), disputed)


def outlier_report(
    outliers: Outliers, image_names: tuple[str, ...], n_observations: int, most: int = 20
) -> dict:
    """Return how many observations were rejected, by image, panel and voxel, most first."""

    def by(column: int) -> list[tuple[int, int]]:
        values, n = np.unique(outliers.keys[:, column], return_counts=True)
        order = np.argsort(-n, kind="stable")[:most]
        return [(int(values[k]), int(n[k])) for k in order]

    return {
        "rejected": len(outliers),
        "fraction": len(outliers) / max(n_observations, 1),
        "too_high": int(np.count_nonzero(outliers.deviation > 0)),
        "too_low": int(np.count_nonzero(outliers.deviation < 0)),
        "disputed_voxels": outliers.disputed,
        "by_image": {image_names[image]: n for image, n in by(0)},
        "by_panel": {str(panel): n for panel, n in by(3)},
        "by_voxel": {str(voxel): n for voxel, n in by(1)},
    }


@dataclass(frozen=True, eq=False)
class Scatter:
    """Squared differences of observations from their voxel, and what they should be, in bins.

    Attributes:
        n: (n_bins,) observations.
        squares: (n_bins,) sum of squared differences over their expected counting variance.
        expected: (n_bins,) what that sum should be from counting alone.
        signal: (n_bins,) sum of the same for a variance of the squared signal.
        information: (n_bins,) how well the bin tells the variance: inverse squared error of `squares`.
    """

    n: np.ndarray
    squares: np.ndarray
    expected: np.ndarray
    signal: np.ndarray
    information: np.ndarray


@njit(cache=True)
def _scatter(
    voxel, counts, background, background_variance, exposure, bins, limit,
    n, b, e, e2, typical, all_variance, out,
):  # fmt: skip
    """Add each row's squared difference from its voxel to its bin of `out` (n_bins, 5).

    With share s of the voxel's exposure, the difference is (1 - s) of the row's own error less s times
    those of the others. Given the voxel's total, Poisson counts are multinomial: expected squares
    follow from the mean that was observed, not from the true one, or dim voxels would seem to
    agree too well. The intensity `typical` sets weights only.
    """
    for row in range(len(voxel)):
        v = voxel[row]
        share = exposure[row] / e[v]
        if share > 0.999999:
            continue
        mean = (n[v] - b[v]) / e[v]
        own_variance = max(exposure[row] * max(mean, 0.0) + background[row], 0.0) + background_variance[row]
        counting = (1 - 2 * share) * own_variance + share * share * all_variance[v]
        # The square of a mean is too large by the mean's variance.
        squared_mean = mean * mean - all_variance[v] / (e[v] * e[v])
        by_signal = ((1 - 2 * share) * exposure[row] * exposure[row] + share * share * e2[v]) * squared_mean
        residual = counts[row] - background[row] - exposure[row] * mean
        variance = max(exposure[row] * typical[v] + background[row], 1e-12) + background_variance[row]
        if residual * residual > limit * limit * (variance + 0.25 * max(by_signal, 0.0)):
            continue
        k = bins[row]
        out[k, 0] += 1
        out[k, 1] += residual * residual / variance
        out[k, 2] += counting / variance
        out[k, 3] += by_signal / variance
        # Of the square of a Poisson difference: 2 variance^2 + variance, here with variance / variance = 1.
        out[k, 4] += 2 + 1 / variance


class Agreement:
    """Measures how observations scatter about their voxels' means."""

    def __init__(self, sums: VoxelSums, scales: Scales, rejected: Rejected | None = None) -> None:
        """Read the sums once for the means and variances of voxels."""
        self._sums, self._scales, self._rejected = sums, scales, rejected
        self.totals = voxel_totals(sums, scales, rejected)
        totals = self.totals
        self.q = voxel_q(sums)
        net = totals.counts - totals.background
        self.typical, _ = shrunk_intensities(self.q, net, totals.exposure, totals.background)
        self._variance = np.zeros(sums.grid.size)
        mean = np.maximum(totals.intensity, 0)
        expected = np.maximum(totals.exposure * mean + totals.background, 0)
        self._variance = expected + totals.background_variance

    def by_signal(self, limit: float = 20.0) -> Scatter:
        """Return the scatter in bins of expected signal, without differences beyond `limit` sigma."""
        edges = self._signal_edges()
        (scatter,) = self._collect([partial(self._signal_bins, edges)], limit)
        return scatter

    def _signal_edges(self) -> np.ndarray:
        seen = self.totals.exposure > 0
        signal = self.typical[seen] * self.totals.exposure[seen] / self.totals.multiplicity[seen]
        signal = signal[signal > 0]
        if not len(signal):
            return np.arange(N_BINS + 1.0)
        return np.geomspace(0.5 * signal.min(), 2 * signal.max(), N_BINS + 1)

    def _signal_bins(self, edges: np.ndarray, seen: Observed) -> np.ndarray:
        return np.clip(
            np.searchsorted(edges, seen.exposure * self.typical[seen.table.voxel]) - 1, 0, N_BINS - 1
        )

    def tables(self, model: ErrorModel) -> dict[str, list[dict[str, float]]]:
        """Return chi squared per degree of freedom in bins of "resolution", "multiplicity" and "intensity".

        Args:
            model: the errors that the observations should have.
        """
        seen = self.totals.exposure > 0
        edges: dict[str, np.ndarray] = {}
        bins: dict[str, np.ndarray] = {}
        for by, values in (("multiplicity", self.totals.multiplicity), ("intensity", self.totals.intensity)):
            edges[by] = np.unique(np.quantile(values[seen], np.linspace(0, 1, N_BINS + 1)))
            inside = np.searchsorted(edges[by], values, side="right") - 1
            bins[by] = np.clip(inside, 0, max(len(edges[by]) - 2, 0))
        bins["resolution"] = np.zeros(len(seen), np.int64)
        bins["resolution"][seen], edges["resolution"] = shell_numbers(self.q[seen], N_BINS)
        kinds = ("resolution", "multiplicity", "intensity")
        scatters = self._collect([partial(_of_voxels, bins[by]) for by in kinds], np.inf)
        return {by: _rows(edges[by], s, model) for by, s in zip(kinds, scatters, strict=True)}

    def _collect(self, bins_of: list[Callable[[Observed], np.ndarray]], limit: float) -> list[Scatter]:
        outs = [np.zeros((N_BINS, 5)) for _ in bins_of]
        totals = self.totals
        for _, seen in observed(self._sums, self._scales, self._rejected):
            for bins, out in zip(bins_of, outs, strict=True):
                _scatter(
                    seen.table.voxel, seen.table.counts, seen.background, seen.background_variance,
                    seen.exposure, bins(seen), limit, totals.counts, totals.background, totals.exposure,
                    totals.exposure_squares, self.typical, self._variance, out,
                )  # fmt: skip
        return [Scatter(*out.T) for out in outs]


def _of_voxels(bins: np.ndarray, seen: Observed) -> np.ndarray:
    return bins[seen.table.voxel]


def _rows(edges: np.ndarray, scatter: Scatter, model: ErrorModel) -> list[dict[str, float]]:
    wanted = model.inflation * (scatter.expected + model.fraction**2 * scatter.signal)
    return [
        {
            "from": float(edges[k]),
            "to": float(edges[min(k + 1, len(edges) - 1)]),
            "observations": int(scatter.n[k]),
            "chi_squared": float(scatter.squares[k] / wanted[k]),
            "chi_squared_counting": float(scatter.squares[k] / scatter.expected[k]),
        }
        for k in range(max(len(edges) - 1, 1))
        if scatter.n[k] and wanted[k] > 0
    ]


def fit_error_model(scatter: Scatter) -> ErrorModel:
    """Return the two-term model whose variances match the scatter in all bins of signal.

    Weighted least squares for inflation and inflation x fraction^2; the second is 0 unless it differs
    from that by more than twice its error, because at few photons next to nothing tells the two apart.
    """
    use = (scatter.n > 20) & (scatter.expected > 0)
    if not use.any():
        return ErrorModel()
    weight = 1 / np.sqrt(scatter.information[use])
    columns = np.stack([scatter.expected[use], scatter.signal[use]], axis=1) * weight[:, None]
    target = scatter.squares[use] * weight
    solution, *_ = np.linalg.lstsq(columns, target, rcond=None)
    information = columns.T @ columns
    error = np.sqrt(information[0, 0] / max(np.linalg.det(information), 1e-300))
    if solution[1] < 2 * error or solution[0] <= 0:
        solution = np.array([columns[:, 0] @ target / (columns[:, 0] @ columns[:, 0]), 0.0])
    if solution[0] <= 0:
        return ErrorModel()
    return ErrorModel(float(solution[0]), float(np.sqrt(solution[1] / solution[0])))


def voxel_q(sums: VoxelSums) -> np.ndarray:
    """Return |q| of every voxel of the grid, (size,), 1/angstrom; made in pieces to keep memory low."""
    grid, step = sums.grid, 1 << 20
    result = np.empty(grid.size, np.float64)
    for start in range(0, grid.size, step):
        voxels = np.arange(start, min(start + step, grid.size))
        result[voxels] = np.linalg.norm(grid.q_of(voxels), axis=1)
    return result
