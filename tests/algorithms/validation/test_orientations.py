"""Stills whose orientations belong to other images."""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest

from diffuse_framework.algorithms.validation.orientations import LookAtStills, check_stills
from diffuse_framework.api import make_steps
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import CrystalHints, no_spots
from diffuse_framework.model.source import Frame
from diffuse_framework.simulate.detector import header_beam, one_panel
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from diffuse_framework.simulate.intensity import BraggParameters


@pytest.fixture(scope="module")
def stills():
    """Twelve stills of a P212121 crystal, as from an .expt file without reflections."""
    simulation = simulate(
        SimulationSettings(
            n_images=12, counts_per_pixel=0.5, detector=one_panel((300, 280), 60.0, header_beam(1.0)), seed=4
        )
    )
    images = tuple(replace(image, spots=no_spots()) for image in simulation.experiment.images)
    return replace(simulation, experiment=replace(simulation.experiment, images=images))


def with_settings(experiment, order):
    """The experiment with the orientations in another order."""
    images = experiment.images
    return replace(
        experiment,
        images=tuple(
            replace(image, setting_matrix=images[other].setting_matrix)
            for image, other in zip(images, order, strict=True)
        ),
    )


def checked(source, experiment, lowest=0.2):
    """What the check says."""
    return check_stills(experiment, source, SerialEngine().map, lowest, "look")


def validated(source, experiment, parameters=""):
    """The experiment after validation by the plugin."""
    (validator,) = make_steps(f"validator.plugins = images\n{parameters}").validators
    return validator.validate(experiment, source, CrystalHints(), SerialEngine())


def test_stills_in_their_orientations_pass(stills):
    experiment, check = checked(stills.source, stills.experiment)
    assert len(experiment.images) == 12
    assert check.scores.min() > 0.9


def test_two_that_are_swapped_are_rejected_with_the_reason(stills):
    order = list(range(12))
    order[3], order[7] = 7, 3
    experiment = validated(stills.source, with_settings(stills.experiment, order))
    assert [item.name for item in experiment.rejected] == ["sim_00004.cbf", "sim_00008.cbf"]
    assert "of its bright pixels are near reciprocal lattice points" in experiment.rejected[0].reason
    assert len(experiment.images) == 10


def test_images_shifted_by_one_stop_the_run(stills):
    shifted = with_settings(stills.experiment, [*range(1, 12), 0])
    with pytest.raises(DataError, match=r"do not fit the images: on 12 of 12 stills .*min_bright=0 does not look"):
        validated(stills.source, shifted)
    assert len(validated(stills.source, shifted, "validator.images.min_bright = 0").images) == 12


def test_a_cell_that_is_off_is_warned_of(stills, caplog):
    images = tuple(replace(image, setting_matrix=image.setting_matrix / 1.012) for image in stills.experiment.images)
    with caplog.at_level(logging.WARNING):
        validated(stills.source, replace(stills.experiment, images=images))
    assert "beam centre, distance, cell or orientations are somewhat off" in caplog.text


def test_too_few_bright_pixels_are_no_verdict_and_said_once(caplog):
    dim = simulate(
        SimulationSettings(
            n_images=5,
            counts_per_pixel=0.5,
            detector=one_panel((120, 100), 60.0, header_beam(1.0)),
            bragg=BraggParameters(photons=0.0),
        )
    )
    with caplog.at_level(logging.INFO):
        experiment = validated(dim.source, dim.experiment)
    assert len(experiment.images) == 5
    assert caplog.text.count("5 of 5 stills have too few bright pixels") == 1


@dataclass(frozen=True, eq=False)
class HotPixels:
    """A source whose detector has hot pixels."""

    source: object
    hot: np.ndarray

    def read(self, index):
        """An image with the hot pixels."""
        frame = self.source.read(index)
        (values,) = frame.counts
        values = values.copy()
        values[self.hot[:, 0], self.hot[:, 1]] = 100_000
        return Frame(frame.name, (values,))


def test_hot_pixels_are_not_taken_for_reflections(stills):
    # None beside another: two neighbours look like a reflection.
    corners = np.stack(np.meshgrid(*(np.arange(5, 265, 26),) * 2), -1).reshape(-1, 2)
    hot = corners + np.random.default_rng(0).integers(0, 20, corners.shape)
    _, check = checked(HotPixels(stills.source, hot), stills.experiment)
    assert not check.failed
    assert check.scores.size == 12
    assert check.scores.min() > 0.9


def test_the_work_travels_to_other_processes(stills):
    work = LookAtStills(stills.source, stills.experiment.geometries)
    seen = pickle.loads(pickle.dumps(work))((0, 0))
    assert len(seen.places) == len(seen.bright) == len(seen.alone)
