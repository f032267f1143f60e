"""One scale per image from the median, over groups of voxels, of photons over those expected."""

from __future__ import annotations

import numpy as np

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.scaling.overlap import shared_voxels
from diffuse_framework.errors import DataError
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import VoxelSums


def fit_medians(
    sums: VoxelSums, min_photons: float, min_groups: int, max_groups: int, tolerance: float, max_cycles: int
) -> ImageScales:
    """Fit one scale per image; their mean is 1.

    Args:
        sums: read once per cycle and four times more.
        min_photons: in a group, for the dimmest image.
        min_groups, max_groups: how many groups of voxels.
        tolerance: largest relative change of any scale at convergence.
        max_cycles: cycles after which the scales are returned as they are.

    Raises:
        DataError: images that share too few voxels or photons.
    """
    n_images = len(sums.image_names)
    if n_images == 1:
        return ImageScales(np.ones(1), np.zeros(1), {"cycles": 0, "converged": True})
    shared = shared_voxels(sums)
    group, n_groups = _groups(sums, shared, min_photons, min_groups, max_groups)
    net_by_voxel, net, weights = _observed(sums, shared, group, n_groups)

    scales, change, cycle = np.ones(n_images), np.inf, 0
    while change >= tolerance and cycle < max_cycles:
        cycle += 1
        expected = _expected(sums, shared, group, n_groups, net_by_voxel, scales)
        update, _ = _weighted_medians(net, expected * scales[:, None], weights)
        update /= np.exp(np.log(update).mean())
        change = float(np.abs(np.log(update)).max())
        scales = scales * update
        scales /= scales.mean()
    expected = _expected(sums, shared, group, n_groups, net_by_voxel, scales)
    _, sigma = _weighted_medians(net, expected * scales[:, None], weights)
    statistics = {
        "cycles": cycle,
        "converged": bool(change < tolerance),
        "largest_change": change,
        "shared_voxels": int(np.count_nonzero(shared)),
        "groups": n_groups,
    }
    return ImageScales(scales, scales * sigma, statistics)


def _groups(
    sums: VoxelSums, shared: np.ndarray, min_photons: float, min_groups: int, max_groups: int
) -> tuple[np.ndarray, int]:
    """Return the group of each voxel (size of the grid,), neighbours in resolution together, and their number."""
    photons = np.zeros(len(sums.image_names))
    exposure = np.zeros(sums.grid.size)
    for table in sums.tables():
        rows = table.select(shared[table.voxel] & (table.exposure > 0))
        photons += sum_by(rows.image, rows.counts.astype(float) - rows.background, len(photons))
        exposure += sum_by(rows.voxel, rows.exposure, len(exposure))
    n_groups = int(min(photons.min() / min_photons, max_groups, np.count_nonzero(shared)))
    if n_groups < min_groups:
        name = sums.image_names[int(np.argmin(photons))]
        raise DataError(
            f"{name} has {max(photons.min(), 0):.0f} photons in {np.count_nonzero(shared)} voxels that it shares with "
            f"other images, too few for {min_groups} ratios of {min_photons:g} photons; use coarser voxels "
            "(grid.hkl.divisions), leave it out, or take scaler.plugin=per_image"
        )
    # Groups of about equal exposure, from low to high resolution.
    voxel = np.flatnonzero(shared)
    voxel = voxel[np.argsort(np.linalg.norm(sums.grid.q_of(voxel), axis=1), kind="stable")]
    share = np.cumsum(exposure[voxel]) / exposure.sum()
    group = np.zeros(sums.grid.size, np.int64)
    group[voxel] = np.minimum((share * n_groups).astype(np.int64), n_groups - 1)
    return group, n_groups


def _observed(
    sums: VoxelSums, shared: np.ndarray, group: np.ndarray, n_groups: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return photons above background per voxel, and photons and exposure per image and group."""
    n_images = len(sums.image_names)
    per_voxel = np.zeros(sums.grid.size)
    per_group, exposure = np.zeros(n_images * n_groups), np.zeros(n_images * n_groups)
    for table in sums.tables():
        rows = table.select(shared[table.voxel] & (table.exposure > 0))
        net = rows.counts.astype(float) - rows.background
        place = rows.image * n_groups + group[rows.voxel]
        per_voxel += sum_by(rows.voxel, net, len(per_voxel))
        per_group += sum_by(place, net, len(per_group))
        exposure += sum_by(place, rows.exposure, len(exposure))
    return per_voxel, per_group.reshape(n_images, n_groups), exposure.reshape(n_images, n_groups)


def _expected(
    sums: VoxelSums,
    shared: np.ndarray,
    group: np.ndarray,
    n_groups: int,
    net_by_voxel: np.ndarray,
    scales: np.ndarray,
) -> np.ndarray:
    """Return photons expected at scale 1, per image and group (n_images, n_groups)."""
    exposure = np.zeros(sums.grid.size)
    for table in sums.tables():
        rows = table.select(shared[table.voxel] & (table.exposure > 0))
        exposure += sum_by(rows.voxel, rows.exposure * scales[rows.image], len(exposure))
    intensity = np.divide(net_by_voxel, exposure, out=np.zeros_like(exposure), where=exposure > 0)
    expected = np.zeros(len(scales) * n_groups)
    for table in sums.tables():
        rows = table.select(shared[table.voxel] & (table.exposure > 0))
        place = rows.image * n_groups + group[rows.voxel]
        expected += sum_by(place, rows.exposure * np.maximum(intensity[rows.voxel], 0), len(expected))
    return expected.reshape(len(scales), n_groups)


def _weighted_medians(net: np.ndarray, expected: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted median of net / expected of each image (n_images,), and its error.

    Weights are exposures: weighting by photons would give the spoilt groups, which are the bright ones, the
    majority.

    Args:
        net, expected, weights: (n_images, n_groups).
    """
    medians, errors = np.ones(len(net)), np.zeros(len(net))
    for image, (observed, predicted, weight) in enumerate(zip(net, expected, weights, strict=True)):
        known = predicted > 0
        if not known.any():
            continue
        ratio, weight = observed[known] / predicted[known], weight[known]
        order = np.argsort(ratio)
        ratio, weight = ratio[order], weight[order]
        below = (np.cumsum(weight) - 0.5 * weight) / weight.sum()
        # Interpolated, so that a median does not jump from one group to the next.
        median = float(np.interp(0.5, below, ratio))
        # Never zero or negative, however few photons: the next cycle looks again.
        medians[image] = max(median, 0.05)
        spread = 1.4826 * float(np.median(np.abs(ratio - median)))
        errors[image] = 1.2533 * spread / np.sqrt(len(ratio))
    return medians, errors
