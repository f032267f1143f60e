"""Orientations of turning crystals against DIALS's own predictions."""

from __future__ import annotations

import numpy as np
import pytest
from dials.algorithms.spot_prediction import ScanStaticReflectionPredictor, ScanVaryingReflectionPredictor
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import (
    BeamFactory,
    Crystal,
    DetectorFactory,
    Experiment,
    GoniometerFactory,
    ParallaxCorrectedPxMmStrategy,
    ScanFactory,
)
from scipy.spatial.transform import Rotation as Turn

from diffuse_framework.adapters.images.sequences import orientations, spots_by_frame
from diffuse_framework.adapters.models.geometry import geometry_of
from diffuse_framework.algorithms.geometry import project, reflections_near_ewald
from diffuse_framework.algorithms.rotation import crossings
from diffuse_framework.errors import DataError
from diffuse_framework.model.lattice import reciprocal_basis

# DIALS predicts at the same angles and with the same detector: only rounding differs.
PIXELS = 0.01


def rotating(width_deg: float = 0.5, n_images: int = 8, start_deg: float = 37.0, drift_deg: float = 0.0):
    """An experiment with setting and fixed rotations, a tilted thick detector, and a slipping crystal."""
    beam = BeamFactory.make_beam(wavelength=0.95, sample_to_source=(0.002, -0.001, 1.0))
    detector = DetectorFactory.simple(
        "PAD",
        90.0,
        (40.0, 42.0),
        "+x",
        "-y",
        (0.172, 0.172),
        (480, 490),
        (-1, 1e6),
        [],
        ParallaxCorrectedPxMmStrategy(3.9, 0.45),
    )
    detector[0].set_thickness(0.45)
    detector[0].set_mu(3.9)
    goniometer = GoniometerFactory.known_axis((0.1, 0.99, -0.05))
    goniometer.set_setting_rotation(tuple(Turn.from_euler("xyz", [3, -20, 11], degrees=True).as_matrix().ravel()))
    goniometer.set_fixed_rotation(tuple(Turn.from_euler("zyx", [40, 5, -8], degrees=True).as_matrix().ravel()))
    scan = ScanFactory.make_scan(
        (11, 10 + n_images),
        [0.1] * n_images,
        (start_deg, width_deg),
        dict.fromkeys(range(11, 11 + n_images), 0.0),
    )
    basis = reciprocal_basis((42.0, 47.0, 55.0, 90.0, 103.0, 90.0))
    setting = Turn.from_euler("xyz", [12, 50, -75], degrees=True).as_matrix() @ basis
    crystal = Crystal(tuple(setting.ravel()), "P2")
    if drift_deg:
        points = [
            Turn.from_euler("xz", [drift_deg * t, -drift_deg * t], degrees=True).as_matrix() @ setting
            for t in np.linspace(0, 1, n_images + 1)
        ]
        crystal.set_A_at_scan_points([tuple(point.ravel()) for point in points])
    return Experiment(beam=beam, detector=detector, goniometer=goniometer, scan=scan, crystal=crystal)


def dials_predictions(experiment, d_min: float = 2.5):
    """What DIALS predicts for a scan."""
    if experiment.crystal.num_scan_points:
        points = range(experiment.crystal.num_scan_points)
        settings = flex.mat3_double([experiment.crystal.get_A_at_scan_point(point) for point in points])
        table = ScanVaryingReflectionPredictor(experiment, dmin=d_min).for_ub(settings)
    else:
        table = ScanStaticReflectionPredictor(experiment, dmin=d_min).for_ub(experiment.crystal.get_A())
    hkl = np.rint(flumpy.to_numpy(table["miller_index"].as_vec3_double())).astype(int)
    return table, hkl, flumpy.to_numpy(table["xyzcal.px"])


# By how much the crystal slips over 8 images; within an image a slip is not followed.
@pytest.mark.parametrize("drift_deg", [0.0, 0.005])
@pytest.mark.parametrize("width_deg", [0.1, 1.0])
def test_reflections_are_where_dials_predicts_them(width_deg, drift_deg):
    experiment = rotating(width_deg, drift_deg=drift_deg)
    geometry = geometry_of(experiment.beam, experiment.detector)
    settings, rotations = orientations(experiment)
    _, hkl, xyz = dials_predictions(experiment)
    first = experiment.scan.get_array_range()[0]
    frames = np.floor(xyz[:, 2]).astype(int) - first
    assert len(hkl) > 30
    for frame in range(len(settings)):
        here = frames == frame
        q = hkl[here] @ settings[frame].T
        angles, points = crossings(q, geometry.beam, rotations[frame])
        panel, px = project(geometry, points + geometry.beam.s0)
        assert (panel == 0).all()
        off = np.abs(px - xyz[here, :2]).max(axis=1)
        # A slip within an image is not followed; it shows where a point crosses the sphere slowly.
        assert (np.quantile(off, 0.9) if drift_deg else off.max()) < PIXELS
        z = first + frame + 0.5 + np.degrees(angles) / width_deg
        # Points that nearly move along the sphere cross it at no well-defined angle.
        assert np.median(np.abs(z - xyz[here, 2])) < 0.01


@pytest.mark.parametrize("width_deg", [0.2, 2.0])
def test_no_reflection_that_dials_predicts_is_left_out(width_deg):
    experiment = rotating(width_deg)
    geometry = geometry_of(experiment.beam, experiment.detector)
    settings, rotations = orientations(experiment)
    _, hkl, xyz = dials_predictions(experiment)
    frames = np.floor(xyz[:, 2]).astype(int) - experiment.scan.get_array_range()[0]
    for frame, (setting, rotation) in enumerate(zip(settings, rotations, strict=True)):
        found = reflections_near_ewald(setting, geometry.beam, 2.49, 1e-9, 0.0, rotation)
        # DIALS also predicts a few reflections beyond d_min.
        wanted = (frames == frame) & (np.linalg.norm(hkl @ setting.T, axis=1) < 1 / 2.5)
        missing = set(map(tuple, hkl[wanted])) - set(map(tuple, found))
        assert not missing
        still = reflections_near_ewald(setting, geometry.beam, 2.49, 1e-9, 0.0)
        assert len(still) <= len(found)


def test_reflections_go_to_the_image_on_which_their_centre_is():
    experiment = rotating()
    table, hkl, xyz = dials_predictions(experiment)
    table["xyzobs.px.value"] = table["xyzcal.px"]
    # A spot without prediction, as dials.integrate hands them on, is on no image.
    table.extend(table[:1])
    table.unset_flags(flex.size_t([len(table) - 1]), table.flags.predicted)
    spots = spots_by_frame(table, experiment)
    assert sum(map(len, spots)) == len(table) - 1
    first = experiment.scan.get_array_range()[0]
    for frame, image in enumerate(spots):
        expected = hkl[np.floor(xyz[:, 2]).astype(int) - first == frame]
        assert sorted(map(tuple, image.hkl)) == sorted(map(tuple, expected))


def test_a_crystal_of_another_scan_is_refused():
    experiment = rotating(drift_deg=0.2)
    experiment.scan = experiment.scan[2:5]
    with pytest.raises(DataError, match="varies over 8 images, the scan has 3"):
        orientations(experiment)
