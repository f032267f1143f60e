"""Simulated images against what they were made from."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.algorithms.geometry import pixel_positions, q_at_px
from diffuse_framework.errors import ConfigError, GeometryError
from diffuse_framework.model.experiment import BraggSpots
from diffuse_framework.simulate.detector import (
    SILICON,
    header_beam,
    one_panel,
    pilatus,
    with_beamstop,
)
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from diffuse_framework.simulate.images import ModuleSource, add_spots, exposure
from diffuse_framework.simulate.intensity import BraggParameters

CELL = (20.0, 23.0, 27.0, 90.0, 90.0, 90.0)


def small_detector(**changes):
    """Return a detector of 20 000 pixels without gaps."""
    settings = {"size": (160, 125), "distance_mm": 30.0, "beam": header_beam(1.0)} | changes
    return one_panel(**settings)


def small_simulation(**changes):
    """Return four images on the small detector."""
    settings = {"n_images": 4, "cell": CELL, "detector": small_detector(), "seed": 5} | changes
    return simulate(SimulationSettings(**settings))


@pytest.mark.parametrize("counts_per_pixel", [0.05, 0.5, 5.0])
def test_mean_count_is_the_one_asked_for(counts_per_pixel):
    simulation = small_simulation(counts_per_pixel=counts_per_pixel, scale_spread=0.0, n_images=20)
    source = simulation.source.diffuse_only()
    mean = np.mean([source.read(index).counts[0].mean() for index in range(len(source))])
    assert mean == pytest.approx(counts_per_pixel, rel=0.01)


@pytest.mark.parametrize("counts_per_pixel", [0.05, 0.5, 5.0])
def test_counts_scatter_about_their_expectation_as_poisson_says(counts_per_pixel):
    source = small_simulation(counts_per_pixel=counts_per_pixel).source
    counts = np.stack([source.read(index).counts[0] for index in range(len(source))])
    expected = np.stack([source.expected(index)[0] for index in range(len(source))])
    assert abs((counts - expected).sum()) < 4 * np.sqrt(expected.sum())
    z_squared = (counts - expected) ** 2 / expected
    # The variance of z^2 is 2 + 1/expected.
    assert abs((z_squared - 1).sum()) < 4 * np.sqrt((2 + 1 / expected).sum())


def test_expectation_is_the_forward_model():
    """K b t Omega P E T [I + c] + background, each factor written out again here."""
    simulation = small_simulation(air_per_mm=2e-3, background_rate=0.7, offset=0.5, exposure_s=0.2)
    source, truth = simulation.source.diffuse_only(), simulation.truth
    source = replace(source, truth=replace(source.truth, background_rate=0.7))
    (panel,) = source.geometry(0).panels
    rng = np.random.default_rng(0)
    for index in range(len(source)):
        expected = source.expected(index)[0]
        to_hkl = np.linalg.inv(truth.setting_matrices[index])
        for slow, fast in zip(rng.integers(0, 125, 20), rng.integers(0, 160, 20), strict=True):
            position = pixel_positions(panel)[slow, fast]
            r = np.linalg.norm(position)
            u = position / r
            cosine = abs(u[2])
            area = 0.172**2 * cosine / r**2
            f = 0.999
            polarization = (1 - 2 * f) * (1 - u[1] ** 2) + f * (1 + u[2] ** 2)
            efficiency = 1 - np.exp(-SILICON.mu_per_mm * SILICON.thickness_mm / cosine)
            air = np.exp(-2e-3 * r)
            q = u / 1.0 - np.array([0, 0, -1.0])
            offset = truth.offsets[index] * np.exp(-0.5 * (np.linalg.norm(q) / 0.25) ** 2)
            photons = truth.photons_per_unit * truth.scales[index] * 0.2 * area * polarization * efficiency * air
            photons *= truth.intensity.diffuse(to_hkl @ q) + offset
            assert expected[slow, fast] == pytest.approx(photons + 0.7 * 0.2, rel=1e-9)


def test_factors_are_those_of_dials():
    """Polarisation and efficiency of dials.algorithms.integration.Corrections."""
    pytest.importorskip("dials")
    from dials.algorithms.integration import Corrections
    from dxtbx.model import ParallaxCorrectedPxMmStrategy
    from dxtbx.model.beam import BeamFactory
    from dxtbx.model.detector import DetectorFactory

    ours = small_detector(beam_centre_px=(40.5, 80.25))
    beam = BeamFactory.simple(1.0)
    detector = DetectorFactory.simple(
        "PAD",
        30.0,
        (40.5 * 0.172, 80.25 * 0.172),
        "+x",
        "-y",
        (0.172, 0.172),
        (160, 125),
        (-1, 1e6),
        [],
        px_mm=ParallaxCorrectedPxMmStrategy(SILICON.mu_per_mm, SILICON.thickness_mm),
        mu=SILICON.mu_per_mm,
    )
    panel = detector[0]
    panel.set_thickness(SILICON.thickness_mm)
    panel.set_mu(SILICON.mu_per_mm)
    corrections = Corrections(beam, detector)
    products = exposure(ours, 1.0, 0.0)[0]
    for slow, fast in [(0, 0), (80, 40), (124, 159), (3, 150), (100, 7)]:
        s1 = np.array(panel.get_lab_coord(panel.pixel_to_millimeter((fast + 0.5, slow + 0.5))))
        r = np.linalg.norm(s1)
        s1_unit = tuple(s1 / r)
        solid_angle = 0.172**2 * abs(s1_unit[2]) / r**2
        theirs = solid_angle / corrections.lp(s1_unit) * corrections.qe(s1_unit, 0)
        assert products[slow, fast] == pytest.approx(theirs, rel=1e-6)


def test_images_depend_on_seed_and_number_only():
    source = small_simulation().source
    again = pickle.loads(pickle.dumps(small_simulation().source))
    np.testing.assert_array_equal(again.read(3).counts[0], source.read(3).counts[0])
    source.read(0)
    np.testing.assert_array_equal(again.read(3).counts[0], source.read(3).counts[0])
    other = small_simulation(seed=6).source
    assert (other.read(3).counts[0] != source.read(3).counts[0]).any()
    assert (source.read(2).counts[0] != source.read(3).counts[0]).any()


def test_scales_have_mean_one_and_offsets_begin_at_zero():
    truth = small_simulation(n_images=30, offset=2.0).truth
    assert truth.scales.mean() == pytest.approx(1)
    assert np.log(truth.scales).std() == pytest.approx(0.3, rel=0.5)
    assert truth.offsets.min() == 0
    assert truth.offsets.max() > 0


def test_gaps_read_minus_one_and_the_beamstop_shades():
    detector = with_beamstop(pilatus((1, 2), 60.0, header_beam(1.0)), 4.0)
    source = simulate(SimulationSettings(n_images=1, cell=CELL, detector=detector, background_rate=50.0)).source
    (counts,) = source.read(0).counts
    assert counts.shape == (407, 487)
    assert (counts[195:212] == -1).all()
    assert (np.delete(counts, np.s_[195:212], axis=0) >= 0).all()
    (panel,) = detector.geometry.panels
    across = np.linalg.norm(pixel_positions(panel)[..., :2], axis=-1)
    expected = source.expected(0)[0]
    np.testing.assert_allclose(expected[across < 3.9], 5.0)
    assert (expected[across > 4.1] > 5.0).all()


def test_modules_show_the_same_pixels():
    detector = pilatus((2, 2), 60.0, header_beam(1.0))
    whole = simulate(SimulationSettings(n_images=1, cell=CELL, detector=detector)).source
    parts = pickle.loads(pickle.dumps(ModuleSource(whole)))
    image, modules = whole.read(0), parts.read(0)
    assert len(modules.counts) == len(parts.geometry(0).panels) == 4
    assert parts.geometry(0) is parts.geometry(0)
    assert sum(counts.sum() for counts in modules.counts) == image.counts[0][detector.active[0]].sum()
    positions = pixel_positions(whole.geometry(0).panels[0])
    for panel, counts, (fast, slow) in zip(
        parts.geometry(0).panels, modules.counts, [(0, 0), (494, 0), (0, 212), (494, 212)], strict=True
    ):
        there = np.s_[slow : slow + 195, fast : fast + 487]
        np.testing.assert_array_equal(counts, image.counts[0][there])
        np.testing.assert_allclose(pixel_positions(panel), positions[there], atol=1e-10)


def test_only_pilatus_panels_are_split():
    with pytest.raises(GeometryError, match="PILATUS"):
        ModuleSource(small_simulation().source)


def test_many_panels_are_seen_by_one_crystal():
    detector = pilatus((2, 1), 60.0, header_beam(1.0))
    whole = simulate(SimulationSettings(n_images=1, cell=CELL, detector=detector)).source
    geometry = ModuleSource(whole).geometry(0)
    active = tuple(np.ones(panel.shape, bool) for panel in geometry.panels)
    apart = replace(whole, detector=replace(detector, geometry=geometry, active=active, lit=active))
    left, right = apart.diffuse_only().expected(0)
    expected = whole.diffuse_only().expected(0)[0]
    np.testing.assert_allclose(left, expected[:, :487], rtol=1e-9)
    np.testing.assert_allclose(right, expected[:, 494:], rtol=1e-9)


def test_reflections_lie_near_the_ewald_sphere_where_they_are_predicted():
    simulation = small_simulation()
    bragg = simulation.truth.bragg
    for image in simulation.experiment.images:
        geometry, spots = simulation.experiment.geometry_of(image), image.spots
        assert len(spots) > 20
        assert ((spots.partiality > np.exp(-9.01)) & (spots.partiality <= 1)).all()
        q = spots.hkl @ image.setting_matrix.T
        at_pixel = q_at_px(geometry, spots.panel, spots.predicted_px)
        # On the sphere at the same length, and no farther away than peaks reach. dxtbx's parallax from
        # mm to pixels is not quite the inverse of that from pixels to mm.
        np.testing.assert_allclose(np.linalg.norm(at_pixel, axis=1), np.linalg.norm(q, axis=1), rtol=1e-4)
        width, mosaic_width_deg = bragg.reach
        reach = width + np.radians(mosaic_width_deg) / 2 * np.linalg.norm(q, axis=1)
        assert (np.linalg.norm(at_pixel - q, axis=1) < 1.5 * reach).all()


def test_peaks_hold_their_photons_and_end():
    spots = small_simulation(n_images=1).experiment.images[0].spots
    one = BraggSpots(
        **{name: getattr(spots, name)[:1] for name in ("hkl", "partiality", "panel", "observed_px", "foreground")},
        intensity=np.array([100.0]),
        variance=np.array([100.0]),
        predicted_px=np.array([[50.3, 60.8]]),
    )
    image = np.zeros((125, 160))
    add_spots((image,), one, sigma_px=1.1, radius_px=5)
    assert image.sum() == pytest.approx(100, rel=1e-3)
    slow, fast = np.nonzero(image)
    assert np.abs(fast - 50).max() == np.abs(slow - 60).max() == 5
    assert (image * (np.arange(160) + 0.5)).sum() / image.sum() == pytest.approx(50.3, abs=0.01)
    assert (image.T * (np.arange(125) + 0.5)).sum() / image.sum() == pytest.approx(60.8, abs=0.01)
    add_spots((image,), replace(one, predicted_px=np.array([[0.2, 124.9]])), sigma_px=1.1, radius_px=5)
    assert image.sum() == pytest.approx(125, rel=0.2)


def test_given_orientations_are_used():
    matrices = small_simulation().truth.setting_matrices
    simulation = small_simulation(n_images=2, setting_matrices=matrices[2:])
    np.testing.assert_array_equal(simulation.experiment.images[1].setting_matrix, matrices[3])


def test_without_peaks_there_are_no_spots_to_see():
    simulation = small_simulation(bragg=BraggParameters(photons=0.0))
    for index, image in enumerate(simulation.experiment.images):
        assert (image.spots.intensity == 0).all()
        assert np.isnan(image.spots.observed_px).all()
        np.testing.assert_array_equal(
            simulation.source.expected(index)[0], simulation.source.diffuse_only().expected(index)[0]
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_images": 0},
        {"counts_per_pixel": 0.0},
        {"exposure_s": 0.0},
        {"scale_spread": -1.0},
        {"setting_matrices": np.eye(3)},
        {"detector": with_beamstop(small_detector(), 1000.0)},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        small_simulation(**wrong)


@pytest.mark.parametrize("wrong", [{"size": (0, 5)}, {"distance_mm": 0.0}, {"beam": None}])
def test_impossible_detectors_are_refused(wrong):
    with pytest.raises(ConfigError):
        small_detector(**(wrong if wrong != {"beam": None} else {"beam": header_beam(-1.0)}))
