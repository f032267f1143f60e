"""Electron units from the ratio of atomic to total scattering at large |q|: Norman (1957), Acta Cryst. 10, 370."""

from __future__ import annotations

import numpy as np

from diffuse_framework.algorithms.absolute.profile import RadialProfile, filled
from diffuse_framework.algorithms.absolute.theory import atomic_integrals
from diffuse_framework.errors import DataError
from diffuse_framework.model.contents import Theory
from diffuse_framework.model.maps import ScaleEstimate

__all__ = ["default_range", "norman"]


def default_range(limit: float) -> tuple[float, float]:
    """Return the range of |q| on a map that is complete up to `limit`, 1/angstrom."""
    return 0.6 * limit, limit


def norman(profile: RadialProfile, theory: Theory, limits: tuple[float, float]) -> ScaleEstimate:
    """Return k from the ratio of what atoms scatter on their own to the total, in a range of |q|.

    k = integral of (sum f0^2 + I_incoherent) / integral of I_total between the limits, where interference
    between atoms has nearly averaged out. What is left of it shows in the scatter of k between parts
    of the range. The table lists k of the range from the lower limit up to each |q|.

    Args:
        profile: as observed.
        theory: of the cell.
        limits: lowest and highest |q|, 1/angstrom.

    Raises:
        DataError: nothing was observed there, or it does not scatter.
    """
    whole, _ = filled(profile)
    q, volume = profile.q, profile.volume
    chosen = np.flatnonzero((q > limits[0]) & (q < limits[1]) & np.isfinite(profile.total))
    if not len(chosen):
        raise DataError(f"the map holds nothing between |q| = {limits[0]:.3f} and {limits[1]:.3f} 1/angstrom")
    atoms = np.diff(atomic_integrals(theory, profile.edges, theory.coherent + theory.incoherent), prepend=0.0)
    seen, expected = (whole.total * volume)[chosen], atoms[chosen]
    variance = (whole.total_variance * volume**2)[chosen]
    running, running_expected = np.cumsum(seen), np.cumsum(expected)
    if not running[-1] > 0:
        raise DataError(f"the map does not scatter between |q| = {limits[0]:.3f} and {limits[1]:.3f} 1/angstrom")
    k = float(running_expected[-1] / running[-1])
    parts = [part for part in np.array_split(np.arange(len(chosen)), 5) if len(part)]
    by_part = np.array([expected[part].sum() / seen[part].sum() for part in parts if seen[part].sum() > 0])
    # Neighbouring parts hold the same ripple: their mean is no better known than half their number allows.
    spread = float(by_part.std(ddof=1) / np.sqrt(max(len(by_part) / 2, 1))) if len(by_part) > 1 else 0.0
    table = running > 0
    return ScaleEstimate(
        method="norman",
        scale=k,
        sigma_counting=float(k * np.sqrt(variance.sum()) / running[-1]),
        sigma_spread=spread,
        sigma_sampling=float(k * np.sqrt((whole.total_sampling * volume**2)[chosen].sum()) / running[-1]),
        q=profile.edges[chosen + 1][table],
        scales=(running_expected / np.where(table, running, 1))[table],
    )
