from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuse_framework.algorithms import merging
from diffuse_framework.algorithms.merging import inverse_variance_merge, poisson_merge
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.algorithms.scaling.per_image import fit_image_scales
from diffuse_framework.algorithms.scaling.per_image_sums import expected_photons
from diffuse_framework.errors import DataError
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import COLUMN_TYPES, COLUMNS, SumsInMemory, SumsTable, concatenate
from diffuse_framework.testing.fakes import orthorhombic_grid
from support.sums import known_sums

MERGERS = (poisson_merge, inverse_variance_merge)


def simulated_sums(
    seed: int, counts_per_row: float, n_images: int = 20, rows: int = 4000, background: float = 0.0
) -> tuple[SumsInMemory, np.ndarray, np.ndarray]:
    """Poisson counts of known scales and intensities (mean `counts_per_row` per row)."""
    rng = np.random.default_rng(seed)
    grid = orthorhombic_grid()
    intensity = rng.gamma(2.0, 0.5, grid.size)
    scales = rng.uniform(0.5, 1.5, n_images)
    scales /= scales.mean()
    tables = []
    for image in range(n_images):
        voxel = np.sort(rng.choice(grid.size, min(rows, grid.size), replace=False))
        exposure = rng.uniform(0.5, 1.5, len(voxel)) * counts_per_row
        columns = {name: np.zeros(len(voxel), COLUMN_TYPES[name]) for name in COLUMNS}
        expected_background = np.full(len(voxel), background)
        columns |= {
            "image": np.full(len(voxel), image, np.int32),
            "voxel": voxel,
            "exposure": exposure,
            "background": expected_background,
            "counts": rng.poisson(exposure * scales[image] * intensity[voxel] + expected_background),
            "pixels": np.full(len(voxel), 10, np.int32),
        }
        tables.append(SumsTable(**columns))
    names = tuple(f"image_{n}" for n in range(n_images))
    return SumsInMemory(grid, names, tuple(tables)), scales, intensity


@pytest.mark.parametrize("level", [0.5, 5.0, 50.0])
def test_scales_are_recovered_within_their_own_errors(level):
    sums, truth, _ = simulated_sums(7, level)
    scales = fit_image_scales(sums, 1e-6, 200)
    assert scales.statistics["converged"]
    assert np.isclose(scales.per_image.mean(), 1)
    z = (scales.per_image - truth) / scales.per_image_sigma
    # 20 normal deviates: their rms lies between 0.6 and 1.5 with probability 0.9999.
    assert 0.6 < np.sqrt(np.mean(z**2)) < 1.5
    assert 0.9 < scales.statistics["chi_squared_per_observation"] < 1.1


@pytest.mark.parametrize("merge", MERGERS)
@pytest.mark.parametrize(("level", "background"), [(0.05, 0.0), (0.5, 0.0), (5.0, 0.0), (0.5, 1.0)])
def test_merging_is_unbiased_at_any_count_rate(merge, level, background):
    # Many rows, so that the mean of the map is known to better than the 1 % a bias must stay below.
    sums, truth, intensity = simulated_sums(11, level, n_images=120, background=background)
    merged = merge(sums, ImageScales(truth, np.zeros(len(truth))))
    expected = intensity[merged.voxel]
    bias = np.average(merged.intensity - expected, weights=expected > 0) / expected.mean()
    photons = merged.counts.sum()
    assert abs(bias) < max(0.01, 4 * np.sqrt(photons) / (photons - 120 * 4000 * background))


@pytest.mark.parametrize("merge", MERGERS)
@pytest.mark.parametrize(("level", "background"), [(0.05, 0.0), (0.5, 0.0), (5.0, 0.0), (0.5, 1.0)])
def test_errors_are_the_scatter_about_the_truth(merge, level, background):
    sums, truth, intensity = simulated_sums(13, level, n_images=60, background=background)
    merged = merge(sums, ImageScales(truth, np.zeros(len(truth))))
    squared_error = (merged.intensity - intensity[merged.voxel]) ** 2
    assert 0.93 < squared_error.sum() / merged.variance.sum() < 1.07
    # Voxel by voxel a variance that comes from few counts is itself uncertain, and too small
    # where the counts happen to be: chi squared ends a little above 1.
    assert 0.85 < np.mean(squared_error / merged.variance) < 1.25


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([0.25, 2.0, 1024.0]))
def test_units_of_exposure_change_no_scale(seed, factor):
    sums, _, _ = simulated_sums(seed, 5.0, n_images=5, rows=500)
    scaled = tuple(replace(table, exposure=table.exposure * factor) for table in sums.pieces)
    one = fit_image_scales(sums, 1e-6, 100)
    other = fit_image_scales(SumsInMemory(sums.grid, sums.image_names, scaled), 1e-6, 100)
    assert np.allclose(one.per_image, other.per_image, rtol=1e-5)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_how_tables_are_split_changes_nothing(seed):
    sums, _, _ = simulated_sums(seed, 2.0, n_images=6, rows=500)
    together = SumsInMemory(sums.grid, sums.image_names, (concatenate(list(sums.pieces)),))
    scales = fit_image_scales(sums, 1e-6, 100)
    assert np.allclose(scales.per_image, fit_image_scales(together, 1e-6, 100).per_image, rtol=1e-5)
    for merge in MERGERS:
        a, b = merge(sums, scales), merge(together, scales)
        assert (a.voxel == b.voxel).all() and np.allclose(a.intensity, b.intensity)
        assert np.allclose(a.variance, b.variance)


