"""Crystals in different indexing: what becomes of the map, and bringing them to one."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.algorithms.indexing.ambiguity import crystal_numbers, reindexed_image, reindexing_operators
from diffuse_framework.errors import DataError
from diffuse_framework.simulate.compare import compare_merged
from diffuse_framework.simulate.crystals import primitive_symmetry
from diffuse_framework.simulate.detector import header_beam, one_panel
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from diffuse_framework.simulate.rotation import RotationSettings
from support.runs import run_known

PARAMETERS = """
masker.plugins = trusted bragg
masker.bragg.radius = 4
masker.bragg.excitation_error = 0.002
scaler.per_image.max_cycles = 20
"""
CELL = (24.0, 24.0, 31.0, 90.0, 90.0, 90.0)


def simulated(rotation: RotationSettings | None, n_images: int, photons: float = 4.0, seed: int = 3):
    """A P4 crystal, whose lattice is 4/mmm."""
    return simulate(
        SimulationSettings(
            n_images=n_images,
            counts_per_pixel=photons,
            cell=CELL,
            symmetry=primitive_symmetry("P4"),
            detector=one_panel((160, 150), 21.0, header_beam(1.0)),
            rotation=rotation,
            seed=seed,
        )
    )


def merged(simulation, experiment, reindexer="as_indexed"):
    """The map and the experiment that it was made with."""
    outcome = run_known(simulation.source, experiment, f"{PARAMETERS}reindexer.plugin = {reindexer}")
    return outcome.map.merged, outcome.experiment


def unchanged(experiment, simulation) -> bool:
    """Whether the images are the very objects that went in."""
    return all(image is given for image, given in zip(experiment.images, simulation.experiment.images, strict=True))


@pytest.mark.parametrize(
    ("rotation", "n_images"), [(RotationSettings(1.0, sweeps=4), 8), (None, 16)], ids=["sweeps", "stills"]
)
def test_crystals_are_brought_to_one_indexing(rotation, n_images):
    simulation = simulated(rotation, n_images)
    crystals = crystal_numbers(simulation.experiment)
    operators = reindexing_operators(simulation.truth.intensity.symmetry, CELL)
    # Fewer wrong than right: the indexing of most is that of the truth.
    wrong = np.arange(crystals.max() + 1) % 4 == 1
    mixed = replace(
        simulation.experiment,
        images=tuple(
            reindexed_image(image, operators[int(wrong[crystal])])
            for image, crystal in zip(simulation.experiment.images, crystals, strict=True)
        ),
    )
    right, _ = merged(simulation, simulation.experiment)
    before, _ = merged(simulation, mixed)
    after, mended = merged(simulation, mixed, "diffuse")
    agreement = {
        name: compare_merged(simulation.truth, found).weighted_anisotropic_correlation
        for name, found in (("right", right), ("before", before), ("after", after))
    }
    assert agreement["before"] < agreement["right"] - 0.06
    assert agreement["after"] > agreement["right"] - 0.01
    for image, true in zip(mended.images, simulation.experiment.images, strict=True):
        ways = [true.setting_matrix @ op for op in simulation.truth.intensity.symmetry.operators]
        assert any(np.allclose(image.setting_matrix, way) for way in ways)


def test_crystals_that_agree_are_left_alone():
    simulation = simulated(RotationSettings(1.0, sweeps=2), 8)
    _, experiment = merged(simulation, simulation.experiment, "diffuse")
    assert unchanged(experiment, simulation)


@pytest.mark.parametrize("seed", [0, 1])
def test_dim_stills_that_agree_are_left_alone(seed, caplog):
    simulation = simulated(None, 24, photons=0.02, seed=seed)
    with caplog.at_level(logging.WARNING):
        _, experiment = merged(simulation, simulation.experiment, "diffuse")
    assert unchanged(experiment, simulation)
    assert "For 24 of 24 crystals it could not be told in which way they are indexed" in caplog.text


def test_images_that_could_not_be_told_are_left_out_if_asked():
    simulation = simulated(None, 4, photons=0.02)
    with pytest.raises(DataError, match=r"rejected at re-indexing .*can't be told from another one"):
        merged(simulation, simulation.experiment, "diffuse\nreindexer.diffuse.doubtful = leave_out")
