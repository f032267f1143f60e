"""Spherical averages of a map, diffuse and Bragg scattering together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.completeness import completeness, voxels_possible
from diffuse_framework.algorithms.symmetry import orbit_sizes
from diffuse_framework.errors import DataError
from diffuse_framework.model.maps import MergedMap

__all__ = [
    "MIN_COMPLETENESS",
    "SPARSE_COMPLETENESS",
    "IncompleteMap",
    "RadialProfile",
    "filled",
    "spherical_averages",
    "usable_limit",
]

N_SHELLS = 100
MIN_COMPLETENESS = 0.5
# Of a sparse map: what shells hold then is a sample, and its scatter an uncertainty of the scale.
SPARSE_COMPLETENESS = 0.03
# Lattice points in three shells, so that the scatter of Bragg peaks tells how well their mean is known.
_ENOUGH_PEAKS = 30
# Voxels of the asymmetric unit in three shells: of fewer, half may be seen by chance.
_ENOUGH_TO_TELL = 20
_LATTICE, _BETWEEN = 0, 1


class IncompleteMap(DataError):
    """No shell of a map holds enough of its voxels."""


@dataclass(frozen=True, eq=False)
class RadialProfile:
    """Spherical averages of a map, in relative units.

    Attributes:
        edges: (n + 1,) of the shells, 1/angstrom, from 0.
        total, total_variance: (n,) mean of diffuse and Bragg scattering, and the counting variance of
            that mean; NaN where a shell holds no voxel.
        total_sampling: (n,) the variance of that mean because only part of the shell's voxels was observed; 0 where
            all were.
        bragg, bragg_variance: (n,) the part of the total above the diffuse scattering.
        completeness: (n,) part of the shell's voxels that was observed, in either channel.
        lattice_points: (n,) reciprocal lattice points observed, symmetry-unique.
        possible: (n,) voxels of the asymmetric unit in the shell, that at the origin left out.
    """

    edges: np.ndarray
    total: np.ndarray
    total_variance: np.ndarray
    total_sampling: np.ndarray
    bragg: np.ndarray
    bragg_variance: np.ndarray
    completeness: np.ndarray
    lattice_points: np.ndarray
    possible: np.ndarray

    @property
    def q(self) -> np.ndarray:
        """(n,) centres of the shells, 1/angstrom."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def volume(self) -> np.ndarray:
        """(n,) of the shells, 1/angstrom^3."""
        return 4 / 3 * np.pi * np.diff(self.edges**3)


def spherical_averages(merged: MergedMap, n_shells: int = N_SHELLS) -> RadialProfile:
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
    bragg_only = np.arange(len(voxel)) >= len(merged)
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
    of_diffuse = _Strata(shell, kind, weight * ~bragg_only, n_shells, 0.0)
    under = of_diffuse.mean(diffuse)
    diffuse[bragg_only] = np.where(np.isfinite(under), under, 0)[shell[bragg_only]]
    diffuse_variance = np.concatenate([merged.variance, np.zeros(len(merged.bragg_voxel))])
    possible = voxels_possible(grid, edges)
    possible[0] -= np.isinf(grid.d_max)
    complete = np.nan_to_num(completeness(np.bincount(shell[keep], minlength=n_shells), possible))
    return RadialProfile(
        edges=edges,
        total=means.mean(total),
        total_variance=means.variance(total_variance),
        total_sampling=means.sampling_variance(total, np.minimum(complete, 1)),
        bragg=means.mean(total - diffuse),
        # The two share their diffuse pixels: the sum is an upper bound, and 0 where there is no peak.
        bragg_variance=means.variance(np.where(total != diffuse, total_variance + diffuse_variance, 0.0)),
        completeness=complete,
        lattice_points=np.bincount(shell[(kind == _LATTICE) & keep], minlength=n_shells),
        possible=possible,
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

    def sampling_variance(self, values: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """Variances (n_shells,) of the means because only the part `observed` of each shell was sampled; NaN for empty.

        That of a mean over a finite population (Cochran, 1977, Sampling Techniques, ch. 2). Voxels between lattice
        points are like their neighbours: all in one cell of the reciprocal lattice count as one draw.
        """
        weights, shares = self._shares()
        sums, squares = self._sums(self.weight * values), self._sums(self.weight * values**2)
        seen = weights > 0
        means = np.divide(sums, weights, out=np.zeros_like(sums), where=seen)
        scatter = np.divide(squares, weights, out=np.zeros_like(sums), where=seen) - means**2
        draws = np.divide(weights**2, self._sums(self.weight.astype(float) ** 2), out=np.zeros_like(sums), where=seen)
        draws[_BETWEEN] *= self.lattice_share
        of_means = np.maximum(scatter, 0) / np.maximum(draws, 1)
        return np.where(weights.sum(0) > 0, (of_means * shares**2).sum(0) * (1 - observed), np.nan)


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
            total_sampling=fill(profile.total_sampling),
            bragg=fill(profile.bragg),
            bragg_variance=fill(profile.bragg_variance),
        ),
        ~known,
    )


def usable_limit(profile: RadialProfile, min_completeness: float | None = None) -> float:
    """Return the |q| in 1/angstrom up to which shells are complete enough, holes at low |q| aside.

    Args:
        profile: of a map.
        min_completeness: of the last shell that counts. None asks for one half, and where that ends below half of
            the map's limit, as for a few stills, for what a sample must have: `RadialProfile.total_sampling` is the
            variance that follows.

    Raises:
        IncompleteMap: no shell is.
    """
    wanted = MIN_COMPLETENESS if min_completeness is None else min_completeness
    last = _last_complete(profile, wanted)
    if min_completeness is None and (last < 0 or profile.edges[last + 1] < 0.5 * profile.edges[-1]):
        last, wanted = max(last, _last_complete(profile, SPARSE_COMPLETENESS, _ENOUGH_PEAKS)), SPARSE_COMPLETENESS
    if last < 0:
        raise IncompleteMap(
            f"no shell of the map is more than {wanted:.0%} complete: the sum rule needs the scattering in all "
            "directions. Add images, or use coarser voxels"
        )
    return float(profile.edges[last + 1])


def _last_complete(profile: RadialProfile, wanted: float, lattice_points: int = 0) -> int:
    """Return the number of the last shell that is so complete and holds so many lattice points; -1 if there is none."""
    # A shell of few voxels may seem complete or incomplete by chance: three together decide.
    observed = profile.completeness * profile.possible
    seen, possible, peaks = (
        np.convolve(values, np.ones(3), mode="same") for values in (observed, profile.possible, profile.lattice_points)
    )
    good = (completeness(seen, possible) >= wanted) & (profile.completeness > 0.5 * wanted)
    good &= (possible >= _ENOUGH_TO_TELL) & (peaks >= lattice_points)
    return int(np.flatnonzero(good)[-1]) if good.any() else -1
