"""Electron units from the mean strength of Bragg peaks: Wilson (1942), Nature 150, 152."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffuse_framework.algorithms.absolute.profile import RadialProfile
from diffuse_framework.errors import DataError
from diffuse_framework.model.contents import Theory
from diffuse_framework.model.maps import ScaleEstimate

__all__ = ["WILSON_INTERFERENCE", "default_range", "wilson", "wilson_fit"]

# Relative error of Wilson's k that distances between atoms make and the plot itself can't show: a wave
# that is longer than the plot looks like another B. Fits to |F|^2 calculated from PDB entries 1HPV, 2ERL,
# 1TII and 3AL1, to 1.3 and 1.8 angstrom, give 0.77 to 1.10 of the true k, and those of random atoms that
# keep 3 angstrom apart 0.68 to 0.85.
WILSON_INTERFERENCE = 0.25


def default_range(limit: float) -> tuple[float, float]:
    """Return the range of |q| of the plot on a map that is complete up to `limit`, 1/angstrom."""
    # Beyond d = 4 angstrom the solvent and the arrangement of atoms bend the plot.
    return min(0.25, 0.5 * limit), limit


def wilson(profile: RadialProfile, theory: Theory, limits: tuple[float, float]) -> ScaleEstimate:
    """Return k and B from the mean strength of Bragg peaks.

    The Bragg part of the map, averaged over a shell of reciprocal space, is the mean of |F|^2 over the
    shell's lattice points: |F|^2 / V each, one per volume 1/V. Peaks that images record in part need no
    partiality, since their counts are divided by the exposure of all pixels of their voxel. How k
    changes when the plot starts later is part of its uncertainty, and so is `WILSON_INTERFERENCE`.

    Args:
        profile: as observed.
        theory: of the cell.
        limits: lowest and highest |q|, 1/angstrom.

    Raises:
        DataError: fewer than three shells have Bragg peaks above their noise.
    """
    found = _wilson_between(profile, theory, limits)
    others = []
    for part in (0.1, 0.2, 0.3):
        try:
            low = limits[0] + part * (found.q[-1] - limits[0])
            others.append(_wilson_between(profile, theory, (low, limits[1])).scale)
        except DataError:
            break
    # Distances between atoms raise and lower <|F|^2> in waves that no random error accounts for.
    stray = float(np.sqrt(np.mean(np.square(np.array(others) - found.scale)))) if others else 0.0
    floor = WILSON_INTERFERENCE * found.scale
    return replace(found, sigma_spread=float(np.linalg.norm([found.sigma_spread, stray, floor])))


def _wilson_between(profile: RadialProfile, theory: Theory, limits: tuple[float, float]) -> ScaleEstimate:
    q = profile.q
    chosen = (q > limits[0]) & (q < limits[1]) & (profile.lattice_points > 0) & np.isfinite(profile.bragg)
    return wilson_fit(
        q[chosen],
        profile.bragg[chosen],
        profile.bragg_variance[chosen],
        profile.lattice_points[chosen],
        np.interp(q[chosen], theory.q, theory.ordered),
    )


def wilson_fit(
    q: np.ndarray, strength: np.ndarray, variance: np.ndarray, reflections: np.ndarray, atoms: np.ndarray
) -> ScaleEstimate:
    """Return k and B of the curve ln(strength / atoms) = -ln k - B q^2 / 2 + C q^4 / 8.

    Wilson (1942), Nature 150, 152, with the next cumulant of the distribution of B: atoms of different B
    make the plot curve upwards, by their variance C, and the straight line then gives a k tens of per cent
    too large. C is left out where there are too few shells for it, or where it comes out negative.

    The curve is fitted to the strengths and not to their logarithms, which noise would bias. Shells weigh
    by counting errors and by the scatter of |F|^2, as large as its mean, both as the curve has them;
    uncertainties grow with the misfit that correlations between atoms leave.

    Args:
        q: (n,) 1/angstrom.
        strength, variance: (n,) mean |F|^2 per shell, relative units.
        reflections: (n,) independent reflections per shell.
        atoms: (n,) sum of f0^2 over the ordered atoms.

    Raises:
        DataError: fewer than three shells hold a clear signal, or they obey no such curve.
    """
    if not (atoms > 0).all():
        raise DataError("the cell's contents hold no ordered atoms that Bragg peaks could come from")
    clear = strength > 3 * np.sqrt(variance)
    if np.count_nonzero(clear) < 3:
        raise DataError(
            f"Wilson's plot needs three shells with Bragg peaks above their noise; there are {clear.sum()}. "
            "Check that a masker sends peaks to the Bragg channel, or lower the range of |q|"
        )
    cumulants = np.stack([np.ones_like(q), -np.square(q) / 2, q**4 / 8], axis=1)
    start = np.linalg.lstsq(cumulants[clear][:, :2], np.log(strength[clear] / atoms[clear]), rcond=None)[0]
    data = strength / atoms, variance / atoms**2, reflections
    fit, covariance, misfit = _fit_curve(cumulants[:, :2], *data, start)
    if np.count_nonzero(clear) >= 8:
        curved = _fit_curve(cumulants, *data, np.array([*fit, 0.0]))
        if curved[0][2] > 0:
            fit, covariance, misfit = curved
    curve = np.exp(cumulants[:, : len(fit)] @ fit)
    k = float(np.exp(-fit[0]))
    sigma = float(k * np.sqrt(covariance[0, 0]))
    return ScaleEstimate(
        method="wilson",
        scale=k,
        sigma_counting=sigma,
        sigma_spread=sigma * float(np.sqrt(max(misfit - 1, 0))),
        q=q[clear],
        scales=(k * curve * atoms / np.where(clear, strength, 1))[clear],
        b_factor=float(fit[1]),
    )


def _fit_curve(
    cumulants: np.ndarray, ratio: np.ndarray, variance: np.ndarray, reflections: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit ratio = exp(cumulants @ x): x, its covariance, and chi^2 per degree of freedom.

    Gauss-Newton steps, shortened where they are long; weights follow the curve.

    Raises:
        DataError: it does not converge.
    """
    x = start
    for _ in range(100):
        model = np.exp(cumulants @ x)
        weight = 1 / (variance + model**2 / reflections)
        jacobian = cumulants * model[:, None]
        covariance = np.linalg.pinv(jacobian.T @ (weight[:, None] * jacobian))
        step = covariance @ (jacobian.T @ (weight * (ratio - model)))
        # A curve that doubles at once anywhere has left the region where it is nearly linear.
        step /= max(1.0, float(np.abs(cumulants @ step).max()) / 0.7)
        x = x + step
        if np.abs(step[0]) < 1e-7 and np.abs(cumulants @ step).max() < 1e-6:
            misfit = float(weight @ np.square(ratio - model)) / max(len(ratio) - len(x), 1)
            return x, covariance, misfit
    raise DataError("Wilson's plot does not converge to a smooth curve; lower the range of |q|")
