"""The true intensity."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuse_framework.algorithms.symmetry import asymmetric_box
from diffuse_framework.errors import ConfigError, GeometryError
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.simulate.crystals import primitive_symmetry
from diffuse_framework.simulate.intensity import BraggParameters, DiffuseParameters, make_intensity

CELLS = {
    "P1": (14, 17, 19, 85, 95, 103),
    "P121": (14, 17, 19, 90, 104, 90),
    "P212121": (14, 17, 19, 90, 90, 90),
    "P41212": (15, 15, 24, 90, 90, 90),
    "P3": (16, 16, 20, 90, 90, 120),
    "P312": (16, 16, 20, 90, 90, 120),
    "P321": (16, 16, 20, 90, 90, 120),
    "P6122": (16, 16, 28, 90, 90, 120),
    "P213": (17, 17, 17, 90, 90, 90),
    "P432": (17, 17, 17, 90, 90, 90),
}
D_MIN = 2.0
_made = {}


def intensity(space_group, seed=3):
    """Return the intensity of one crystal, made once."""
    key = space_group, seed
    if key not in _made:
        _made[key] = make_intensity(
            CELLS[space_group], primitive_symmetry(space_group), D_MIN, DiffuseParameters(), seed
        )
    return _made[key]


def indices(n, seed, d_min=D_MIN, space_group="P212121"):
    """Return n indices spread over the sphere |q| <= 1/d_min."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(n, 3))
    q *= (rng.random((n, 1)) ** (1 / 3) / d_min) / np.linalg.norm(q, axis=1, keepdims=True)
    return q @ np.linalg.inv(intensity(space_group).basis).T


@settings(max_examples=40, deadline=None)
@given(space_group=st.sampled_from(sorted(CELLS)), seed=st.integers(0, 10**6))
def test_intensity_has_the_laue_symmetry(space_group, seed):
    crystal = intensity(space_group)
    hkl = indices(20, seed, space_group=space_group)
    expected = crystal.diffuse(hkl)
    assert (expected > 0).all()
    for operator in crystal.symmetry.operators:
        np.testing.assert_allclose(crystal.diffuse(hkl @ operator.T), expected, rtol=1e-6)


def test_symmetry_is_no_higher_than_the_crystals():
    crystal = intensity("P3")
    hkl = indices(50, 1, space_group="P3")
    exchanged = hkl[:, [1, 0, 2]]
    assert not np.allclose(crystal.diffuse(hkl), crystal.diffuse(exchanged), rtol=0.05)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_intensity_is_smooth(seed):
    crystal = intensity("P212121")
    hkl = indices(50, seed)
    step = 1e-4 * np.random.default_rng(seed).normal(size=hkl.shape)
    change = np.abs(crystal.diffuse(hkl + step) - crystal.diffuse(hkl))
    assert (change < 100 * np.linalg.norm(step, axis=1)).all()


