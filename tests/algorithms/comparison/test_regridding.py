"""Maps on coarser voxels: the same values as binning anew, errors that hold, symmetry kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.comparison.grids import grid_to, make_map, q_lengths, symmetrised
from diffuse_framework.algorithms.comparison.halos import Halo, in_halo
from diffuse_framework.algorithms.comparison.regridding import Rebinning, rebinned, rebinned_sums
from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.symmetry import voxel_operators
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.lattice import reciprocal_basis
from diffuse_framework.model.scales import ErrorModel, ImageScales
from diffuse_framework.model.voxel_map import VoxelMap
from support.maps import all_voxels, binned, drawn_map, true_map

CRYSTALS = [
    ("P212121", (20.0, 22.0, 24.0, 90.0, 90.0, 90.0)),
    ("P4", (20.0, 20.0, 24.0, 90.0, 90.0, 90.0)),
    ("P3221", (20.0, 20.0, 24.0, 90.0, 90.0, 120.0)),
    ("C2", (24.0, 20.0, 22.0, 90.0, 102.0, 90.0)),
    ("P23", (22.0, 22.0, 22.0, 90.0, 90.0, 90.0)),
]

# Whose operators only exchange indices: those of the hexagonal setting add them, and mates of an old voxel may then lie
# within new voxels that are no mates.
RIGHT_ANGLED = [crystal for crystal in CRYSTALS if crystal[0] != "P3221"]


def pixels(cell, symmetry, d_min: float, n: int, seed: int, mirrored: int = 0):
    """Draw pixels at fractional indices; `mirrored` about the centres of voxels of that many divisions."""
    rng = np.random.default_rng(seed)
    reach = np.array(cell[:3]) / d_min
    hkl = rng.uniform(-1, 1, (n, 3)) * reach
    hkl = hkl[np.linalg.norm(hkl @ reciprocal_basis(cell).T, axis=1) < 1 / d_min]
    n = len(hkl)
    counts, exposure = rng.poisson(3.0, n).astype(float), rng.uniform(0.5, 2, n)
    image = rng.integers(0, 4, n)
    if mirrored:
        centre = np.rint(hkl * mirrored) / mirrored
        signs = np.array(list(itertools.product((1, -1), repeat=3)))
        hkl = np.concatenate([centre + sign * (hkl - centre) for sign in signs])
        counts, exposure, image = (np.tile(x, 8) for x in (counts, exposure, image))
    return hkl, counts, exposure, image


def scales(n: int = 4) -> ImageScales:
    return ImageScales(np.linspace(0.8, 1.2, n), np.zeros(n))


@pytest.mark.parametrize(("space_group", "cell"), RIGHT_ANGLED)
@pytest.mark.parametrize("voxels", ["keep", "exclude", "only"])
def test_sums_on_three_times_coarser_voxels_are_the_images_binned_anew(space_group, cell, voxels):
    symmetry, halo = symmetry_of(space_group), Halo("box", (0.34, 0.0, 0.34))
    fine, coarse = (grid_to(cell, symmetry, (n, n, n), 2.2) for n in (3, 1))
    hkl, counts, exposure, image = pixels(cell, symmetry, 2.6, 20000, 1)
    new = rebinned_sums(binned(hkl, counts, exposure, image, fine), scales(), Rebinning((1, 1, 1), voxels, halo))
    if voxels != "keep":
        near = np.rint(3 * hkl).astype(int)
        numbers = all_numbers(fine, near)
        at_node = in_halo(fine, numbers, halo)
        used = at_node if voxels == "only" else ~at_node
        hkl, counts, exposure, image = hkl[used], counts[used], exposure[used], image[used]
    anew = poisson_merge(binned(hkl, counts, exposure, image, coarse), scales())
    assert np.array_equal(new.voxel, anew.voxel)
    for name in ("intensity", "variance", "counts", "pixels", "multiplicity", "total_intensity", "total_variance"):
        np.testing.assert_allclose(getattr(new, name), getattr(anew, name), rtol=1e-5, err_msg=name)


def all_numbers(grid, index):
    from diffuse_framework.algorithms.comparison.grids import numbers_on

    numbers = numbers_on(grid, index)
    assert (numbers >= 0).all()
    return numbers


@pytest.mark.parametrize(("space_group", "cell"), RIGHT_ANGLED)
def test_sums_of_four_divisions_on_two_without_nodes_are_the_images_binned_anew(space_group, cell):
    """Pixels lie evenly about the centre of each old voxel: what straddles is then shared as images share it."""
    symmetry = symmetry_of(space_group)
    fine, coarse = (grid_to(cell, symmetry, (n, n, n), 2.2) for n in (4, 2))
    hkl, counts, exposure, image = pixels(cell, symmetry, 2.7, 6000, 2, mirrored=4)
    new = rebinned_sums(binned(hkl, counts, exposure, image, fine), scales(), Rebinning((2, 2, 2), "exclude"))
    used = (np.rint(4 * hkl).astype(int) % 4 != 0).any(axis=1)
    if space_group == "C2":
        used |= (np.rint(4 * hkl).astype(int) // 4)[:, :2].sum(axis=1) % 2 != 0
    anew = poisson_merge(binned(hkl[used], counts[used], exposure[used], image[used], coarse), scales())
    assert np.array_equal(new.voxel, anew.voxel)
    np.testing.assert_allclose(new.intensity, anew.intensity, rtol=1e-5)
    np.testing.assert_allclose(new.counts, anew.counts, rtol=1e-5)


@pytest.mark.parametrize("divisions", [(2, 2, 2), (1, 1, 1), (3, 3, 3)])
def test_the_errors_of_rebinned_sums_hold(divisions):
    grid, voxel = all_voxels("P4", (16.0, 16.0, 20.0, 90.0, 90.0, 90.0), (4, 4, 4), 2.0)
    truth = true_map(grid, voxel, 3, 4.0)
    squares, n = 0.0, 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        image = np.repeat([0, 1], len(voxel))
        exposure = rng.uniform(0.2, 2.0, 2 * len(voxel))
        counts = rng.poisson(np.tile(truth, 2) * exposure).astype(float)
        hkl = np.tile(grid.hkl_of(voxel), (2, 1))
        how, flat = Rebinning(divisions, "exclude"), ImageScales(np.ones(2), np.zeros(2))
        new = rebinned_sums(binned(hkl, counts, exposure, image, grid), flat, how)
        expected = rebinned_sums(binned(hkl, np.tile(truth, 2) * exposure, exposure, image, grid), flat, how)
        assert np.array_equal(new.voxel, expected.voxel)
        squares += ((new.intensity - expected.intensity) ** 2 / new.variance).sum()
        n += len(new)
    assert squares / n == pytest.approx(1, abs=0.05)


def test_the_error_model_counts_in_rebinned_sums_as_in_merging():
    cell, symmetry = CRYSTALS[0][1], symmetry_of("P212121")
    fine, coarse = (grid_to(cell, symmetry, (n, n, n), 2.2) for n in (3, 1))
    drawn = pixels(cell, symmetry, 2.6, 20000, 1)
    model = ImageScales(np.ones(4), np.zeros(4), error_model=ErrorModel(1.7, 0.05))
    new = rebinned_sums(binned(*drawn, fine), model, Rebinning((1, 1, 1)))
    np.testing.assert_allclose(new.variance, poisson_merge(binned(*drawn, coarse), model).variance, rtol=1e-5)


@pytest.mark.parametrize("divisions", [(2, 2, 2), (1, 1, 1), (3, 3, 3)])
def test_the_errors_of_a_rebinned_map_hold(divisions):
    grid, voxel = all_voxels("P4", (16.0, 16.0, 20.0, 90.0, 90.0, 90.0), (4, 4, 4), 2.0)
    truth = true_map(grid, voxel, 3)
    exact = rebinned(VoxelMap(grid, voxel, truth), Rebinning(divisions))
    squares = [
        ((new.intensity - exact.intensity) / new.sigma) ** 2
        for seed in range(6)
        for new in [rebinned(drawn_map(grid, voxel, truth, seed), Rebinning(divisions))]
    ]
    assert np.mean(squares) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("space_group", "cell"), CRYSTALS)
@pytest.mark.parametrize(("old", "new"), [((4, 4, 4), (2, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))])
def test_rebinning_is_the_integral_over_each_voxel(space_group, cell, old, new):
    """Of a constant it is that constant; of all of reciprocal space it is the same with symmetry and without."""
    grid, voxel = all_voxels(space_group, cell, old, 2.4)
    truth = true_map(grid, voxel, 5)
    one = VoxelMap(grid, voxel, truth, np.ones(len(voxel)))
    coarse = rebinned(one, Rebinning(new, coverage=1.0))
    flat = rebinned(VoxelMap(grid, voxel, np.full(len(voxel), 7.0)), Rebinning(new))
    np.testing.assert_allclose(flat.intensity, 7.0)
    operators, _, _ = voxel_operators(grid.symmetry, old)
    everywhere = np.concatenate([grid.index_of(voxel) @ operator.T for operator in operators])
    p1 = make_map(cell, symmetry_of("P1"), old, everywhere, np.tile(truth, len(operators)))
    again = symmetrised(rebinned(p1, Rebinning(new, coverage=1.0)), grid.symmetry)
    shared, here, there = np.intersect1d(_key(coarse), _key(again), assume_unique=True, return_indices=True)
    assert len(shared) > 0.95 * len(coarse)
    np.testing.assert_allclose(coarse.intensity[here], again.intensity[there], rtol=1e-9)


def _key(one: VoxelMap) -> np.ndarray:
    return (one.grid.index_of(one.voxel) + 500) @ np.array([10**6, 10**3, 1])


def test_a_map_that_counts_pixels_is_averaged_by_them():
    grid, voxel = all_voxels("P1", (12.0, 13.0, 14.0, 90.0, 90.0, 90.0), (3, 3, 3), 3.0)
    seen = np.random.default_rng(0).integers(1, 9, len(voxel))
    truth = true_map(grid, voxel)
    new = rebinned(VoxelMap(grid, voxel, truth, pixels=seen, photons=truth * seen), Rebinning((1, 1, 1)))
    np.testing.assert_allclose(new.intensity, new.photons / new.pixels, rtol=1e-9)
    inner = q_lengths(new.grid, new.voxel) < 0.15
    assert (new.pixels[inner] > 27).all()


def test_halves_are_rebinned_as_the_map_is():
    grid, voxel = all_voxels(divisions=(4, 4, 4), d_min=4.0)
    one = drawn_map(grid, voxel, true_map(grid, voxel), 1)
    new = rebinned(one, Rebinning((2, 2, 2), "exclude"))
    np.testing.assert_allclose(new.halves.mean(axis=0), new.intensity, rtol=1e-9)


def test_halo_shapes():
    grid, voxel = all_voxels("P1", (20.0, 20.0, 20.0, 90.0, 90.0, 90.0), (4, 4, 4), 5.0)
    off = np.abs(grid.hkl_of(voxel) - np.rint(grid.hkl_of(voxel)))
    assert np.array_equal(in_halo(grid, voxel, Halo()), (off == 0).all(axis=1))
    assert np.array_equal(in_halo(grid, voxel, Halo("box", (0.25, 0.25, 0.0))), (off <= (0.25, 0.25, 0)).all(axis=1))
    ball = in_halo(grid, voxel, Halo("ellipsoid", (0.3, 0.3, 0.3)))
    assert np.array_equal(ball, np.linalg.norm(off, axis=1) <= 0.3)


def test_centring_has_no_nodes_where_it_extinguishes_reflections():
    grid, voxel = all_voxels("C2", (24.0, 20.0, 22.0, 90.0, 102.0, 90.0), (2, 2, 2), 5.0)
    hkl = grid.hkl_of(voxel)
    nodes = (hkl == np.rint(hkl)).all(axis=1) & ((hkl[:, 0] + hkl[:, 1]) % 2 == 0)
    assert np.array_equal(in_halo(grid, voxel, Halo()), nodes)


def test_what_cannot_be_rebinned_is_refused():
    grid, voxel = all_voxels()
    one = VoxelMap(grid, voxel, true_map(grid, voxel))
    with pytest.raises(ConfigError, match="would be finer"):
        rebinned(one, Rebinning((4, 2, 2)))
    with pytest.raises(ConfigError, match="halo voxels"):
        Rebinning((1, 1, 1), "drop")
    with pytest.raises(ConfigError, match="size of a halo"):
        Halo("box", (0.7, 0, 0))
    nodes = one.select(in_halo(grid, voxel, Halo()))
    with pytest.raises(DataError, match="outside a halo"):
        rebinned(nodes, Rebinning((1, 1, 1), "exclude"))
    with pytest.raises(DataError, match="lower coverage"):
        rebinned(nodes, Rebinning((1, 1, 1), coverage=0.9))
