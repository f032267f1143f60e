"""Bragg intensities, corrected for partiality and merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.algorithms.absolute.profile import RadialProfile
from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.factors import efficiency, polarization
from diffuse_framework.algorithms.symmetry import fold, orbit_sizes
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import BraggSpots, Experiment, Image, Rotation
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.grid import VoxelGrid

__all__ = ["MergedBragg", "merge_spots", "spot_weights", "with_spots"]

# Fainter parts of a reflection say little of the whole.
MIN_PARTIALITY = 0.05
# Cosine between the axis of rotation and the normal of the plane of incidence below which reflections of a
# rotation are left out, as DIALS does.
MIN_ZETA = 0.05


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
    """Merge integrated reflections.

    Strengths are sum N / sum (b w) with N photons and b the image's scale. Of a rotation w is that of
    `spot_weights`. Of a still there is 1/|q| in it too: the height of a rocking curve whose angular width is
    that of the mosaic spread, which the partiality of a still does not know.

    Args:
        experiment: with integrated reflections.
        scales: (n_images,) b of each image.

    Raises:
        DataError: no reflection has an intensity and a partiality.
    """
    hkl, photons, variance, weight = [], [], [], []
    for number, image in enumerate(experiment.images):
        spots = image.spots
        weights = spot_weights(spots, image, experiment.geometry_of(image))
        good = np.isfinite(spots.intensity) & np.isfinite(spots.variance) & (spots.partiality > MIN_PARTIALITY)
        good &= weights > 0
        if not good.any():
            continue
        if image.rotation is None:
            q = np.linalg.norm(spots.hkl @ image.setting_matrix.T, axis=1)
            weights = weights / np.maximum(q, 1e-9)
        hkl.append(spots.hkl[good])
        photons.append(spots.intensity[good])
        variance.append(spots.variance[good])
        weight.append(scales[number] * weights[good])
    if not hkl:
        raise DataError("no image has reflections with intensity and partiality")
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


def spot_weights(spots: BraggSpots, image: Image, geometry: Geometry) -> np.ndarray:
    """Return what the photons of reflections (n,) are in proportion to, apart from |F|^2 and scales.

    Exposure time x polarisation x efficiency of the sensor x partiality. Of a rotation the exposure time is
    that of a radian, and there is Lorentz's factor 1 / |s1 . (axis x q)| / wavelength, the time that a
    reflection takes through the Ewald sphere (Arndt & Wonacott 1977, The Rotation Method in
    Crystallography, ch. 7). It is 0 next to the axis, where partiality and that time are not known.
    """
    result = np.full(len(spots), image.exposure_s)
    directions = np.zeros((len(spots), 3))
    for number, panel in enumerate(geometry.panels):
        here = spots.panel == number
        if not here.any():
            continue
        mm = spots.predicted_px[here] * np.array(panel.pixel_size_mm)
        positions = panel.origin_mm + mm[:, :1] * panel.fast_axis + mm[:, 1:] * panel.slow_axis
        directions[here] = positions / np.linalg.norm(positions, axis=1, keepdims=True)
        result[here] *= polarization(positions, geometry.beam)
        if panel.mu_per_mm * panel.thickness_mm > 0:
            result[here] *= efficiency(positions, panel)
    if image.rotation is not None:
        result *= _lorentz(directions, geometry, image.rotation)
    return result * np.where(np.isfinite(spots.partiality), spots.partiality, 0.0)


def _lorentz(directions: np.ndarray, geometry: Geometry, rotation: Rotation) -> np.ndarray:
    """Return Lorentz's factor (n,) over the angle of the image in radians; 0 next to the axis."""
    s0 = geometry.beam.s0 / np.linalg.norm(geometry.beam.s0)
    normal = np.cross(directions, s0)
    rate = np.abs(normal @ rotation.axis)
    away = rate > MIN_ZETA * np.linalg.norm(normal, axis=1)
    width = np.radians(abs(rotation.width_deg))
    return np.divide(1.0, rate * width, out=np.zeros(len(rate)), where=away & (rate > 0))


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
