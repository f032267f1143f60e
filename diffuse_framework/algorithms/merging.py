"""Merging the observations of each voxel, streaming over the sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffuse_framework.algorithms.binning import add_by, shell_numbers, sum_by
from diffuse_framework.algorithms.geometry import voxel_q
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import ErrorModel, Scales
from diffuse_framework.model.voxels import SumsTable, VoxelSums

__all__ = [
    "assemble",
    "expected_counts",
    "inverse_variance_merge",
    "kept_rows",
    "merge_totals",
    "mean_share",
    "poisson_merge",
    "scaled_columns",
    "seen_sums",
    "shell_intensities",
    "shell_prior",
    "voxel_sums",
]

N_SHELLS = 50

# Relative to the mean, of the true intensities of a shell.
_LEAST_SPREAD = 0.05

# Voxels of a grid whose sums are simply kept for the whole box, 96 bytes a voxel.
_SMALL_GRID = 1 << 23

_SUMS = (
    "counts",
    "background",
    "background_variance",
    "exposure",
    "exposure_squares",
    "pixels",
    "share_squares",
    "multiplicity",
    "bragg_counts",
    "bragg_background",
    "bragg_background_variance",
    "bragg_exposure",
)


def voxel_sums(sums: VoxelSums, scales: Scales) -> dict[str, np.ndarray]:
    """Return the sums of all images per voxel, each (size of the grid,).

    Exposures are multiplied by the scale of each observation; additive offsets of the scaling
    model count as background.
    """
    size = sums.grid.size
    totals = {name: np.zeros(size) for name in _SUMS}
    for table in sums.tables():
        rows = kept_rows(table, scales)
        for name, values in scaled_columns(rows, scales).items():
            # Memory that nothing is added to stays unused: a map without background pays nothing for it.
            if values.any():
                add_by(rows.voxel, values, totals[name])
    return totals


def seen_sums(sums: VoxelSums, scales: Scales) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the voxels with exposure in either channel, ascending (n,), and what `voxel_sums` has of them, (n,) each.

    Of a large grid only these voxels are given memory; the sums are then read twice.
    """
    size = sums.grid.size
    if size <= _SMALL_GRID:
        totals = voxel_sums(sums, scales)
        voxel = np.flatnonzero((totals["exposure"] > 0) | (totals["bragg_exposure"] > 0))
        return voxel, {name: values[voxel] for name, values in totals.items()}
    exposed = np.zeros(size, bool)
    for table in sums.tables():
        rows = kept_rows(table, scales)
        exposed[rows.voxel[(rows.exposure > 0) | (rows.bragg_exposure > 0)]] = True
    voxel = np.flatnonzero(exposed)
    place = np.zeros(size, np.int32)
    place[voxel] = np.arange(len(voxel))
    totals = {name: np.zeros(len(voxel)) for name in _SUMS}
    for table in sums.tables():
        rows = kept_rows(table, scales)
        rows = rows.select(exposed[rows.voxel])
        places = place[rows.voxel]
        for name, values in scaled_columns(rows, scales).items():
            if values.any():
                add_by(places, values, totals[name])
    return voxel, totals


def kept_rows(table: SumsTable, scales: Scales) -> SumsTable:
    """Return the rows that are no outliers."""
    keep = scales.keep(table)
    return table if keep.all() else table.select(keep)


def rows_of(table: SumsTable, voxels: np.ndarray) -> tuple[SumsTable, np.ndarray]:
    """Return the rows of voxels (n,), which ascend, and the place of each row's voxel among them."""
    place = np.searchsorted(voxels, table.voxel)
    inside = voxels[np.minimum(place, len(voxels) - 1)] == table.voxel if len(voxels) else np.zeros(len(table), bool)
    return table.select(inside), place[inside]


def scaled_columns(table: SumsTable, scales: Scales) -> dict[str, np.ndarray]:
    """Return what each row adds to its voxel, by name of the sum."""
    factor, offset = scales.factor(table), scales.offset(table)
    return {
        "counts": table.counts,
        "background": table.background + table.exposure * offset,
        "background_variance": table.background_variance,
        "exposure": table.exposure * factor,
        "exposure_squares": (table.exposure * factor) ** 2,
        "pixels": table.pixels,
        "share_squares": table.share_squares,
        "multiplicity": (table.exposure > 0).astype(float),
        "bragg_counts": table.bragg_counts,
        "bragg_background": table.bragg_background + table.bragg_exposure * offset,
        "bragg_background_variance": table.bragg_background_variance,
        "bragg_exposure": table.bragg_exposure * factor,
    }


