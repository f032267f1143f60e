"""Each kernel against the same rule written with numpy, and the shapes against dxtbx."""

from __future__ import annotations

import numpy as np
import pytest
from dials.util.masking import generate_ice_ring_resolution_ranges, phil_scope
from dxtbx import flumpy, masking
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation
from scitbx.array_family import flex

from diffuse_framework.algorithms.geometry import highest_resolution, pixel_positions, scattering_vectors
from diffuse_framework.algorithms.masking.shapes import (
    centring_conditions,
    every_nth,
    ice_rings,
    in_border,
    in_circle,
    in_polygon,
    in_rectangle,
    in_resolution,
    lattice_possible,
    near_nodes,
    outside_intensity,
    paint_around,
    paint_panels,
    predicted_spots,
    within_range,
)
from diffuse_framework.model.conventions import BRAGG, DIFFUSE, UNTRUSTED
from diffuse_framework.testing.fakes import geometry

SHAPE = (23, 31)
seeds = st.integers(0, 2**32 - 1)
limits = st.sampled_from([-np.inf, -1.0, -0.5, 0.0, 1.0, 7.25, 200.0, 3e9, 1e30, np.inf])


@settings(deadline=None)
@given(
    values=st.sampled_from(["u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"]).flatmap(
        lambda kind: hnp.arrays(np.dtype(kind), (5, 7))
    ),
    low=limits,
    high=limits,
)
def test_a_value_is_trusted_if_it_is_a_number_between_the_limits(values, low, high):
    before = values.copy()
    classes = within_range(values, low, high)
    # Python's numbers compare exactly, whatever their size.
    expected = [[low <= value <= high and abs(value) < np.inf for value in row] for row in values.tolist()]
    assert classes.dtype == np.uint8
    assert np.array_equal(classes == DIFFUSE, expected)
    assert np.array_equal(classes == UNTRUSTED, ~np.array(expected))
    assert np.array_equal(values, before, equal_nan=values.dtype.kind == "f")


def test_not_a_number_is_never_trusted():
    values = np.array([[np.nan, np.inf, -np.inf, 1.0]])
    assert within_range(values, -np.inf, np.inf).tolist() == [[0, 0, 0, 2]]


def of_dxtbx(mark, *arguments) -> np.ndarray:
    """Pixels that a function of dxtbx removes."""
    mask = flex.bool(flex.grid(*SHAPE), True)
    mark(mask, *arguments)
    return ~flumpy.to_numpy(mask)


@settings(deadline=None)
@given(fast=st.integers(0, 30), slow=st.integers(0, 22), radius=st.integers(1, 12))
def test_circles_are_those_of_dxtbx(fast, slow, radius):
    expected = of_dxtbx(masking.mask_untrusted_circle, fast, slow, radius)
    assert np.array_equal(in_circle(SHAPE, fast, slow, radius), expected)


@settings(deadline=None)
@given(
    x=st.lists(st.integers(0, 31), min_size=2, max_size=2, unique=True),
    y=st.lists(st.integers(0, 23), min_size=2, max_size=2, unique=True),
)
def test_rectangles_are_those_of_dxtbx(x, y):
    numbers = (*sorted(x), *sorted(y))
    assert np.array_equal(in_rectangle(SHAPE, *numbers), of_dxtbx(masking.mask_untrusted_rectangle, *numbers))


@settings(deadline=None)
@given(seed=seeds, n_corners=st.integers(4, 9))
def test_polygons_are_those_of_dxtbx(seed, n_corners):
    rng = np.random.default_rng(seed)
    # Corners off the half integers: no pixel's centre falls on an edge.
    corners = rng.uniform((0, 0), SHAPE[::-1], (n_corners, 2))
    angle = np.arctan2(*(corners - corners.mean(axis=0)).T)
    corners = corners[np.argsort(angle)]
    expected = of_dxtbx(masking.mask_untrusted_polygon, flex.vec2_double([tuple(c) for c in corners]))
    assert np.array_equal(in_polygon(SHAPE, corners), expected)


