"""Images whose spots or cell disagree are rejected, and only those."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuse_framework.algorithms.geometry import project, q_at_px
from diffuse_framework.algorithms.validation.stills import Limits, spot_deviations, validate
from diffuse_framework.model.experiment import BraggSpots, Experiment, Image, Rejected, no_spots
from diffuse_framework.model.lattice import cell_of_matrix, reciprocal_basis
from diffuse_framework.testing import fakes

CELL = (50.0, 60.0, 70.0, 90.0, 90.0, 90.0)


def rotation(rng):
    """Return a random rotation matrix (3, 3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def make_image(number=0, cell=CELL, n_panels=2, shift_px=(0.0, 0.0), n_spots=40):
    """Return an image with spots exactly on the Ewald sphere, observed at a distance of their prediction.

    Setting matrices are made so that integer hkl lie on the sphere: spots are put at random
    places and the hkl are whatever the crystal makes of them, so they need not be integers.
    """
    rng = np.random.default_rng(number)
    geometry = fakes.geometry(n_panels)
    setting = rotation(rng) @ reciprocal_basis(cell)
    panel = rng.integers(0, n_panels, n_spots).astype(np.int32)
    px = rng.uniform(5, 40, (n_spots, 2))
    hkl = q_at_px(geometry, panel, px) @ np.linalg.inv(setting).T
    spots = replace(
        no_spots(),
        hkl=hkl,
        panel=panel,
        predicted_px=px,
        observed_px=px + np.array(shift_px),
        intensity=np.ones(n_spots),
        variance=np.ones(n_spots),
        partiality=np.full(n_spots, np.nan),
    )
    return Image(f"img_{number}.cbf", number, 0, 1.0, setting, spots=spots)


def make_experiment(images, n_panels=2, rejected=()):
    """Return an experiment of `images`."""
    geometries, symmetry = (fakes.geometry(n_panels),), fakes.orthorhombic_symmetry()
    return Experiment(geometries, symmetry, tuple(images), tuple(rejected))


@given(
    shift=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
    limit=st.floats(0.1, 5),
    n_panels=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_rms_in_pixels_is_the_shift_and_decides(shift, limit, n_panels):
    image = make_image(shift_px=shift, n_panels=n_panels)
    experiment = make_experiment([image], n_panels)
    accepted, checks = validate(experiment, Limits(max_rms_px=limit, max_rms_q=np.inf), CELL)
    assert checks.rms_px[0] == pytest.approx(np.hypot(*shift), abs=1e-9)
    assert len(accepted.images) + len(accepted.rejected) == 1
    assert bool(accepted.rejected) == (checks.rms_px[0] > limit)


def test_rms_in_reciprocal_space_is_that_of_the_positions():
    geometry = fakes.geometry(1)
    image = make_image(shift_px=(2.0, 0.0), n_panels=1)
    rms_px, rms_q = spot_deviations(image, geometry)
    # A pixel of 0.172 mm at 100 mm and 1 angstrom, near the axis.
    assert rms_q == pytest.approx(rms_px * 0.172 / 100, rel=0.05)


def test_reciprocal_lattice_points_off_the_sphere_count():
    """Spots where predicted may still be indexed wrongly: only the second check sees that."""
    image = make_image()
    off = replace(image, spots=replace(image.spots, hkl=image.spots.hkl + np.array([1, 0, 0])))
    experiment = make_experiment([image, off])
    accepted, checks = validate(experiment, Limits())
    np.testing.assert_allclose(checks.rms_q, [0, 1 / CELL[0]], atol=1e-12)
    np.testing.assert_allclose(checks.rms_px, 0)
    assert [rejected.stage for rejected in accepted.rejected] == ["validation"]
    assert "1/angstrom" in accepted.rejected[0].reason


@given(
    axis=st.integers(0, 5),
    change=st.floats(-0.2, 0.2),
    limit_percent=st.floats(0.5, 10),
    limit_deg=st.floats(0.2, 10),
)
@settings(max_examples=60, deadline=None)
def test_a_cell_is_refused_beyond_the_limit_only(axis, change, limit_percent, limit_deg):
    changed = list(CELL)
    changed[axis] *= 1 + change
    image = make_image(cell=tuple(changed))
    limits = Limits(max_length_deviation=limit_percent / 100, max_angle_deviation=limit_deg)
    accepted, checks = validate(make_experiment([image]), limits, CELL)
    np.testing.assert_allclose(checks.cells[0], changed, rtol=1e-9)
    deviation = abs(change) if axis < 3 else abs(change) * 90
    limit = limits.max_length_deviation if axis < 3 else limit_deg
    if abs(deviation - limit) > 1e-9:
        assert bool(accepted.rejected) == (deviation > limit)
    measured = checks.length_deviations if axis < 3 else checks.angle_deviations
    assert measured[0] == pytest.approx(deviation, abs=1e-9)


@given(order=st.permutations(range(7)))
@settings(max_examples=10, deadline=None)
def test_without_reference_the_median_decides_whatever_the_order(order):
    images = [make_image(number) for number in range(6)]
    images.append(make_image(6, cell=(50.0, 60.0, 80.0, 90.0, 90.0, 90.0)))
    accepted, checks = validate(make_experiment([images[i] for i in order]), Limits())
    assert not checks.is_given
    np.testing.assert_allclose(checks.reference, CELL, rtol=1e-9)
    (rejected,) = accepted.rejected
    assert rejected.name == "img_6.cbf"
    assert "c = 80.00" in rejected.reason and "median" in rejected.reason
    np.testing.assert_allclose(checks.spread, 0, atol=1e-9)


def test_images_without_observed_spots_are_unchecked_not_refused():
    blind = make_image(1)
    blind = replace(blind, spots=replace(blind.spots, observed_px=np.full((40, 2), np.nan)))
    empty = replace(make_image(2), spots=no_spots())
    accepted, checks = validate(make_experiment([make_image(0), blind, empty]), Limits())
    assert len(accepted.images) == 3
    assert checks.unchecked == ("img_1.cbf", "img_2.cbf")
    np.testing.assert_array_equal(checks.n_observed, [40, 0, 0])
    assert np.isnan(checks.rms_px[1:]).all() and np.isnan(checks.rms_q[1:]).all()


def test_input_is_left_alone_and_earlier_refusals_stay():
    before = Rejected("blank.cbf", "indexing", "no lattice")
    experiment = make_experiment([make_image(0), make_image(1, shift_px=(9, 0))], rejected=[before])
    copy = pickle.dumps(experiment)
    accepted, checks = validate(experiment, Limits())
    assert pickle.dumps(experiment) == copy
    assert [image.name for image in accepted.images] == ["img_0.cbf"]
    assert [rejected.name for rejected in accepted.rejected] == ["blank.cbf", "img_1.cbf"]
    assert accepted.geometries is experiment.geometries
    assert checks.names == ("img_0.cbf", "img_1.cbf")


def test_all_reasons_of_an_image_are_given():
    image = make_image(0, cell=(55.0, 60.0, 70.0, 90.0, 95.0, 90.0), shift_px=(9, 0))
    accepted, _ = validate(make_experiment([image]), Limits(), CELL)
    reason = accepted.rejected[0].reason
    for word in ("px", "1/angstrom", "a = 55.00", "beta = 95.00", "reference cell"):
        assert word in reason


def test_no_image_at_all():
    accepted, checks = validate(make_experiment([]), Limits(), CELL)
    assert accepted.images == () and checks.names == ()


def test_observed_spots_of_a_real_crystal_pass():
    """Integer hkl near the sphere, observed where rays at their nearest point of it hit the detector."""
    rng = np.random.default_rng(3)
    geometry = fakes.geometry(1)
    setting = rotation(rng) @ reciprocal_basis(CELL)
    hkl = np.mgrid[-3:4, -3:4, -3:4].reshape(3, -1).T
    s1 = hkl @ setting.T + geometry.beam.s0
    near = np.abs(np.linalg.norm(s1, axis=1) - 1) < 0.002
    panel, px = project(geometry, s1[near])
    seen = panel >= 0
    assert seen.sum() > 3
    spots = BraggSpots(
        hkl=hkl[near][seen],
        intensity=np.ones(seen.sum()),
        variance=np.ones(seen.sum()),
        partiality=np.ones(seen.sum()),
        panel=panel[seen],
        observed_px=px[seen],
        predicted_px=px[seen],
        foreground=np.zeros((0, 3), np.int32),
    )
    image = Image("a.cbf", 0, 0, 1.0, setting, spots=spots)
    rms_px, rms_q = spot_deviations(image, geometry)
    assert rms_px == 0
    assert 0 < rms_q < 0.002
    np.testing.assert_allclose(cell_of_matrix(setting), CELL)
