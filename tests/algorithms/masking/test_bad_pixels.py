"""Noise marks nothing; planted faults are found; shadows, peaks and gaps are not taken for faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuse_framework.algorithms.masking.bad_pixels import (
    DEAD,
    GOOD,
    HOT,
    INVALID,
    NEGATIVE,
    UNDECIDED,
    UNJUDGED,
    Criteria,
    PixelHistory,
    _middle,
    block_levels,
    photons_of,
)

SHAPE = (200, 240)


def judge(images: list[np.ndarray], usable: np.ndarray | bool = True, gain: float = 1.0) -> np.ndarray:
    """Return the verdict; `usable` is (slow, fast), or (images, slow, fast)."""
    history = PixelHistory(images[0].shape, len(images))
    for image, use in zip(images, np.broadcast_to(usable, (len(images), *images[0].shape)), strict=True):
        classes = np.where(use, 2, 0).astype(np.uint8)
        photons = photons_of(image, classes, gain, 0.0)
        history.add(photons, *block_levels(photons))
    return history.judge(Criteria())


def bad(verdict: np.ndarray) -> set[tuple[int, int]]:
    return {tuple(at) for at in np.argwhere((verdict >= HOT) & (verdict <= NEGATIVE))}


def noise(level: float | np.ndarray, n_images: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Images whose brightness varies by a factor of ten."""
    levels = np.broadcast_to(level, SHAPE)
    return [rng.poisson(levels * 10 ** rng.uniform(-0.5, 0.5)) for _ in range(n_images)]


@pytest.mark.parametrize("n_images", [5, 20, 40])
@pytest.mark.parametrize("level", [0.05, 1.0, 10.0, 200.0])
def test_counting_noise_marks_no_pixel(level, n_images):
    # The bound on a false alarm is 1e-9 a pixel: any at all in these 48 000 is a mistake.
    assert bad(judge(noise(level, n_images, np.random.default_rng(n_images)))) == set()


@pytest.mark.parametrize("width", [0.3, 3.0])
def test_noise_wider_than_that_of_counting_marks_no_pixel(width):
    # A gain that is not known, and the read-out noise of a CCD around 0.
    rng = np.random.default_rng(1)
    unknown_gain = [12 * image for image in noise(2.0, 12, rng)]
    assert bad(judge(unknown_gain)) == set()
    around_zero = [rng.normal(0.1, width, SHAPE) for _ in range(12)]
    assert bad(judge(around_zero)) == set()


def test_a_blurred_image_marks_no_pixel():
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(2)
    blurred = [gaussian_filter(image.astype(float), 1.0) for image in noise(30.0, 8, rng)]
    assert bad(judge(blurred)) == set()


def test_planted_faults_are_found_and_named():
    rng = np.random.default_rng(3)
    images = noise(8.0, 20, rng)
    for image in images:
        image[50, 60] = 0
        image[70, 80] = rng.poisson(100)
        image[90, 100] = 7
        image[110, 120] = -rng.poisson(20)
        image[130:133, 40:43] = rng.poisson(90, (3, 3))
        image[0, 0] = 0
    verdict = judge(images)
    assert verdict[50, 60] == verdict[0, 0] == verdict[90, 100] == DEAD
    assert verdict[70, 80] == HOT and (verdict[130:133, 40:43] == HOT).all()
    assert verdict[110, 120] == NEGATIVE
    assert len(bad(verdict)) == 14


def test_a_hot_pixel_shows_on_dim_images_and_a_dead_one_is_left_open():
    images = noise(0.05, 20, np.random.default_rng(4))
    for image in images:
        image[50, 60] = 3
        image[70, 80] = 0
    verdict = judge(images)
    assert bad(verdict) == {(50, 60)}
    assert verdict[70, 80] == UNDECIDED


def test_bragg_peaks_on_some_images_mark_nothing():
    rng = np.random.default_rng(5)
    images = noise(2.0, 20, rng)
    for number in range(5):
        images[4 * number][99:102, 99:102] += 5000
    for number, image in enumerate(images):
        image[10 + 8 * number, 20] += 3000
    assert bad(judge(images)) == set()


