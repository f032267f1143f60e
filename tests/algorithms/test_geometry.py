from __future__ import annotations

import numpy as np
import pytest
from dxtbx.model import BeamFactory, DetectorFactory, ParallaxCorrectedPxMmStrategy
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diffuse_framework.adapters.models.geometry import geometry_of
from diffuse_framework.algorithms.geometry import (
    highest_resolution,
    mm_to_px,
    pixel_positions,
    project,
    px_to_mm,
    q_at_px,
    reflections_near_ewald,
    scattering_vectors,
)
from diffuse_framework.model.lattice import reciprocal_basis


def beam_and_detector(thickness: float = 0.45, tilt_deg: float = 3.0):
    """A small tilted detector with a thick sensor."""
    beam = BeamFactory.simple(1.0)
    detector = DetectorFactory.simple(
        "PAD",
        100.0,
        (25.0, 30.0),
        "+x",
        "-y",
        (0.172, 0.172),
        (300, 350),
        (-1, 10000),
        [],
        ParallaxCorrectedPxMmStrategy(3.9, thickness),
    )
    panel = detector[0]
    panel.set_thickness(thickness)
    panel.set_mu(3.9)
    turn = Rotation.from_euler("xy", [tilt_deg, -tilt_deg], degrees=True)
    panel.set_frame(
        *(tuple(turn.apply(vector)) for vector in (panel.get_fast_axis(), panel.get_slow_axis(), panel.get_origin()))
    )
    return beam, detector


def test_pixels_are_where_dxtbx_has_them():
    beam, detector = beam_and_detector()
    geometry = geometry_of(beam, detector)
    panel = geometry.panels[0]
    assert panel.parallax
    positions = pixel_positions(panel)
    for slow, fast in ((0, 0), (349, 299), (120, 7)):
        expected = detector[0].get_pixel_lab_coord((fast + 0.5, slow + 0.5))
        assert np.allclose(positions[slow, fast], expected, rtol=0, atol=1e-12)
    q = scattering_vectors(positions, geometry.beam)
    expected = 1 / detector[0].get_resolution_at_pixel(beam.get_s0(), (100.5, 200.5))
    assert np.isclose(np.linalg.norm(q[200, 100]), expected, rtol=1e-9)


def test_a_calibration_dxtbx_knows_more_of_is_taken_pixel_by_pixel():
    beam, detector = beam_and_detector()
    # Sensor values of the panel that differ from those of its parallax strategy.
    detector[0].set_thickness(1.0)
    panel = geometry_of(beam, detector).panels[0]
    assert not panel.parallax and panel.pixel_mm is not None
    expected = detector[0].get_pixel_lab_coord((11.5, 20.5))
    assert np.allclose(pixel_positions(panel)[20, 11], expected, rtol=0, atol=1e-12)


@given(fast=st.floats(0, 300), slow=st.floats(0, 350))
def test_millimetres_and_pixels_are_those_of_dxtbx(fast, slow):
    beam, detector = beam_and_detector()
    panel = geometry_of(beam, detector).panels[0]
    mm = detector[0].pixel_to_millimeter((fast, slow))
    assert np.allclose(px_to_mm(panel, np.array([fast, slow])), mm, rtol=0, atol=1e-12)
    px = detector[0].millimeter_to_pixel(mm)
    assert np.allclose(mm_to_px(panel, np.array(mm)), px, rtol=0, atol=1e-9)


def test_trusted_range_is_that_of_the_panel_itself():
    from dxtbx import flumpy

    beam, detector = beam_and_detector()
    low, high = geometry_of(beam, detector).panels[0].trusted_range
    values = np.zeros((350, 300))
    values[0, :6] = (-1, -0.5, 0, 9999, 10000, 10001)
    mask = flumpy.to_numpy(detector[0].get_trusted_range_mask(flumpy.from_numpy(values)))
    assert (((values >= low) & (values <= high)) == mask).all()


def test_projection_undoes_pixel_positions_and_marks_misses():
    geometry = geometry_of(*beam_and_detector())
    px = np.array([[10.3, 20.2], [299.0, 349.0], [150.0, 0.1]])
    q = q_at_px(geometry, np.zeros(3, int), px)
    panel, found = project(geometry, np.concatenate([q + geometry.beam.s0, [[0, 0, 1.0]]]))
    assert list(panel) == [0, 0, 0, -1]
    # The two parallax corrections of dxtbx are inverse to each other to 1e-3 pixels only.
    assert np.allclose(found[:3], px, atol=2e-3)


def test_highest_resolution_is_that_of_the_corners():
    beam, detector = beam_and_detector()
    corners = detector[0].get_max_resolution_at_corners(beam.get_s0())
    assert np.isclose(highest_resolution(geometry_of(beam, detector)), corners, rtol=1e-3)


@given(seed=st.integers(0, 10**6), width=st.floats(1e-4, 3e-3), mosaic=st.floats(0, 0.5))
def test_reflections_near_the_ewald_sphere_are_all_found(seed, width, mosaic):
    geometry = geometry_of(*beam_and_detector())
    rng = np.random.default_rng(seed)
    cell = (rng.uniform(10, 30), rng.uniform(10, 30), rng.uniform(10, 30), 90, rng.uniform(80, 100), 90)
    matrix = Rotation.random(random_state=seed).as_matrix() @ reciprocal_basis(cell)
    found = reflections_near_ewald(matrix, geometry.beam, 2.5, width, mosaic)
    every = np.stack(np.meshgrid(*[np.arange(-13, 14)] * 3, indexing="ij"), -1).reshape(-1, 3)
    q = every @ matrix.T
    length = np.linalg.norm(q, axis=1)
    distance = np.abs(np.linalg.norm(q + geometry.beam.s0, axis=1) - 1 / geometry.beam.wavelength)
    excited = (length > 0) & (length <= 1 / 2.5) & (distance <= width + np.radians(mosaic) / 2 * length)
    assert set(map(tuple, found)) == set(map(tuple, every[excited]))
    assert len(found) == excited.sum()


def test_a_panel_without_pixels_is_refused():
    from diffuse_framework.errors import GeometryError

    beam, detector = beam_and_detector()
    detector[0].set_image_size((0, 0))
    with pytest.raises(GeometryError, match="no pixels"):
        geometry_of(beam, detector)
