"""From the asymmetric unit to boxes, and their Fourier transform."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.expansion import BoxTooLarge, delta_pdf, whole_box
from diffuse_framework.algorithms.statistics import isotropic_part
from diffuse_framework.algorithms.symmetry import asymmetric_box, fold, orbit_sizes
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import reciprocal_basis

GROUPS = {
    "P-1": (9.0, 10.0, 11.0, 80.0, 95.0, 100.0),
    "P21": (9.0, 10.0, 11.0, 90.0, 95.0, 90.0),
    "P41212": (9.0, 9.0, 12.0, 90.0, 90.0, 90.0),
    "P321": (9.0, 9.0, 12.0, 90.0, 90.0, 120.0),
    "R3:H": (9.0, 9.0, 12.0, 90.0, 90.0, 120.0),
    "P23": (10.0, 10.0, 10.0, 90.0, 90.0, 90.0),
}


def grid_of(group, divisions=(2, 2, 2), d_min=2.0):
    symmetry, cell = symmetry_of(group), GROUPS[group]
    count, low, high = asymmetric_box(symmetry, divisions, reciprocal_basis(cell), d_min)
    size = high - low + 1
    return VoxelGrid(cell, symmetry, divisions, tuple(low), tuple(size), d_min, np.inf, count)


def asymmetric_voxels(grid):
    voxel = np.arange(grid.size)
    index = grid.index_of(voxel)
    inside = (fold(index, grid.symmetry, grid.divisions)[0] == index).all(axis=1)
    return voxel[inside & (np.linalg.norm(grid.q_of(voxel), axis=1) <= 1 / grid.d_min)]


@pytest.mark.parametrize("group", GROUPS)
def test_a_whole_box_holds_every_voxel_once_and_has_the_symmetry(group):
    grid = grid_of(group)
    voxel = asymmetric_voxels(grid)
    assert len(voxel) == grid.n_voxels
    values = np.random.default_rng(1).random(len(voxel))
    box = whole_box(grid, voxel, values)
    axes = np.meshgrid(*(box.axis(n) for n in range(3)), indexing="ij")
    hkl = np.stack(axes, -1)
    q = np.linalg.norm(hkl @ grid.reciprocal_basis.T, axis=-1)
    assert (np.isfinite(box.values) == (q <= 1 / grid.d_min + 1e-12)).all()
    for operator in grid.symmetry.operators:
        moved = np.rint(hkl @ operator.T * np.array(grid.divisions)).astype(int) - np.array(box.index_min)
        inside = np.isfinite(box.values)
        found = box.values[tuple(moved[inside].T)]
        assert (found == box.values[inside]).all()


def test_the_isotropic_part_of_an_isotropic_map_is_all_of_it():
    grid = grid_of("P41212", d_min=1.0)
    voxel = asymmetric_voxels(grid)
    q = np.linalg.norm(grid.q_of(voxel), axis=1)
    values = 100 * np.exp(-3 * q)
    weight = orbit_sizes(grid.index_of(voxel), grid.symmetry, grid.divisions).astype(float)
    inner = (q > 0.1) & (q < 0.98)
    assert np.allclose(isotropic_part(q, values, weight, 0.01)[inner], values[inner], rtol=0.01)


def test_a_box_that_no_memory_holds_is_refused():
    grid = grid_of("P-1")
    with pytest.raises(BoxTooLarge, match="more than a box may hold"):
        whole_box(replace(grid, d_min=0.001), np.zeros(0, np.int64), np.zeros(0))


@pytest.mark.parametrize("group", ["P-1", "P321"])
def test_the_transform_shows_the_distance_of_two_atoms(group):
    # cos(2 pi h.x) is the interference of atoms x apart, in fractions of the cell.
    grid = grid_of(group, (3, 3, 3), 1.2)
    voxel = asymmetric_voxels(grid)
    hkl = grid.hkl_of(voxel)
    x = np.array([1.2, 0.7, 0.0])
    wave = np.mean([np.cos(2 * np.pi * (hkl @ o.T) @ x) for o in grid.symmetry.operators], axis=0)
    box = whole_box(grid, voxel, wave)
    values, cell = delta_pdf(grid, box)
    assert np.allclose(cell[:3], 3 * np.array(grid.cell[:3]))
    assert np.allclose(cell[3:], grid.cell[3:])
    peak = np.array(np.unravel_index(values.argmax(), values.shape)) / values.shape * 3
    mates = np.array([o.T @ x for o in grid.symmetry.operators])
    nearest = np.abs((mates - peak + 1.5) % 3 - 1.5).max(axis=1).min()
    assert nearest < 1.5 / min(values.shape)
    # The transform at the origin is the integral of the weighted map.
    assert np.allclose(values, np.roll(values[::-1, ::-1, ::-1], 1, (0, 1, 2)))


def test_the_transform_has_the_units_of_an_integral():
    grid = grid_of("P23", d_min=1.0)
    voxel = asymmetric_voxels(grid)
    values, _ = delta_pdf(grid, whole_box(grid, voxel, np.ones(len(voxel))), "flat")
    assert values[0, 0, 0] == pytest.approx(4 / 3 * np.pi / grid.d_min**3, rel=0.01)
