"""Electron units from the cumulative sum rule of the total scattering.

The total scattering of a crystal, per unit cell, obeys

    integral of (I_coherent) dV_q = sum over atoms of integral of f0^2 dV_q,

because the autocorrelation of the electron density at the origin is that of its atoms, as long as
they do not overlap (Krogh-Moe (1956), Acta Cryst. 9, 951; Norman (1957), Acta Cryst. 10, 370); bonded
atoms do overlap, and get a term of their own. The forward peak, F(000)^2 / V after integration, hides
behind the beamstop and is subtracted. |q| is 1/d, without 2 pi; dV_q = 4 pi q^2 dq.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.absolute.profile import RadialProfile, filled
from diffuse_framework.algorithms.absolute.theory import atomic_integrals
from diffuse_framework.errors import DataError
from diffuse_framework.model.contents import Theory
from diffuse_framework.model.maps import ScaleEstimate

__all__ = ["SumRuleShares", "default_range", "krogh_moe", "sum_rule_shares"]


@dataclass(frozen=True)
class SumRuleShares:
    """What part of the sum rule was not measured, or cancels, up to the highest cutoff.

    Attributes:
        beamstop: of the integral of the total, extrapolated behind the beamstop.
        filled: of that integral, interpolated at other holes.
        forward: of the sum over atoms, the forward peak.
    """

    beamstop: float = np.nan
    filled: float = np.nan
    forward: float = np.nan


def default_range(limit: float) -> tuple[float, float]:
    """Return the lowest and highest cutoff on a map that is complete up to |q| = `limit`, 1/angstrom."""
    return 0.7 * limit, limit


def krogh_moe(profile: RadialProfile, theory: Theory, cutoffs: tuple[float, float]) -> ScaleEstimate:
    """Return k from the cumulative sum rule.

    k(Q) = [integral of (sum f0^2 + I_incoherent) - F(000)^2 / V] / integral of I_total, over |q| < Q. The
    finite sphere makes k(Q) ripple about its limit with the distances between atoms: k is the mean over
    the cutoffs, and how far k(Q) strays from it, from 0.7 of the lowest cutoff on, is part of its
    uncertainty.

    Args:
        profile: as observed; holes are filled here.
        theory: of the cell.
        cutoffs: lowest and highest Q, 1/angstrom.

    Raises:
        DataError: the atoms do not scatter more than the forward peak, or the map does not scatter.
    """
    whole, _ = filled(profile)
    observed = np.cumsum(whole.total * whole.volume)
    variance = np.cumsum(whole.total_variance * whole.volume**2)
    sampling = np.cumsum(whole.total_sampling * whole.volume**2)
    expected = _atoms(profile, theory) - theory.f000_squared_density
    ends = profile.edges[1:]
    chosen = _between(profile, cutoffs)
    sensible = (observed > 0) & (expected > 0)
    listed = np.flatnonzero((ends >= 0.7 * cutoffs[0]) & (ends <= cutoffs[1] + 1e-9) & sensible)
    if (expected[chosen] <= 0).any() or (observed[chosen] <= 0).any():
        raise DataError(
            f"the sum rule leaves nothing to scale to: up to |q| = {ends[chosen[0]]:.3f} 1/angstrom the "
            "forward peak outweighs the atoms, or the map is empty; raise the cutoffs"
        )
    k = float((expected[chosen] / observed[chosen]).mean())
    table = expected[listed] / observed[listed]
    last = chosen[-1]
    return ScaleEstimate(
        method="krogh_moe",
        scale=k,
        sigma_counting=float(k * np.sqrt(variance[last]) / observed[last]),
        # Cumulative values move together: their deviation is not divided by their number.
        sigma_spread=float(np.sqrt(np.mean(np.square(table - k)))),
        sigma_sampling=float(k * np.sqrt(sampling[last]) / observed[last]),
        q=ends[listed],
        scales=table,
    )


def sum_rule_shares(profile: RadialProfile, theory: Theory, cutoffs: tuple[float, float]) -> SumRuleShares:
    """Return what part of the sum rule was not measured, or cancels; arguments as for `krogh_moe`.

    Raises:
        DataError: no shell was observed, or no cutoff lies inside the map.
    """
    whole, holes = filled(profile)
    shell = whole.total * whole.volume
    last = _between(profile, cutoffs)[-1]
    observed = shell[: last + 1].sum()
    low = np.arange(len(holes)) < np.flatnonzero(~holes)[0]
    return SumRuleShares(
        beamstop=float(shell[low].sum() / observed),
        filled=float(shell[: last + 1][(holes & ~low)[: last + 1]].sum() / observed),
        forward=float(theory.f000_squared_density / _atoms(profile, theory)[last]),
    )


def _atoms(profile: RadialProfile, theory: Theory) -> np.ndarray:
    """Integrals (n,) of what atoms scatter on their own, up to the outer edge of each shell."""
    return atomic_integrals(theory, profile.edges, theory.coherent + theory.incoherent)


def _between(profile: RadialProfile, cutoffs: tuple[float, float]) -> np.ndarray:
    """Numbers of the shells whose outer edges are cutoffs.

    Raises:
        DataError: there is none.
    """
    ends = profile.edges[1:]
    chosen = np.flatnonzero((ends >= cutoffs[0] - 1e-9) & (ends <= cutoffs[1] + 1e-9))
    if not len(chosen):
        raise DataError(
            f"no cutoff between {cutoffs[0]:.3f} and {cutoffs[1]:.3f} 1/angstrom is left in a map that is "
            f"complete to {profile.edges[-1]:.3f}"
        )
    return chosen
