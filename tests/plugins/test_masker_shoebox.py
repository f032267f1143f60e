from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iotbx.phil import parse
from scipy.ndimage import binary_dilation

from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import BraggSpots, Experiment, Image, no_spots
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.testing.fakes import geometry, orthorhombic_symmetry
from diffuse_plugins.masker_shoebox import ShoeboxMasker

NO_TABLE = PixelTable((), ())


def make(text: str = "") -> ShoeboxMasker:
    return ShoeboxMasker.from_params(parse(ShoeboxMasker.phil).fetch(parse(text)).extract())


def image_with(foreground: np.ndarray, n_spots: int = 1) -> Image:
    nothing, px = np.zeros(n_spots), np.zeros((n_spots, 2))
    spots = BraggSpots(
        np.ones((n_spots, 3), np.int32), nothing, nothing, nothing, np.zeros(n_spots, int), px, px, foreground
    )
    return Image("a.cbf", 0, 0, 1.0, np.eye(3), 0.0, spots)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), grow=st.integers(0, 3))
def test_foreground_is_masked_and_grown_by_whole_pixels(seed, n, grow):
    rng = np.random.default_rng(seed)
    foreground = np.stack([rng.integers(0, size, n) for size in (2, 60, 50)], -1).astype(np.int32)
    mask = make(f"grow={grow}").image_mask(None, image_with(foreground), geometry(2), NO_TABLE)
    for number, classes in enumerate(mask.panels):
        expected = np.zeros((60, 50), bool)
        here = foreground[foreground[:, 0] == number]
        expected[here[:, 1], here[:, 2]] = True
        if grow:
            expected = binary_dilation(expected, np.ones((3, 3)), iterations=grow)
        assert np.array_equal(classes == 1, expected)


def experiment(*images: Image) -> Experiment:
    return Experiment((geometry(2),), orthorhombic_symmetry(), images)


def test_missing_foregrounds_are_refused_before_the_first_image():
    nothing = np.zeros((0, 3), np.int32)
    good = image_with(np.array([[0, 1, 2]], np.int32))
    bad = replace(image_with(nothing), name="b.cbf")
    with pytest.raises(ConfigError, match="1 of 2 images, b.cbf first.*shoeboxes.*masker 'bragg'"):
        make().prepare(None, experiment(good, bad), None)
    with pytest.raises(ConfigError, match="there are none on any image"):
        make().prepare(None, experiment(replace(bad, spots=no_spots())), None)
    # An image without a reflection has nothing to mask.
    assert make().prepare(None, experiment(good, replace(bad, spots=no_spots())), None) == make()
