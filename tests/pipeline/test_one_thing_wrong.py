"""Data with one thing wrong: each is refused, or warned of before the map is written (docs/faults.md has the maps)."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.rotation import turn
from diffuse_framework.algorithms.validation.laue import laue_check
from diffuse_framework.api import make_steps
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import CrystalHints, no_spots
from diffuse_framework.simulate.detector import header_beam, one_panel
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from diffuse_framework.simulate.rotation import RotationSettings
from support.runs import run_known

GRID = """
grid.hkl.divisions = 1 1 1
grid.hkl.d_min = 2.5
masker.plugins = trusted bragg
masker.bragg.radius = 6
masker.bragg.excitation_error = 0.004
"""
DETECTOR = one_panel((300, 280), 60.0, header_beam(1.0))


@pytest.fixture(scope="module")
def stills():
    """Sixteen stills of a P212121 crystal, as from an .expt file without reflections."""
    simulation = simulate(SimulationSettings(n_images=16, counts_per_pixel=1, detector=DETECTOR, seed=4))
    images = tuple(replace(image, spots=no_spots()) for image in simulation.experiment.images)
    return replace(simulation, experiment=replace(simulation.experiment, images=images))


def with_settings(experiment, change):
    """The experiment with other A matrices: `change` takes number and matrix."""
    images = (
        replace(image, setting_matrix=change(number, image.setting_matrix))
        for number, image in enumerate(experiment.images)
    )
    return replace(experiment, images=tuple(images))


def with_panels(experiment, change):
    """The experiment with other panels."""
    geometries = (replace(g, panels=tuple(change(panel) for panel in g.panels)) for g in experiment.geometries)
    return replace(experiment, geometries=tuple(geometries))


def moved(pixels):
    """A change of a panel: the beam centre is off."""
    return lambda panel: replace(panel, origin_mm=panel.origin_mm + panel.fast_axis * panel.pixel_size_mm[0] * pixels)


def validated(simulation, experiment, plugins="images"):
    """The experiment after the validator."""
    (validator,) = make_steps(f"validator.plugins = {plugins}").validators
    return validator.validate(experiment, simulation.source, CrystalHints(), SerialEngine())


def test_stills_with_nothing_wrong_are_not_warned_of(stills, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(validated(stills, stills.experiment).images) == 16
        outcome = run_known(stills.source, stills.experiment, GRID)
    assert not caplog.records
    check = laue_check(outcome.sums, outcome.scales, outcome.map.merged.voxel)
    assert check.correlation > 0.75


@pytest.mark.parametrize("percent", [0.5, 1, 2])
def test_a_cell_that_is_wrong(stills, caplog, percent):
    with caplog.at_level(logging.WARNING):
        validated(stills, with_settings(stills.experiment, lambda _, a: a / (1 + percent / 100)))
    said = float(re.search(r"Bright pixels lie ([0-9.]+)% further", caplog.text)[1])
    assert said == pytest.approx(percent, abs=0.15)
    assert "further out than predicted (cell, distance or wavelength)" in caplog.text


def test_a_cell_that_is_far_off_is_refused(stills):
    with pytest.raises(DataError, match="do not fit the images"):
        validated(stills, with_settings(stills.experiment, lambda _, a: a / 1.05))


def test_a_beam_centre_that_is_off_by_a_pixel(stills, caplog):
    with caplog.at_level(logging.WARNING):
        validated(stills, with_panels(stills.experiment, moved(1)))
    assert "1.0 pixels to one side (beam centre)" in caplog.text


@pytest.mark.parametrize("pixels", [3, 10])
def test_a_beam_centre_that_is_far_off_is_refused(stills, pixels):
    with pytest.raises(DataError, match="do not fit the images"):
        validated(stills, with_panels(stills.experiment, moved(pixels)))


@pytest.mark.parametrize("what", ["distance", "wavelength"])
def test_distance_and_wavelength_that_are_off_by_a_per_cent(stills, caplog, what):
    if what == "distance":
        longer = np.array([1, 1, 1.01])
        wrong = with_panels(stills.experiment, lambda panel: replace(panel, origin_mm=panel.origin_mm * longer))
    else:
        geometries = (replace(g, beam=replace(g.beam, s0=g.beam.s0 / 1.01)) for g in stills.experiment.geometries)
        wrong = replace(stills.experiment, geometries=tuple(geometries))
    with caplog.at_level(logging.WARNING):
        validated(stills, wrong)
    said = float(re.search(r"Bright pixels lie ([0-9.]+)% further", caplog.text)[1])
    assert said == pytest.approx(1, abs=0.15)
    assert "further in than predicted" in caplog.text


def test_two_crystals_that_are_swapped_are_left_out(stills):
    order = list(range(16))
    order[3], order[7] = 7, 3
    settings = [image.setting_matrix for image in stills.experiment.images]
    checked = validated(stills, with_settings(stills.experiment, lambda number, _: settings[order[number]]))
    assert [item.name for item in checked.rejected] == ["sim_00004.cbf", "sim_00008.cbf"]


def test_images_that_are_shifted_by_one_are_refused(stills):
    settings = [image.setting_matrix for image in stills.experiment.images]
    with pytest.raises(DataError, match="do not fit the images"):
        validated(stills, with_settings(stills.experiment, lambda number, _: settings[(number + 1) % 16]))


def test_a_plane_of_polarisation_that_is_turned(stills, caplog):
    def turned(beam):
        return replace(beam, polarization_normal=np.cross(beam.polarization_normal, beam.s0 * beam.wavelength))

    geometries = tuple(replace(g, beam=turned(g.beam)) for g in stills.experiment.geometries)
    with caplog.at_level(logging.WARNING):
        run_known(stills.source, replace(stills.experiment, geometries=geometries), GRID)
    assert "brighter where the polarisation should make them dim: by 1.0" in caplog.text


@pytest.mark.parametrize(("true", "said"), [("P222", "P422"), ("P4", "P422"), ("P222", "P2"), ("P422", "P422")])
def test_a_laue_group_that_is_too_high(caplog, true, said):
    settings = SimulationSettings(
        n_images=16,
        counts_per_pixel=1,
        cell=(36.0, 36.0, 45.0, 90.0, 90.0, 90.0),
        symmetry=symmetry_of(true),
        detector=DETECTOR,
        seed=4,
    )
    simulation = simulate(settings)
    with caplog.at_level(logging.WARNING):
        run_known(simulation.source, replace(simulation.experiment, symmetry=symmetry_of(said)), GRID)
    # Too low a symmetry only costs photons.
    assert ("hardly scatter alike" in caplog.text) == (said == "P422" != true)


@pytest.fixture(scope="module")
def sweep():
    """Eight images of two degrees."""
    rotation = RotationSettings(2.0, 0.0, 1, 0.0, 0.0)
    return simulate(SimulationSettings(n_images=8, counts_per_pixel=1, detector=DETECTOR, seed=4, rotation=rotation))


def test_a_crystal_that_turns_the_other_way_is_refused(sweep):
    start = sweep.experiment.images[0].rotation.angle_deg

    def reversed_(image):
        back = np.radians([-2 * (image.rotation.angle_deg - start)])
        matrix = turn(image.rotation.axis, back)[0] @ image.setting_matrix
        return replace(image, setting_matrix=matrix, rotation=replace(image.rotation, axis=-image.rotation.axis))

    wrong = replace(sweep.experiment, images=tuple(map(reversed_, sweep.experiment.images)))
    checked = validated(sweep, wrong, "sweeps")
    assert not checked.images
    assert "invert_rotation_axis" in checked.rejected[0].reason


def test_a_sweep_that_is_shifted_by_one_image_is_warned_of(sweep, caplog):
    images = sweep.experiment.images
    later = (*images[1:], images[-1])
    wrong = tuple(
        replace(image, setting_matrix=other.setting_matrix, rotation=other.rotation)
        for image, other in zip(images, later, strict=True)
    )
    with caplog.at_level(logging.WARNING):
        checked = validated(sweep, replace(sweep.experiment, images=wrong), "sweeps")
    assert not checked.images or "bright pixels lie on the lattice with a score of" in caplog.text
