"""Bragg reflections as observations for the scales."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffuse_framework.algorithms.absolute.bragg import spot_weights
from diffuse_framework.algorithms.scaling.failures import NoReflectionsError
from diffuse_framework.algorithms.scaling.observations import REFLECTION, ROW
from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.grid import VoxelGrid


class Reflections(NamedTuple):
    """Bragg reflections observed on two images or more.

    Attributes:
        rows: one per observation, (n_rows,) of `ROW`, those of a unique reflection together.
        first: (n + 1,) where the rows of each unique reflection begin, and their end.
        q: (n,) |q| of each, 1/angstrom.
        voxel: (n,) their numbers, from the grid's size on.
    """

    rows: np.ndarray
    first: np.ndarray
    q: np.ndarray
    voxel: np.ndarray


def bragg_reference(
    experiment: Experiment, grid: VoxelGrid, min_partiality: float, relative_error: float
) -> Reflections:
    """Return the integrated reflections as observations of unique reflections.

    Expected intensity is that of `spot_weights` x scale x the reflection's own.

    Args:
        experiment: its images' spots.
        grid: whose cell and symmetry count.
        min_partiality: reflections recorded to a smaller fraction are left out.
        relative_error: of partialities, added to the variance of each intensity.

    Raises:
        NoReflectionsError: no reflection with intensity and partiality is on two images.
    """
    parts = [_observations(experiment, n, image, min_partiality) for n, image in enumerate(experiment.images)]
    hkl = np.concatenate([part["hkl"] for part in parts]) if parts else np.zeros((0, 3), np.int64)
    columns = {
        name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0)
        for name in ("image", "panel", "fast", "slow", "counts", "variance", "exposure")
    }
    folded, _ = fold(hkl, grid.symmetry, (1, 1, 1))
    unique, number, seen = np.unique(folded, axis=0, return_inverse=True, return_counts=True)
    number = number.ravel()
    use = seen[number] > 1
    if not use.any():
        raise NoReflectionsError("no Bragg reflection with intensity and partiality is on two images")
    use = np.flatnonzero(use)[np.argsort(number[use], kind="stable")]
    kept, reflection, n_rows = np.unique(number[use], return_inverse=True, return_counts=True)
    counts, exposure = columns["counts"][use], columns["exposure"][use]
    # The mean of a reflection, not its own value, sets the error of its partiality: else high ones
    # would count less.
    mean = np.bincount(reflection, counts) / np.bincount(reflection, exposure)
    expected = exposure * np.maximum(mean, 0)[reflection]
    rows = np.zeros(len(use), ROW)
    for name in ("image", "panel", "fast", "slow"):
        rows[name] = columns[name][use]
    rows["operator"], rows["counts"], rows["exposure"] = REFLECTION, counts, exposure
    rows["background_variance"] = columns["variance"][use] + (relative_error * expected) ** 2
    q = np.linalg.norm(unique[kept] @ grid.reciprocal_basis.T, axis=1)
    return Reflections(rows, np.concatenate([[0], np.cumsum(n_rows)]), q, grid.size + np.arange(len(kept)))


def _observations(experiment: Experiment, number: int, image: Image, min_partiality: float) -> dict[str, np.ndarray]:
    spots, geometry = image.spots, experiment.geometry_of(image)
    partiality = spots.partiality
    use = np.isfinite(spots.intensity) & np.isfinite(spots.variance) & np.isfinite(partiality)
    use &= np.where(use, spots.variance, 0) > 0
    use &= np.where(np.isfinite(partiality), partiality, 0) >= min_partiality
    weights = spot_weights(spots, image, geometry)
    use &= weights > 0
    px = spots.predicted_px[use]
    return {
        "hkl": spots.hkl[use].astype(np.int64),
        "image": np.full(len(px), number),
        "panel": spots.panel[use],
        "fast": px[:, 0],
        "slow": px[:, 1],
        "counts": spots.intensity[use],
        "variance": spots.variance[use],
        "exposure": weights[use],
    }
