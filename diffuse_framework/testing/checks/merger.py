"""The rules of a merger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import (
    COLUMN_TYPES,
    SumsInMemory,
    SumsTable,
    concatenate,
)
from diffuse_framework.testing.checks.altered import known_scales, reordered, with_columns
from diffuse_framework.testing.checks.common import call, check_finite, require


def check_merger(merger: Any, sums: SumsInMemory, scales: ImageScales) -> bool:
    """Check one merger on one set of sums.

    Rules: no counts, pixels or voxels are lost; finite values and positive variances wherever something was
    observed; the map depends neither on order nor, but for its unit, on that of exposure; data merged with
    themselves give the same map with errors smaller by the square root of 2; known intensities come back.

    Returns:
        True: nothing here may be refused.

    Raises:
        BrokenContract: a rule is broken.
    """
    merged = call(merger, "merge", sums=sums, scales=scales)
    table = concatenate(list(sums.pieces))
    _check_map(merger, merged, table)
    order = np.arange(len(sums.image_names))[::-1]
    turned = ImageScales(scales.per_image[order], scales.per_image_sigma[order])
    other = call(merger, "merge", sums=reordered(sums, order), scales=turned)
    _check_same_map(merger, merged, other, 1.0, "the order of images, rows or tables")
    other = call(merger, "merge", sums=with_columns(sums, exposure=1024.0, bragg_exposure=1024.0), scales=scales)
    _check_same_map(merger, merged, other, 1024.0, "the unit of exposure")
    _check_merged_with_itself(merger, sums, scales)
    _check_merger_recovers(merger)
    return True


def _check_map(merger: Any, merged: MergedMap, table: SumsTable) -> None:
    observed = np.unique(table.voxel[table.exposure > 0])
    ascends = (np.diff(merged.voxel) > 0).all()
    require(ascends, merger, "voxel does not ascend, or a voxel has several rows: it was not merged")
    lost = np.setdiff1d(observed, merged.voxel)
    require(
        len(lost) == 0,
        merger,
        f"loses {len(lost)} of {len(observed)} voxels that have exposure; a voxel without photons is a measurement too",
    )
    extra = np.setdiff1d(merged.voxel, observed)
    require(len(extra) == 0, merger, f"makes up {len(extra)} voxels that no pixel falls into")
    require((merged.multiplicity > 0).all(), merger, "multiplicity is not above 0 in a voxel of the map")
    names = ("intensity", "variance", "multiplicity", "pixels", "counts", "total_intensity", "total_variance")
    for name in names:
        values = getattr(merged, name)
        shape = np.shape(values)
        require(shape == (len(merged),), merger, f"{name} has shape {shape}, the map {len(merged)} voxels")
        check_finite(merger, name, values)
    for name in ("variance", "total_variance"):
        require(
            (getattr(merged, name) > 0).all(),
            merger,
            f"{name} is zero or negative; no count at all does not mean no error",
        )
    seen = table.exposure > 0
    for name in ("counts", "pixels"):
        expected = float(getattr(table, name)[seen].sum(dtype=float))
        found = float(getattr(merged, name).sum(dtype=float))
        require(
            abs(found - expected) <= 1e-5 * max(abs(expected), 1),
            merger,
            f"{name} of the map add up to {found:.8g}, those of the sums to {expected:.8g}: "
            f"{'some are lost' if found < expected else 'some are counted twice'}",
        )


def _check_same_map(merger: Any, a: MergedMap, b: MergedMap, unit: float, what: str) -> None:
    same = (
        (a.voxel.shape == b.voxel.shape)
        and (a.voxel == b.voxel).all()
        and np.allclose(a.intensity, b.intensity * unit, rtol=1e-4, atol=1e-4 * np.abs(a.intensity).max(initial=0))
        and np.allclose(a.variance, b.variance * unit**2, rtol=1e-3, atol=1e-6 * a.variance.max(initial=0))
    )
    require(same, merger, f"the map changes with {what}")


def _check_merged_with_itself(merger: Any, sums: SumsInMemory, scales: ImageScales) -> None:
    # Bright, so that no prior for dim voxels plays a part.
    table = concatenate(list(sums.pieces))
    net = 1e4 * np.maximum(table.pixels, 1) * scales.per_image[table.image]
    level = float(table.exposure.max()) or 1.0
    bright = replace(
        table,
        counts=(table.background + net * table.exposure / level).astype(COLUMN_TYPES["counts"]),
        background_variance=np.zeros(len(table), COLUMN_TYPES["background_variance"]),
    )
    n = len(sums.image_names)
    once = SumsInMemory(sums.grid, sums.image_names, (bright,))
    names = sums.image_names + tuple(f"{name} again" for name in sums.image_names)
    twice = SumsInMemory(sums.grid, names, (bright, replace(bright, image=(bright.image + n).astype(np.int32))))
    both = ImageScales(np.tile(scales.per_image, 2), np.tile(scales.per_image_sigma, 2))
    first = call(merger, "merge", sums=once, scales=scales)
    second = call(merger, "merge", sums=twice, scales=both)
    require(
        np.allclose(first.intensity, second.intensity, rtol=1e-3),
        merger,
        "data merged with themselves give another intensity; weights must depend on the observations alone",
    )
    if len(first):
        ratio = float(np.median(np.sqrt(first.variance / second.variance)))
        require(
            abs(ratio - np.sqrt(2)) < 0.05,
            merger,
            f"data merged with themselves: errors fall by a factor {ratio:.3f}, not by the square root of 2 (1.414)",
        )


def _check_merger_recovers(merger: Any) -> None:
    sums, truth = known_scales()
    merged = call(merger, "merge", sums=sums, scales=ImageScales(truth, 0.01 * truth))
    table = concatenate(list(sums.pieces))
    size = sums.grid.size
    net = sum_by(table.voxel, table.counts, size)
    exposed = sum_by(table.voxel, table.exposure * truth[table.image], size)
    expected = (net / np.where(exposed > 0, exposed, 1))[merged.voxel]
    off = float(np.max(np.abs(merged.intensity / expected - 1)))
    require(
        off < 0.01,
        merger,
        f"noise-free sums of known scales give intensities up to {100 * off:.1f} % off. Expected counts are exposure "
        "x scales.factor x intensity: are the scales used, and the right way up?",
    )
