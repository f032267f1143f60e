"""All lattices of a known cell on one image: search, refinement, and what chance would explain as well."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.special import rel_entr

from diffuse_framework.algorithms.indexing.known_cell import KnownCell
from diffuse_framework.algorithms.indexing.rays import Rays
from diffuse_framework.algorithms.indexing.refinement import (
    Fit,
    RefinementLimits,
    explained_by,
    n_nodes,
    refine,
    refine_roughly,
)
from diffuse_framework.algorithms.indexing.search import SearchLimits, orientations

__all__ = ["IndexingLimits", "Lattice", "find_lattices", "log10_chance"]

# Orientations tried first; more only where none of these explains half of the spots.
_FIRST = 12
# Random orientations that tell how many spots any lattice of the cell explains.
_RANDOM = 24
# Where a random lattice explains a larger share, errors are as large as nodes are apart: then the nodes that a wrong
# cell has in common with the right one pass for all.
_MOST_BY_CHANCE = 0.35


@dataclass(frozen=True)
class IndexingLimits:
    """What is looked for, and what is believed.

    Attributes:
        max_lattices: of one image.
        min_spots: found, and explained by a lattice.
        n_strongest: spots that the search is made with.
        max_log10_chance: decimal logarithm of the probability that chance explains as many spots.
        search: how much is tried.
        refinement: what may be refined.
    """

    max_lattices: int = 1
    min_spots: int = 15
    n_strongest: int = 300
    max_log10_chance: float = -10.0
    search: SearchLimits = field(default_factory=SearchLimits)
    refinement: RefinementLimits = field(default_factory=RefinementLimits)


@dataclass(frozen=True, eq=False)
class Lattice:
    """One crystal's lattice on an image.

    Attributes:
        fit: as refined, its arrays over all spots of the image.
        explained: (n,) which spots it explains and no lattice before it does.
        log10_chance: decimal logarithm of the probability that chance explains as many spots.
    """

    fit: Fit
    explained: np.ndarray
    log10_chance: float


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
    nodes = n_nodes(fit.hkl[fit.explained])
    tail = _log_tail(nodes, len(rays), share) / np.log(10)
    return float(min(np.log10(n_lattices) + tail, 0.0))


def _log_tail(n: int, of: int, share: float) -> float:
    """Return an upper limit of the logarithm of the binomial probability of `n` or more (Chernoff)."""
    observed = n / of
    if observed <= share:
        return 0.0
    return float(-of * (rel_entr(observed, share) + rel_entr(1 - observed, 1 - share)))


def find_lattices(
    rays: Rays, significance: np.ndarray, known: KnownCell, limits: IndexingLimits = IndexingLimits()
) -> tuple[tuple[Lattice, ...], str]:
    """Return the lattices of an image, that with the most spots first, and why there is none, "" where there is.

    Args:
        rays: of all spots.
        significance: (n,) of the spots; the search begins with the strongest.
        known: the cell.
        limits: what is believed.
    """
    if len(rays) < limits.min_spots:
        return (), f"{len(rays)} spots found, {limits.min_spots} needed"
    left = np.ones(len(rays), bool)
    lattices: list[Lattice] = []
    reason = ""
    while len(lattices) < limits.max_lattices and left.sum() >= limits.min_spots:
        rows = np.flatnonzero(left)
        fit = _best_fit(rays.where(rows), significance[rows], known, limits)
        if fit is None:
            reason = reason or f"no orientation of the cell explains any of {len(rows)} spots"
            break
        n_explained = n_nodes(fit.hkl[fit.explained])
        chance = log10_chance(fit, rays.where(rows), known, limits.refinement)
        if n_explained < limits.min_spots:
            reason = reason or f"{n_explained} of {len(rows)} spots explained, {limits.min_spots} needed"
            break
        if chance > limits.max_log10_chance:
            reason = reason or (
                f"{n_explained} of {len(rows)} spots explained, which chance does with a probability of 10^{chance:.1f}"
            )
            break
        lattice = _on_all_spots(fit, chance, rays, rows)
        lattices.append(lattice)
        left &= ~lattice.explained
    lattices.sort(key=lambda lattice: -int(lattice.explained.sum()))
    return tuple(lattices), "" if lattices else reason


def _best_fit(rays: Rays, significance: np.ndarray, known: KnownCell, limits: IndexingLimits) -> Fit | None:
    """Return the lattice that explains most of the spots."""
    strongest = np.argsort(-significance, kind="stable")[: limits.n_strongest]
    lengths = np.linalg.norm(rays.q[strongest], axis=1)
    near = rays.where(strongest[np.argsort(lengths, kind="stable")[: limits.search.n_spots]])
    tried = orientations(near.q, known, limits.search)
    tolerance = limits.search.cell_tolerance
    rough: list[tuple[int, np.ndarray]] = []
    for part in (tried[:_FIRST], tried[_FIRST:]):
        for setting in part:
            refined, nodes = refine_roughly(near, setting, known, tolerance)
            rough.append((nodes, refined))
        if rough and max(nodes for nodes, _ in rough) > len(near) / 2:
            break
    if not rough:
        return None
    rough.sort(key=lambda one: -one[0])
    fits = [refine(rays, setting, known, limits.refinement) for setting in _different([s for _, s in rough], known, 2)]
    return max(fits, key=lambda fit: n_nodes(fit.hkl[fit.explained]))


def _different(settings: list[np.ndarray], known: KnownCell, n: int) -> list[np.ndarray]:
    """Return the first `n` settings that are not one orientation, seen with the symmetry of the lattice."""
    kept: list[np.ndarray] = []
    inverse = np.linalg.inv(known.basis)
    for setting in settings:
        turn = setting @ inverse
        # 1 + 2 cos(angle) is the trace of a rotation; cells differ by some per cent.
        traces = [np.trace(turn @ r @ (other @ inverse).T) for other in kept for r in known.rotations]
        if not traces or max(traces) < 2.8:
            kept.append(setting)
        if len(kept) == n:
            break
    return kept


def _on_all_spots(fit: Fit, chance: float, rays: Rays, rows: np.ndarray) -> Lattice:
    """Spread the arrays of a fit to some spots over all spots of the image."""
    n = len(rays)
    explained, hkl = np.zeros(n, bool), np.zeros((n, 3), np.int32)
    off, across = np.full(n, np.nan), np.full(n, np.nan)
    explained[rows], hkl[rows], off[rows], across[rows] = fit.explained, fit.hkl, fit.off_sphere, fit.across
    whole = Fit(fit.setting_matrix, hkl, explained, off, across, fit.sigma_across, fit.sigma_off, fit.shift_mm)
    return Lattice(whole, explained, chance)