@pytest.mark.parametrize("merge", MERGERS)
def test_a_data_set_merged_with_itself_gains_sqrt_two(merge):
    sums, truth, _ = simulated_sums(5, 20.0)
    scales = ImageScales(truth, np.zeros(len(truth)))
    twice = SumsInMemory(sums.grid, sums.image_names, sums.pieces * 2)
    one, two = merge(sums, scales), merge(twice, scales)
    assert np.allclose(one.intensity, two.intensity)
    assert np.isclose(np.median(np.sqrt(one.variance / two.variance)), np.sqrt(2), rtol=0.01)
    assert (two.multiplicity == 2 * one.multiplicity).all()


@pytest.mark.parametrize("newton", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_chain_of_images_that_overlap_little_converges_to_the_truth(seed, newton, monkeypatch):
    """A short run of low symmetry: each image shares some voxels with the next and with no other."""
    if not newton:
        monkeypatch.setattr("diffuse_framework.algorithms.scaling.per_image.MOST_IN_MATRIX", 0)
    sums, truth, _ = simulated_sums(seed, 20.0, n_images=12, rows=3000)
    edges = np.linspace(0, sums.grid.size, 13)
    pieces = []
    for number, table in enumerate(sums.pieces):
        near = (table.voxel >= edges[number]) & (table.voxel < edges[number + 1] + 0.2 * (edges[1] - edges[0]))
        pieces.append(table.select(near))
    chain = SumsInMemory(sums.grid, sums.image_names, tuple(pieces))
    scales = fit_image_scales(chain, 1e-4, 200 if newton else 3000)
    assert scales.statistics["converged"]
    assert 0.2 < scales.per_image.min() and scales.per_image.max() < 3
    z = (scales.per_image - truth) / np.maximum(scales.per_image_sigma, 1e-9)
    if newton:
        # Errors along the chain are correlated, and the uncertainties know it: rms of few independent deviates.
        assert np.sqrt(np.mean(z**2)) < 3


@pytest.mark.parametrize("newton", [True, False])
def test_a_voxel_whose_observations_are_all_rejected_stops_no_fit(newton, monkeypatch):
    """Two observations that disagree are both left out of the fit; nothing is left of their voxel."""
    if not newton:
        monkeypatch.setattr("diffuse_framework.algorithms.scaling.per_image.MOST_IN_MATRIX", 0)
    sums, truth, _ = simulated_sums(5, 20.0, n_images=6, rows=1500)
    seen = np.bincount(np.concatenate([table.voxel for table in sums.pieces]), minlength=sums.grid.size)
    twice = np.flatnonzero(seen == 2)[:3]
    pieces = []
    for number, table in enumerate(sums.pieces):
        counts = table.counts.copy()
        counts[np.isin(table.voxel, twice)] = 1000.0 if number < 3 else 0.0
        pieces.append(replace(table, counts=counts))
    scales = fit_image_scales(SumsInMemory(sums.grid, sums.image_names, tuple(pieces)), 1e-4, 200, outlier_limit=6.0)
    assert scales.statistics["outliers"]["disputed_voxels"]
    assert scales.statistics["converged"]
    assert np.isfinite(scales.statistics["r_factor"])
    assert (np.abs(scales.per_image - truth) < 5 * scales.per_image_sigma).all()


def test_scales_that_are_no_numbers_are_an_error(monkeypatch):
    from diffuse_plugins import scaler_per_image

    nothing = ImageScales(np.ones(2), np.ones(2), {"converged": False, "largest_change_beyond_errors": np.nan})
    monkeypatch.setattr(scaler_per_image, "fit_image_scales", lambda *args, **options: nothing)
    with pytest.raises(DataError, match="did not converge"):
        scaler_per_image.PerImageScaler().fit(None, None)


def test_steps_never_lower_the_likelihood(monkeypatch):
    from diffuse_framework.algorithms.scaling import per_image

    monkeypatch.setattr(per_image, "MOST_IN_MATRIX", 0)
    sums, _, _ = simulated_sums(6, 3.0, n_images=8, rows=300)
    likelihoods = []
    for cycles in range(2, 20):
        scales = per_image.fit_image_scales(sums, 1e-12, cycles)
        observations, _ = per_image.gather(sums, 320.0, places=False)
        likelihoods.append(expected_photons(observations, scales.per_image)[1])
    assert (np.diff(likelihoods) >= -1e-9 * abs(likelihoods[0])).all()


def test_images_without_overlap_are_named():
    sums, _, _ = simulated_sums(1, 5.0, n_images=3, rows=200)
    half = sums.grid.size // 2
    pieces = [
        table.select(table.voxel < half if number < 2 else table.voxel >= half)
        for number, table in enumerate(sums.pieces)
    ]
    with pytest.raises(DataError, match="image_2"):
        fit_image_scales(SumsInMemory(sums.grid, sums.image_names, tuple(pieces)), 1e-4, 10)


def test_an_image_without_photons_is_named():
    sums, _, _ = simulated_sums(1, 5.0, n_images=3)
    pieces = (replace(sums.pieces[0], counts=0 * sums.pieces[0].counts), *sums.pieces[1:])
    with pytest.raises(DataError, match="image_0"):
        fit_image_scales(SumsInMemory(sums.grid, sums.image_names, pieces), 1e-4, 10)


def test_too_few_cycles_are_said():
    sums, _, _ = simulated_sums(1, 5.0)
    assert not fit_image_scales(sums, 1e-12, 2).statistics["converged"]


def test_a_large_grid_is_merged_like_a_small_one(monkeypatch):
    """Of large grids only the voxels seen get memory; nothing else may change."""
    sums, _, scales = simulated_sums(3, 2.0, n_images=4, rows=700)
    rng = np.random.default_rng(3)
    pieces = []
    for table in sums.tables():
        # Some voxels lie whole in Bragg peaks, some partly, some not.
        bragg = rng.uniform(0, 1, len(table)) * (rng.random(len(table)) < 0.5)
        hidden = (bragg > 0) & (rng.random(len(table)) < 0.5)
        blank = np.where(hidden, 0, 1)
        pieces.append(
            replace(
                table,
                exposure=table.exposure * blank,
                counts=table.counts * blank,
                bragg_exposure=bragg,
                bragg_counts=rng.poisson(5 * bragg).astype(float),
            )
        )
    sums = SumsInMemory(sums.grid, sums.image_names, tuple(pieces))
    model = ImageScales(scales, np.zeros(4), {})
    small = poisson_merge(sums, model)
    assert len(small.bragg_voxel)
    monkeypatch.setattr(merging, "_SMALL_GRID", 0)
    large = poisson_merge(sums, model)
    for name in vars(small).keys() - {"grid"}:
        np.testing.assert_array_equal(getattr(small, name), getattr(large, name))


def test_scales_are_the_same_whether_rows_lie_in_memory_or_in_a_file(monkeypatch):
    sums, _, _ = simulated_sums(4, 2.0, n_images=5)
    kept = fit_image_scales(sums, 1e-4, 50)
    monkeypatch.setattr("diffuse_framework.algorithms.scaling.observations._LEAST_ROWS", 1000)
    filed = fit_image_scales(sums, 1e-4, 50, memory_mib=0.0)
    np.testing.assert_allclose(filed.per_image, kept.per_image, rtol=1e-12)
    np.testing.assert_allclose(filed.per_image_sigma, kept.per_image_sigma, rtol=1e-12)


def test_outliers_are_rejected_on_both_sides_and_change_no_scale():
    known = known_sums(ScalingOptions(), np.random.default_rng(3), n_images=30, rows_per_image=2000, exposure=30.0)
    sums = known.sums
    clean = fit_image_scales(sums, 1e-6, 100, outlier_limit=6.0)
    assert not len(clean.rejected) and clean.statistics["outliers"]["rejected"] == 0
    first = sums.pieces[0]
    counts = first.counts.copy()
    counts[:40] = 20 * counts[:40] + 200
    # Of rows that few photons are expected in, none is no wonder.
    counts[40 + np.argsort(-counts[40:])[:20]] = 0
    bad = SumsInMemory(sums.grid, sums.image_names, (replace(first, counts=counts), *sums.pieces[1:]))
    kept, spoilt = (fit_image_scales(bad, 1e-6, 100, outlier_limit=limit) for limit in (6.0, None))
    n = kept.statistics["outliers"]["rejected"]
    assert len(kept.rejected) == n and kept.statistics["outliers"]["too_low"] >= 15
    assert kept.statistics["outliers"]["too_high"] >= 35 and n <= 60
    assert sum(shell["rejected"] for shell in kept.statistics["outliers"]["by_shell"]) == n
    assert np.count_nonzero(~kept.keep(bad.pieces[0])) == n
    assert np.allclose(kept.per_image, clean.per_image, rtol=0.02)
    assert not np.allclose(spoilt.per_image, clean.per_image, rtol=0.02)


def test_outliers_survive_the_disk_and_are_forgotten_on_another_grid():
    known = known_sums(ScalingOptions(), np.random.default_rng(3), n_images=5, rows_per_image=200)
    grid = known.sums.grid
    rejected = np.array([[1, 7, 0, 0], [3, 9, 1, 0]])
    scales = ImageScales(np.ones(5), np.ones(5), {}, rejected=rejected, voxel_numbering=grid.numbering)
    again = ImageScales.from_plain(scales.to_plain()).on_grid(grid)
    assert np.array_equal(again.rejected, rejected)
    assert not len(again.on_grid(orthorhombic_grid(d_min=2.5)).rejected)
    assert again.of_images(np.array([3, 0])).rejected.tolist() == [[0, 9, 1, 0]]
