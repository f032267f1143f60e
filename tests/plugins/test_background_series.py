"""A background measured as a series of images without crystal."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from iotbx.phil import parse

from diffuse_framework.errors import DataError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.model.experiment import Image, Rotation
from diffuse_framework.simulate.cbf import write_cbf
from diffuse_framework.simulate.detector import header_beam, pilatus

GEOMETRY = pilatus((1, 1), 100.0, header_beam(1.0)).geometry
SECONDS = 0.2


def rate(angle_deg: float) -> float:
    """Photons per pixel and second behind the images."""
    return 30.0 * (1 + 0.5 * np.cos(np.radians(angle_deg)))


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Thirty-six images of ten degrees each; one pixel is dead on all, one on the first."""
    folder = tmp_path_factory.mktemp("empty")
    rng = np.random.default_rng(0)
    (panel,) = GEOMETRY.panels
    for number in range(36):
        counts = rng.poisson(rate(10 * number + 5) * SECONDS, panel.shape).astype(np.int32)
        counts[50, 60] = -1
        if number == 0:
            counts[70, 80] = -1
        path = folder / f"empty_{number + 1:04d}.cbf"
        write_cbf(path, path.name, counts, GEOMETRY, SECONDS, 10.0 * number, 10.0)
    return folder


def corrector(folder, range_deg: float = 20.0):
    """The corrector on the series."""
    plugin = load_registry().find("corrector", "background").factory
    text = f'series.images="{folder}/empty_####.cbf"\nseries.range={range_deg}'
    return plugin.from_params(parse(plugin.phil).fetch(parse(text)).extract())


def image(angle_deg: float | None, seconds: float = 0.5) -> Image:
    """An image at an angle, or a still."""
    rotation = None if angle_deg is None else Rotation(np.array([1.0, 0, 0]), angle_deg, 1.0)
    return Image("a", 0, 0, seconds, np.eye(3), rotation=rotation)


@pytest.mark.parametrize("angle_deg", [3.0, 90.0, 185.0, -10.0])
def test_the_background_is_that_of_the_angle(series, angle_deg):
    found = corrector(series).background(image(angle_deg), GEOMETRY)
    start = np.floor((angle_deg % 360) / 20) * 20
    expected = 0.5 * np.mean([rate(start + 5), rate(start + 15)])
    good = found.counts[0]
    assert good.mean() == pytest.approx(expected, rel=0.01)
    # Two images of 0.2 s make up 0.5 s of background: its variance is 0.5^2 x rate / 0.4.
    assert found.variance[0].mean() == pytest.approx(expected * 0.5 / 0.4, rel=0.02)
    assert good.var() == pytest.approx(found.variance[0].mean(), rel=0.05)


def test_pixels_without_measurement_take_their_neighbours(series):
    found = corrector(series).background(image(5.0), GEOMETRY)
    expected = 0.5 * np.mean([rate(5), rate(15)])
    assert found.counts[0][50, 60] == pytest.approx(expected, rel=0.2)
    # Seen on one of the two images only: twice the variance of the others.
    assert found.variance[0][70, 80] == pytest.approx(2 * found.variance[0][100, 100], rel=0.2)


def test_stills_take_the_average_of_all(series):
    found = corrector(series).background(image(None), GEOMETRY)
    assert found.counts[0].mean() == pytest.approx(0.5 * 30.0, rel=0.01)


def test_it_travels(series):
    there = pickle.loads(pickle.dumps(corrector(series)))
    first, second = (c.background(image(45.0), GEOMETRY) for c in (corrector(series), there))
    assert (first.counts[0] == second.counts[0]).all()


def test_another_detector_is_refused(series):
    other = pilatus((1, 2), 100.0, header_beam(1.0)).geometry
    with pytest.raises(DataError, match="the background image empty_0001.cbf has panels of"):
        corrector(series).background(image(5.0), other)
