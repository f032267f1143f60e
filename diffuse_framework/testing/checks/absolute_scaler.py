"""The rules of an absolute scaler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from diffuse_framework.errors import DiffuseError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.maps import AbsoluteMap, MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.testing.checks.common import call, check_finite, first_difference, require


def check_absolute_scaler(scaler: Any, merged: MergedMap, scales: Scales, experiment: Experiment | None = None) -> bool:
    """Check one absolute scaler on one map.

    Rules: the map is multiplied by one positive number, and what is subtracted depends on resolution alone;
    variances follow; the unit of the map before either carries through or drops out.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    arguments = {"merged": merged, "scales": scales, "experiment": experiment}
    try:
        final: AbsoluteMap = call(scaler, "scale", **arguments)
    except DiffuseError:
        return False
    require(first_difference(final.merged, merged) is None, scaler, "merged is not the map it was given")
    require(np.isfinite(final.scale) and final.scale > 0, scaler, f"scale is {final.scale}; it is a positive number")
    require(np.isfinite(final.scale_sigma) and final.scale_sigma >= 0, scaler, f"scale_sigma is {final.scale_sigma}")
    require(str(final.units).strip(), scaler, "units is empty")
    for name in ("intensity", "variance"):
        values = getattr(final, name)
        shape = np.shape(values)
        require(shape == (len(merged),), scaler, f"{name} has shape {shape}, the map {len(merged)} voxels")
        check_finite(scaler, name, values)
    require(
        np.allclose(final.variance, final.scale**2 * merged.variance, rtol=1e-4, atol=0),
        scaler,
        "variance is not scale^2 times that of the map; the uncertainty of the scale itself goes to scale_sigma",
    )
    removed = final.scale * merged.intensity - final.intensity
    length = np.linalg.norm(merged.grid.q_of(merged.voxel), axis=1)
    size = float(np.abs(final.scale * merged.intensity).max(initial=0)) or 1.0
    order = np.argsort(length)
    same_q = np.diff(length[order]) < 1e-9
    require(
        (np.abs(np.diff(removed[order])[same_q]) < 1e-6 * size).all(),
        scaler,
        "voxels of one resolution are changed differently. What is subtracted may depend on |q| alone, and the "
        "scale is one positive number: it can't turn a sign",
    )
    unit = 1024.0
    brighter = replace(
        merged,
        intensity=merged.intensity * unit,
        variance=merged.variance * unit**2,
        total_intensity=merged.total_intensity * unit,
        total_variance=merged.total_variance * unit**2,
        bragg_intensity=merged.bragg_intensity * unit,
        bragg_variance=merged.bragg_variance * unit**2,
    )
    other = call(scaler, "scale", merged=brighter, scales=scales, experiment=experiment)
    ratio = other.scale / final.scale
    require(
        np.isclose(ratio, 1, rtol=1e-4) or np.isclose(ratio * unit, 1, rtol=1e-4),
        scaler,
        f"a map in units {unit:g} times smaller gets a scale {ratio:.4g} times as large; it is the same scale for a "
        f"relative map, or {1 / unit:.4g} times as large for an absolute one",
    )
    return True
