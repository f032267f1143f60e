"""Agreement with the truth."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_framework.errors import DataError
from diffuse_framework.simulate.compare import compare_map, compare_scales
from diffuse_framework.simulate.detector import header_beam, one_panel
from diffuse_framework.simulate.experiment import SimulationSettings, simulate


@pytest.fixture(scope="module")
def truth():
    detector = one_panel((100, 80), 20.0, header_beam(1.0))
    return simulate(SimulationSettings(n_images=5, cell=(20, 22, 24, 90, 90, 90), detector=detector)).truth


@pytest.fixture(scope="module")
def hkl():
    return np.random.default_rng(0).uniform(-6, 6, (20_000, 3))


def test_the_truth_agrees_with_itself(truth, hkl):
    intensity = truth.photons_per_unit * truth.intensity.diffuse(hkl)
    found = compare_map(truth, hkl, intensity, np.ones(len(hkl)))
    assert found.correlation == pytest.approx(1)
    assert found.anisotropic_correlation == pytest.approx(1)
    assert found.bias == pytest.approx(0, abs=1e-12)
    assert found.chi_squared == pytest.approx(0, abs=1e-12)
    assert sum(shell.voxels for shell in found.shells) == found.voxels == len(hkl)
    header, rows = found.as_rows()
    assert all(len(row) == len(header) for row in rows)


def test_a_wrong_scale_is_a_bias_and_no_more(truth, hkl):
    intensity = 1.02 * truth.photons_per_unit * truth.intensity.diffuse(hkl)
    found = compare_map(truth, hkl, intensity, np.ones(len(hkl)))
    assert found.bias == pytest.approx(0.02)
    assert found.correlation == pytest.approx(1)
    assert all(shell.bias == pytest.approx(0.02) for shell in found.shells)


def test_noise_of_the_stated_size_has_chi_squared_one(truth, hkl):
    intensity = truth.photons_per_unit * truth.intensity.diffuse(hkl)
    sigma = 0.3 * intensity.mean() * np.ones(len(hkl))
    noisy = intensity + sigma * np.random.default_rng(1).normal(size=len(hkl))
    found = compare_map(truth, hkl, noisy, sigma)
    assert found.chi_squared == pytest.approx(1, abs=0.05)
    assert abs(found.bias) < 0.01
    # r = sqrt(S / (S + N)) for signal and noise of variance S and N.
    expected = np.sqrt(intensity.var() / (intensity.var() + sigma[0] ** 2))
    assert found.correlation == pytest.approx(expected, abs=0.01)


def test_an_isotropic_map_has_no_anisotropic_correlation(truth, hkl):
    q = np.linalg.norm(hkl @ truth.intensity.basis.T, axis=1)
    found = compare_map(truth, hkl, truth.photons_per_unit * truth.intensity.isotropic(q), np.ones(len(hkl)))
    assert found.correlation > 0.2
    # Not 0: within a shell the ring still varies.
    assert abs(found.anisotropic_correlation) < 0.15


def test_weights_decide_where_noise_counts(truth, hkl):
    intensity = truth.photons_per_unit * truth.intensity.diffuse(hkl)
    bad = np.arange(len(hkl)) % 2 == 0
    noisy = intensity + bad * intensity.mean() * np.random.default_rng(1).normal(size=len(hkl))
    found = compare_map(truth, hkl, noisy, np.ones(len(hkl)), weights=~bad)
    assert found.weighted_correlation == pytest.approx(1)
    assert found.correlation < 0.9


def test_scales_are_compared_by_name_and_ratio(truth):
    names = truth.names[::-1]
    found = compare_scales(truth, names, 7 * truth.scales[::-1])
    assert (found.images, found.relative_rms) == (5, pytest.approx(0, abs=1e-12))
    wrong = truth.scales.copy()
    wrong[2] *= 1.1
    found = compare_scales(truth, truth.names, wrong)
    assert 0.05 < found.largest < 0.1
    assert found.relative_rms < found.largest


def test_nothing_to_compare_is_refused(truth):
    with pytest.raises(DataError, match="no voxel"):
        compare_map(truth, np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    with pytest.raises(DataError, match="stranger.cbf"):
        compare_scales(truth, ("stranger.cbf",), np.ones(1))
