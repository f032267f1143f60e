from __future__ import annotations

import numpy as np
import pytest

from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.algorithms.statistics import (
    cc_star,
    correlations,
    half_maps,
    half_sets,
    isotropic_part,
    r_split,
    shell_statistics,
)
from diffuse_framework.report.summary import statistics_text
from diffuse_framework.testing.fakes import orthorhombic_grid
from support.sums import known_sums


def test_half_sets_are_halves_and_follow_the_generator():
    second = half_sets(11, np.random.default_rng(3))
    assert second.sum() == 5
    assert (second == half_sets(11, np.random.default_rng(3))).all()


def test_correlations_are_those_of_numpy_shell_by_shell():
    rng = np.random.default_rng(0)
    a, b, shell = rng.random(300), rng.random(300), rng.integers(0, 3, 300)
    ours = correlations(shell, 4, a, b)
    for n in range(3):
        assert np.isclose(ours[n], np.corrcoef(a[shell == n], b[shell == n])[0, 1])
    assert np.isnan(ours[3])


def test_cc_star_and_r_split_of_known_numbers():
    assert np.isclose(cc_star(np.array([0.5]))[0], np.sqrt(2 / 3))
    assert np.isnan(cc_star(np.array([-0.1]))[0])
    one = np.zeros(2, int)
    assert np.isclose(r_split(one, 1, np.array([1.0, 3.0]), np.array([2.0, 2.0]))[0], 2 / (np.sqrt(2) * 4))


def test_halves_hold_all_counts_once_and_agree_as_their_noise_allows():
    known = known_sums(ScalingOptions(), np.random.default_rng(1), n_images=40, rows_per_image=4000, exposure=3.0)
    halves = half_maps(known.sums, known.scales, np.random.default_rng(0))
    merged = poisson_merge(known.sums, known.scales)
    assert np.isclose(sum(half.counts.sum() for half in halves), merged.counts.sum())
    statistics = shell_statistics(merged, halves)
    truth = known.intensity[merged.voxel]
    # CC* estimates the correlation with the truth (Karplus & Diederichs 2012).
    overall = statistics["overall"]
    assert abs(overall["cc_star"] - np.corrcoef(merged.intensity, truth)[0, 1]) < 0.01
    for shell in statistics["shells"]:
        inside = inside_shell(merged, shell)
        expected = np.corrcoef(merged.intensity[inside], truth[inside])[0, 1]
        assert abs(shell["cc_star"] - expected) < 0.05
        assert 0 < shell["completeness"] <= 1
        assert shell["voxels"] == inside.sum()
    assert abs(overall["multiplicity"] - 160000 / len(merged)) < 0.01


def inside_shell(merged, shell):
    q = np.linalg.norm(merged.grid.q_of(merged.voxel), axis=1)
    low = 1 / shell["d_max"] if shell["d_max"] else 0
    return (q >= low * (1 - 1e-12)) & (q < 1 / shell["d_min"] * (1 + 1e-12))


def test_pure_noise_has_no_half_set_correlation():
    flat = np.ones(orthorhombic_grid().size)
    known = known_sums(
        ScalingOptions(),
        np.random.default_rng(1),
        n_images=40,
        rows_per_image=4000,
        amplitude=0.0,
        intensity=flat,
    )
    merged = poisson_merge(known.sums, known.scales)
    statistics = shell_statistics(merged, half_maps(known.sums, known.scales, np.random.default_rng(0)))
    assert abs(statistics["overall"]["cc_half"]) < 5 / np.sqrt(len(merged))
    assert statistics["overall"]["anisotropic_rms"] < 0.15


def test_the_isotropic_part_follows_the_ring_and_leaves_the_rest():
    rng = np.random.default_rng(2)
    q = rng.uniform(0.1, 0.5, 20000)
    ring, rest = 2 + np.sin(20 * q), rng.normal(0, 0.1, 20000)
    iso = isotropic_part(q, ring + rest, np.ones(20000), 0.01)
    assert np.abs(iso - ring).max() < 0.1
    assert np.corrcoef(ring + rest - iso, rest)[0, 1] > 0.98


def test_the_table_has_a_line_for_every_shell_and_one_for_all():
    known = known_sums(ScalingOptions(), np.random.default_rng(1), n_images=6, rows_per_image=400)
    merged = poisson_merge(known.sums, known.scales)
    statistics = shell_statistics(merged, half_maps(known.sums, known.scales, np.random.default_rng(0)), 7)
    assert len(statistics_text(statistics).splitlines()) == 2 + 7 + 1


@pytest.mark.parametrize("n_images", [2, 3])
def test_few_images_give_statistics_too(n_images):
    known = known_sums(ScalingOptions(), np.random.default_rng(1), n_images=n_images, rows_per_image=100)
    merged = poisson_merge(known.sums, known.scales)
    halves = half_maps(known.sums, known.scales, np.random.default_rng(0))
    assert all(len(half) for half in halves)
    found = shell_statistics(merged, halves)
    overall, shells = found["overall"], found["shells"]
    assert overall["voxels"] == len(merged) == sum(shell["voxels"] for shell in shells)
    common = len(np.intersect1d(halves[0].voxel, halves[1].voxel))
    assert overall["common_voxels"] == common == sum(shell["common_voxels"] for shell in shells)
    # A correlation of fewer than three pairs says nothing; of more it is a number.
    for shell in [*shells, overall]:
        assert (shell["cc_half"] is None) == (shell["common_voxels"] < 3)
        assert shell["voxels"] == 0 or shell["intensity_over_sigma"] > 0
