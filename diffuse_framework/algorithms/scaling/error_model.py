"""How observations scatter about their voxels: the model of their errors, and chi squared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.algorithms.binning import shell_numbers
from diffuse_framework.algorithms.scaling.observations import Observations
from diffuse_framework.algorithms.scaling.shrinkage import shrunk_intensities
from diffuse_framework.algorithms.scaling.voxel_totals import (
    RowModel,
    scaled_row,
    share_of,
    voxel_totals,
    with_model,
)
from diffuse_framework.model.scales import ErrorModel

# Bins of equal numbers, roughly, in which chi squared is reported and the error model fitted.
N_BINS = 20
# Rows from which the errors are judged that outliers are measured in: to 0.2 %.
ERROR_ROWS = 1_000_000


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


@njit(cache=True, error_model="numpy")
def _scatter(
    first, rows, accepted, factor, offset, totals, typical, all_variance, bins, edge, step, limit, signal, tables
):
    """Add each row's squared difference from its voxel to its bin of `signal` (n_bins, 5), and of `tables`.

    With share s of the voxel's exposure, the difference is (1 - s) of the row's own error less s times
    those of the others. Given the voxel's total, Poisson counts are multinomial: expected squares
    follow from the mean that was observed, not from the true one, or dim voxels would seem to
    agree too well. The intensity `typical` sets weights only.

    Bins of signal begin at `edge`, a logarithm, `step` apart; those of `tables` (n_tables, n_bins, 5) are the
    voxels', `bins` (n_tables, n_voxels).
    """
    of_voxel = np.zeros(5)
    for v in range(len(first) - 1):
        e = totals.exposure[v]
        if not e > 0:
            continue
        mean = (totals.counts[v] - totals.background[v]) / e
        # The square of a mean is too large by the mean's variance.
        squared_mean = mean * mean - all_variance[v] / (e * e)
        of_voxel[:] = 0.0
        for row in range(first[v], first[v + 1]):
            if not accepted[row]:
                continue
            counts, background, exposure = scaled_row(rows, row, factor, offset)
            share = exposure / e
            if share > 0.999999:
                continue
            noise = rows[row].background_variance
            of_photon = share_of(rows, row)
            own = max(of_photon * (exposure * (mean if noise > 0 else max(mean, 0.0)) + background), -noise) + noise
            counting = (1 - 2 * share) * own + share * share * all_variance[v]
            by_signal = (1 - 2 * share) * exposure * exposure + share * share * totals.exposure_squares[v]
            by_signal *= squared_mean
            residual = counts - background - exposure * mean
            expected = exposure * typical[v]
            variance = of_photon * max(expected + background, 1e-12) + noise
            if residual * residual > limit * limit * (variance + 0.25 * max(by_signal, 0.0)):
                continue
            weight = 1.0 / variance
            k = 0
            if expected > 0:
                k = min(max(int((np.log(expected) - edge) / step), 0), len(signal) - 1)
            signal[k, 0] += 1
            signal[k, 1] += residual * residual * weight
            signal[k, 2] += counting * weight
            signal[k, 3] += by_signal * weight
            # Of the square of a Poisson difference: 2 variance^2 + variance, here with variance / variance = 1.
            signal[k, 4] += 2 + of_photon * of_photon * weight
            of_voxel[0] += 1
            of_voxel[1] += residual * residual * weight
            of_voxel[2] += counting * weight
            of_voxel[3] += by_signal * weight
            of_voxel[4] += 2 + of_photon * of_photon * weight
        for n in range(len(tables)):
            for m in range(5):
                tables[n, bins[n, v], m] += of_voxel[m]


class NormalisedDeviations:
    """How observations scatter about their voxels' means, in units of what counting lets expect (DIALS: delta_hl)."""

    def __init__(self, observations: Observations, scales: RowModel) -> None:
        """Read the observations once for the means and variances of voxels."""
        self._observations, self._scales = observations, scales
        self._totals = totals = voxel_totals(observations, scales)
        net = totals.counts - totals.background
        noise = totals.background_variance
        self._typical, _ = shrunk_intensities(observations.q, net, totals.exposure, totals.background, noise)
        # Of counts that read noise makes negative too: cut at zero their mean would be too high.
        mean = np.where(noise > 0, totals.intensity, np.maximum(totals.intensity, 0))
        share = np.divide(totals.shared, totals.exposure, out=np.ones_like(net), where=totals.exposure > 0)
        expected = np.maximum(share * (totals.exposure * mean + totals.background), -noise)
        self._variance = expected + totals.background_variance

    def by_signal(self, limit: float = 20.0) -> Scatter:
        """Return the scatter in bins of expected signal, without differences beyond `limit` sigma."""
        return self._scatter(limit, np.zeros((0, len(self._typical)), np.int64))[0]

    def in_all_bins(self) -> tuple[Scatter, BinnedScatter]:
        """Return the scatter of all in bins of expected signal, and in bins of what their voxels are like."""
        totals = self._totals
        seen = totals.exposure > 0
        edges, bins = [], np.zeros((3, len(seen)), np.int64)
        bins[0, seen], resolution = shell_numbers(self._observations.q[seen], N_BINS)
        edges.append(resolution)
        for number, values in enumerate((totals.multiplicity, totals.intensity), start=1):
            edges.append(np.unique(np.quantile(values[seen], np.linspace(0, 1, N_BINS + 1))))
            inside = np.searchsorted(edges[-1], values, side="right") - 1
            bins[number] = np.clip(inside, 0, max(len(edges[-1]) - 2, 0))
        by_signal, *by_kind = self._scatter(np.inf, bins)
        return by_signal, BinnedScatter(tuple(edges), tuple(by_kind))

    def _scatter(self, limit: float, bins: np.ndarray) -> list[Scatter]:
        """Return the scatter in bins of signal, then in each kind of `bins` (n_kinds, n_voxels)."""
        totals = self._totals
        seen = totals.exposure > 0
        levels = self._typical[seen] * totals.exposure[seen] / totals.multiplicity[seen]
        levels = levels[levels > 0]
        lowest, highest = (0.5 * levels.min(), 2 * levels.max()) if len(levels) else (1.0, 2.0)
        step = np.log(highest / lowest) / N_BINS
        signal, tables = np.zeros((N_BINS, 5)), np.zeros((len(bins), N_BINS, 5))
        for block, factor, offset in with_model(self._observations, self._scales):
            voxels = block.voxels
            _scatter(
                block.first,
                block.rows,
                block.accepted,
                factor,
                offset,
                totals.part(voxels),
                self._typical[voxels],
                self._variance[voxels],
                np.ascontiguousarray(bins[:, voxels]),
                np.log(lowest),
                step,
                limit,
                signal,
                tables,
            )
        return [Scatter(*out.T) for out in (signal, *tables)]


