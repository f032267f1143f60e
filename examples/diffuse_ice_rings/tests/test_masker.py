from __future__ import annotations

import numpy as np
import pytest
from diffuse_ice_rings.masker import IceRingMasker
from diffuse_ice_rings.rings import Criteria, find_rings

from diffuse_framework.algorithms.geometry import pixel_q
from diffuse_framework.model.conventions import UNTRUSTED
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame
from diffuse_framework.testing.conformance import conformance_tests
from diffuse_framework.testing.fakes import geometry

test_contract = conformance_tests("masker", IceRingMasker, max_examples=10)

# Hexagonal ice, 1/d in 1/angstrom.
ICE_Q = 1 / np.array([3.90, 3.67, 3.44])


@pytest.fixture(scope="module")
def setup():
    """A detector of two panels that reaches 2.2 angstrom, and its pixels."""
    detector = geometry(n_panels=2, shape=(500, 250), distance_mm=80.0)
    q = tuple(pixel_q(panel, detector.beam) for panel in detector.panels)
    rng = np.random.default_rng(0)
    response = tuple(rng.uniform(0.9, 1.1, panel.shape).astype(np.float32) for panel in detector.panels)
    return detector, PixelTable(q, response)


def image(setup, level: float, rings: float, seed: int = 1, spots: int = 0, arc: bool = False) -> Frame:
    """Solvent scattering of `level` photons a pixel, rings of `rings` times as much, Bragg spots, a shadow."""
    _, pixels = setup
    rng = np.random.default_rng(seed)
    counts = []
    for q, response in zip(pixels.q, pixels.response, strict=True):
        length = np.sqrt(np.square(q).sum(-1))
        expected = level * (0.4 + np.exp(-0.5 * ((length - 0.3) / 0.07) ** 2))
        on_ring = sum(np.exp(-0.5 * ((length - centre) / 0.002) ** 2) for centre in ICE_Q)
        if arc:
            on_ring = on_ring * ((q[..., 0] > 0) & (q[..., 1] > 0))
        expected = expected + rings * level * on_ring
        values = rng.poisson(expected * response).astype(np.int32)
        for slow, fast in zip(*(rng.integers(0, size, spots) for size in values.shape), strict=True):
            values[slow : slow + 3, fast : fast + 3] += 500
        values[230:260, :60] = 0
        values[:5] = -1
        counts.append(values)
    return Frame("image", tuple(counts))


@pytest.mark.parametrize(
    ("level", "rings", "spots"), [(20.0, 0.5, 0), (20.0, 0.5, 100), (2.0, 1.0, 100), (0.3, 3.0, 0)]
)
def test_the_rings_of_ice_are_found_and_nothing_else(setup, level, rings, spots):
    frame = image(setup, level, rings, spots=spots)
    found = find_rings(frame, *setup, Criteria())
    assert len(found) == 3
    for ring, centre in zip(found, sorted(ICE_Q), strict=True):
        assert ring.low < centre - 0.003 and centre + 0.003 < ring.high
        assert ring.high - ring.low < 0.03


@pytest.mark.parametrize("level", [0.05, 1.0, 50.0, 2000.0])
@pytest.mark.parametrize("seed", range(2))
def test_an_image_without_rings_loses_nothing(setup, level, seed):
    frame = image(setup, level, 0.0, seed, spots=50)
    assert find_rings(frame, *setup, Criteria()) == []
    assert IceRingMasker().image_mask(frame, None, *setup) is None


def test_an_arc_is_no_ring(setup):
    assert find_rings(image(setup, 20.0, 2.0, arc=True), *setup, Criteria()) == []


def test_the_mask_holds_the_rings(setup):
    mask = IceRingMasker().image_mask(image(setup, 20.0, 1.0), None, *setup)
    masked = mask.count(UNTRUSTED) / setup[0].n_pixels
    assert 0.03 < masked < 0.25
    for q, classes in zip(setup[1].q, mask.panels, strict=True):
        length = np.sqrt(np.square(q).sum(-1))
        for centre in ICE_Q:
            assert (classes[np.abs(length - centre) < 0.003] == UNTRUSTED).all()


def test_a_dark_image_has_no_rings(setup):
    frame = Frame("dark", tuple(np.zeros(panel.shape, np.int32) for panel in setup[0].panels))
    assert find_rings(frame, *setup, Criteria()) == []
