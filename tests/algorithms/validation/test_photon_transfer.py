"""Gain and pedestal from images of detectors that integrate charge, with point spread, and of those that count."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffuse_framework.algorithms.validation.photon_transfer import Blocks, noise_blocks, photon_transfer

SHAPE = (768, 768)


def smooth(level: float, shape=SHAPE) -> np.ndarray:
    """Photons of a halo, a ring, and clouds."""
    slow, fast = np.mgrid[: shape[0], : shape[1]]
    radius = np.hypot(slow - shape[0] / 2, fast - shape[1] / 2)
    radial = 0.3 + 2 * np.exp(-((radius / 200) ** 2)) + 0.6 * np.exp(-(((radius - 180) / 40) ** 2))
    return level * radial * (1 + 0.15 * np.sin(fast / 25) * np.sin(slow / 31))


def image(level, gain=1.0, pedestal=0.0, spread=0.0, read_noise=0.0, seed=0, shape=SHAPE) -> np.ndarray:
    """Raw values of photons with peaks; point spread is a standard deviation in pixels, read noise raw."""
    rng = np.random.default_rng(seed)
    expected = smooth(level, shape)
    for _ in range(300 * expected.size // (SHAPE[0] * SHAPE[1])):
        slow, fast = (int(rng.integers(3, n - 3)) for n in shape)
        expected[slow - 1 : slow + 2, fast - 1 : fast + 2] += rng.exponential(50 * level)
    photons = rng.poisson(expected).astype(float)
    if spread:
        photons = gaussian_filter(photons, spread)
    return np.rint(photons * gain + pedestal + rng.normal(0, read_noise, shape))


def found(values, gain=1.0, pedestal=0.0, read_noise=0.0):
    return photon_transfer(noise_blocks(values, np.ones(values.shape, bool), 600), gain, pedestal, read_noise)


@pytest.mark.parametrize("level", [0.05, 0.3, 5, 100])
def test_photons_are_taken_for_photons(level):
    transfer = found(image(level))
    assert transfer.agrees
    assert transfer.ratio == pytest.approx(1, abs=0.03)
    assert transfer.pedestal is None


@pytest.mark.parametrize(
    ("gain", "pedestal", "spread", "read_noise", "level", "within"),
    [
        (1.3, 40, 0.6, 2, 20, 0.15),
        (1.3, 40, 0.8, 2, 100, 0.15),
        (1.3, 40, 0.6, 1, 3, 0.15),
        (1.0, 40, 0, 0, 20, 0.05),
        (25, 0, 0.3, 8, 5, 0.1),
        (0.3, 0, 0.7, 0.1, 20, 0.2),
    ],
)
def test_gain_and_pedestal_of_detectors_that_integrate_charge(gain, pedestal, spread, read_noise, level, within):
    transfer = found(image(level, gain, pedestal, spread, read_noise))
    assert not transfer.agrees
    assert transfer.gain == pytest.approx(gain, rel=within)
    if pedestal:
        # Structure where it is bright bends the line.
        assert transfer.pedestal == pytest.approx(pedestal, abs=3 if level < 50 else 8)
        assert transfer.pedestal <= transfer.dimmest
    else:
        assert transfer.pedestal is None
    # A point spread takes most of the variance from single pixels.
    assert transfer.spread > 2 if spread > 0.5 else transfer.spread == 1
    # With what it found there is nothing left to say.
    right = found(image(level, gain, pedestal, spread, read_noise), gain, pedestal, read_noise / gain)
    assert right.ratio == pytest.approx(1, abs=0.25)


def test_panels_with_pedestals_of_their_own():
    parts = []
    for panel, pedestal in enumerate((0, 15, -4, 8, 22, 3)):
        values = image(0.5, 10, pedestal, read_noise=3, seed=panel, shape=(256, 512))
        parts.append(noise_blocks(values, np.ones(values.shape, bool), 100, panel))
    transfer = photon_transfer(Blocks.joined(parts), 1.0, 0.0)
    assert not transfer.agrees
    assert transfer.gain == pytest.approx(10, rel=0.2)


def test_nothing_is_said_of_blank_or_hidden_images():
    nothing = np.zeros(SHAPE)
    assert found(nothing) is None
    assert photon_transfer(noise_blocks(image(5), np.zeros(SHAPE, bool), 100), 1, 0) is None
    assert found(image(5)[:64, :64]) is None


def test_a_background_that_was_subtracted_before_shows():
    values = image(5)
    assert found(values).agrees
    transfer = found(values - 1.5)
    assert not transfer.agrees
    assert transfer.ratio > 1.33
