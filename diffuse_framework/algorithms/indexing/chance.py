"""What chance, or a lattice that shares some nodes, explains as well as the lattice that was found."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.special import rel_entr

from diffuse_framework.algorithms.indexing.known_cell import KnownCell
from diffuse_framework.algorithms.indexing.rays import Rays
from diffuse_framework.algorithms.indexing.refinement import Fit, RefinementLimits, explained_by, n_nodes
from diffuse_framework.model.lattice import cell_of_matrix

__all__ = ["log10_chance", "log10_chance_of_axes", "why_not", "within_tolerance"]

# Random orientations that tell how many spots any lattice of the cell explains.
_RANDOM = 24
# Where a random lattice explains a larger share, errors are as large as nodes are apart.
_MOST_BY_CHANCE = 0.35
# A spot is on the planes of two axes where it is as near to them; then the third is judged.
_ON_PLANE = 0.25
_NEARNESS = np.array([0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
# Logarithm of the probability that a third axis fits so well by chance; some thousand are tried.
_LEAST_OF_AXIS = -6.0
# Strained by more than the tolerance and this, a cell is another one.
_BEYOND = 1.25
# Nodes of a lattice that only shares some with the right one obey a congruence; so many of those explained do, and
# much of the image is left unexplained.
_CONGRUENT, _UNEXPLAINED = 0.95, 0.25
_MODULI = (2, 3, 5)


def _log_tail(n: float, of: float, share: float) -> float:
    """Return an upper limit of the natural logarithm of the binomial probability of `n` or more (Chernoff)."""
    observed = n / of if of else 0.0
    if observed <= share:
        return 0.0
    return float(-of * (rel_entr(observed, share) + rel_entr(1 - observed, 1 - share)))


def log10_chance(fit: Fit, rays: Rays, known: KnownCell, limits: RefinementLimits) -> float:
    """Return the decimal logarithm of the probability that a lattice explains as many of random spots.

    A share p of the spots is explained by the same lattice in random orientations, with the same errors. That one of
    N lattices explains n of m spots has a probability of no more than N times the tail of the binomial distribution,
    whose Chernoff limit is taken; N is the number of orientations and cells that the errors tell apart and the
    tolerance of the cell lets in.

    Args:
        fit: a lattice.
        rays: of all spots that it was looked for in.
        known: the cell.
        limits: of its refinement.
    """
    turns = Rotation.random(_RANDOM, random_state=0).as_matrix()
    found = sum(int(explained_by(fit, turn, rays, known, limits.n_sigma).sum()) for turn in turns)
    share = min((found + 1) / (_RANDOM * len(rays)), 1.0)
    if share > _MOST_BY_CHANCE:
        return 0.0
    typical = float(np.sqrt((rays.q**2).sum(axis=1).mean()))
    angle = min(limits.n_sigma * fit.sigma_off / typical, 1.0)
    n_cells = max(2 * limits.cell_tolerance / angle, 1.0) ** len(known.strains)
    n_lattices = 8 * np.pi**2 / len(known.rotations) / angle**3 * n_cells
    tail = _log_tail(n_nodes(fit.hkl[fit.explained]), len(rays), share) / np.log(10)
    return float(min(np.log10(n_lattices) + tail, 0.0))


def _primitive_indices(fit: Fit, rays: Rays, known: KnownCell) -> np.ndarray:
    """Return indices (n, 3), not rounded, in the primitive cell of short axes."""
    hkl = rays.shifted(fit.shift_mm) @ np.linalg.inv(fit.setting_matrix).T
    return hkl @ (known.basis.T @ known.primitive)


def log10_chance_of_axes(fit: Fit, rays: Rays, known: KnownCell) -> float:
    """Return the decimal logarithm of the probability that the worst of the three axes fits as well by chance.

    A wrong cell may share an axis, or two, with the right one. Of the spots on the planes of two axes, those near the
    planes of the third are compared with what indices that mean nothing would give.

    Args:
        fit: a lattice.
        rays: of all spots that it was looked for in.
        known: the cell.
    """
    index = _primitive_indices(fit, rays, known)
    off = np.abs(index - np.rint(index))
    worst = -np.inf
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        here = off[(off[:, others] < _ON_PLANE).all(axis=1), axis]
        tails = [_log_tail(float((here < near).sum()), float(len(here)), 2 * near) for near in _NEARNESS]
        worst = max(worst, min(tails))
    return worst / float(np.log(10))


def within_tolerance(fit: Fit, known: KnownCell, tolerance: float) -> bool:
    """Return whether the refined cell is the given one, within the tolerance."""
    cell, given = np.array(cell_of_matrix(fit.setting_matrix)), np.array(known.cell)
    lengths = np.abs(cell[:3] / given[:3] - 1).max()
    # A shear e turns both axes.
    angles = np.radians(np.abs(cell[3:] - given[3:]).max()) / 2
    return bool(max(lengths, angles) <= _BEYOND * tolerance)


def _congruence(fit: Fit, rays: Rays, known: KnownCell) -> int:
    """Return what a combination of the indices of nearly all explained spots is a multiple of, 0 where nothing."""
    index = np.rint(_primitive_indices(fit, rays, known)[fit.explained]).astype(np.int64)
    for modulus in _MODULI:
        for row in product(range(modulus), repeat=3):
            if any(row) and ((index @ np.array(row)) % modulus == 0).mean() > _CONGRUENT:
                return modulus
    return 0


def why_not(fit: Fit, rays: Rays, known: KnownCell, limits: RefinementLimits, most: float) -> tuple[str, float]:
    """Return why a lattice is not to be believed, "" where it is, and the logarithm of its chance.

    Args:
        fit: a lattice.
        rays: of all spots that it was looked for in.
        known: the cell.
        limits: of its refinement.
        most: largest decimal logarithm of the chance of one that is believed.
    """
    explained = f"{n_nodes(fit.hkl[fit.explained])} of {len(rays)} spots explained"
    if not within_tolerance(fit, known, limits.cell_tolerance):
        cell = " ".join(f"{value:.4g}" for value in cell_of_matrix(fit.setting_matrix))
        return f"{explained} by a cell {cell}, farther from the given one than its tolerance", 0.0
    chance = log10_chance(fit, rays, known, limits)
    if chance > most:
        return f"{explained}, which chance does with a probability of 10^{chance:.1f}", chance
    of_axes = log10_chance_of_axes(fit, rays, known)
    if of_axes > _LEAST_OF_AXIS:
        return (
            f"{explained}, but one axis fits no better than chance does with a probability of 10^{of_axes:.1f}",
            chance,
        )
    modulus = _congruence(fit, rays, known)
    if modulus and fit.explained.mean() < 1 - _UNEXPLAINED:
        return (
            f"{explained}, all on every {modulus}th plane of nodes: the cell is a multiple of a fraction of theirs",
            chance,
        )
    return "", chance