def test_a_polygon_may_reach_off_the_panel():
    inside = in_polygon(SHAPE, [(-50, -50), (10, -50), (10, 60), (-50, 60)])
    assert inside[:, :10].all() and not inside[:, 10:].any()
    assert not in_polygon(SHAPE, [(-9, -9), (-2, -9), (-2, -3)]).any()


@settings(deadline=None)
@given(width=st.integers(0, 40))
def test_the_border_is_as_wide_as_asked(width):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    to_edge = np.minimum(np.minimum(y, SHAPE[0] - 1 - y), np.minimum(x, SHAPE[1] - 1 - x))
    assert np.array_equal(in_border(SHAPE, width), to_edge < width)


def test_resolution_limits_take_in_their_ends():
    q_length = np.array([[0.1, 0.25, 0.5, 1.0]])
    assert in_resolution(q_length, 1.0, 4.0).tolist() == [[False, True, True, True]]
    assert in_resolution(q_length, 0.0, np.inf).all()


def test_ice_rings_are_those_of_dials():
    params = phil_scope.extract().ice_rings
    params.filter, params.d_min = True, 1.5
    # A beam and panel are asked only where d_min is not given.
    theirs = {tuple(np.round(sorted(r), 6)) for r in generate_ice_ring_resolution_ranges(None, None, params)}
    ours = {tuple(np.round(r, 6)) for r in ice_rings(1.5, params.width)}
    assert ours == theirs and len(ours) > 10


@settings(deadline=None)
@given(
    seed=seeds,
    n=st.integers(0, 12),
    radius=st.floats(0.1, 9),
    disk=st.booleans(),
    pixel_class=st.sampled_from([UNTRUSTED, BRAGG]),
)
def test_painting_marks_what_is_near_and_raises_nothing(seed, n, radius, disk, pixel_class):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, SHAPE, dtype=np.uint8)
    centres = rng.uniform(-8, 40, (n, 2))
    painted = classes.copy()
    paint_around(painted, centres, radius, pixel_class, disk)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    dx, dy = x[..., None] - centres[:, 0], y[..., None] - centres[:, 1]
    near = dx**2 + dy**2 <= radius**2 if disk else np.maximum(abs(dx), abs(dy)) <= radius
    expected = np.where(near.any(axis=-1), np.minimum(classes, pixel_class), classes)
    assert np.array_equal(painted, expected)


def test_spots_that_miss_or_are_unknown_are_left_out():
    px = np.array([[5.0, 5.0], [np.nan, 3.0], [10.0, 10.0]])
    first, second = paint_panels([SHAPE, SHAPE], np.array([0, 1, -1]), px, 2.0)
    assert (first == BRAGG).sum() == 12 and (second == DIFFUSE).all()


CENTRINGS = {"P212121": 1, "C2": 2, "I222": 2, "F23": 4, "A2": 2, "B2": 2, "R3:H": 3, "R3:R": 1, "R32": 3}


@pytest.mark.parametrize(("symbol", "divisor"), CENTRINGS.items())
def test_a_centred_lattice_has_its_share_of_nodes(symbol, divisor):
    hkl = np.stack(np.meshgrid(*[np.arange(-6, 6)] * 3, indexing="ij"), -1).reshape(-1, 3)
    possible = lattice_possible(hkl, centring_conditions(symbol))
    assert possible.sum() * divisor == len(hkl)


@pytest.mark.parametrize("symbol", ["P1", "C121", "I41", "F222", "R3:H", "R3:R", "P3121"])
def test_nodes_are_those_that_cctbx_allows(symbol):
    from cctbx import sgtbx

    group = sgtbx.space_group_info(symbol).group()
    # The centring alone: cctbx's own test of absences holds screw axes too.
    translations = [np.array(op.t().as_double()) for op in group.all_ops() if op.r().is_unit_mx()]
    hkl = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    expected = np.ones(len(hkl), bool)
    for translation in translations:
        phase = hkl @ translation
        expected &= np.isclose(phase, np.rint(phase))
    assert np.array_equal(lattice_possible(hkl, centring_conditions(symbol)), expected)


