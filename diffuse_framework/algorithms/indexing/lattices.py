"""All lattices of a known cell on one image: search, refinement, and what chance would explain as well."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from diffuse_framework.algorithms.indexing.chance import log10_chance, why_not, within_tolerance
from diffuse_framework.algorithms.indexing.known_cell import KnownCell
from diffuse_framework.algorithms.indexing.rays import Rays
from diffuse_framework.algorithms.indexing.refinement import (
    Fit,
    RefinementLimits,
    n_nodes,
    refine,
    refine_roughly,
)
from diffuse_framework.algorithms.indexing.search import SearchLimits, orientations

__all__ = ["IndexingLimits", "Lattice", "find_lattices"]

# Orientations tried first; more only where none of these explains half of the spots.
_FIRST = 12
# Different orientations that are refined against all spots.
_REFINED = 3


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
        complaint, chance = f"{n_explained} of {len(rows)} spots explained, {limits.min_spots} needed", 0.0
        if n_explained >= limits.min_spots:
            complaint, chance = why_not(fit, rays.where(rows), known, limits.refinement, limits.max_log10_chance)
        if complaint:
            reason = reason or complaint
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
    fits = [
        refine(rays, setting, known, limits.refinement)
        for setting in _different([s for _, s in rough], known, _REFINED)
    ]
    # One that strains the cell too far only where there is no other.
    within = [fit for fit in fits if within_tolerance(fit, known, limits.refinement.cell_tolerance)]
    if len(within or fits) == 1:
        return (within or fits)[0]
    # One that explains more by larger errors is no better.
    return min(within or fits, key=lambda fit: log10_chance(fit, rays, known, limits.refinement))


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
