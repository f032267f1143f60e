"""Bragg reflections as observations for the scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.bragg import spot_weights
from diffuse_framework.algorithms.scaling_rows import Rows
from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.grid import VoxelGrid


@dataclass(frozen=True, eq=False)
class Reflections:
    """Bragg reflections seen on two images or more.

    Attributes:
        rows: one per observation; `voxel` numbers unique reflections, from the grid's size on.
        q: |q| of each unique reflection, 1/angstrom.
    """

    rows: Rows
    q: np.ndarray


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
        DataError: no reflection with intensity and partiality is on two images.
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
        raise DataError(
            "no Bragg reflection with intensity and partiality is on two images; integrate with "
            "indexer.plugin=dials_stills, or switch scaler.smooth.bragg.use off"
        )
    kept, voxel = np.unique(number[use], return_inverse=True)
    counts = columns["counts"][use]
    # The mean of a reflection, not its own value, sets the error of its partiality: else high ones
    # would count less.
    exposure = columns["exposure"][use]
    mean = np.bincount(voxel.ravel(), counts) / np.bincount(voxel.ravel(), exposure)
    expected = exposure * np.maximum(mean, 0)[voxel.ravel()]
    rows = Rows(
        image=columns["image"][use].astype(np.int32),
        voxel=grid.size + voxel.ravel().astype(np.int64),
        panel=columns["panel"][use].astype(np.uint16),
        fast=columns["fast"][use].astype(np.float32),
        slow=columns["slow"][use].astype(np.float32),
        counts=counts.astype(np.float32),
        background=np.zeros(len(counts), np.float32),
        background_variance=np.zeros(len(counts), np.float32),
        exposure=exposure.astype(np.float32),
        variance=(columns["variance"][use] + (relative_error * expected) ** 2).astype(np.float32),
    )
    return Reflections(rows, np.linalg.norm(unique[kept] @ grid.reciprocal_basis.T, axis=1))


def _observations(
    experiment: Experiment, number: int, image: Image, min_partiality: float
) -> dict[str, np.ndarray]:
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