@dataclass(frozen=True, eq=False)
class BinnedScatter:
    """Scatter of observations by resolution, multiplicity and intensity of their voxels.

    Attributes:
        edges: of the bins of each.
        scatters: one of each.
    """

    edges: tuple[np.ndarray, ...]
    scatters: tuple[Scatter, ...]

    def chi_squared(self, model: ErrorModel) -> dict[str, list[dict[str, float]]]:
        """Return chi squared per degree of freedom in bins of "resolution", "multiplicity" and "intensity".

        Args:
            model: the errors that the observations should have.
        """
        kinds = ("resolution", "multiplicity", "intensity")
        return {
            kind: _rows(edges, scatter, model)
            for kind, edges, scatter in zip(kinds, self.edges, self.scatters, strict=True)
        }


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
        if scatter.n[k] and wanted[k] > 0 and scatter.expected[k] > 0
    ]


def fit_error_model(scatter: Scatter) -> ErrorModel:
    """Return the two-term model whose variances match the scatter in all bins of signal.

    Weighted least squares for inflation and inflation x fraction^2; the second is 0 unless it differs
    from that by more than twice its error, because at few photons next to nothing tells the two apart.
    """
    # Bins of very few observations, brighter than all others, tell of outliers rather than of errors.
    use = (scatter.n > max(20, 1e-3 * scatter.n.sum())) & (scatter.expected > 0)
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
