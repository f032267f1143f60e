from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from diffuse_robust_scaler.scaler import RobustMedianScaler

from diffuse_framework.algorithms.scaling.per_image import fit_image_scales
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.voxels import COLUMN_TYPES, COLUMNS, SumsInMemory, SumsTable
from diffuse_framework.testing.conformance import conformance_tests
from diffuse_framework.testing.fakes import orthorhombic_grid

test_contract = conformance_tests("scaler", RobustMedianScaler)


def simulated(seed: int, level: float, n_images: int, spoilt: float = 0.0) -> tuple[SumsInMemory, np.ndarray]:
    """Poisson counts of known scales, `level` photons a row; a share of each image's shells is ten times too bright."""
    rng = np.random.default_rng(seed)
    grid = orthorhombic_grid()
    intensity = rng.gamma(2.0, 0.5, grid.size)
    scales = rng.uniform(0.5, 1.5, n_images)
    scales /= scales.mean()
    tables = []
    for image in range(n_images):
        voxel = np.sort(rng.choice(grid.size, grid.size // 2, replace=False))
        exposure = rng.uniform(0.5, 1.5, len(voxel))
        length = np.linalg.norm(grid.q_of(voxel), axis=1)
        bad = (length * 20 % 1 < spoilt) & (image % 2 == 0)
        expected = level * exposure * scales[image] * intensity[voxel] * np.where(bad, 10, 1)
        columns = {name: np.zeros(len(voxel)) for name in COLUMNS}
        columns |= {
            "image": np.full(len(voxel), image),
            "voxel": voxel,
            "exposure": exposure,
            "counts": rng.poisson(expected),
            "pixels": np.full(len(voxel), 10),
        }
        tables.append(SumsTable(**{name: column.astype(COLUMN_TYPES[name]) for name, column in columns.items()}))
    return SumsInMemory(grid, tuple(f"image_{n}" for n in range(n_images)), tuple(tables)), scales


def worst(scales: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(scales / truth - 1).max())


@pytest.mark.parametrize("n_images", [2, 3, 12])
@pytest.mark.parametrize("level", [0.1, 1.0, 100.0])
def test_scales_are_recovered_within_their_errors(n_images, level):
    sums, truth = simulated(3, level, n_images)
    scales = RobustMedianScaler().fit(sums, None)
    assert scales.statistics["converged"]
    assert worst(scales.per_image, truth) < 4 * max(float((scales.per_image_sigma / truth).max()), 0.002)


@pytest.mark.parametrize("n_images", [2, 6])
def test_spoilt_shells_move_it_little_where_they_mislead_maximum_likelihood(n_images):
    sums, truth = simulated(5, 10.0, n_images, spoilt=0.2)
    robust = worst(RobustMedianScaler().fit(sums, None).per_image, truth)
    likely = worst(fit_image_scales(sums, 1e-6, 500).per_image, truth)
    assert robust < 0.05 < 0.2 < likely


def test_images_too_dim_for_ratios_are_refused():
    sums, _ = simulated(7, 0.001, 4)
    with pytest.raises(DataError, match="too few for 5 ratios"):
        RobustMedianScaler().fit(sums, None)


def test_images_that_share_nothing_are_refused():
    sums, _ = simulated(7, 10.0, 2)
    first, second = (table.select(table.voxel % 2 == n) for n, table in enumerate(sums.pieces))
    with pytest.raises(DataError, match="in 0 voxels that it shares"):
        RobustMedianScaler().fit(replace(sums, pieces=(first, second)), None)


def test_groups_that_contradict_each_other_are_refused():
    params = type("Params", (), {"min_groups": 9, "max_groups": 3, "min_photons": 1, "tolerance": 1, "max_cycles": 1})
    with pytest.raises(ConfigError, match="min_groups=9"):
        RobustMedianScaler.from_params(params)
