"""Spots and images of stills with a known orientation, made from a few lines of their own."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from diffuse_framework.algorithms.geometry import project, reflections_near_ewald
from diffuse_framework.algorithms.indexing.known_cell import KnownCell
from diffuse_framework.algorithms.indexing.rays import Rays, rays_of
from diffuse_framework.algorithms.masking.shapes import lattice_possible
from diffuse_framework.model.geometry import Beam, Geometry, Panel


def flat_geometry(
    n: int = 1000, distance: float = 150.0, pixel: float = 0.172, shift_px: tuple[float, float] = (0.0, 0.0), **more
) -> Geometry:
    """Return a square panel across the beam, its centre moved by `shift_px` from the beam."""
    corner = np.array([-(n / 2) + shift_px[0], -(n / 2) + shift_px[1]]) * pixel
    panel = Panel(
        name="flat",
        origin_mm=np.array([corner[0], -corner[1], -distance]),
        fast_axis=np.array([1.0, 0, 0]),
        slow_axis=np.array([0, -1.0, 0]),
        pixel_size_mm=(pixel, pixel),
        shape=(n, n),
        **more,
    )
    return Geometry(Beam(np.array([0.0, 0.0, -1.0]), np.array([0.0, 1, 0]), 0.5), (panel,))


def random_setting(known: KnownCell, seed: int) -> np.ndarray:
    """Return a random setting matrix (3, 3) of a cell."""
    return Rotation.random(random_state=seed).as_matrix() @ known.basis


def spot_positions(
    setting: np.ndarray,
    known: KnownCell,
    geometry: Geometry,
    rng: np.random.Generator,
    n: int = 150,
    width: float = 5e-4,
    sigma_px: float = 0.3,
    d_min: float = 2.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return Miller indices (m, 3) and pixel coordinates (m, 2) of no more than `n` spots of a lattice."""
    hkl = reflections_near_ewald(setting, geometry.beam, d_min, 3 * width, 0.0)
    hkl = hkl[lattice_possible(hkl, known.conditions)]
    rays = hkl @ setting.T + geometry.beam.s0
    off = np.linalg.norm(rays, axis=1) - 1
    panel, px = project(geometry, rays)
    seen = np.flatnonzero((panel == 0) & (rng.random(len(hkl)) < np.exp(-((off / width) ** 2) / 2)))
    rows = rng.permutation(seen)[:n]
    return hkl[rows], px[rows] + rng.normal(0, sigma_px, (len(rows), 2))


def rays_at(geometry: Geometry, px: np.ndarray) -> Rays:
    """Return the rays to pixel coordinates on the first panel."""
    return rays_of(geometry, np.zeros(len(px), int), px)


def angle_deg(one: np.ndarray, other: np.ndarray, known: KnownCell) -> float:
    """Return the angle between two orientations of a lattice, the symmetry of `known` taken off."""

    def turn(setting: np.ndarray) -> np.ndarray:
        left, _, right = np.linalg.svd(setting @ np.linalg.inv(known.basis))
        return left @ right

    first, second = turn(one), turn(other)
    return min(np.degrees(Rotation.from_matrix(first @ r @ second.T).magnitude()) for r in known.rotations)


def image_with(
    rng: np.random.Generator, shape: tuple[int, int], px: np.ndarray, photons: np.ndarray, level: float, sigma: float
) -> np.ndarray:
    """Return counts (slow, fast): Poisson numbers about a level and about normal peaks."""
    expected = np.full(shape, float(level))
    for (fast, slow), total in zip(px, np.broadcast_to(photons, len(px)), strict=True):
        i = np.arange(max(int(slow) - 8, 0), min(int(slow) + 9, shape[0]))
        j = np.arange(max(int(fast) - 8, 0), min(int(fast) + 9, shape[1]))
        peak = np.exp(-((i[:, None] + 0.5 - slow) ** 2 + (j[None] + 0.5 - fast) ** 2) / (2 * sigma**2))
        expected[np.ix_(i, j)] += total * peak / (2 * np.pi * sigma**2)
    return rng.poisson(expected).astype(np.int32)
