"""Merging the observations of each voxel, streaming over the sums."""

from __future__ import annotations

import numpy as np

from diffuse_framework.algorithms.binning import shell_numbers, sum_by
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import SumsTable, VoxelSums

N_SHELLS = 50

_SUMS = (
    "counts", "background", "background_variance", "exposure", "pixels", "multiplicity",
    "bragg_counts", "bragg_background", "bragg_background_variance", "bragg_exposure",
)  # fmt: skip


def voxel_sums(sums: VoxelSums, scales: Scales) -> dict[str, np.ndarray]:
    """Return the sums of all images per voxel, each (size of the grid,).

    Exposures are multiplied by the scale of each observation; additive offsets of the scaling
    model count as background.
    """
    size = sums.grid.size
    totals = {name: np.zeros(size) for name in _SUMS}
    for table in sums.tables():
        for name, values in scaled_columns(table, scales).items():
            totals[name] += sum_by(table.voxel, values, size)
    return totals


def scaled_columns(table: SumsTable, scales: Scales) -> dict[str, np.ndarray]:
    """Return what each row adds to its voxel, by name of the sum."""
    factor, offset = scales.factor(table), scales.offset(table)
    return {
        "counts": table.counts,
        "background": table.background + table.exposure * offset,
        "background_variance": table.background_variance,
        "exposure": table.exposure * factor,
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
    totals = voxel_sums(sums, scales)
    voxel = np.flatnonzero(totals["exposure"] > 0)
    seen = {name: values[voxel] for name, values in totals.items()}
    intensity, variance = _ratio(sums.grid, voxel, seen)
    return assemble(sums.grid, voxel, intensity, variance, seen)


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
    q = np.linalg.norm(grid.q_of(voxel), axis=-1)
    prior[voxel] = shell_intensities(q, seen["counts"] - seen["background"], seen["exposure"])
    weights, weighted, per_intensity, fixed = (np.zeros(grid.size) for _ in range(4))
    for table in sums.tables():
        rows = table.select(table.exposure > 0)
        column = scaled_columns(rows, scales)
        exposure, background = column["exposure"], column["background"]
        variance = prior[rows.voxel] * exposure + background + rows.background_variance
        weight = exposure**2 / variance
        weights += sum_by(rows.voxel, weight, grid.size)
        weighted += sum_by(rows.voxel, weight * (rows.counts - background) / exposure, grid.size)
        per_intensity += sum_by(rows.voxel, weight**2 / exposure, grid.size)
        noise = (background + rows.background_variance) / exposure**2
        fixed += sum_by(rows.voxel, weight**2 * noise, grid.size)
    intensity = weighted[voxel] / weights[voxel]
    # The variance uses the voxel's own intensity, estimated as in `expected_counts`.
    counts = expected_counts(seen["counts"], seen["background"], seen["exposure"], prior[voxel])
    own = np.maximum(counts - seen["background"], 0) / seen["exposure"]
    variance = (own * per_intensity[voxel] + fixed[voxel]) / weights[voxel] ** 2
    return assemble(grid, voxel, intensity, variance, seen)


def _ratio(grid: VoxelGrid, voxel: np.ndarray, seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and variance of sums over voxels."""
    net = seen["counts"] - seen["background"]
    q = np.linalg.norm(grid.q_of(voxel), axis=-1)
    shell = shell_intensities(q, net, seen["exposure"])
    counts = expected_counts(seen["counts"], seen["background"], seen["exposure"], shell)
    return net / seen["exposure"], (counts + seen["background_variance"]) / seen["exposure"] ** 2


def assemble(
    grid: VoxelGrid,
    voxel: np.ndarray,
    intensity: np.ndarray,
    variance: np.ndarray,
    seen: dict[str, np.ndarray],
) -> MergedMap:
    """Return the map of merged voxels, with the total scattering from both channels."""
    both = {
        name: seen[name] + seen[f"bragg_{name}"]
        for name in ("counts", "background", "background_variance", "exposure")
    }
    total_intensity, total_variance = _ratio(grid, voxel, both)
    return MergedMap(
        grid=grid,
        voxel=voxel,
        intensity=intensity,
        variance=variance,
        multiplicity=seen["multiplicity"].astype(np.int32),
        # Shared pixels of a turning crystal are fractions; a voxel that was seen has at least one.
        pixels=np.maximum(np.rint(seen["pixels"]), 1).astype(np.int64),
        counts=seen["counts"],
        total_intensity=total_intensity,
        total_variance=total_variance,
    )
