"""Observations that disagree with the rest of their voxel, too high or too low."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

from diffuse_framework.algorithms.binning import shell_numbers
from diffuse_framework.algorithms.scaling.observations import Observations
from diffuse_framework.algorithms.scaling.voxel_totals import RowModel, scaled_row, share_of, sums_of_voxel, with_model
from diffuse_framework.model.scales import ErrorModel


@njit(cache=True, error_model="numpy", inline="always")
def _deviance(counts, expected):
    """Twice the log-likelihood ratio of a Poisson count to its expectation."""
    expected = max(expected, 1e-12)
    if counts <= 0:
        return 2 * expected
    return max(2 * (counts * np.log(counts / expected) - counts + expected), 0.0)


@njit(cache=True, error_model="numpy")
def _deviation(counts, background, exposure, n, b, e, inflation, fraction, limit):
    """Return by how many standard deviations a row lies from the rest of its voxel; 0 where it is below the limit.

    What of the variances is not of counting is in counts and backgrounds alike (`_moved_row`).

    The signed square root of the likelihood ratio of one common intensity against two, the row's own
    and that of the rest: symmetric, right at a few counts, and aware of how little the rest may tell.
    """
    rest, rest_exposure = n - counts, e - exposure
    if rest_exposure <= 1e-9 * e:
        return 0.0
    pooled = max((n - b) / e, 0.0)
    signal = pooled * exposure
    expected = signal + background
    expected_rest = pooled * rest_exposure + b - background
    # What the error model adds to the variance of the difference, relative to counting.
    more = inflation * (1 + fraction * fraction * signal * signal / max(expected, 1e-12))
    # A deviance is at most twice the squared difference over its expectation: most rows need no logarithm.
    most = (counts - expected) ** 2 / max(expected, 1e-12) + (rest - expected_rest) ** 2 / max(expected_rest, 1e-12)
    if 2 * most <= limit * limit * more:
        return 0.0
    squared = _deviance(counts, expected) + _deviance(rest, expected_rest)
    if squared <= limit * limit * more:
        return 0.0
    own = (rest - (b - background)) / rest_exposure
    above = (counts - background) / exposure > own
    return np.sqrt(squared / more) * (1 if above else -1)


@njit(cache=True, error_model="numpy", inline="always")
def _moved_row(rows, row, factor, offset):
    """Return what `scaled_row` does, with the variance that is not of counting added to counts and background.

    Poisson counts and noise of variance r together have, moved up by r, mean and variance of a Poisson variable
    (Snyder, Hammoud & White (1993), J. Opt. Soc. Am. A 10, 1014), and are rarely below zero.
    """
    counts, background, exposure = scaled_row(rows, row, factor, offset)
    return counts + rows[row].background_variance, background + rows[row].background_variance, exposure


@njit(cache=True, error_model="numpy")
def _reject(first, rows, accepted, factor, offset, inflation, fraction, limit, max_rounds, deviations):
    """Take outliers off `accepted` and write how far off they are; return the number of disputed voxels."""
    disputed = 0
    for v in range(len(first) - 1):
        n, b, e, _, seen, noise, _ = sums_of_voxel(first, rows, accepted, factor, offset, v)
        n += noise
        b += noise
        for _ in range(max_rounds):
            worst, at = 0.0, -1
            for row in range(first[v], first[v + 1]):
                if accepted[row]:
                    counts, background, exposure = _moved_row(rows, row, factor, offset)
                    inflated = inflation * share_of(rows, row)
                    z = _deviation(counts, background, exposure, n, b, e, inflated, fraction, limit)
                    if abs(z) > abs(worst):
                        worst, at = z, row
            if at < 0:
                break
            if seen < 3:
                disputed += seen == first[v + 1] - first[v]
                # One of both is wrong, and scales bend to make them agree.
                accepted[first[v] : first[v + 1]] = False
                break
            accepted[at] = False
            deviations[at] = worst
            counts, background, exposure = _moved_row(rows, at, factor, offset)
            n -= counts
            b -= background
            e -= exposure
            seen -= 1
    return disputed


@dataclass(frozen=True, eq=False)
class Outliers:
    """Rejected observations.

    Attributes:
        accepted: (n_rows,) of the observations, False for outliers and for both of two that disagree; None where
            nothing was judged.
        keys: (n, 4) image, voxel, operator and panel of each.
        deviation: (n,) standard deviations from the rest of the voxel.
        disputed: voxels of two observations that disagree as much, of which none was rejected.
    """

    accepted: np.ndarray | None = None
    keys: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    deviation: np.ndarray = field(default_factory=lambda: np.zeros(0))
    disputed: int = 0

    def __len__(self) -> int:
        return len(self.keys)


def find_outliers(
    observations: Observations, scales: RowModel, limit: float, model: ErrorModel, max_rounds: int = 10
) -> Outliers:
    """Find observations that disagree with the rest of their voxel, too high or too low.

    One bad value pulls the mean, so that good ones seem to disagree with it too. Therefore only the observation
    of a voxel that disagrees most with all others goes, and the others are judged again without it.
    Voxels of two observations lose none: nothing says which is wrong. But neither of both is accepted for a fit.

    Args:
        observations: all of them are judged, accepted before or not; without reflections.
        scales: of the observations.
        limit: in standard deviations.
        model: of the errors.
        max_rounds: most observations that a voxel may lose.
    """
    accepted = np.ones(len(observations), bool)
    keys, values, disputed = [np.zeros((0, 4), np.int64)], [np.zeros(0)], 0
    for block, factor, offset in with_model(observations, scales):
        deviations = np.zeros(len(factor))
        disputed += _reject(
            block.first,
            block.rows,
            accepted[block.place],
            factor,
            offset,
            model.inflation,
            model.fraction,
            limit,
            max_rounds,
            deviations,
        )
        out = np.flatnonzero(deviations)
        if len(out):
            rows = block.rows[out]
            voxel = block.by_row(observations.voxel[block.voxels])[out]
            columns = (rows["image"], voxel, rows["operator"], rows["panel"])
            keys.append(np.stack([column.astype(np.int64) for column in columns], axis=1))
            values.append(deviations[out])
    return Outliers(accepted, np.concatenate(keys), np.concatenate(values), disputed)


def outlier_report(outliers: Outliers, image_names: tuple[str, ...], n_observations: int, most: int = 20) -> dict:
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


def outliers_by_shell(outliers: Outliers, observations: Observations, n_shells: int = 10) -> list[dict[str, float]]:
    """Return how many observations were rejected in each shell of resolution of equal volume, low resolution first.

    Args:
        outliers: of the observations.
        observations: that were judged, without reflections.
        n_shells: how many shells.

    Returns:
        Of each shell d_min in angstrom, the number rejected, and its share of the observations judged there.
    """
    shell, edges = shell_numbers(observations.q, n_shells)
    judged = np.bincount(shell, weights=np.diff(observations.first), minlength=n_shells)
    place = np.searchsorted(observations.voxel, outliers.keys[:, 1])
    rejected = np.bincount(shell[place], minlength=n_shells)
    return [
        {"d_min": float(1 / edges[k + 1]), "rejected": int(rejected[k]), "fraction": float(rejected[k] / judged[k])}
        for k in range(n_shells)
        if judged[k]
    ]