def test_the_edges_of_a_shadow_are_no_faults_save_for_sharp_dark_corners():
    rng = np.random.default_rng(6)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    level = np.full(SHAPE, 40.0)
    level[x > y + 13] = 0.5
    level[(y - 120) ** 2 + (x - 60) ** 2 < 17.3**2] = 0.0
    level[100:120, 3:61] = 0.0
    # A corner pixel of a black rectangle looks like one of a dead patch, and is of no use either.
    assert bad(judge(noise(level, 20, rng))) <= {(100, 3), (100, 60), (119, 3), (120, 42)}


def test_a_steep_slope_is_no_fault():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    level = 1e6 / (100 + (y - 100.0) ** 2 + (x - 120.0) ** 2)
    assert bad(judge(noise(level, 20, np.random.default_rng(7)))) == set()


def test_pixels_that_are_never_valid_are_not_judged():
    usable = np.ones(SHAPE, bool)
    usable[:, 100:107] = usable[60:77] = False
    images = noise(30.0, 10, np.random.default_rng(8))
    for image in images:
        image[~usable] = -1
        image[40, 50] = 0
    verdict = judge(images, usable)
    assert bad(verdict) == {(40, 50)}
    assert (verdict[~usable] == UNDECIDED).all()
    assert (verdict[usable] == GOOD).mean() > 0.9


@pytest.mark.parametrize("n_images", [20, 40])
def test_pixels_valid_on_some_images_are_judged_by_those(n_images):
    rng = np.random.default_rng(9)
    images = noise(8.0, n_images, rng)
    bright = np.array([image.mean() for image in images]) > 8
    usable = rng.uniform(size=(n_images, *SHAPE)) < 0.8
    # One pixel never seen on bright images, one never on dim ones, one on few.
    usable[:, 30, 30], usable[:, 30, 50] = ~bright, bright
    usable[:, 30, 70] = np.arange(n_images) < 4
    # Blocks of which too little is valid on some images.
    usable[::4, 80:88, 80:96] = False
    for image in images:
        image[50, 60], image[85, 85] = 0, 0
        image[70, 80] = rng.poisson(100)
    verdict = judge(images, usable)
    assert bad(verdict) == {(50, 60), (85, 85), (70, 80)}
    n_valid = usable.sum(axis=0)
    assert verdict[30, 70] == UNJUDGED and (verdict[n_valid < 5] == UNJUDGED).all()
    assert (verdict[n_valid >= 5] < UNDECIDED).mean() > 0.99


def test_a_flickering_pixel_is_found_and_peaks_and_single_spikes_are_not_taken_for_it():
    rng = np.random.default_rng(11)
    images = noise(8.0, 20, rng)
    for number, image in enumerate(images):
        if number % 6 == 0:
            image[50, 60] += rng.poisson(400)
        if number % 5 == 0:
            # A peak over several pixels, not predicted.
            image[99:102, 99:102] += rng.poisson(np.outer([0.4, 1, 0.4], [0.4, 1, 0.4]) * 500)
        image[10 + 8 * number, 20] += 30000
    assert bad(judge(images)) == {(50, 60)}


def test_every_pixel_is_judged_where_its_block_is_mostly_hidden():
    rng = np.random.default_rng(12)
    images = noise(8.0, 20, rng)
    usable = np.ones(SHAPE, bool)
    # One row of a block is left.
    usable[17:40] = False
    for image in images:
        image[16, 100] += rng.poisson(300)
    assert bad(judge(images, usable)) == {(16, 100)}


def test_photons_are_whole_and_invalid_where_not_diffuse():
    values = np.array([[0.0, 12.4, 1e9, -1e9, np.nan]])
    classes = np.array([[2, 2, 2, 2, 0]], np.uint8)
    assert photons_of(values, classes, 2.0, 1.0).tolist() == [[0, 6, 32767, -32767, INVALID]]
    assert photons_of(values, np.ones_like(classes), 1.0, 0.0).tolist() == [[INVALID] * 5]


def test_block_levels_leave_outliers_out():
    photons = np.full((16, 24), 4, np.int16)
    photons[3, 3] = 5000
    photons[8:, 16:] = INVALID
    mean, variance = block_levels(photons)
    assert mean.shape == (2, 3)
    assert mean[0, 0] == 4 and variance[0, 0] == 0
    assert np.isnan(mean[1, 2])


@given(st.lists(st.one_of(st.integers(-5, 40), st.integers(-32767, 32767)), min_size=1, max_size=64))
def test_medians_by_counting_are_those_of_numpy(numbers):
    numbers = np.array(numbers, np.int64)
    assert _middle(numbers, np.empty(256, np.int64)) == np.median(numbers)
