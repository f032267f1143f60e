"""Bragg intensities of stills, corrected for partiality and merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.algorithms.absolute import RadialProfile
from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.factors import efficiency, polarization
from diffuse_framework.algorithms.symmetry import fold, orbit_sizes
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import BraggSpots, Experiment, Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.grid import VoxelGrid

# Fainter parts of a reflection say little of the whole.
MIN_PARTIALITY = 0.05


@dataclass(frozen=True, eq=False)
class MergedBragg:
    """Bragg intensities merged over images and symmetry.

    Attributes:
        hkl: (n, 3) integers in the asymmetric unit.
        strength, variance: (n,) proportional to |F|^2.
        multiplicity: (n,) observations.
    """

    hkl: np.ndarray
    strength: np.ndarray
    variance: np.ndarray
    multiplicity: np.ndarray


def merge_spots(experiment: Experiment, scales: np.ndarray) -> MergedBragg:
    """Merge the integrated reflections of stills.

    A still records N = K b t P E p |F|^2 / |q| photons of a reflection: b is the image's scale, t its
    exposure time, P polarisation, E efficiency of the sensor, p the partiality relative to a
    reflection in the middle of its rocking curve, and 1/|q| the height of a rocking curve whose angular
    width is that of the mosaic spread. Strengths are sum N / sum (b t P E p / |q|).

    Args:
        experiment: with integrated reflections.
        scales: (n_images,) b of each image.

    Raises:
        DataError: no reflection has an intensity and a partiality.
    """
    hkl, photons, variance, weight = [], [], [], []
    for number, image in enumerate(experiment.images):
        spots = image.spots
        good = np.isfinite(spots.intensity) & np.isfinite(spots.variance) & (spots.partiality > MIN_PARTIALITY)
        if not good.any():
            continue
        response = _response(spots, image, experiment.geometry_of(image))
        q = np.linalg.norm(spots.hkl @ image.setting_matrix.T, axis=1)
        hkl.append(spots.hkl[good])
        photons.append(spots.intensity[good])
        variance.append(spots.variance[good])
        weight.append((scales[number] * response * spots.partiality / np.maximum(q, 1e-9))[good])
    if not hkl:
        raise DataError(
            "no image has reflections with intensity and partiality: give integrated reflections, or use "
            "absolute_scaler.wilson.intensities=map"
        )
    folded = fold(np.concatenate(hkl), experiment.symmetry, (1, 1, 1))[0]
    unique, index = np.unique(folded, axis=0, return_inverse=True)
    index, n = index.ravel(), len(unique)
    weights = sum_by(index, np.concatenate(weight), n)
    return MergedBragg(
        hkl=unique,
        strength=sum_by(index, np.concatenate(photons), n) / weights,
        variance=sum_by(index, np.concatenate(variance), n) / weights**2,
        multiplicity=np.bincount(index, minlength=n),
    )


def _response(spots: BraggSpots, image: Image, geometry: Geometry) -> np.ndarray:
    """Exposure time x polarisation x efficiency (n,) at the predicted positions."""
    response = np.full(len(spots), image.exposure_s)
    for number, panel in enumerate(geometry.panels):
        here = spots.panel == number
        if not here.any():
            continue
        mm = spots.predicted_px[here] * np.array(panel.pixel_size_mm)
        positions = panel.origin_mm + mm[:, :1] * panel.fast_axis + mm[:, 1:] * panel.slow_axis
        response[here] *= polarization(positions, geometry.beam)
        if panel.mu_per_mm * panel.thickness_mm > 0:
            response[here] *= efficiency(positions, panel)
    return response


def with_spots(
    profile: RadialProfile, grid: VoxelGrid, spots: MergedBragg, is_absent: Callable[[np.ndarray], np.ndarray]
) -> RadialProfile:
    """Return a profile whose Bragg part follows merged reflections.

    What a reflection's photons amount to in units of the map depends on the width of its rocking
    curve, which stills hardly tell. Therefore spots give the fall-off with |q|, and the map's own Bragg
    channel the one factor that is common to all.

    Args:
        profile: of the map.
        grid: of the map.
        spots: merged.
        is_absent: tells which of the integers (n, 3) the space group extinguishes: they count as 0.

    Raises:
        DataError: map and spots share no shell.
    """
    limits = np.floor(np.linalg.norm(np.linalg.inv(grid.reciprocal_basis), axis=1) / grid.d_min).astype(int)
    axes = np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij")
    possible = np.stack(axes, -1).reshape(-1, 3)
    possible = possible[(fold(possible, grid.symmetry, (1, 1, 1))[0] == possible).all(axis=1)]
    possible = possible[(possible != 0).any(axis=1)]
    absent = possible[is_absent(possible)]
    hkl = np.concatenate([spots.hkl, absent])
    q = np.linalg.norm(hkl @ grid.reciprocal_basis.T, axis=1)
    n_shells = len(profile.total)
    shell = np.searchsorted(profile.edges, q, side="right") - 1
    inside = (shell >= 0) & (shell < n_shells)
    hkl, shell = hkl[inside], shell[inside]
    strength = np.concatenate([spots.strength, np.zeros(len(absent))])[inside]
    variance = np.concatenate([spots.variance, np.zeros(len(absent))])[inside]
    weight = orbit_sizes(hkl, grid.symmetry, (1, 1, 1)).astype(float)
    total = sum_by(shell, weight, n_shells)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sum_by(shell, weight * strength, n_shells) / total
        mean_variance = sum_by(shell, weight**2 * variance, n_shells) / total**2
    both = np.isfinite(mean) & np.isfinite(profile.bragg) & (profile.bragg_variance >= 0)
    if not both.any() or not (mean * profile.volume)[both].sum() > 0:
        raise DataError("the map and the integrated reflections have no resolution shell in common")
    factor = (profile.bragg * profile.volume)[both].sum() / (mean * profile.volume)[both].sum()
    return replace(
        profile,
        bragg=factor * mean,
        bragg_variance=factor**2 * mean_variance,
        lattice_points=np.bincount(shell, minlength=n_shells),
    )
