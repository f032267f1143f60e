from __future__ import annotations

import numpy as np
import pytest
from iotbx.phil import parse
from scipy.spatial.transform import Rotation

from diffuse_framework.algorithms.geometry import pixel_q
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.testing.fakes import geometry, orthorhombic_symmetry
from diffuse_plugins.masker_reciprocal import ReciprocalMasker


def make(text: str = "") -> ReciprocalMasker:
    return ReciprocalMasker.from_params(parse(ReciprocalMasker.phil).fetch(parse(text)).extract())


MODEL = geometry(2, distance_mm=20.0)
SETTING = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix() @ np.array(
    [[0.02, 0.004, 0.001], [0.0, 0.015, 0.002], [0.0, 0.0, 0.011]]
)
IMAGE = Image("a.cbf", 0, 0, 1.0, SETTING)
EXPERIMENT = Experiment((MODEL,), orthorhombic_symmetry(), (IMAGE,))
Q = tuple(pixel_q(panel, MODEL.beam) for panel in MODEL.panels)
TABLE = PixelTable(Q, tuple(np.ones(panel.shape, np.float32) for panel in MODEL.panels))


def bragg(text: str) -> np.ndarray:
    masker = make(text).prepare(None, EXPERIMENT, None)
    return np.stack(masker.image_mask(None, IMAGE, MODEL, TABLE).panels) == 1


def distance() -> np.ndarray:
    hkl = np.stack(Q).astype(float) @ np.linalg.inv(SETTING).T
    return hkl - np.rint(hkl)


def test_the_ellipsoid_has_the_radii_along_each_axis():
    expected = (np.square(distance() / [0.2, 0.1, 0.3]).sum(axis=-1)) <= 1
    assert (bragg("radii=0.2,0.1,0.3") != expected).mean() < 1e-3
    assert 0.01 < expected.mean() < 0.5


def test_the_sphere_has_its_radius_in_the_laboratory():
    expected = np.linalg.norm(distance() @ SETTING.T, axis=-1) <= 0.003
    assert (bragg("radius=0.003") != expected).mean() < 1e-3
    assert 0.01 < expected.mean() < 0.5


def test_a_resolution_limit_keeps_what_lies_beyond():
    everything, low = bragg(""), bragg("d_min=8")
    inside = np.linalg.norm(np.stack(Q), axis=-1) <= 1 / 8
    assert np.array_equal(low, everything & inside)
    assert 0 < low.sum() < everything.sum()


@pytest.mark.parametrize("text", ["radii=0.1,0,0.1", "radii=0.1,0.6,0.1", "radii=None", "radius=0"])
def test_ellipsoids_without_size_or_without_bound_are_refused(text):
    with pytest.raises(ConfigError, match="radi"):
        make(text)


def test_a_sphere_that_reaches_the_next_node_is_refused():
    with pytest.raises(ConfigError, match="radius=0.02 .* a.cbf"):
        make("radius=0.02").prepare(None, EXPERIMENT, None)
