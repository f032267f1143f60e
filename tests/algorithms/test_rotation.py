"""Turning crystals: orientations, sub-steps and what they do to sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation as Turn

from diffuse_framework.algorithms.binning import VoxelAdder
from diffuse_framework.algorithms.geometry import pixel_q
from diffuse_framework.algorithms.rotation import (
    crossings,
    index_sweep,
    misorientation_deg,
    n_substeps,
    sub_settings,
    turn,
)
from diffuse_framework.model.conventions import DIFFUSE
from diffuse_framework.model.experiment import Rotation
from diffuse_framework.model.lattice import reciprocal_basis
from diffuse_framework.testing.fakes import geometry, orthorhombic_grid

CELL = (20.0, 25.0, 30.0, 90.0, 90.0, 90.0)
SETTING = Turn.from_euler("xyz", [20, -35, 70], degrees=True).as_matrix() @ reciprocal_basis(CELL)
angles = st.floats(-np.pi, np.pi)
unit_vectors = (
    st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1).map(lambda v: v / np.linalg.norm(v))
)


@given(axis=unit_vectors, angle=angles)
@settings(deadline=None)
def test_turning_is_what_scipy_does(axis, angle):
    assert np.allclose(turn(axis, angle)[0], Turn.from_rotvec(axis * angle).as_matrix(), atol=1e-12)


@given(axis=unit_vectors, width=st.floats(0.01, 5.0), n=st.integers(1, 7))
@settings(deadline=None)
def test_parts_of_an_image_are_centred_on_its_middle(axis, width, n):
    rotation = Rotation(axis, 0.0, width)
    parts = sub_settings(SETTING, rotation, n)
    assert parts.shape == (n, 3, 3)
    for number, part in enumerate(parts):
        expected = width * ((number + 0.5) / n - 0.5)
        assert np.isclose(misorientation_deg(SETTING, part), abs(expected), atol=1e-5)


@given(axis=unit_vectors, direction=unit_vectors, width=st.floats(0.01, 2.0))
@settings(deadline=None)
def test_no_voxel_index_changes_by_more_than_the_sweep(axis, direction, width):
    rotation = Rotation(axis, 0.0, width)
    divisions, d_min = (2, 3, 4), 2.0
    q = direction / d_min
    ends = turn(axis, np.radians([-width / 2, width / 2]))
    first, last = (np.linalg.inv(end @ SETTING) @ q * divisions for end in ends)
    assert np.abs(last - first).max() <= index_sweep(SETTING, rotation, divisions, d_min) * (1 + 1e-9)


def test_as_many_parts_as_needed_and_no_more():
    assert [n_substeps(sweep, 1.0, 5) for sweep in (0.0, 0.3, 1.0, 1.01, 3.9, 12.0)] == [1, 1, 1, 2, 4, 5]


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_crossing_points_lie_on_the_sphere_or_at_the_end(seed):
    rng = np.random.default_rng(seed)
    beam = geometry().beam
    rotation = Rotation(np.array([1.0, 0.0, 0.0]), 0.0, 2.0)
    q = rng.normal(size=(50, 3)) * 0.2
    found, points = crossings(q, beam, rotation)
    distance = np.linalg.norm(points + beam.s0, axis=1) - 1
    inside = np.abs(found) < np.radians(1.0) * (1 - 1e-9)
    rate = np.abs((np.cross(rotation.axis, points) * (points + beam.s0)).sum(axis=1))
    assert (np.abs(distance[inside & (rate > 1e-2)]) < 1e-7).all()
    assert np.allclose(np.linalg.norm(points, axis=1), np.linalg.norm(q, axis=1))


def add(setting_matrix, mask_value=DIFFUSE):
    """Sums of a small panel of random counts."""
    model = geometry(shape=(40, 50), distance_mm=15.0)
    (panel,) = model.panels
    rng = np.random.default_rng(0)
    q = pixel_q(panel, model.beam)
    values = rng.poisson(3.0, panel.shape).astype(np.int32)
    response = rng.random(panel.shape).astype(np.float32)
    background = rng.random(panel.shape).astype(np.float32)
    adder = VoxelAdder(orthorhombic_grid(CELL, d_min=1.0))
    mask = np.full(panel.shape, mask_value)
    return adder.add(0, 0, values, mask, q, response, setting_matrix, 2.0, 1.5, 0.5, background, background), adder


@pytest.mark.parametrize("mask_value", [np.uint8(1), np.uint8(2)])
def test_parts_share_out_all_there_is(mask_value):
    whole, _ = add(SETTING, mask_value)
    parts, _ = add(sub_settings(SETTING, Rotation(np.array([1.0, 0, 0]), 0.0, 4.0), 5), mask_value)
    assert len(parts) > len(whole)
    for name in ("counts", "exposure", "pixels", "background", "background_variance"):
        for column in (name, f"bragg_{name}"):
            assert np.isclose(getattr(parts, column).sum(), getattr(whole, column).sum(), rtol=1e-5), column


def test_equal_parts_are_the_whole():
    whole, adder = add(SETTING)
    same, _ = add(np.stack([SETTING] * 4))
    for name in ("voxel", "operator", "counts", "exposure", "pixels", "fast", "slow", "background"):
        assert np.allclose(getattr(same, name), getattr(whole, name), rtol=1e-6), name
    # Nothing is left in the scratch memory for the next image.
    assert not adder._slot.any()
