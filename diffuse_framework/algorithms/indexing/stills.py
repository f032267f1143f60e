"""One still from pixels to lattices and intensities, for a known cell."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from diffuse_framework.algorithms.indexing.integration import Summed, disk_radius, sum_reflections
from diffuse_framework.algorithms.indexing.known_cell import KnownCell
from diffuse_framework.algorithms.indexing.lattices import IndexingLimits, Lattice, find_lattices
from diffuse_framework.algorithms.indexing.prediction import Excitation, Predictions, excitation_of, predict_still
from diffuse_framework.algorithms.indexing.rays import rays_of
from diffuse_framework.algorithms.indexing.spots import SpotLimits, Spots, find_spots
from diffuse_framework.model.geometry import Geometry

__all__ = ["StillLimits", "StillResult", "index_spots", "index_still"]


@dataclass(frozen=True)
class StillLimits:
    """What is taken for a spot, what is believed, and how far reflections are predicted.

    Attributes:
        spots: see `SpotLimits`.
        indexing: see `IndexingLimits`.
        d_min: of spots and predictions, angstrom; 0 for the limit of the detector.
        integrate: sum up intensities.
    """

    spots: SpotLimits = field(default_factory=SpotLimits)
    indexing: IndexingLimits = field(default_factory=IndexingLimits)
    d_min: float = 0.0
    integrate: bool = True


@dataclass(frozen=True, eq=False)
class StillResult:
    """What was found on one still.

    Attributes:
        spots: all, explained or not.
        lattices: that with the most spots first; none where the image could not be indexed.
        reason: why there is none, "" where there is.
        excitation: of the first lattice.
        predictions: of the first lattice, None where there is no lattice.
        summed: intensities of the predictions, None where none are wanted.
    """

    spots: Spots
    lattices: tuple[Lattice, ...]
    reason: str
    excitation: Excitation = Excitation(0.0, 0.0)
    predictions: Predictions | None = None
    summed: Summed | None = None


def index_spots(spots: Spots, geometry: Geometry, known: KnownCell, limits: StillLimits) -> StillResult:
    """Return the lattices of spots, and what the first of them predicts; nothing is summed up.

    Args:
        spots: of one image.
        geometry: beam and panels.
        known: the cell.
        limits: what is believed.
    """
    rays = rays_of(geometry, spots.panel, spots.px)
    if limits.d_min > 0:
        near = np.linalg.norm(rays.q, axis=1) <= 1 / limits.d_min
        spots, rays = spots.where(near), rays.where(near)
    significance = spots.intensity / np.sqrt(np.maximum(spots.variance, 1.0))
    lattices, reason = find_lattices(rays, significance, known, limits.indexing)
    if not lattices:
        return StillResult(spots, (), reason)
    fit = lattices[0].fit
    q = np.linalg.norm(rays.q[fit.explained], axis=1)
    excitation = excitation_of(fit.off_sphere[fit.explained], q, limits.indexing.refinement.least_sigma)
    predictions = predict_still(fit.setting_matrix, geometry, excitation, known.conditions, limits.d_min)
    return StillResult(spots, lattices, "", excitation, predictions)


def index_still(
    counts: tuple[np.ndarray, ...],
    geometry: Geometry,
    bad: tuple[np.ndarray, ...] | None,
    known: KnownCell,
    limits: StillLimits = StillLimits(),
) -> StillResult:
    """Return what is found on one still.

    Args:
        counts: (slow, fast) raw values of each panel.
        geometry: beam and panels.
        bad: (slow, fast) uint8 of each panel, other than 0 where a pixel must not be used; None where all may.
        known: the cell.
        limits: what is believed.
    """
    spots = find_spots(counts, geometry.panels, bad, limits.spots)
    found = index_spots(spots, geometry, known, limits)
    if found.predictions is None or not limits.integrate:
        return found
    summed = sum_reflections(
        counts, geometry.panels, bad, found.predictions.panel, found.predictions.px, disk_radius(found.spots)
    )
    return StillResult(found.spots, found.lattices, "", found.excitation, found.predictions, summed)
