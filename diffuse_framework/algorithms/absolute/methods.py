"""From relative units to electron units per unit cell: sum rules over radial profiles.

The total scattering of a crystal, per unit cell, obeys

    integral of (I_coherent) dV_q = sum over atoms of integral of f0^2 dV_q,

because the autocorrelation of the electron density at the origin is that of its atoms, as long as
they do not overlap (Krogh-Moe (1956), Acta Cryst. 9, 951; Norman (1957), Acta Cryst. 10, 370); bonded
atoms do overlap, and get a term of their own. The forward peak, F(000)^2 / V after integration, hides
behind the beamstop and is subtracted. |q| is 1/d, without 2 pi; dV_q = 4 pi q^2 dq.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.symmetry import orbit_sizes
from diffuse_framework.errors import DataError
from diffuse_framework.model.contents import CellContents, Theory
from diffuse_framework.model.maps import AbsoluteMap, AbsoluteReport, MergedMap, ScaleEstimate, Subtracted

# h / (m_e c) in angstrom, CODATA 2018.
COMPTON_WAVELENGTH = 0.0242631023867

N_SHELLS = 100
MIN_COMPLETENESS = 0.5
DISAGREEMENT = 0.10
# Relative error of Wilson's k that distances between atoms make and the plot itself can't show: a wave
# that is longer than the plot looks like another B. Fits to |F|^2 calculated from PDB entries 1HPV, 2ERL,
# 1TII and 3AL1, to 1.3 and 1.8 angstrom, give 0.77 to 1.10 of the true k, and those of random atoms that
# keep 3 angstrom apart 0.68 to 0.85.
WILSON_INTERFERENCE = 0.25
_LATTICE, _BETWEEN = 0, 1


def breit_dirac_factor(q: np.ndarray, wavelength: float) -> np.ndarray:
    """Return the recoil factor (...) of the number of photons that electrons scatter incoherently.

    (E'/E)^2 = (1 + 2 lambda_C sin^2(theta) / lambda)^-2, from Breit (1926), Phys. Rev. 27, 362, and
    Dirac (1926), Proc. R. Soc. A 111, 405. A detector that counts photons needs the square, one that
    adds up energy the cube (International Tables C, section 7.4.3).

    Args:
        q: (...) |q| in 1/angstrom.
        wavelength: angstrom.
    """
    sin_theta_squared = np.square(0.5 * wavelength * np.asarray(q, float))
    return (1 + 2 * COMPTON_WAVELENGTH / wavelength * sin_theta_squared) ** -2


# Neighbours within 2.7 angstrom in proteins: distance in angstrom and pairs per heavy atom, or per
# hydrogen where there is one in the pair. Counted in PDB entries 3AL1 and 1TII (no hydrogens) and in
# il2.pdb of PyMOL's test data (a model of interleukin-2 with hydrogens). For the bonds the three agree
# to 10%, for most of the other distances to 20%; the values are rounded means.
_HEAVY_PAIRS = ((1.235, 0.17), (1.46, 0.83), (2.375, 0.75), (2.51, 0.61))
_HEAVY_HYDROGEN_PAIRS = ((1.08, 1.0), (2.10, 1.80), (2.35, 0.15), (2.59, 1.30))
_HYDROGEN_PAIRS = ((1.77, 0.50), (2.36, 0.65), (2.56, 0.75))
# The free molecule: pairs per molecule.
_WATER_OH, _WATER_HH = (0.957, 2.0), (1.514, 1.0)


def bonded_interference(contents: CellContents, q: np.ndarray, form_factors: np.ndarray) -> np.ndarray:
    """Return the interference (m,) between atoms that bonds hold within 2.7 angstrom of each other.

    Sum over pairs of 2 f_a f_b sin(2 pi q r) / (2 pi q r), Debye (1915), Ann. Phys. 351, 809. The sum
    rule takes atoms not to overlap, and to lie so far apart that interference has averaged out
    below the cutoff. Bonded atoms do neither: without this term k is some 10% low at a cutoff of
    0.7 1/angstrom. Distances in proteins differ so little that their mean numbers serve for all.

    Args:
        contents: of the cell, n elements.
        q: (m,) |q| in 1/angstrom.
        form_factors: (n, m) f0 of each element.
    """
    hydrogen = np.array([number == 1 for number in contents.atomic_numbers])
    f_h = form_factors[hydrogen].sum(axis=0) if hydrogen.any() else np.zeros_like(q)
    n_h, n_heavy = contents.ordered[hydrogen].sum(), contents.ordered[~hydrogen].sum()
    f_heavy = contents.ordered[~hydrogen] @ form_factors[~hydrogen] / max(n_heavy, 1e-9)

    def waves(pairs: tuple[tuple[float, float], ...]) -> np.ndarray:
        return sum((2 * n * np.sinc(2 * q * distance) for distance, n in pairs), np.zeros_like(q))

    total = n_heavy * f_heavy**2 * waves(_HEAVY_PAIRS)
    total += n_h * f_heavy * f_h * waves(_HEAVY_HYDROGEN_PAIRS) + n_h * f_h**2 * waves(_HYDROGEN_PAIRS)
    oxygen = np.array([number == 8 for number in contents.atomic_numbers])
    if oxygen.any() and hydrogen.any():
        waters = min(contents.solvent[oxygen].sum(), contents.solvent[hydrogen].sum() / 2)
        f_o = form_factors[oxygen][0]
        total += waters * (f_o * f_h * waves((_WATER_OH,)) + f_h**2 * waves((_WATER_HH,)))
    return total


def theory_of(
    contents: CellContents,
    q: np.ndarray,
    form_factors: np.ndarray,
    bound_electrons: np.ndarray,
    recoil: np.ndarray,
    source: str,
    bonded: bool = False,
) -> Theory:
    """Return what the atoms of a cell scatter on their own.

    Args:
        contents: of the cell, n elements.
        q: (m,) |q| in 1/angstrom.
        form_factors: (n, m) f0 of each element, electrons.
        bound_electrons: (n, m) incoherent scattering function S of each element, which runs from 0,
            where binding stops every electron from recoiling, to the atomic number.
        recoil: (m,) relativistic factor of `breit_dirac_factor`, or ones.
        source: of the tables.
        bonded: whether `bonded_interference` belongs to it.
    """
    interference = bonded_interference(contents, q, form_factors) if bonded else 0.0
    return Theory(
        q=q,
        coherent=contents.counts @ form_factors**2 + interference,
        ordered=contents.ordered @ form_factors**2,
        incoherent=contents.counts @ bound_electrons * recoil,
        f000_squared_density=contents.electrons**2 / contents.cell_volume,
        source=source,
    )


@dataclass(frozen=True, eq=False)
class RadialProfile:
    """Spherical averages of a map, in relative units.

    Attributes:
        edges: (n + 1,) of the shells, 1/angstrom, from 0.
        total, total_variance: (n,) mean of diffuse and Bragg scattering, and the counting variance of
            that mean; NaN where a shell holds no voxel.
        bragg, bragg_variance: (n,) the part of the total above the diffuse scattering.
        completeness: (n,) part of the shell's volume that was observed.
        lattice_points: (n,) reciprocal lattice points observed, symmetry-unique.
    """

    edges: np.ndarray
    total: np.ndarray
    total_variance: np.ndarray
    bragg: np.ndarray
    bragg_variance: np.ndarray
    completeness: np.ndarray
    lattice_points: np.ndarray

    @property
    def q(self) -> np.ndarray:
        """(n,) centres of the shells, 1/angstrom."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def volume(self) -> np.ndarray:
        """(n,) of the shells, 1/angstrom^3."""
        return 4 / 3 * np.pi * np.diff(self.edges**3)


def radial_profile(merged: MergedMap, n_shells: int = N_SHELLS) -> RadialProfile:
    """Return the spherical averages of a map over shells of equal thickness.

    The map holds one voxel of each set of equivalents, so a voxel weighs as much as its orbit is
    large. Voxels that were not observed are taken to be like those of their shell that were; voxels on
    reciprocal lattice points, which hold the Bragg peaks, and voxels between them are averaged apart
    and put together in the proportion in which the grid has them, because peaks are lost (saturated,
    behind the beamstop, in gaps) more or less often than what lies between.

    The voxel at the origin never counts: it holds the direct beam.
    """
    grid = merged.grid
    voxel = np.concatenate([merged.voxel, merged.bragg_voxel])
    total = np.concatenate([merged.total_intensity, merged.bragg_intensity])
    total_variance = np.concatenate([merged.total_variance, merged.bragg_variance])
    hidden = np.arange(len(voxel)) >= len(merged)
    index = grid.index_of(voxel)
    keep = (index != 0).any(axis=1)
    q = np.linalg.norm(grid.q_of(voxel), axis=1)
    edges = np.linspace(0, 1 / grid.d_min, n_shells + 1)
    shell = np.clip(np.searchsorted(edges, q, side="right") - 1, 0, n_shells - 1)
    kind = np.where((index % np.array(grid.divisions) == 0).all(axis=1), _LATTICE, _BETWEEN)
    weight = orbit_sizes(index, grid.symmetry, grid.divisions) * keep

    means = _Strata(shell, kind, weight, n_shells, 1 / float(np.prod(grid.divisions)))
    # What lies under a peak whose voxel holds no diffuse pixel is taken from the shell.
    diffuse = np.concatenate([merged.intensity, np.zeros(len(merged.bragg_voxel))])
    seen = _Strata(shell, kind, weight * ~hidden, n_shells, 0.0)
    under = seen.mean(diffuse)
    diffuse[hidden] = np.where(np.isfinite(under), under, 0)[shell[hidden]]
    diffuse_variance = np.concatenate([merged.variance, np.zeros(len(merged.bragg_voxel))])
    voxel_volume = abs(np.linalg.det(grid.reciprocal_basis)) / np.prod(grid.divisions)
    volume = 4 / 3 * np.pi * np.diff(edges**3)
    return RadialProfile(
        edges=edges,
        total=means.mean(total),
        total_variance=means.variance(total_variance),
        bragg=means.mean(total - diffuse),
        # The two share their diffuse pixels: the sum is an upper bound, and 0 where there is no peak.
        bragg_variance=means.variance(np.where(total != diffuse, total_variance + diffuse_variance, 0.0)),
        completeness=sum_by(shell, weight.astype(float), n_shells) * voxel_volume / volume,
        lattice_points=np.bincount(shell[(kind == _LATTICE) & keep], minlength=n_shells),
    )


@dataclass(frozen=True, eq=False)
class _Strata:
    """Weighted means over shells, of voxels on and between lattice points apart."""

    shell: np.ndarray
    kind: np.ndarray
    weight: np.ndarray
    n_shells: int
    lattice_share: float

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Sums (2, n_shells) by stratum."""
        flat = sum_by(self.kind * self.n_shells + self.shell, values, 2 * self.n_shells)
        return flat.reshape(2, self.n_shells)

    def _shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (2, n_shells), and each stratum's share of the mean: all where the other is empty."""
        weights = self._sums(self.weight.astype(float))
        nominal = np.array([[self.lattice_share], [1 - self.lattice_share]]) * (weights > 0)
        nominal = np.where(nominal.sum(0) > 0, nominal, weights > 0)
        total = nominal.sum(0)
        return weights, np.divide(nominal, total, out=np.zeros_like(weights), where=total > 0)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Means (n_shells,), NaN for empty shells."""
        weights, shares = self._shares()
        sums = self._sums(self.weight * values)
        means = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0)
        return np.where(weights.sum(0) > 0, (means * shares).sum(0), np.nan)

    def variance(self, variances: np.ndarray) -> np.ndarray:
        """Variances (n_shells,) of the means, NaN for empty shells."""
        weights, shares = self._shares()
        sums = self._sums(self.weight.astype(float) ** 2 * variances)
        of_means = np.divide(sums, weights**2, out=np.zeros_like(sums), where=weights > 0)
        return np.where(weights.sum(0) > 0, (of_means * shares**2).sum(0), np.nan)


def filled(profile: RadialProfile) -> tuple[RadialProfile, np.ndarray]:
    """Return the profile without holes, and which shells (n,) were filled.

    Below the first shell that was observed, behind the beamstop, the intensity is taken to be that of
    the first three; holes in between are interpolated in |q|.

    Raises:
        DataError: no shell was observed.
    """
    known = np.isfinite(profile.total)
    if not known.any():
        raise DataError("the map holds no voxel from which an absolute scale could be found")
    first = np.flatnonzero(known)[:3]

    def fill(values: np.ndarray) -> np.ndarray:
        low = np.average(values[first], weights=profile.volume[first])
        return np.interp(profile.q, profile.q[known], values[known], left=low)

    return (
        replace(
            profile,
            total=fill(profile.total),
            total_variance=fill(profile.total_variance),
            bragg=fill(profile.bragg),
            bragg_variance=fill(profile.bragg_variance),
        ),
        ~known,
    )


def usable_limit(profile: RadialProfile, min_completeness: float = MIN_COMPLETENESS) -> float:
    """Return the |q| in 1/angstrom up to which shells are complete enough, holes at low |q| aside.

    Raises:
        DataError: no shell is.
    """
    # A shell of few voxels may seem incomplete by chance: a running mean of three decides.
    smooth = np.convolve(np.pad(profile.completeness, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    good = np.flatnonzero((smooth >= min_completeness) & (profile.completeness > 0.5 * min_completeness))
    if not len(good):
        raise DataError(
            f"no shell of the map is more than {min_completeness:.0%} complete: the sum rule needs the "
            "scattering in all directions. Add images, or use coarser voxels (grid.hkl.divisions)"
        )
    return float(profile.edges[good[-1] + 1])


def atomic_integrals(theory: Theory, edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the integrals (n,) of `values` (m,), given at `theory.q`, over spheres of radius edges[1:]."""
    steps = np.diff(theory.q)
    integrand = 4 * np.pi * theory.q**2 * values
    running = np.concatenate([[0], np.cumsum((integrand[1:] + integrand[:-1]) / 2 * steps)])
    return np.interp(edges[1:], theory.q, running)


def krogh_moe(
    profile: RadialProfile, theory: Theory, cutoffs: tuple[float, float]
) -> tuple[ScaleEstimate, dict[str, float]]:
    """Return k from the cumulative sum rule.

    k(Q) = [integral of (sum f0^2 + I_incoherent) - F(000)^2 / V] / integral of I_total, over |q| < Q. The
    finite sphere makes k(Q) ripple about its limit with the distances between atoms: k is the mean over
    the cutoffs, and how far k(Q) strays from it, from 0.7 of the lowest cutoff on, is part of its
    uncertainty.

    Args:
        profile: as observed; holes are filled here.
        theory: of the cell.
        cutoffs: lowest and highest Q, 1/angstrom.

    Returns:
        The estimate; and the shares of the integral that were extrapolated behind the beamstop
        ("beamstop_share"), filled at other holes ("filled_share"), and of the forward peak in the sum
        over atoms ("forward_share"), all at the highest cutoff.

    Raises:
        DataError: the atoms do not scatter more than the forward peak, or the map does not scatter.
    """
    whole, holes = filled(profile)
    shell = whole.total * whole.volume
    observed = np.cumsum(shell)
    variance = np.cumsum(whole.total_variance * whole.volume**2)
    atoms = atomic_integrals(theory, profile.edges, theory.coherent + theory.incoherent)
    expected = atoms - theory.f000_squared_density
    ends = profile.edges[1:]
    chosen = np.flatnonzero((ends >= cutoffs[0] - 1e-9) & (ends <= cutoffs[1] + 1e-9))
    sensible = (observed > 0) & (expected > 0)
    listed = np.flatnonzero((ends >= 0.7 * cutoffs[0]) & (ends <= cutoffs[1] + 1e-9) & sensible)
    if not len(chosen):
        raise DataError(
            f"no cutoff between {cutoffs[0]:.3f} and {cutoffs[1]:.3f} 1/angstrom is left in a map that is "
            f"complete to {profile.edges[-1]:.3f}"
        )
    if (expected[chosen] <= 0).any() or (observed[chosen] <= 0).any():
        raise DataError(
            f"the sum rule leaves nothing to scale to: up to |q| = {ends[chosen[0]]:.3f} 1/angstrom the "
            "forward peak outweighs the atoms, or the map is empty; raise the cutoffs"
        )
    k = float((expected[chosen] / observed[chosen]).mean())
    table = expected[listed] / observed[listed]
    last = chosen[-1]
    low = np.arange(len(holes)) < np.flatnonzero(~holes)[0]
    shares = {
        "beamstop_share": float(shell[low].sum() / observed[last]),
        "filled_share": float(shell[(holes & ~low)[: last + 1].nonzero()[0]].sum() / observed[last]),
        "forward_share": float(theory.f000_squared_density / atoms[last]),
    }
    found = ScaleEstimate(
        method="krogh_moe",
        scale=k,
        sigma_counting=float(k * np.sqrt(variance[last]) / observed[last]),
        # Cumulative values move together: their deviation is not divided by their number.
        sigma_spread=float(np.sqrt(np.mean(np.square(table - k)))),
        q=ends[listed],
        scales=table,
    )
    return found, shares


def norman(profile: RadialProfile, theory: Theory, limits: tuple[float, float]) -> ScaleEstimate:
    """Return k from the ratio of what atoms scatter on their own to the total, in a range of |q|.

    k = integral of (sum f0^2 + I_incoherent) / integral of I_total between the limits, where interference
    between atoms has nearly averaged out. What is left of it is seen in the scatter of k between parts
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
        q=profile.edges[chosen + 1][table],
        scales=(running_expected / np.where(table, running, 1))[table],
    )


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
            "Check that a masker sends peaks to the Bragg channel (masker.plugins), or lower the range"
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
    raise DataError("Wilson's plot does not converge to a smooth curve; lower absolute_scaler.wilson.range")


@dataclass(frozen=True)
class Ranges:
    """Which |q| each method uses, (lowest, highest) in 1/angstrom; None for its default."""

    krogh_moe: tuple[float, float] | None = None
    norman: tuple[float, float] | None = None
    wilson: tuple[float, float] | None = None

    def of(self, method: str, limit: float) -> tuple[float, float]:
        """Return the range of a method on a map that is complete up to `limit`, 1/angstrom."""
        low = {"krogh_moe": 0.7, "norman": 0.6, "wilson": 0.0}[method] * limit
        if method == "wilson":
            # Beyond d = 4 angstrom the solvent and the arrangement of atoms bend the plot.
            low = min(0.25, 0.5 * limit)
        given = getattr(self, method)
        return (low, limit) if given is None else (given[0], min(given[1], limit))


def estimate(
    merged: MergedMap,
    contents: CellContents,
    theory: Theory,
    ranges: Ranges = Ranges(),
    min_completeness: float = MIN_COMPLETENESS,
    with_bragg: Callable[[RadialProfile], RadialProfile] | None = None,
) -> AbsoluteReport:
    """Return what every method finds; the method asked for is chosen by `apply`.

    Args:
        merged: the map.
        contents, theory: of the cell.
        ranges: of |q| for each method.
        min_completeness: of the last shell that counts.
        with_bragg: puts other Bragg intensities than the map's into its profile, for Wilson's plot.

    Raises:
        DataError: the map is too incomplete.
    """
    profile = radial_profile(merged)
    limit = usable_limit(profile, min_completeness)
    if with_bragg is not None:
        profile = with_bragg(profile)
    estimates: dict[str, ScaleEstimate] = {}
    failures: dict[str, str] = {}
    shares: dict[str, float] = {}
    for method in ("krogh_moe", "norman", "wilson"):
        span = ranges.of(method, limit)
        try:
            if method == "krogh_moe":
                estimates[method], shares = krogh_moe(profile, theory, span)
            else:
                estimates[method] = (norman if method == "norman" else wilson)(profile, theory, span)
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
        beamstop_share=shares.get("beamstop_share", np.nan),
        filled_share=shares.get("filled_share", np.nan),
        forward_share=shares.get("forward_share", np.nan),
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
        raise DataError(f"absolute_scaler.plugin={method} finds no scale: {report.failures[method]}")
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