def mean_share(share_squares: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return by what the variance of counts (n,) is smaller than their number: 1 where pixels are whole.

    Args:
        share_squares, pixels: of `SumsTable`, or sums of them.
    """
    known = (pixels > 0) & (share_squares > 0)
    return np.where(known, np.minimum(share_squares / np.where(known, pixels, 1.0), 1.0), 1.0)


def expected_counts(
    counts: np.ndarray,
    background: np.ndarray,
    exposure: np.ndarray,
    shell_intensity: np.ndarray,
    shell_spread: np.ndarray | None = None,
    noise: np.ndarray | float = 0.0,
    share: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Return the expectation of each voxel's counts, (n,): what its variance follows from.

    The observed count is a poor estimate of its own variance where it is small: none seen does
    not mean no error, and where a detector that integrates charge is read with noise it may be
    negative. The expectation is the best linear one (Buhlmann's credibility; for Poisson counts and a
    Gamma prior it is the posterior mean): with x the counts that the shell predicts and s those that
    its intensities spread by, ``x + (counts - x) s^2 / (s^2 + x + noise)``. `counts` are cut at
    ``-noise``, so that expectation + noise is always above 0.

    Args:
        counts, background, exposure: sums of voxels.
        shell_intensity: mean of the resolution shell, above 0.
        shell_spread: standard deviation of the true intensities within the shell; None takes an exponential
            prior, s = x, by which the expectation is ``(counts + 1) x / (1 + x)`` for pure counting.
        noise: variance of the counts that is not of counting, photons^2.
        share: variance of the counts over their expectation (`mean_share`).
    """
    from_crystal = shell_intensity * exposure
    predicted = np.maximum(from_crystal + background, 1e-3 * from_crystal)
    spread = predicted if shell_spread is None else np.minimum(shell_spread * exposure, predicted)
    trust = spread**2 / (spread**2 + share * predicted + noise)
    return predicted + trust * (np.maximum(counts, -np.asarray(noise)) - predicted)


def shell_intensities(q: np.ndarray, net_counts: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Return for each voxel the mean intensity of its resolution shell, (n,), never below a tiny one."""
    shells, _ = shell_numbers(q, N_SHELLS)
    return _means_of_shells(shells, net_counts, exposure)[shells]


def _means_of_shells(shells: np.ndarray, net_counts: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    net, exposed = (sum_by(shells, values, N_SHELLS) for values in (net_counts, exposure))
    overall = max(net_counts.sum() / exposure.sum(), 0.0) or 1.0 / exposure.sum()
    # One photon of the whole is added to every shell: the variances of a shell of few go by 1 / mean.
    return np.maximum((net + 1) / (exposed + 1 / overall), 1e-3 * overall)


def shell_prior(
    q: np.ndarray,
    counts: np.ndarray,
    background: np.ndarray,
    exposure: np.ndarray,
    noise: np.ndarray,
    share: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each voxel mean and spread of the true intensities of its resolution shell, (n,) each.

    The spread, a standard deviation, is what the scatter of the voxels has beyond counting and noise, by the method
    of moments: relative to the mean first of all shells together and one standard error low, because few counts
    tell little of it, then of each shell, as far as that tells more. It lies between one twentieth of the mean,
    for no shell is quite uniform, and the mean, which is that of an exponential distribution: a few bright voxels
    must not make the dim ones trust their own few counts.

    Args:
        q: |q|, 1/angstrom.
        counts, background, exposure: sums of voxels.
        noise: variance of the counts that is not of counting, photons^2.
        share: variance of the counts over their expectation (`mean_share`).
    """
    shells, _ = shell_numbers(q, N_SHELLS)
    net = counts - background
    mean = _means_of_shells(shells, net, exposure)
    expected = mean[shells] * exposure
    # Each voxel's own square and its expectation are divided by what its variance is without any spread.
    variance = share * np.maximum(expected + background, 1e-3 * expected) + noise
    # What a relative variance of 1 would add, and the variance of the sum of squares, of Poisson counts.
    excess = sum_by(shells, (net - expected) ** 2 / variance - 1, N_SHELLS)
    signal = sum_by(shells, expected**2 / variance, N_SHELLS)
    precision = 1 / np.maximum(sum_by(shells, 2 + share**2 / variance, N_SHELLS), 1e-300)
    known = max((signal**2 * precision).sum(), 1e-300)
    common = (signal * excess * precision).sum() / known - 1 / np.sqrt(known)
    common = min(max(common, _LEAST_SPREAD**2), 1.0)
    # As if the shells' own values lay about the common one with half of it as their standard deviation.
    before = 1 / (0.5 * common) ** 2
    relative = (signal * excess * precision + common * before) / (signal**2 * precision + before)
    spread = np.sqrt(np.clip(relative, _LEAST_SPREAD**2, 1.0)) * mean
    return mean[shells], spread[shells]


def poisson_merge(sums: VoxelSums, scales: Scales) -> MergedMap:
    """Merge by I = sum(n - background) / sum(e b), unbiased however few the counts."""
    voxel, totals = seen_sums(sums, scales)
    return merge_totals(sums.grid, voxel, totals, scales.error_model)


def merge_totals(
    grid: VoxelGrid,
    voxel: np.ndarray,
    totals: dict[str, np.ndarray],
    model: ErrorModel,
    share: np.ndarray | float = 1.0,
    bragg_share: np.ndarray | float = 1.0,
) -> MergedMap:
    """Return the map of sums per voxel, merged as `poisson_merge` does.

    Args:
        grid: to which the voxels belong.
        voxel: (n,) numbers of those with exposure in either channel, ascending.
        totals: of `seen_sums`, (n,) each.
        model: what the variance has beyond counting.
        share, bragg_share: (n,) of either channel: by what the variance of counting is lower because counts are
            shared with other voxels; 1 where they are not.
    """
    diffuse = totals["exposure"] > 0
    seen = {name: _rows_of(values, diffuse) for name, values in totals.items()}
    intensity, variance = _ratio(grid, _rows_of(voxel, diffuse), seen)
    shares = np.broadcast_to(share, len(voxel))
    if np.ndim(share):
        variance = variance * shares[diffuse]
    # What the error model adds: errors in proportion to the signal are independent between rows.
    proportional = (model.fraction * intensity) ** 2 * seen["exposure_squares"] / seen["exposure"] ** 2
    variance = model.inflation * (variance + proportional)
    del seen, proportional
    merged = _assembled(grid, voxel, intensity, variance, totals)
    if not np.ndim(share):
        return merged
    others = np.broadcast_to(bragg_share, len(voxel))
    exposure, bragg = totals["exposure"], totals["bragg_exposure"]
    both = (shares * exposure + others * bragg) / (exposure + bragg)
    return replace(
        merged,
        total_variance=merged.total_variance * both[diffuse],
        bragg_variance=merged.bragg_variance * both[~diffuse],
    )


def _rows_of(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return a selection; the array itself where it is all of it."""
    return values if chosen.all() else values[chosen]


def inverse_variance_merge(sums: VoxelSums, scales: Scales) -> MergedMap:
    """Merge by the mean of single observations weighted by their inverse variance.

    The variances are those expected from the mean intensity of the resolution shell, not from
    the observation's own counts: those would give low counts high weight and bias the mean.
    """
    grid = sums.grid
    totals = voxel_sums(sums, scales)
    voxel = np.flatnonzero(totals["exposure"] > 0)
    seen = {name: values[voxel] for name, values in totals.items()}
    prior = np.zeros(grid.size)
    share = mean_share(seen["share_squares"], seen["pixels"])
    shell, spread = shell_prior(
        voxel_q(grid, voxel),
        seen["counts"],
        seen["background"],
        seen["exposure"],
        seen["background_variance"],
        share,
    )
    prior[voxel] = shell
    weights, weighted, per_intensity, fixed, squares = (np.zeros(grid.size) for _ in range(5))
    for table in sums.tables():
        rows = kept_rows(table, scales)
        rows = rows.select(rows.exposure > 0)
        column = scaled_columns(rows, scales)
        exposure, background = column["exposure"], column["background"]
        from_crystal = prior[rows.voxel] * exposure
        shared = mean_share(rows.share_squares, rows.pixels)
        variance = shared * np.maximum(from_crystal + background, 1e-3 * from_crystal) + rows.background_variance
        weight = exposure**2 / variance
        add_by(rows.voxel, weight, weights)
        add_by(rows.voxel, weight * (rows.counts - background) / exposure, weighted)
        add_by(rows.voxel, shared * weight**2 / exposure, per_intensity)
        add_by(rows.voxel, weight**2, squares)
        add_by(rows.voxel, weight**2 * (shared * background + rows.background_variance) / exposure**2, fixed)
    intensity = weighted[voxel] / weights[voxel]
    # The variance uses the voxel's own intensity, estimated as in `expected_counts`.
    noise = seen["background_variance"]
    counts = expected_counts(seen["counts"], seen["background"], seen["exposure"], shell, spread, noise, share)
    own = np.maximum(counts - seen["background"], 1e-3 * shell * seen["exposure"]) / seen["exposure"]
    model = scales.error_model
    proportional = (model.fraction * own) ** 2 * squares[voxel]
    # Never below a thousandth of what the shell predicts: an offset below zero counts as a negative background.
    counting = np.maximum(own * per_intensity[voxel] + fixed[voxel], 1e-3 * shell * per_intensity[voxel])
    variance = model.inflation * (counting + proportional) / weights[voxel] ** 2
    return assemble(grid, voxel, intensity, variance, totals)


def _ratio(grid: VoxelGrid, voxel: np.ndarray, seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and variance of sums over voxels."""
    counts, background, exposure, noise = (
        seen[name] for name in ("counts", "background", "exposure", "background_variance")
    )
    # Of both channels together nothing tells the shares of Bragg pixels: whole ones have the larger errors.
    share = mean_share(seen["share_squares"], seen["pixels"]) if "share_squares" in seen else np.ones(len(voxel))
    shell, spread = shell_prior(voxel_q(grid, voxel), counts, background, exposure, noise, share)
    expected = expected_counts(counts, background, exposure, shell, spread, noise, share)
    return (counts - background) / exposure, (share * expected + noise) / exposure**2


def assemble(
    grid: VoxelGrid,
    voxel: np.ndarray,
    intensity: np.ndarray,
    variance: np.ndarray,
    totals: dict[str, np.ndarray],
) -> MergedMap:
    """Return the map of merged voxels, with the total scattering from both channels.

    Args:
        grid: to which the voxels belong.
        voxel, intensity, variance: (n,) the voxels with diffuse pixels.
        totals: of `voxel_sums`.
    """
    exposed = np.flatnonzero(totals["exposure"] + totals["bragg_exposure"] > 0)
    return _assembled(grid, exposed, intensity, variance, {name: values[exposed] for name, values in totals.items()})


def _assembled(
    grid: VoxelGrid,
    exposed: np.ndarray,
    intensity: np.ndarray,
    variance: np.ndarray,
    totals: dict[str, np.ndarray],
) -> MergedMap:
    """Do what `assemble` does with the sums (n,) of the voxels exposed (n,) in either channel."""
    both = {
        name: totals[name] + totals[f"bragg_{name}"]
        for name in ("counts", "background", "background_variance", "exposure")
    }
    exposed_intensity, exposed_variance = _ratio(grid, exposed, both)
    # Voxels that lie wholly inside a Bragg peak have no diffuse pixel, and still scatter.
    diffuse = totals["exposure"] > 0
    bragg_only = ~diffuse
    return MergedMap(
        grid=grid,
        voxel=_rows_of(exposed, diffuse),
        intensity=intensity,
        variance=variance,
        multiplicity=_rows_of(totals["multiplicity"], diffuse).astype(np.int32),
        # Shared pixels of a turning crystal are fractions; a voxel that was seen has at least one.
        pixels=np.maximum(np.rint(_rows_of(totals["pixels"], diffuse)), 1).astype(np.int64),
        counts=_rows_of(totals["counts"], diffuse),
        total_intensity=_rows_of(exposed_intensity, diffuse),
        total_variance=_rows_of(exposed_variance, diffuse),
        bragg_voxel=exposed[bragg_only],
        bragg_intensity=exposed_intensity[bragg_only],
        bragg_variance=exposed_variance[bragg_only],
    )
