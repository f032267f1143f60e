"""What is measured of peaks is what was put in; masks hold peaks, and what leaks is told."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_framework.algorithms.masking.leaks import FAR, leaks_around, needed_growth
from diffuse_framework.algorithms.masking.levels import Levels, mean_levels
from diffuse_framework.algorithms.masking.reflections import (
    CORE,
    Predicted,
    paint_ellipses,
    photon_sums,
    radial_directions,
    stand_out,
)
from diffuse_framework.algorithms.masking.spots import add_measured, measure, nothing_measured, spot_model
from diffuse_framework.model.conventions import BRAGG, DIFFUSE
from diffuse_framework.testing.fakes import geometry

SHAPE = (400, 400)
MODEL = geometry(1, SHAPE)
Q_MAX, WIDEST, LEVEL = 1.0, 0.008, 10.0
BLOCKS = (np.full((50, 50), LEVEL),)
NO_FAULT = (np.zeros(SHAPE, bool),)


def image(seed: int, sigma: float, stretch: float, width: float):
    """Peaks on a lattice, those far from the sphere dim; their predictions, raw values and expected photons."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*(np.arange(20, 381, 24),) * 2), -1).reshape(-1, 2) + rng.uniform(-3, 3, (256, 2))
    off = rng.uniform(0, WIDEST, len(at))
    strength = rng.exponential(4000, len(at)) * np.exp(-0.5 * (off / width) ** 2)
    along = radial_directions(MODEL, 0, at)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    peaks = np.zeros(SHAPE)
    for (fast, slow), (a, b), photons in zip(at, along, strength, strict=True):
        u, v = (x - fast) * a + (y - slow) * b, -(x - fast) * b + (y - slow) * a
        peaks += photons / (2 * np.pi * sigma**2) * np.exp(-0.5 * (u**2 / stretch + v**2 * stretch) / sigma**2)
    predicted = Predicted(np.zeros(len(at), np.int32), at, off, np.full(len(at), 0.4))
    return predicted, rng.poisson(LEVEL + peaks).astype(np.int32), peaks


@pytest.mark.parametrize(("sigma", "stretch", "width"), [(0.8, 1.0, 0.001), (1.2, 1.4, 0.002), (1.8, 1.3, 0.0008)])
def test_profile_shape_and_excitation_error_are_measured(sigma, stretch, width):
    measured = nothing_measured()
    for seed in range(6):
        predicted, values, _ = image(seed, sigma, stretch, width)
        measured = add_measured(measured, measure(predicted, (values,), MODEL, BLOCKS, NO_FAULT, Q_MAX, WIDEST))
    model = spot_model(measured, Q_MAX, WIDEST, 0.05)
    here = 2  # the bin of |q| = 0.4
    # Between 1.5 and 4.5 standard deviations of the excitation error.
    assert 1.5 * width < model.width[here] < 4.5 * width + WIDEST / 16
    assert abs(model.stretch[here] - stretch) < 0.3
    inside = 1 - np.exp(-0.5 * (CORE / sigma) ** 2)
    assert model.profile[here, 0] == pytest.approx(1 / (2 * np.pi * sigma**2) / inside, rel=0.35)
    assert (np.diff(model.profile[here]) <= 0).all()
    one, two = model.radius(np.array([0.4, 0.4]), np.array([100.0, 10000.0]), np.array([10.0, 10.0]), 0.05)
    assert CORE <= one < two < 14


def test_few_peaks_make_no_model():
    assert spot_model(nothing_measured(), Q_MAX, WIDEST, 0.05) is None


def test_a_fault_is_left_out_of_the_sums():
    values = np.full(SHAPE, 10, np.int32)
    values[100, 100] = 100000
    px = np.array([[100.5, 100.5]])
    faults = np.zeros(SHAPE, bool)
    whole = photon_sums(values, faults, px, BLOCKS[0], 1.0, 0.0, (0, 1e6))[0]
    faults[100, 100] = True
    rest = photon_sums(values, faults, px, BLOCKS[0], 1.0, 0.0, (0, 1e6))[0]
    assert whole[1] - rest[1] == 100000 and whole[0] - rest[0] == 1
    assert rest[1] / rest[0] == 10 and rest[4] / rest[3] == 10


def test_an_ellipse_holds_its_core_and_lowers_only():
    classes = np.full((60, 60), DIFFUSE)
    classes[30, 30] = 0
    along = np.array([[1.0, 0.0]])
    paint_ellipses(classes, np.array([[30.5, 30.5]]), along, np.array([6.0]), np.array([1.96]), BRAGG)
    slow, fast = np.nonzero(classes == BRAGG)
    assert classes[30, 30] == 0
    assert fast.max() - fast.min() == 16 and slow.max() - slow.min() == 8


def test_peaks_stand_out_and_broad_features_do_not():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    broad = 200 * np.exp(-((y - 100) ** 2 + (x - 100) ** 2) / (2 * 15**2))
    sharp = 200 * np.exp(-((y - 300) ** 2 + (x - 300) ** 2) / (2 * 1.2**2))
    values = np.random.default_rng(0).poisson(10 + broad + sharp)
    places = np.array([[100, 100], [300, 300], [300, 302]])
    values[100, 100], values[300, 300] = 240, 260
    assert stand_out(values, places, 1.0, 0.0, (0, 1e6)).tolist() == [False, True, False]


@pytest.mark.parametrize(("tight", "expected"), [(7, 0), (4, 1), (3, 2)])
def test_masks_grow_until_nothing_leaks(tight, expected):
    predicted, values, peaks = image(3, 1.5, 1.0, 0.01)
    classes = np.full(SHAPE, DIFFUSE)
    n = len(predicted.q)
    along = radial_directions(MODEL, 0, predicted.px)
    paint_ellipses(classes, predicted.px, along, np.full(n, float(tight)), np.ones(n), BRAGG)
    leaks = leaks_around((values,), (classes,), MODEL, BLOCKS, Q_MAX)
    growth = needed_growth(leaks, 0.1).max()
    assert growth >= expected and (expected > 0 or growth == 0)
    assert leaks.photons.shape[1] == FAR and leaks.seen.sum() == values.size
    assert leaks.beside() > 0.1 if expected else leaks.beside() < 0.1


def test_levels_follow_the_brightness_of_an_image():
    rng = np.random.default_rng(1)
    pattern = rng.uniform(5, 20, (50, 50))
    levels = mean_levels([(pattern * b,) for b in (0.5, 1.0, 2.0)])
    assert isinstance(levels, Levels)
    image_of = np.repeat(np.repeat(pattern * 3, 8, 0), 8, 1)
    counts = rng.poisson(image_of)
    counts[::40, ::40] = 100000
    (on,) = levels.on((counts,), MODEL.panels)
    assert np.abs(on / (pattern * 3) - 1).max() < 0.05
