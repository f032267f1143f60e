"""All methods on one map, how they agree, and the map in electron units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from diffuse_framework.algorithms.absolute import krogh_moe, norman, wilson
from diffuse_framework.algorithms.absolute.krogh_moe import SumRuleShares, sum_rule_shares
from diffuse_framework.algorithms.absolute.profile import (
    RadialProfile,
    spherical_averages,
    usable_limit,
)
from diffuse_framework.errors import DataError
from diffuse_framework.model.contents import CellContents, Theory
from diffuse_framework.model.maps import AbsoluteMap, AbsoluteReport, MergedMap, ScaleEstimate, Subtracted

__all__ = ["METHODS", "apply", "disagreements", "estimate"]

DISAGREEMENT = 0.10

_Method = Callable[[RadialProfile, Theory, tuple[float, float]], ScaleEstimate]

METHODS: dict[str, tuple[_Method, Callable[[float], tuple[float, float]]]] = {
    "krogh_moe": (krogh_moe.krogh_moe, krogh_moe.default_range),
    "norman": (norman.norman, norman.default_range),
    "wilson": (wilson.wilson, wilson.default_range),
}
"""Each method, and its range of |q| on a map that is complete up to a limit."""


def estimate(
    merged: MergedMap,
    contents: CellContents,
    theory: Theory,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    min_completeness: float | None = None,
    with_bragg: Callable[[RadialProfile], RadialProfile] | None = None,
) -> AbsoluteReport:
    """Return what every method finds; the method asked for is chosen by `apply`.

    Args:
        merged: the map.
        contents, theory: of the cell.
        ranges: of |q| in 1/angstrom, for methods that are not to use their own.
        min_completeness: of the last shell that counts; None as in `profile.usable_limit`.
        with_bragg: puts other Bragg intensities than the map's into its profile, for Wilson's plot.

    Raises:
        IncompleteMap: no shell of the map is complete enough.
    """
    profile = spherical_averages(merged)
    limit = usable_limit(profile, min_completeness)
    if with_bragg is not None:
        profile = with_bragg(profile)
    estimates: dict[str, ScaleEstimate] = {}
    failures: dict[str, str] = {}
    shares = SumRuleShares()
    for method, (fit, default_range) in METHODS.items():
        low, high = (ranges or {}).get(method) or default_range(limit)
        span = low, min(high, limit)
        try:
            estimates[method] = fit(profile, theory, span)
            if method == "krogh_moe":
                shares = sum_rule_shares(profile, theory, span)
        except DataError as error:
            failures[method] = str(error)
    return AbsoluteReport(
        contents=contents,
        theory=theory,
        estimates=estimates,
        failures=failures,
        q=profile.q,
        total=profile.total,
        bragg=profile.bragg,
        completeness=profile.completeness,
        limit=limit,
        beamstop_share=shares.beamstop,
        filled_share=shares.filled,
        forward_share=shares.forward,
    )


def disagreements(report: AbsoluteReport, threshold: float = DISAGREEMENT) -> list[str]:
    """Return in words which methods differ from each other by more than `threshold` of their mean."""
    found = []
    names = list(report.estimates)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            a, b = report.estimates[one], report.estimates[other]
            difference = abs(a.scale - b.scale)
            relative = 2 * difference / (a.scale + b.scale)
            if relative > threshold:
                within = "within" if difference < 2 * np.hypot(a.sigma, b.sigma) else "beyond"
                found.append(
                    f"{one} (k = {a.scale:.4g} +- {a.sigma:.2g}) and {other} (k = {b.scale:.4g} +- "
                    f"{b.sigma:.2g}) differ by {relative:.0%}, {within} their uncertainties"
                )
    return found


def apply(merged: MergedMap, report: AbsoluteReport, method: str) -> AbsoluteMap:
    """Return the map in electron units per unit cell, its incoherent scattering subtracted.

    I_abs = k I - I_incoherent(|q|), sigma_abs = k sigma: the uncertainties of k and of the tables are
    common to all voxels and stay out of the voxels' own (`AbsoluteMap.scale_sigma`).

    Raises:
        DataError: the method found no k.
    """
    if method not in report.estimates:
        raise DataError(f"{method} finds no scale: {report.failures[method]}")
    found = report.estimates[method]
    q = np.linalg.norm(merged.grid.q_of(merged.voxel), axis=1)
    return AbsoluteMap(
        merged=merged,
        intensity=found.scale * merged.intensity - np.interp(q, report.theory.q, report.theory.incoherent),
        variance=found.scale**2 * merged.variance,
        scale=found.scale,
        scale_sigma=found.sigma,
        units="electron units per unit cell",
        report=replace(report, method=method),
        subtracted=Subtracted(report.theory.q, report.theory.incoherent, report.theory.source),
    )