@settings(deadline=None)
@given(seed=seeds, symbol=st.sampled_from(sorted(CENTRINGS)), d_min=st.sampled_from([0.0, 2.0, 5.0]))
def test_nodes_are_marked_within_their_ellipsoid(seed, symbol, d_min):
    rng = np.random.default_rng(seed)
    setting = Rotation.random(random_state=rng.integers(2**31)).as_matrix() @ np.diag(1 / rng.uniform(10, 40, 3))
    q = rng.normal(scale=0.2, size=(9, 11, 3)).astype(np.float32)
    root = rng.normal(size=(3, 3))
    form = root @ root.T * 20 + np.eye(3)
    conditions = centring_conditions(symbol)
    classes = near_nodes(q, setting, form, d_min, conditions)
    hkl = q.astype(float) @ np.linalg.inv(setting).T
    nearest = np.floor(hkl + 0.5)
    distance = hkl - nearest
    inside = np.einsum("...i,ij,...j->...", distance, form, distance) <= 1
    inside &= lattice_possible(nearest.reshape(-1, 3), conditions).reshape(inside.shape)
    if d_min:
        inside &= np.linalg.norm(q, axis=-1) <= 1 / d_min
    assert np.array_equal(classes == BRAGG, inside)
    assert set(np.unique(classes)) <= {BRAGG, DIFFUSE}


@settings(deadline=None)
@given(seed=seeds, low=limits, high=limits)
def test_intensities_are_compared_after_correction(seed, low, high):
    rng = np.random.default_rng(seed)
    values = rng.poisson(3.0, (6, 8)).astype(np.int32)
    response = rng.uniform(0.1, 0.2, (6, 8)).astype(np.float32)
    classes = outside_intensity(values, response, 0.5, 2.0, 1.0, low, high)
    intensity = (values - 1.0) / 2.0 / (response.astype(float) * 0.5)
    # At the limit itself the two ways of writing the rule round differently.
    clear = ~np.isclose(intensity, low) & ~np.isclose(intensity, high)
    assert np.array_equal((classes == DIFFUSE)[clear], ((intensity >= low) & (intensity <= high))[clear])


def test_a_pixel_without_response_has_no_intensity():
    classes = outside_intensity(np.ones((1, 2), np.int32), np.array([[0.0, 1.0]], np.float32), 1, 1, 0, 0, 9)
    assert classes.tolist() == [[UNTRUSTED, DIFFUSE]]


@settings(deadline=None)
@given(step=st.integers(1, 9))
def test_the_step_takes_every_nth_pixel(step):
    classes = every_nth(SHAPE, step)
    y, x = np.nonzero(classes == DIFFUSE)
    assert (y % step == 0).all() and (x % step == 0).all()
    assert len(y) == -(-SHAPE[0] // step) * -(-SHAPE[1] // step)


def test_predictions_lie_where_their_scattering_vectors_do():
    model = geometry(2, distance_mm=15.0)
    setting = Rotation.from_euler("xyz", [20, 30, 40], degrees=True).as_matrix() @ np.diag([0.05, 0.04, 0.03])
    panel, px = predicted_spots(setting, model, 0.0, 0.0005, 0.1, centring_conditions("I222"))
    assert (panel >= 0).sum() > 10
    for number in range(2):
        q = scattering_vectors(pixel_positions(model.panels[number]), model.beam)
        for fast, slow in np.floor(px[panel == number]).astype(int):
            hkl = np.linalg.solve(setting, q[slow, fast])
            assert np.abs(hkl - np.rint(hkl)).max() < 0.2
            assert np.rint(hkl).sum() % 2 == 0
    everything = predicted_spots(setting, model, highest_resolution(model), 0.0005, 0.1, centring_conditions("I222"))
    assert np.array_equal(everything[0], panel)
