"""Two maps compared: indexing, scale, ceiling, difference, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.comparison.alignment import (
    AlignmentOptions,
    align,
    in_common,
    isotropic,
    operator_of,
    reindexed,
)
from diffuse_framework.algorithms.comparison.compare import KINDS, compare_maps, difference
from diffuse_framework.algorithms.comparison.grids import make_map, q_lengths
from diffuse_framework.algorithms.comparison.halos import Halo
from diffuse_framework.algorithms.comparison.scaling import fit_scaling
from diffuse_framework.algorithms.symmetry import voxel_operators
from diffuse_framework.errors import ConfigError, DataError, GeometryError
from diffuse_framework.model.voxel_map import VoxelMap
from support.maps import all_voxels, drawn_map, true_map

FLIP = operator_of("k,h,-l")


@pytest.fixture(scope="module")
def known():
    grid, voxel = all_voxels()
    return grid, voxel, true_map(grid, voxel)


def two(known, truth_b=None, **kwargs) -> tuple[VoxelMap, VoxelMap]:
    grid, voxel, truth = known
    a = drawn_map(grid, voxel, truth, 1, exposure=0.2, name="A", **kwargs)
    b = drawn_map(grid, voxel, truth if truth_b is None else truth_b, 2, exposure=0.1, scale=3.0, name="B", **kwargs)
    return a, b


@pytest.mark.parametrize("halves", [True, False])
def test_two_data_sets_of_one_crystal_reach_the_ceiling_and_a_flip_is_found(known, halves):
    a, b = two(known, halves=halves)
    flipped = reindexed(b, FLIP)
    straight, found = compare_maps(a, b, n_shells=5), compare_maps(a, flipped, n_shells=5)
    assert not straight.aligned.indexing.changed
    assert found.aligned.indexing.changed
    assert any("re-indexed by" in text for text in found.sentences())
    assert found.overall["all"].cc_anisotropic == pytest.approx(straight.overall["all"].cc_anisotropic, abs=1e-9)
    assert found.aligned.scaling.factor[0] == pytest.approx(1 / 3, rel=0.01)
    for one in (found.overall["all"], *found.shells["all"]):
        low, high = one.intervals["below_ceiling"]
        # Twice the interval of 95 %: of several shells one may lie outside of it by chance.
        middle, half = (low + high) / 2, high - low
        assert middle - half <= 0 <= middle + half
        assert one.chi_squared == pytest.approx(1, abs=0.1)
    assert found.overall["all"].at_ceiling


def test_the_ceiling_is_the_correlation_with_the_truth(known):
    grid, voxel, truth = known
    a, _ = two(known)
    compared = compare_maps(a, VoxelMap(grid, voxel, truth, name="truth"))
    whole = compared.overall["all"]
    assert whole.cc_star_b == 1
    assert whole.cc_star_a == pytest.approx(whole.cc_anisotropic, abs=0.01)
    assert whole.chi_squared == pytest.approx(1, abs=0.05)
    assert any("B has no errors: it counts as exact" in text for text in compared.sentences())


def test_other_structure_shows_in_chi_squared_and_below_the_ceiling(known):
    grid, voxel, truth = known
    other = true_map(grid, voxel, 9)
    a, b = (replace(one, intensity=one.intensity * 1.0) for one in two(known, 0.7 * truth + 0.3 * other))
    whole = compare_maps(a, b).overall["all"]
    assert whole.at_ceiling is False
    assert whole.chi_squared > 1.05


@pytest.mark.parametrize("scale", ["single", "shells"])
def test_scale_and_offset_are_found_though_both_maps_are_noisy(scale):
    rng = np.random.default_rng(4)
    n = 60000
    q = np.cbrt(rng.random(n)) * 0.5
    true = rng.gamma(6, 1 / 6, n)
    factor, offset = (2.0, 1.0) if scale == "single" else (2 - q, 1 + 2 * q)
    for sigma_a, sigma_b in ((0.3, 0.1), (0.1, 0.4)):
        errors = sigma_a * (0.5 + rng.random(n)), sigma_b * (0.5 + rng.random(n))
        a = factor * true + offset + rng.normal(size=n) * errors[0]
        b = true + rng.normal(size=n) * errors[1]
        found = fit_scaling(a, b, *errors, q, scale)
        k, c = found.at(q)
        assert found.found
        assert np.sqrt(np.mean((k - factor) ** 2)) < 0.03
        assert np.sqrt(np.mean((k * true + c - factor * true - offset) ** 2)) < 0.03


def test_voxels_without_an_error_do_not_decide_the_scale(known):
    a, b = two(known)
    some = np.arange(len(a)) % 50 == 0
    odd = replace(b, intensity=np.where(some, 1e4, b.intensity), sigma=np.where(some, 0.0, b.sigma))
    exact = replace(a, sigma=np.where(some, 0.0, a.sigma))
    assert align(exact, odd).scaling.factor[0] == pytest.approx(1 / 3, rel=0.02)
    none = [replace(one, sigma=np.zeros(len(one))) for one in (a, b)]
    assert align(*none).scaling.factor[0] == pytest.approx(
        align(*(replace(x, sigma=None) for x in (a, b))).scaling.factor[0]
    )


def test_units_do_not_matter(known):
    a, b = two(known)
    small = compare_maps(a, b, samples=0)
    large = compare_maps(
        replace(a, intensity=1e9 * a.intensity, sigma=1e9 * a.sigma, halves=1e9 * a.halves), b, samples=0
    )
    assert large.overall["all"].chi_squared == pytest.approx(small.overall["all"].chi_squared, rel=1e-6)
    assert large.aligned.scaling.offset[3] == pytest.approx(1e9 * small.aligned.scaling.offset[3], rel=1e-4)


def test_maps_as_they_are(known):
    a, b = two(known)
    same = align(a, a, AlignmentOptions(scale="none", offset=False))
    assert np.array_equal(same.b.intensity, a.intensity)
    with pytest.raises(ConfigError, match="single, shells"):
        align(a, b, AlignmentOptions(scale="triple"))


def test_anticorrelated_maps_are_compared_and_it_is_said(known):
    a, b = two(known)
    upside_down = replace(b, intensity=-b.intensity, halves=None)
    compared = compare_maps(a, upside_down)
    assert compared.overall["all"].cc_anisotropic < 0
    assert any("don't tell their scale" in text for text in compared.sentences())


def test_the_coarser_divisions_are_taken_and_said(known):
    grid, voxel = all_voxels(divisions=(4, 4, 4), d_min=4.0)
    fine = drawn_map(grid, voxel, true_map(grid, voxel), 1)
    a, _ = two(known)
    compared = compare_maps(a, fine, samples=0)
    assert compared.aligned.a.grid.divisions == (2, 2, 2)
    assert any("averaged from 4 x 4 x 4 to 2 x 2 x 2" in text for text in compared.sentences())
    other = compare_maps(fine, a, samples=0)
    assert other.overall["all"].cc == pytest.approx(compared.overall["all"].cc, abs=1e-6)


def test_a_map_without_symmetry_is_averaged_over_that_of_the_other(known):
    a, b = two(known, halves=False)
    operators, _, _ = voxel_operators(b.grid.symmetry, b.grid.divisions)
    index = np.concatenate([b.grid.index_of(b.voxel) @ operator.T for operator in operators])
    n = len(operators)
    p1 = make_map(
        b.grid.cell, symmetry_of("P1"), b.grid.divisions, index, np.tile(b.intensity, n), np.tile(b.sigma, n), name="P1"
    )
    compared, straight = compare_maps(a, p1), compare_maps(a, b)
    assert any("B is averaged from Laue group -1 to 4/m" in text for text in compared.sentences())
    # Copies of one measurement: their number makes no error smaller.
    assert compared.overall["all"].chi_squared == pytest.approx(straight.overall["all"].chi_squared, rel=1e-3)


def test_limits_of_resolution_leave_the_number_of_possible_voxels_right(known):
    a, b = two(known)
    aligned = align(a, b, AlignmentOptions(d_min=4.0, d_max=10.0))
    assert len(aligned.a) == aligned.a.grid.n_voxels
    assert aligned.q.max() <= 0.25 + 1e-9
    assert aligned.q.min() >= 0.1 - 1e-9


def test_kinds_of_voxels_add_up(known):
    a, b = two(known)
    compared = compare_maps(a, b, halo=Halo("box", (0.5, 0.0, 0.0)), samples=0)
    assert compared.overall["halo"].voxels + compared.overall["between"].voxels == compared.overall["all"].voxels
    for kind in KINDS:
        assert sum(one.voxels for one in compared.shells[kind]) == compared.overall[kind].voxels
    plain = compared.to_plain()
    assert plain["overall"]["all"]["voxels"] == len(a)
    assert "intervals" in plain["shells"]["halo"][0]


def test_figures_are_those_of_numpy(known):
    a, b = two(known)
    compared = compare_maps(a, b, samples=0, n_shells=3)
    one, other, q = compared.aligned.a, compared.aligned.b, compared.aligned.q
    rest = [x - isotropic(q, x) for x in (one.intensity, other.intensity)]
    variance = compared.aligned.variance
    whole = compared.overall["all"]
    assert whole.cc == pytest.approx(np.corrcoef(one.intensity, other.intensity)[0, 1])
    assert whole.cc_anisotropic == pytest.approx(np.corrcoef(*rest)[0, 1])
    assert whole.cc_anisotropic_weighted == pytest.approx(_weighted(*rest, 1 / variance))
    apart = one.intensity - other.intensity
    assert whole.chi_squared == pytest.approx(np.mean(apart**2 / variance))
    assert whole.r == pytest.approx(np.abs(apart).sum() / np.abs(one.intensity).sum())
    outer = q >= compared.edges[2]
    assert compared.shells["all"][2].cc == pytest.approx(
        np.corrcoef(one.intensity[outer], other.intensity[outer])[0, 1]
    )


def _weighted(x, y, w):
    x, y = x - np.average(x, weights=w), y - np.average(y, weights=w)
    return (w * x * y).sum() / np.sqrt((w * x * x).sum() * (w * y * y).sum())


def test_a_difference_has_errors_that_hold(known):
    a, b = two(known)
    apart, aligned = difference(a, b)
    assert np.mean((apart.intensity / apart.sigma) ** 2) == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(apart.sigma**2, aligned.a.sigma**2 + aligned.b.sigma**2)
    with pytest.raises(DataError, match="neither A nor B has errors"):
        difference(replace(a, sigma=None), replace(b, sigma=None))
    one_sided, _ = difference(a, replace(b, sigma=None))
    np.testing.assert_allclose(one_sided.sigma, a.sigma)


def test_a_comparison_shows_itself(known):
    a, b = two(known)
    compared = compare_maps(a, b, n_shells=3)
    assert "anisotropic" in repr(compared)
    assert compared._repr_html_().count("<tr>") == 5
    assert repr(a).startswith("VoxelMap('A'")


def test_what_cannot_be_compared_is_refused(known):
    grid, voxel, truth = known
    a, b = two(known)
    with pytest.raises(DataError, match="unit cells differ by 10.0 %"):
        align(a, replace(b, grid=replace(grid, cell=(33.0, 33.0, 41.8, 90.0, 90.0, 90.0))))
    other_grid, other = all_voxels("P222", divisions=(2, 2, 2))
    with pytest.raises(DataError, match="Laue group 4/m .* and B mmm"):
        align(a, drawn_map(other_grid, other, true_map(other_grid, other), 1, name="B"))
    q = q_lengths(grid, voxel)
    with pytest.raises(DataError, match="no voxels in common"):
        align(a.select(q < 0.2), b.select(q > 0.3))
    with pytest.raises(DataError, match="1 voxels in common"):
        align(a, b, AlignmentOptions(d_min=50.0, d_max=60.0))
    for text in ("h,k", "k,k,l", "x,y,z", "auto"):
        with pytest.raises(ConfigError, match="no operator on indices"):
            align(a, b, AlignmentOptions(reindex=text))
    with pytest.raises(GeometryError, match="divides differently"):
        uneven, numbers = all_voxels("P222", (30.0, 30.0, 38.0, 90.0, 90.0, 90.0), (2, 3, 2))
        one = drawn_map(uneven, numbers, true_map(uneven, numbers), 1)
        align(one, one, AlignmentOptions(reindex="k,h,-l"))
    with pytest.raises(DataError, match="no finite intensity"):
        make_map(grid.cell, grid.symmetry, grid.divisions, grid.index_of(voxel), np.full(len(voxel), np.nan))


def test_a_grid_that_divides_axes_differently_is_compared_as_indexed():
    grid, voxel = all_voxels("P222", (30.0, 30.0, 38.0, 90.0, 90.0, 90.0), (2, 3, 2))
    truth = true_map(grid, voxel)
    compared = compare_maps(drawn_map(grid, voxel, truth, 1), drawn_map(grid, voxel, truth, 2), samples=0)
    assert compared.aligned.indexing.names == ["h,k,l"]


def test_in_common():
    here, there = in_common(np.array([1, 3, 5, 9]), np.array([0, 3, 4, 9, 11]))
    assert here.tolist() == [1, 3]
    assert there.tolist() == [1, 3]
