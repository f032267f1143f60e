"""A trusted range that cuts noise, and noise that no parameter tells."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.algorithms.validation.raw_values import lower_end, noise_of_dim_pixels
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.source import Frame
from diffuse_framework.testing.fakes import FramesInMemory, geometry, orthorhombic_symmetry
from diffuse_plugins.masker_trusted import TrustedMasker

SHAPE = (120, 130)


def image(seed: int, photons: float = 0.3, gain: float = 1.0, noise: float = 0.0, pedestal: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(photons, SHAPE) * gain + pedestal + noise * gain * rng.normal(size=SHAPE)


def prepared(frames: list[np.ndarray], **panel: object) -> None:
    model = geometry(1, SHAPE)
    model = replace(model, panels=tuple(replace(one, **panel) for one in model.panels))
    source = FramesInMemory(tuple(Frame(f"i{n}", (f,)) for n, f in enumerate(frames)), model, (1.0,) * len(frames))
    images = tuple(
        Image(name=name, source_index=n, geometry=0, setting_matrix=np.eye(3), exposure_s=1.0)
        for n, name in enumerate(source.names)
    )
    TrustedMasker().prepare(source, Experiment((model,), orthorhombic_symmetry(), images), None)


@pytest.mark.parametrize("n_images", [1, 2, 5])
@pytest.mark.parametrize("photons", [0.05, 0.3, 1.0])
def test_a_range_that_cuts_noise_is_refused_with_one_that_does_not(n_images, photons):
    frames = [image(n, photons, gain=20, noise=0.6) for n in range(n_images)]
    with pytest.raises(ConfigError, match="below the trusted range.*detector.trusted_range=-") as caught:
        prepared(frames, trusted_range=(0.0, 1e6), gain=20.0, read_noise=0.6)
    low, high = (float(text) for text in str(caught.value).split("range=")[-1].split(","))
    assert low < min(frame.min() for frame in frames) and high == 1e6
    prepared(frames, trusted_range=(low, high), gain=20.0, read_noise=0.6)


@pytest.mark.parametrize("n_images", [1, 3])
def test_counting_detectors_with_gaps_and_dead_pixels_go_on(n_images, caplog):
    frames = [image(n).astype(np.int32) for n in range(n_images)]
    bad = np.random.default_rng(5).random(SHAPE) < 0.005
    for frame in frames:
        frame[bad] = -2
        frame[40:47] = -1
        frame[:, 60:64] = -1
    with caplog.at_level(logging.WARNING):
        prepared(frames, trusted_range=(0.0, 1e6))
    assert not caplog.records


def test_counts_below_zero_are_named_with_their_noise(caplog):
    with caplog.at_level(logging.WARNING):
        prepared([image(n, noise=0.5) for n in range(2)], trusted_range=(-100.0, 1e6))
    assert "detector.read_noise=0.5" in caplog.text or "detector.read_noise=0.4" in caplog.text


def test_told_noise_needs_no_warning(caplog):
    with caplog.at_level(logging.WARNING):
        prepared([image(n, noise=0.5) for n in range(2)], trusted_range=(-100.0, 1e6), read_noise=0.5)
    assert not caplog.records


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_noise_of_dim_pixels_leaves_out_gradients_peaks_and_common_modes(noise):
    rng = np.random.default_rng(3)
    level = np.linspace(0.05, 3, SHAPE[0] * SHAPE[1]).reshape(SHAPE)
    photons = rng.poisson(level) + noise * rng.normal(size=SHAPE) + 0.3 * noise * rng.normal(size=(SHAPE[0], 1))
    photons[rng.random(SHAPE) < 0.01] += 1000
    assert noise_of_dim_pixels(photons, np.ones(SHAPE, bool)) == pytest.approx(noise, rel=0.25, abs=0.1)


def test_dead_pixels_are_no_cut_where_another_image_says_so():
    values = np.array([[3, -5, 4, 2, -1, 6]])
    assert lower_end(values, (0, 100), None).n_cut == 2
    assert lower_end(values, (0, 100), np.array([[True, False, True, True, True, True]])).n_cut == 1
