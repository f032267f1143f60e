"""Shadows are found with their edges; clouds, slopes and faint middles are not taken for them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from scipy.special import erfc

from diffuse_framework.algorithms.masking.shadow import find_shadow, ring_levels

SHAPE = (240, 260)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
R = np.hypot(Y - 118.0, X - 131.0)
RING = R.astype(np.int32)


def shadow_of(rate: np.ndarray, n_images: int = 10, seed: int = 0, seen: np.ndarray | float = 1.0) -> np.ndarray:
    weight = np.broadcast_to(n_images * np.asarray(seen, float), SHAPE)
    total = np.random.default_rng(seed).poisson(rate * weight).astype(float)
    return find_shadow(total, weight, ring_levels([total], [weight], [RING]), RING, 2)


def scattering(level: float) -> np.ndarray:
    """A ring of solvent, and clouds of a third of it."""
    return level * (0.5 + np.exp(-(((R - 80) / 30) ** 2))) * (1 + 0.3 * np.sin(X / 19) * np.cos(Y / 23))


def stop_and_arm() -> np.ndarray:
    """Share of the light that passes: a disk with a soft edge off the middle, and an arm that lets a tenth through."""
    stop = 0.5 * erfc((np.hypot(Y - 120, X - 130) - 17) / 2.2)
    arm = 0.9 * 0.5 * erfc((np.abs(Y - 120 + 0.3 * (X - 130)) - 5) / 1.5) * (X > 130)
    return (1 - stop) * (1 - arm)


@pytest.mark.parametrize("level", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("gap", [False, True])
def test_stop_and_arm_are_found_with_their_edges(level, gap):
    passed, seen = stop_and_arm(), np.ones(SHAPE)
    if gap:
        seen[60:77] = 0
    found = shadow_of(scattering(level) * passed, seen=seen)
    used = seen > 0
    assert (found | (passed > 0.9))[used].mean() > 0.999
    # No more than some pixels all around.
    assert not (found & used & ~binary_dilation(passed < 0.9, np.ones((3, 3)), iterations=12)).any()


@pytest.mark.parametrize("level", [0.3, 3.0, 30.0])
def test_clouds_cast_no_shadow(level):
    assert not shadow_of(scattering(level)).any()


def test_scattering_that_vanishes_towards_the_beam_is_no_shadow():
    assert not shadow_of(30 * (R / 120) ** 3).any()
    assert not shadow_of(30 / (1 + (R / 30) ** 2)).any()


def test_nothing_seen_is_no_shadow():
    assert not shadow_of(scattering(3.0), seen=0.0).any()
