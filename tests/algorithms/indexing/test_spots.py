"""Spots: those that are there are found, wherever they are, and hardly any that are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from diffuse_framework.algorithms.indexing.spots import SpotLimits, find_spots
from diffuse_framework.model.geometry import Panel
from support.stills import flat_geometry, image_with


def panel_of(shape: tuple[int, int], **more) -> Panel:
    return replace(flat_geometry().panels[0], shape=shape, trusted_range=(0.0, 1e6), **more)


def grid(shape: tuple[int, int], step: int = 40) -> np.ndarray:
    """Positions (fast, slow) off the middle of pixels, well apart."""
    slow, fast = np.mgrid[20 : shape[0] - 10 : step, 20 : shape[1] - 10 : step]
    return np.stack([fast.ravel() + 0.3, slow.ravel() + 0.8], -1)


def matched(spots, centres: np.ndarray) -> tuple[int, int]:
    """Number of centres with a spot within a pixel, and of spots without a centre."""
    if not len(spots):
        return 0, 0
    near = cKDTree(spots.px).query(centres)[0] < 1
    false = cKDTree(centres).query(spots.px)[0] >= 1
    return int(near.sum()), int(false.sum())


@pytest.mark.parametrize(("level", "photons"), [(0.003, 60), (0.1, 80), (1.0, 110), (10.0, 250), (100.0, 900)])
def test_spots_are_found_at_any_count_rate(level, photons):
    rng = np.random.default_rng(1)
    shape = (400, 500)
    centres = grid(shape)
    found = find_spots((image_with(rng, shape, centres, photons, level, 1.1),), (panel_of(shape),))
    near, false = matched(found, centres)
    assert near >= 0.95 * len(centres)
    assert false <= 2


@pytest.mark.parametrize("level", [0.003, 0.3, 3.0, 100.0])
def test_counts_without_peaks_have_hardly_any(level):
    rng = np.random.default_rng(2)
    shape = (1000, 1000)
    counts = rng.poisson(level, shape).astype(np.int32)
    assert len(find_spots((counts,), (panel_of(shape),))) <= 3


def test_positions_and_intensities_are_right_within_their_errors():
    rng = np.random.default_rng(3)
    shape = (600, 600)
    centres = grid(shape)
    found = find_spots((image_with(rng, shape, centres, 2000, 5.0, 1.2),), (panel_of(shape),))
    distance, which = cKDTree(centres).query(found.px)
    assert (distance < 0.5).all() and len(found) == len(centres)
    pull = (found.px - centres[which]) / np.sqrt(found.variance_px)
    assert 0.5 < pull.std() < 1.5
    assert np.abs((found.px - centres[which]).mean(axis=0)).max() < 0.03
    # The feet of a peak below the threshold are not counted.
    assert 0.85 * 2000 < np.median(found.intensity) < 2050
    np.testing.assert_allclose(np.median(found.background), 5.0, atol=0.4)


def test_masked_pixels_and_gaps_are_out_of_the_kernel():
    """Next to a gap a bright plain is no spot, and a value out of the trusted range none either."""
    rng = np.random.default_rng(4)
    shape = (300, 300)
    counts = rng.poisson(20.0, shape).astype(np.int32)
    counts[100:110] = -1
    counts[:, 200:207] = 0
    counts[50:53, 50:53] = 2_000_000
    bad = np.zeros(shape, np.uint8)
    bad[:, 200:207] = 1
    assert len(find_spots((counts,), (panel_of(shape),), (bad,))) <= 1


def test_gain_and_pedestal_change_nothing():
    rng = np.random.default_rng(5)
    shape = (300, 300)
    photons = image_with(rng, shape, grid(shape), 300, 2.0, 1.1)
    plain = find_spots((photons,), (panel_of(shape),))
    raw = (photons * 2.5 + 40.0).astype(np.float32)
    other = find_spots((raw,), (panel_of(shape, gain=2.5, pedestal=40.0),))
    assert len(plain) == len(other)
    np.testing.assert_allclose(plain.px, other.px, atol=1e-4)
    np.testing.assert_allclose(plain.intensity, other.intensity, rtol=1e-4)


def test_read_noise_makes_no_spots():
    rng = np.random.default_rng(6)
    shape = (500, 500)
    counts = (rng.poisson(0.05, shape) + rng.normal(0, 2.0, shape)).astype(np.float32)
    panel = replace(panel_of(shape, read_noise=2.0), trusted_range=(-100.0, 1e6))
    assert len(find_spots((counts,), (panel,))) <= 2


def test_panels_are_looked_at_one_by_one():
    rng = np.random.default_rng(7)
    whole = image_with(rng, (300, 400), grid((300, 400)), 400, 1.0, 1.1)
    parts = (whole[:, :210], whole[:, 210:])
    found = find_spots(parts, tuple(panel_of(part.shape) for part in parts))
    joined = found.px + np.where(found.panel == 1, 210, 0)[:, None] * np.array([1, 0])
    near, _ = matched(replace(found, px=joined), grid((300, 400)))
    assert set(found.panel) == {0, 1}
    assert near == len(grid((300, 400)))


@pytest.mark.parametrize(
    "limits", [SpotLimits(min_pixels=60), SpotLimits(max_pixels=3), SpotLimits(min_significance=1e3)]
)
def test_limits_take_spots_away(limits):
    rng = np.random.default_rng(8)
    shape = (200, 200)
    counts = image_with(rng, shape, grid(shape), 300, 1.0, 1.1)
    assert len(find_spots((counts,), (panel_of(shape),), None, limits)) == 0


def test_a_ring_is_no_spot():
    """What grows without end is not a spot, however bright."""
    rng = np.random.default_rng(9)
    slow, fast = np.mgrid[:400, :400]
    ring = np.abs(np.hypot(slow - 200, fast - 200) - 120) < 3
    counts = rng.poisson(np.where(ring, 60.0, 5.0)).astype(np.int32)
    assert len(find_spots((counts,), (panel_of((400, 400)),))) <= 3
