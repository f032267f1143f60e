from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.scaling.error_model import NormalisedDeviations, fit_error_model
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.algorithms.scaling.observations import gather
from diffuse_framework.model.scales import ErrorModel
from diffuse_framework.model.voxels import SumsInMemory
from support.sums import known_sums


@pytest.mark.parametrize("level", [0.1, 1.0, 20.0])
def test_chi_squared_is_one_for_counts_at_any_level(level):
    known = known_sums(ScalingOptions(), np.random.default_rng(2), n_images=30, rows_per_image=3000, exposure=level)
    agreement = NormalisedDeviations(gather(known.sums)[0], known.scales)
    model = fit_error_model(agreement.by_signal())
    assert abs(model.inflation - 1) < 0.03
    assert model.fraction < 0.1
    for table in agreement.in_all_bins()[1].chi_squared(ErrorModel()).values():
        entries = [entry for entry in table if entry["observations"] > 2000]
        assert entries
        # Squares of at least 2000 Poisson deviates: variance (2 + 1/mean) / n, five deviations.
        limit = 5 * np.sqrt((2 + 1 / (0.3 * level)) / 2000)
        assert all(abs(entry["chi_squared"] - 1) < limit for entry in entries)


def test_the_error_model_finds_errors_beyond_counting():
    known = known_sums(ScalingOptions(), np.random.default_rng(2), n_images=30, rows_per_image=3000, exposure=60.0)
    rng = np.random.default_rng(3)
    tables = tuple(
        replace(t, counts=(t.counts * rng.normal(1, 0.15, len(t))).astype(np.float32)) for t in known.sums.pieces
    )
    noisy = SumsInMemory(known.sums.grid, known.sums.image_names, tables)
    agreement = NormalisedDeviations(gather(noisy)[0], known.scales)
    model = fit_error_model(agreement.by_signal())
    assert abs(model.fraction * np.sqrt(model.inflation) - 0.15) < 0.01
    chi_squared = [entry["chi_squared"] for entry in agreement.in_all_bins()[1].chi_squared(model)["intensity"]]
    assert np.allclose(chi_squared, 1, atol=0.12)
    # Merged with that model, voxels lie as far from the truth as their variances say.
    merged = poisson_merge(noisy, replace(known.scales, error_model=model))
    many = merged.multiplicity > 3
    z = (merged.intensity - known.intensity[merged.voxel])[many] / np.sqrt(merged.variance[many])
    assert abs(np.mean(z**2) - 1) < 0.1


def test_a_few_wild_voxels_say_nothing_of_the_errors_of_all_others():
    known = known_sums(ScalingOptions(), np.random.default_rng(2), n_images=30, rows_per_image=3000, exposure=5.0)
    wild = known.sums.pieces[0].voxel[::1000]
    rng = np.random.default_rng(3)
    tables = tuple(
        replace(t, counts=np.where(np.isin(t.voxel, wild), rng.integers(0, 100_000, len(t)), t.counts).astype("f4"))
        for t in known.sums.pieces
    )
    spoilt = SumsInMemory(known.sums.grid, known.sums.image_names, tables)
    model = fit_error_model(NormalisedDeviations(gather(spoilt)[0], known.scales).by_signal())
    assert abs(model.inflation - 1) < 0.05
