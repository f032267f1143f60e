"""Merging the observations of each voxel, streaming over the sums."""

from __future__ import annotations

import numpy as np

from diffuse_framework.algorithms.binning import add_by, shell_numbers, sum_by
from diffuse_framework.algorithms.geometry import voxel_q
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import SumsTable, VoxelSums

__all__ = [
    "assemble",
    "expected_counts",
    "inverse_variance_merge",
    "kept_rows",
    "poisson_merge",
    "scaled_columns",
    "seen_sums",
    "shell_intensities",
    "voxel_sums",
]

N_SHELLS = 50

# Voxels of a grid whose sums are simply kept for the whole box, 88 bytes a voxel.
_SMALL_GRID = 1 << 23

_SUMS = (
    "counts",
    "background",
    "background_variance",
    "exposure",
    "exposure_squares",
    "pixels",
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
        "multiplicity": (table.exposure > 0).astype(float),
        "bragg_counts": table.bragg_counts,
        "bragg_background": table.bragg_background + table.bragg_exposure * offset,
        "bragg_background_variance": table.bragg_background_variance,
        "bragg_exposure": table.bragg_exposure * factor,
    }


def expected_counts(
    counts: np.ndarray, background: np.ndarray, exposure: np.ndarray, shell_intensity: np.ndarray
) -> np.ndarray:
    """Return the expectation of each voxel's counts, (n,): what its variance follows from.

    The observed count is a poor estimate of its own variance where it is small: none seen does
    not mean no error. The intensity is given an exponential prior with the mean of its
    resolution shell; with x = counts the shell predicts, the expectation is
    (counts + 1) x / (1 + x): `counts + 1` for bright voxels, the shell's value for dim ones, and
    right on average in between.
    """
    predicted = shell_intensity * exposure + background
    return (counts + 1) * predicted / (1 + predicted)


def shell_intensities(q: np.ndarray, net_counts: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Return for each voxel the mean intensity of its resolution shell, (n,), never below a tiny one."""
    shells, _ = shell_numbers(q, N_SHELLS)
    net, exposed = (sum_by(shells, values, N_SHELLS) for values in (net_counts, exposure))
    overall = max(net_counts.sum() / exposure.sum(), 0.0) or 1.0 / exposure.sum()
    mean = np.divide(net, exposed, out=np.full(N_SHELLS, overall), where=exposed > 0)
    return np.maximum(mean, 1e-3 * overall)[shells]


def poisson_merge(sums: VoxelSums, scales: Scales) -> MergedMap:
    """Merge by I = sum(n - background) / sum(e b), unbiased however few the counts."""
    voxel, totals = seen_sums(sums, scales)
    diffuse = totals["exposure"] > 0
    seen = {name: _rows_of(values, diffuse) for name, values in totals.items()}
    intensity, variance = _ratio(sums.grid, _rows_of(voxel, diffuse), seen)
    # What the error model adds: errors in proportion to the signal are independent between rows.
    model = scales.error_model
    proportional = (model.fraction * intensity) ** 2 * seen["exposure_squares"] / seen["exposure"] ** 2
    variance = model.inflation * (variance + proportional)
    del seen, proportional
    return _assembled(sums.grid, voxel, intensity, variance, totals)


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
    q = voxel_q(grid, voxel)
    prior[voxel] = shell_intensities(q, seen["counts"] - seen["background"], seen["exposure"])
    weights, weighted, per_intensity, fixed, squares = (np.zeros(grid.size) for _ in range(5))
    for table in sums.tables():
        rows = kept_rows(table, scales)
        rows = rows.select(rows.exposure > 0)
        column = scaled_columns(rows, scales)
        exposure, background = column["exposure"], column["background"]
        variance = prior[rows.voxel] * exposure + background + rows.background_variance
        weight = exposure**2 / variance
        add_by(rows.voxel, weight, weights)
        add_by(rows.voxel, weight * (rows.counts - background) / exposure, weighted)
        add_by(rows.voxel, weight**2 / exposure, per_intensity)
        add_by(rows.voxel, weight**2, squares)
        noise = (background + rows.background_variance) / exposure**2
        add_by(rows.voxel, weight**2 * noise, fixed)
    intensity = weighted[voxel] / weights[voxel]
    # The variance uses the voxel's own intensity, estimated as in `expected_counts`.
    counts = expected_counts(seen["counts"], seen["background"], seen["exposure"], prior[voxel])
    own = np.maximum(counts - seen["background"], 0) / seen["exposure"]
    model = scales.error_model
    proportional = (model.fraction * own) ** 2 * squares[voxel]
    variance = model.inflation * (own * per_intensity[voxel] + fixed[voxel] + proportional) / weights[voxel] ** 2
    return assemble(grid, voxel, intensity, variance, totals)


def _ratio(grid: VoxelGrid, voxel: np.ndarray, seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and variance of sums over voxels."""
    net = seen["counts"] - seen["background"]
    q = voxel_q(grid, voxel)
    shell = shell_intensities(q, net, seen["exposure"])
    counts = expected_counts(seen["counts"], seen["background"], seen["exposure"], shell)
    return net / seen["exposure"], (counts + seen["background_variance"]) / seen["exposure"] ** 2


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
