"""The width of excitation that spots show, the reflections it predicts, and their sums over pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.indexing.integration import sum_reflections
from diffuse_framework.algorithms.indexing.known_cell import known_cell
from diffuse_framework.algorithms.indexing.prediction import Excitation, excitation_of, predict_still
from diffuse_framework.algorithms.indexing.stills import StillLimits, index_still
from support.stills import angle_deg, flat_geometry, image_with, random_setting, spot_positions

KNOWN = known_cell((34.0, 49.0, 65.0, 90.0, 90.0, 90.0), symmetry_of("P212121"))
GEOMETRY = flat_geometry(trusted_range=(0.0, 1e6))


@pytest.mark.parametrize(("size", "mosaic"), [(1e-3, 0.0), (1e-5, 4e-3), (8e-4, 3e-3)])
def test_size_and_mosaic_spread_are_told_apart(size, mosaic):
    rng = np.random.default_rng(1)
    q = rng.uniform(0.05, 0.6, 4000)
    found = excitation_of(rng.normal(0, np.sqrt(size**2 + (mosaic * q) ** 2)), q, 1e-5)
    np.testing.assert_allclose(found.sigma(q), np.sqrt(size**2 + (mosaic * q) ** 2), rtol=0.12)


def test_widths_are_those_of_half_the_maximum():
    assert Excitation(1e-3, np.radians(0.1)).mosaic_width_deg == pytest.approx(0.23548, rel=1e-3)
    assert Excitation(1e-3, 0.0).domain_size == pytest.approx(424.7, rel=1e-3)


def test_predictions_are_near_the_sphere_and_all_that_are():
    setting = random_setting(KNOWN, 2)
    excitation = Excitation(6e-4, 1e-3)
    found = predict_still(setting, GEOMETRY, excitation, KNOWN.conditions, 2.0)
    q = np.linalg.norm(found.hkl @ setting.T, axis=1)
    assert len(found) > 100
    assert (np.abs(found.off_sphere) <= 2.5 * excitation.sigma(q)).all() and (q <= 0.5).all()
    np.testing.assert_allclose(np.linalg.norm(found.s1, axis=1), 1.0)
    assert ((found.partiality > 0) & (found.partiality <= 1)).all()
    every = np.stack(np.meshgrid(*[np.arange(-33, 34)] * 3, indexing="ij"), -1).reshape(-1, 3)
    rays = every @ setting.T + GEOMETRY.beam.s0
    length = np.linalg.norm(every @ setting.T, axis=1)
    near = np.abs(np.linalg.norm(rays, axis=1) - 1) <= 2.5 * excitation.sigma(length)
    near &= (length > 0) & (length <= 0.5) & (rays[:, 2] < 0)
    # Of these a few miss the panel.
    assert {tuple(i) for i in found.hkl.tolist()} <= {tuple(i) for i in every[near].tolist()}
    assert len(found) > 0.9 * near.sum()


def test_sums_are_right_within_their_errors_on_a_slope():
    rng = np.random.default_rng(3)
    slow, fast = np.mgrid[20:480:30, 20:480:30]
    px = np.stack([fast.ravel() + 0.4, slow.ravel() + 0.6], -1)
    true = rng.uniform(0, 500, len(px))
    counts = image_with(rng, (500, 500), px, true, 0.0, 1.0)
    counts += rng.poisson(2 + 0.02 * np.mgrid[:500, :500].sum(axis=0)).astype(np.int32)
    panel = replace(GEOMETRY.panels[0], shape=(500, 500))
    found = sum_reflections((counts,), (panel,), None, np.zeros(len(px), int), px, 4.0)
    assert found.whole.all()
    pull = (found.intensity - true) / np.sqrt(found.variance)
    assert abs(pull.mean()) < 4 / np.sqrt(len(px)) and 0.8 < pull.std() < 1.2


def test_a_reflection_with_a_bad_pixel_or_beyond_the_edge_is_not_summed():
    counts = np.full((200, 200), 3, np.int32)
    bad = np.zeros((200, 200), np.uint8)
    bad[50, 51] = 1
    px = np.array([[50.0, 50.0], [1.0, 100.0], [100.0, 100.0], [120.0, 100.0]])
    counts[100, 121] = -5
    panel = replace(GEOMETRY.panels[0], shape=(200, 200))
    found = sum_reflections((counts,), (panel,), (bad,), np.zeros(4, int), px, 3.0)
    assert found.whole.tolist() == [False, False, True, False]
    assert found.intensity[2] == pytest.approx(0)


def test_an_image_goes_from_counts_to_intensities():
    rng = np.random.default_rng(4)
    setting = random_setting(KNOWN, 3)
    hkl, px = spot_positions(setting, KNOWN, GEOMETRY, rng, n=120, sigma_px=0.1, width=3e-4)
    photons = rng.uniform(200, 2000, len(px))
    counts = image_with(rng, (1000, 1000), px, photons, 0.5, 1.1)
    found = index_still((counts,), GEOMETRY, None, KNOWN)
    assert found.reason == ""
    assert angle_deg(found.lattices[0].fit.setting_matrix, setting, KNOWN) < 0.03
    turns = [r for r in np.rint(np.linalg.inv(KNOWN.basis) @ KNOWN.rotations @ KNOWN.basis).astype(int)]
    # One of the symmetry's operations brings the indices to those the spots were made with.
    rows = [{tuple(i): n for n, i in enumerate((hkl @ turn.T).tolist())} for turn in turns]
    best = max(rows, key=lambda of: sum(tuple(i) in of for i in found.predictions.hkl.tolist()))
    pairs = [(n, best[tuple(i)]) for n, i in enumerate(found.predictions.hkl.tolist()) if tuple(i) in best]
    mine, truth = np.array(pairs).T
    done = found.summed.whole[mine]
    assert len(mine) > 0.9 * len(hkl)
    ratio = found.summed.intensity[mine][done] / photons[truth][done]
    assert 0.9 < np.median(ratio) < 1.05


def test_nothing_is_summed_where_it_is_not_wanted():
    rng = np.random.default_rng(5)
    _, px = spot_positions(random_setting(KNOWN, 3), KNOWN, GEOMETRY, rng, n=80, sigma_px=0.1)
    counts = image_with(rng, (1000, 1000), px, 800, 0.5, 1.1)
    found = index_still((counts,), GEOMETRY, None, KNOWN, StillLimits(integrate=False))
    assert found.lattices and found.summed is None
