"""Orientation and cell of one lattice, refined against the spots it explains under the symmetry of its cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.algorithms.indexing.known_cell import KnownCell
from diffuse_framework.algorithms.indexing.rays import Rays
from diffuse_framework.algorithms.masking.shapes import lattice_possible

__all__ = ["Fit", "RefinementLimits", "explained_by", "n_nodes", "refine", "refine_roughly", "rotation_of"]


# Standard deviations of the weights of spots, in standard deviations of their errors.
_KERNEL = 1.5
# The length of two normal components exceeds so many times the limit for one as often as one does.
_ACROSS = 1.1


@dataclass(frozen=True, eq=False)
class Fit:
    """A refined lattice.

    Attributes:
        setting_matrix: (3, 3) A in 1/angstrom.
        hkl: (n, 3) nearest integers of all spots.
        explained: (n,) whether a spot belongs to the lattice.
        off_sphere: (n,) distance of the node from the Ewald sphere along the ray of the spot, 1/angstrom.
        across: (n,) distance of spot and node across that ray, 1/angstrom.
        sigma_across, sigma_off: their robust standard deviations, per component.
        shift_mm: (2,) of the detector across the beam, which the spots ask for and the setting matrix is free of.
    """

    setting_matrix: np.ndarray
    hkl: np.ndarray
    explained: np.ndarray
    off_sphere: np.ndarray
    across: np.ndarray
    sigma_across: float
    sigma_off: float
    shift_mm: np.ndarray


@dataclass(frozen=True)
class RefinementLimits:
    """What a refinement may change, and what it takes for an error.

    Attributes:
        cell_tolerance: relative standard deviation of the cell from the given one.
        shift_mm: standard deviation of the detector's place across the beam.
        least_sigma: error of a spot, 1/angstrom, that none is smaller than.
        n_sigma: standard deviations by which a spot may miss its node.
        n_cycles: with all spots.
    """

    cell_tolerance: float = 0.03
    shift_mm: float = 0.2
    least_sigma: float = 1e-4
    n_sigma: float = 3.2
    n_cycles: int = 8


def rotation_of(vector: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) about a vector by its length in radians."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@njit(cache=True, nogil=True)
def _residuals(q, s1, setting, inverse, hkl, fraction, off, across):
    """Nearest node of each spot, its distance in indices, along and across the scattered ray."""
    for n in range(len(q)):
        fraction[n] = 0.0
        for a in range(3):
            index = inverse[a, 0] * q[n, 0] + inverse[a, 1] * q[n, 1] + inverse[a, 2] * q[n, 2]
            hkl[n, a] = np.floor(index + 0.5)
            fraction[n] = max(fraction[n], abs(index - hkl[n, a]))
        x, y, z = hkl[n, 0], hkl[n, 1], hkl[n, 2]
        dx = setting[0, 0] * x + setting[0, 1] * y + setting[0, 2] * z - q[n, 0]
        dy = setting[1, 0] * x + setting[1, 1] * y + setting[1, 2] * z - q[n, 1]
        dz = setting[2, 0] * x + setting[2, 1] * y + setting[2, 2] * z - q[n, 2]
        along = dx * s1[n, 0] + dy * s1[n, 1] + dz * s1[n, 2]
        off[n] = along
        across[n] = np.sqrt(max(dx * dx + dy * dy + dz * dz - along * along, 0.0))


@njit(cache=True, nogil=True)
def _normal_equations(
    q, s1, per_mm, aside, setting, turned_strains, hkl, weight_across, weight_off, prior, normal, right
):
    """Gauss-Newton equations for a small rotation (3), strains (m) of a setting matrix and shifts (2) of the detector.

    The residual ``A hkl - q`` counts with one weight along the scattered ray and another across it.
    """
    n_strains = len(turned_strains)
    size = 5 + n_strains
    normal[:, :], right[:] = 0.0, 0.0
    slopes, node, residual = np.empty((size, 3)), np.empty(3), np.empty(3)
    for n in range(len(q)):
        if weight_across[n] == 0:
            continue
        for a in range(3):
            node[a] = setting[a, 0] * hkl[n, 0] + setting[a, 1] * hkl[n, 1] + setting[a, 2] * hkl[n, 2]
            residual[a] = node[a] - q[n, a]
        x, y, z = node
        slopes[0, 0], slopes[0, 1], slopes[0, 2] = 0.0, -z, y
        slopes[1, 0], slopes[1, 1], slopes[1, 2] = z, 0.0, -x
        slopes[2, 0], slopes[2, 1], slopes[2, 2] = -y, x, 0.0
        for k in range(n_strains):
            for a in range(3):
                e = turned_strains[k, a]
                slopes[3 + k, a] = e[0] * hkl[n, 0] + e[1] * hkl[n, 1] + e[2] * hkl[n, 2]
        for k in range(2):
            d = aside[k, 0] * s1[n, 0] + aside[k, 1] * s1[n, 1] + aside[k, 2] * s1[n, 2]
            for a in range(3):
                slopes[3 + n_strains + k, a] = (d * s1[n, a] - aside[k, a]) * per_mm[n]
        along = residual[0] * s1[n, 0] + residual[1] * s1[n, 1] + residual[2] * s1[n, 2]
        extra = weight_off[n] - weight_across[n]
        for i in range(size):
            si = slopes[i, 0] * s1[n, 0] + slopes[i, 1] * s1[n, 1] + slopes[i, 2] * s1[n, 2]
            product = slopes[i, 0] * residual[0] + slopes[i, 1] * residual[1] + slopes[i, 2] * residual[2]
            right[i] -= weight_across[n] * product + extra * si * along
            for j in range(i + 1):
                sj = slopes[j, 0] * s1[n, 0] + slopes[j, 1] * s1[n, 1] + slopes[j, 2] * s1[n, 2]
                product = slopes[i, 0] * slopes[j, 0] + slopes[i, 1] * slopes[j, 1] + slopes[i, 2] * slopes[j, 2]
                normal[i, j] += weight_across[n] * product + extra * si * sj
    for i in range(size):
        for j in range(i):
            normal[j, i] = normal[i, j]
        normal[i, i] += prior[i]


@dataclass(frozen=True, eq=False)
class _State:
    """What is refined: A = U (1 + sum_k e_k strains[k]) B, and a shift of the detector.

    Attributes:
        rotation: (3, 3) U.
        strain: (m,) e.
        shift_mm: (2,).
    """

    rotation: np.ndarray
    strain: np.ndarray
    shift_mm: np.ndarray

    def setting(self, known: KnownCell) -> np.ndarray:
        """Return A (3, 3)."""
        stretch = np.eye(3) + np.tensordot(self.strain, known.strains, axes=1)
        return self.rotation @ stretch @ known.basis


def _state_of(setting: np.ndarray, known: KnownCell, tolerance: float) -> _State:
    """Return the nearest rotation and allowed strains of any setting matrix."""
    left, sizes, right = np.linalg.svd(setting @ np.linalg.inv(known.basis))
    stretch = right.T @ np.diag(sizes) @ right - np.eye(3)
    strain = np.tensordot(known.strains, stretch, axes=([1, 2], [0, 1]))
    return _State(left @ right, np.clip(strain, -tolerance, tolerance), np.zeros(2))


class _Matching:
    """Spots beside the nodes of a lattice."""

    def __init__(self, rays: Rays, known: KnownCell) -> None:
        self.rays, self.known = rays, known
        self.hkl = np.empty((len(rays), 3))
        self.fraction, self.off, self.across = np.empty((3, len(rays)))
        self.q = rays.q

    def update(self, state: _State) -> None:
        """Find the nearest node of each spot, and how far it is."""
        self.locate(state.setting(self.known), state.shift_mm)

    def locate(self, setting: np.ndarray, shift_mm: np.ndarray) -> None:
        """Do the same for a setting matrix and a shift of the detector."""
        self.q = self.rays.shifted(shift_mm)
        inverse = np.linalg.inv(setting)
        _residuals(self.q, self.rays.s1, setting, inverse, self.hkl, self.fraction, self.off, self.across)

    def near(self, sigma_across: float, sigma_off: float, n_sigma: float) -> np.ndarray:
        """Return which spots are as near to their node as the errors allow, and nearer than to any other."""
        near = (self.fraction < 0.4) & (np.abs(self.off) < n_sigma * sigma_off)
        return near & (self.across < _ACROSS * n_sigma * sigma_across) & self.possible()

    def possible(self) -> np.ndarray:
        """Return which nodes there are in a centred lattice, the origin apart."""
        possible = self.hkl.any(axis=1)
        if len(self.known.conditions):
            possible &= lattice_possible(self.hkl, self.known.conditions)
        return possible

    def improved(self, state: _State, weights: tuple[np.ndarray, np.ndarray], sigmas: tuple[float, float]) -> _State:
        """Return the state after one step of Gauss and Newton.

        Args:
            state: that `update` was called with.
            weights: (n,) across and along the rays.
            sigmas: of strains and of the detector's shift in mm, about 0.
        """
        setting = state.setting(self.known)
        turned = np.ascontiguousarray(state.rotation @ self.known.strains @ self.known.basis)
        size = 5 + len(turned)
        normal, right = np.empty((size, size)), np.empty(size)
        about = np.concatenate([np.zeros(3), state.strain, state.shift_mm])
        prior = np.concatenate([np.full(3, 1e-9), np.full(len(turned), sigmas[0] ** -2), np.full(2, sigmas[1] ** -2)])
        rays = self.rays
        _normal_equations(
            self.q, rays.s1, rays.per_mm, rays.aside, setting, turned, self.hkl, *weights, prior, normal, right
        )
        step = np.linalg.solve(normal, right - prior * about)
        strain, shift = state.strain + step[3:-2], state.shift_mm + step[-2:]
        return _State(rotation_of(step[:3]) @ state.rotation, strain, shift)

    def weights(self, good: np.ndarray, sigma_across: float, sigma_off: float) -> tuple[np.ndarray, np.ndarray]:
        """Return weights (n,) across and along the rays.

        They fall off within few standard deviations, so that of a split crystal the larger part is taken and not the
        mean. Errors of the geometry move all spots of an image: however many spots, where they are counts no more than
        how far they are from the sphere.
        """
        chi2 = (self.across / sigma_across) ** 2 + (self.off / sigma_off) ** 2
        weight = np.where(good, np.exp(-chi2 / (2 * _KERNEL**2)), 0.0)
        return weight / max(sigma_across, sigma_off) ** 2, weight / sigma_off**2

    def sigmas(self, good: np.ndarray, least: float) -> tuple[float, float]:
        """Return robust standard deviations across (per component) and along the rays."""
        # Of two normal components the length has its median at 1.1774 standard deviations.
        return (
            max(float(np.median(self.across[good])) / 1.1774, least),
            max(1.4826 * float(np.median(np.abs(self.off[good]))), least),
        )


def refine_roughly(
    rays: Rays,
    setting: np.ndarray,
    known: KnownCell,
    cell_tolerance: float = 0.03,
    tolerances: tuple[float, ...] = (0.35, 0.3, 0.25, 0.2, 0.15),
) -> tuple[np.ndarray, int]:
    """Return a setting matrix (3, 3) that explains more, and how many nodes it explains to the last tolerance.

    Args:
        rays: of spots.
        setting: (3, 3) to begin with.
        known: cell and symmetry.
        cell_tolerance: relative error that the cell may have.
        tolerances: largest distance from an integer of each index, in turn.
    """
    state = _state_of(setting, known, cell_tolerance)
    matching = _Matching(rays, known)
    step = float(np.linalg.norm(known.basis, axis=0).min())
    for tolerance in tolerances:
        matching.update(state)
        weight = np.where(matching.fraction < tolerance, 1 / (tolerance * step / 2) ** 2, 0.0)
        if (weight > 0).sum() < 4:
            break
        state = matching.improved(state, (weight, weight), (cell_tolerance, 1e-9))
    matching.update(state)
    return state.setting(known), n_nodes(matching.hkl[(matching.fraction < tolerances[-1]) & matching.possible()])


def explained_by(fit: Fit, rotation: np.ndarray, rays: Rays, known: KnownCell, n_sigma: float) -> np.ndarray:
    """Return which spots (n,) a lattice would explain with the same errors, were it turned by a rotation (3, 3)."""
    matching = _Matching(rays, known)
    matching.locate(rotation @ fit.setting_matrix, fit.shift_mm)
    return matching.near(fit.sigma_across, fit.sigma_off, n_sigma)


def n_nodes(hkl: np.ndarray) -> int:
    """Return how many different nodes there are among (n, 3) indices."""
    index = np.rint(hkl).astype(np.int64)
    return len(np.unique((index[:, 0] * 4096 + index[:, 1]) * 4096 + index[:, 2]))


def refine(rays: Rays, setting: np.ndarray, known: KnownCell, limits: RefinementLimits = RefinementLimits()) -> Fit:
    """Return a lattice refined against all spots it explains.

    Spots of growing resolution are taken in, so that an error of the cell is mended before it leads to another node.
    The position on the detector and the distance from the Ewald sphere count with standard deviations that the spots
    themselves show. A shift of the detector is refined along, for spots at low angles can hardly tell it from a
    rotation, and it would be taken for one.

    Args:
        rays: of spots.
        setting: (3, 3) to begin with, right for the spots of lowest resolution.
        known: cell and symmetry.
        limits: what may change.
    """
    state = _state_of(setting, known, limits.cell_tolerance)
    lengths = np.linalg.norm(rays.q, axis=1)
    farthest = lengths.max()
    limit = np.sort(lengths)[min(len(lengths) - 1, 60)]
    matching, sigmas = _Matching(rays, known), (limits.least_sigma, limits.least_sigma)
    while True:
        matching = _Matching(rays.where(lengths <= limit), known)
        for _ in range(3):
            matching.update(state)
            good = (matching.fraction < 0.3) & matching.possible()
            if good.sum() < 5:
                break
            sigmas = matching.sigmas(good, limits.least_sigma)
            state = matching.improved(state, matching.weights(good, *sigmas), (limits.cell_tolerance, 1e-9))
        if limit >= farthest:
            break
        limit = min(1.3 * limit, farthest)
    for _ in range(limits.n_cycles):
        matching.update(state)
        good = matching.near(1.5 * sigmas[0], 1.5 * sigmas[1], limits.n_sigma)
        if good.sum() < 5:
            break
        sigmas = matching.sigmas(good, limits.least_sigma)
        priors = (limits.cell_tolerance, limits.shift_mm)
        state = matching.improved(state, matching.weights(good, *sigmas), priors)
    matching.update(state)
    return Fit(
        setting_matrix=state.setting(known),
        hkl=np.rint(matching.hkl).astype(np.int32),
        explained=matching.near(*sigmas, limits.n_sigma),
        off_sphere=matching.off,
        across=matching.across,
        sigma_across=sigmas[0],
        sigma_off=sigmas[1],
        shift_mm=state.shift_mm,
    )