def test_intensity_is_what_the_formulas_say():
    """The formulas of the module, over all lattice points, one point at a time."""
    crystal = intensity("P6122")
    p, basis = crystal.parameters, crystal.basis
    limit = 40
    lattice = np.stack(np.meshgrid(*[np.arange(-limit, limit + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    values = {}
    for hkl, f_squared, cloud in zip(crystal.lattice_hkl, crystal.f_squared, crystal.cloud, strict=True):
        for operator in crystal.symmetry.operators:
            values[tuple(operator @ hkl)] = f_squared, cloud
    reach = max(1.5 * np.linalg.det(basis) ** (1 / 3), 0.6 * np.sqrt((basis**2).sum()))
    for hkl in indices(20, 5, space_group="P6122"):
        q = basis @ hkl
        dq = (hkl - lattice) @ basis.T
        near = np.linalg.norm(dq, axis=1) < reach
        length = np.linalg.norm(q)
        halo = weighted = weights = 0.0
        for point, d in zip(lattice[near], dq[near], strict=True):
            f_squared, cloud = values[tuple(point)]
            window = (1 - d @ d / reach**2) ** 2
            radial = d @ q / length
            tangential = np.sqrt(max(d @ d - radial**2, 0))
            k = 1 + (2 * np.pi * p.correlation_radial * radial) ** 2
            k += (2 * np.pi * p.correlation_tangential * tangential) ** 2
            halo += f_squared * window / k**2
            weighted += cloud * window
            weights += window
        x = (2 * np.pi * p.displacement * length) ** 2
        ring = np.exp(-((length - 1 / p.ring_d) ** 2) / (2 * p.ring_width**2))
        expected = x * np.exp(1 - x) * (p.halo * halo + p.cloud * weighted / weights)
        expected += p.water * (ring + 0.3 * (1 - np.exp(-10 * length**2)))
        assert crystal.diffuse(hkl) == pytest.approx(expected, rel=1e-5)


def test_lattice_values_depend_on_seed_but_not_on_resolution():
    symmetry = primitive_symmetry("P212121")
    coarse, fine, other = (
        make_intensity(CELLS["P212121"], symmetry, d_min, DiffuseParameters(), seed)
        for d_min, seed in ((3.0, 3), (2.0, 3), (3.0, 4))
    )
    hkl = indices(100, 1, d_min=3.0)
    np.testing.assert_array_equal(coarse.diffuse(hkl), fine.diffuse(hkl))
    assert not np.allclose(coarse.diffuse(hkl), other.diffuse(hkl), rtol=0.1)


def test_strengths_are_those_of_an_acentric_crystal():
    """Mean 1 and mean square 2: Wilson (1949), Acta Cryst. 2, 318."""
    crystal = intensity("P1")
    n = len(crystal.f_squared)
    assert crystal.f_squared.mean() == pytest.approx(1, abs=5 / np.sqrt(n))
    assert (crystal.f_squared**2).mean() == pytest.approx(2, abs=5 * np.sqrt(20 / n))
    assert crystal.cloud.mean() == pytest.approx(1, abs=5 / np.sqrt(3 * n))


def test_extinct_reflections_have_no_strength():
    def screw_axis(hkl):
        return (hkl[:, 1] == 0) & (hkl[:, 2] == 0) & (hkl[:, 0] % 2 == 1)

    crystal = make_intensity(CELLS["P212121"], primitive_symmetry("P212121"), D_MIN, DiffuseParameters(), 3, screw_axis)
    strength = crystal.strength(np.array([[1, 0, 0], [-3, 0, 0], [2, 0, 0], [1, 1, 0], [0, 0, 0], [99, 0, 0]]))
    np.testing.assert_array_equal(strength > 0, [False, False, True, True, False, False])


def test_intensity_beyond_the_limit_is_refused():
    with pytest.raises(GeometryError, match="known to d = 2 angstrom"):
        intensity("P212121").diffuse(np.array([20.0, 0, 0]))


def test_pickle_and_input_are_left_alone():
    crystal = intensity("P212121")
    hkl = indices(10, 1)
    before = hkl.copy()
    again = pickle.loads(pickle.dumps(crystal))
    np.testing.assert_array_equal(again.diffuse(hkl), crystal.diffuse(hkl))
    np.testing.assert_array_equal(hkl, before)


def test_voxel_average_tends_to_the_centre_of_small_voxels():
    crystal = intensity("P212121")
    for divisions, tolerance in (((2, 2, 2), None), ((40, 40, 40), 2e-3)):
        n, low, high = asymmetric_box(crystal.symmetry, divisions, crystal.basis, 2.5)
        grid = VoxelGrid(crystal.cell, crystal.symmetry, divisions, tuple(low), tuple(high - low + 1), 2.5, np.inf, n)
        voxels = np.random.default_rng(0).integers(0, grid.size, 200)
        voxels = voxels[np.linalg.norm(grid.q_of(voxels), axis=1) < 0.45]
        centre = crystal.diffuse(grid.hkl_of(voxels))
        np.testing.assert_array_equal(crystal.voxel_average(grid, voxels, 1), centre)
        average = crystal.voxel_average(grid, voxels, 4)
        if tolerance:
            np.testing.assert_allclose(average, centre, rtol=tolerance)
        else:
            assert not np.allclose(average, centre, rtol=0.01)
            rng = np.random.default_rng(1)
            inside = grid.hkl_of(voxels[:5])[:, None] + (rng.random((5, 20000, 3)) - 0.5) / 2
            np.testing.assert_allclose(average[:5], crystal.diffuse(inside).mean(1), rtol=0.02)


@pytest.mark.parametrize("wrong", [{"halo": -1}, {"displacement": 0}, {"halo": 0, "cloud": 0, "water": 0}])
def test_impossible_intensities_are_refused(wrong):
    with pytest.raises(ConfigError, match="diffuse"):
        DiffuseParameters(**wrong)


@pytest.mark.parametrize("wrong", [{"photons": -1}, {"spot_sigma_px": 0}, {"width": 0}])
def test_impossible_peaks_are_refused(wrong):
    with pytest.raises(ConfigError, match="bragg"):
        BraggParameters(**wrong)


def test_cell_too_large_for_the_resolution_is_refused():
    with pytest.raises(ConfigError, match="lattice points"):
        make_intensity((2000,) * 3 + (90,) * 3, primitive_symmetry("P1"), 2.0, DiffuseParameters(), 0)
