"""Counts below zero: detectors that integrate charge, read with noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffuse_framework.algorithms.merging import expected_counts, inverse_variance_merge, poisson_merge
from diffuse_framework.algorithms.scaling.observations import gather
from diffuse_framework.algorithms.statistics import half_maps, shell_statistics
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import COLUMN_TYPES, COLUMNS, SumsInMemory, SumsTable
from diffuse_framework.report.summary import map_statistics
from diffuse_framework.testing.fakes import orthorhombic_grid
from diffuse_plugins.scaler_per_image import PerImageScaler
from diffuse_plugins.scaler_smooth import SmoothScaler

MERGERS = {"poisson": poisson_merge, "inverse_variance": inverse_variance_merge}
N_IMAGES = 10
EQUAL = ImageScales(np.ones(N_IMAGES), np.full(N_IMAGES, 0.01))


def draw(seed: int, level: float, read_noise: float, told: bool = True) -> tuple[SumsInMemory, np.ndarray]:
    """Return sums of pixels of `level` photons on the average, and the true intensities, (size of the grid,)."""
    rng = np.random.default_rng(seed)
    grid = orthorhombic_grid()
    q = np.linalg.norm(grid.q_of(np.arange(grid.size)), axis=1)
    truth = level * (0.5 + np.exp(-(((q - 0.3) / 0.12) ** 2))) * rng.gamma(16, 1 / 16, grid.size)
    tables = []
    for image in range(N_IMAGES):
        voxel = np.sort(rng.choice(grid.size, grid.size // 2, replace=False))
        pixels = rng.integers(1, 30, len(voxel))
        counts = rng.poisson(truth[voxel] * pixels) + read_noise * np.sqrt(pixels) * rng.normal(size=len(voxel))
        columns = {name: np.zeros(len(voxel)) for name in COLUMNS} | {
            "image": np.full(len(voxel), image),
            "voxel": voxel,
            "counts": counts,
            "background_variance": pixels * read_noise**2 * told,
            "exposure": pixels,
            "pixels": pixels,
            "fast": rng.uniform(0, 100, len(voxel)),
            "slow": rng.uniform(0, 100, len(voxel)),
        }
        tables.append(SumsTable(**{name: np.asarray(v).astype(COLUMN_TYPES[name]) for name, v in columns.items()}))
    return SumsInMemory(grid, tuple(f"image_{n}" for n in range(N_IMAGES)), tuple(tables)), truth


@given(
    counts=st.floats(-1e6, 1e6),
    background=st.floats(-10, 1e4),
    predicted=st.floats(1e-9, 1e6),
    noise=st.sampled_from([0.0, 1e-4, 1.0, 1e4]),
    spread=st.one_of(st.none(), st.floats(0.05, 1)),
)
@settings(deadline=None)
def test_expected_variance_is_above_zero_whatever_was_counted(counts, background, predicted, noise, spread):
    given_spread = None if spread is None else spread * predicted
    assert 0 < expected_counts(counts, background, 1.0, predicted, given_spread, noise) + noise < np.inf


def test_pure_counting_without_a_known_spread_is_the_posterior_mean_of_an_exponential_prior():
    counts, predicted = np.arange(20.0), np.geomspace(1e-3, 1e3, 20)
    found = expected_counts(counts, np.zeros(20), np.ones(20), predicted)
    np.testing.assert_allclose(found, (counts + 1) * predicted / (1 + predicted), rtol=1e-12)


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize("scaler", ["per_image", "smooth"])
@pytest.mark.parametrize("told", [True, False])
@given(seed=st.integers(0, 1000), level=st.sampled_from([0.02, 0.3]), read_noise=st.sampled_from([0.3, 1.5]))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_voxel_is_without_an_error(merger, scaler, told, seed, level, read_noise):
    sums, _ = draw(seed, level, read_noise, told)
    assert min(table.counts.min() for table in sums.pieces) < 0
    scales = {"per_image": PerImageScaler, "smooth": SmoothScaler}[scaler]().fit(sums, None)
    merge = MERGERS[merger]
    merged = merge(sums, scales)
    halves = half_maps(sums, scales, np.random.default_rng(seed), merge)
    for one in (merged, *halves):
        assert np.isfinite(one.intensity).all() and np.isfinite(one.variance).all() and (one.variance > 0).all()
        assert np.isfinite(one.total_variance).all() and (one.total_variance > 0).all()
    statistics = shell_statistics(merged, halves)
    assert all(shell["intensity_over_sigma"] is not None for shell in statistics["shells"])
    assert np.isfinite(map_statistics(merged, statistics)["intensity_over_sigma_median"])


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize("read_noise", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("level", [0.05, 0.5, 5.0])
def test_errors_are_those_of_counting_and_noise(merger, read_noise, level):
    chi_squared, of_halves, net, true = [], [], 0.0, 0.0
    for seed in range(4):
        sums, truth = draw(seed, level, read_noise)
        merged = MERGERS[merger](sums, EQUAL)
        expected = truth[merged.voxel]
        chi_squared.append(((merged.intensity - expected) ** 2 / merged.variance).mean())
        a, b = half_maps(sums, EQUAL, np.random.default_rng(seed), MERGERS[merger])
        _, in_a, in_b = np.intersect1d(a.voxel, b.voxel, return_indices=True)
        difference = (a.intensity[in_a] - b.intensity[in_b]) ** 2
        of_halves.append((difference / (a.variance[in_a] + b.variance[in_b])).mean())
        net += (merged.intensity * merged.pixels).sum()
        true += (expected * merged.pixels).sum()
    assert 0.95 < np.mean(chi_squared) < 1.05
    assert 0.95 < np.mean(of_halves) < 1.05
    assert abs(net / true - 1) < 0.01


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("read_noise", [0.3, 1.5])
def test_noise_makes_no_scale_too_small(read_noise, told):
    """Images 5 to 9 share voxels with one other alone: intensities cut at zero would be too high there."""
    z = []
    for seed in range(6):
        sums, _ = draw(seed, 0.3, read_noise, told)
        parts = sums.grid.size // 5
        pieces = tuple(
            table if n < 5 else table.select((table.voxel // parts == n - 5) | (table.voxel // parts == (n - 4) % 5))
            for n, table in enumerate(sums.pieces)
        )
        scales = PerImageScaler().fit(SumsInMemory(sums.grid, sums.image_names, pieces), None)
        assert scales.statistics["converged"]
        z.append((scales.per_image - 1) / scales.per_image_sigma)
    assert np.sqrt(np.mean(np.square(z))) == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize("read_noise", [0.3, 1.0])
def test_noise_that_is_told_makes_no_outliers_and_no_inflation(read_noise):
    sums, _ = draw(1, 0.3, read_noise)
    scales = SmoothScaler().fit(sums, None)
    observations, _ = gather(sums)
    rejected = sum(np.count_nonzero(~scales.keep(table)) for table in sums.pieces)
    assert rejected < 1e-3 * len(observations)
    assert scales.error_model.inflation == pytest.approx(1, abs=0.1)
