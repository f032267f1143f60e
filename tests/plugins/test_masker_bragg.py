from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from iotbx.phil import parse

from diffuse_framework.adapters.images.open import images_from_files
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.masking.bad_pixels import BLOCK, block_levels, photons_of
from diffuse_framework.algorithms.masking.shapes import within_range
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.simulate.experiment import Simulation, SimulationSettings, simulate
from diffuse_plugins.masker_bragg import BraggMasker

NO_TABLE = PixelTable((), ())


def make(text: str = "") -> BraggMasker:
    return BraggMasker.from_params(parse(BraggMasker.phil).fetch(parse(text)).extract())


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(SimulationSettings(n_images=4, counts_per_pixel=0.5, seed=5))


def mask_of(masker: BraggMasker, experiment: Experiment, index: int = 0) -> np.ndarray:
    masker = masker.prepare(None, experiment, SerialEngine())
    return masker.image_mask(None, experiment.images[index], experiment.geometries[0], NO_TABLE).panels[0]


def test_what_is_left_holds_no_bragg_photons(simulation):
    for index in range(4):
        bragg = mask_of(make(), simulation.experiment, index) == 1
        with_peaks = simulation.source.expected(index)[0]
        without = simulation.source.diffuse_only().expected(index)[0]
        peaks = with_peaks - without
        assert peaks.sum() > 1000
        assert peaks[~bragg].sum() < 1e-3 * peaks.sum()
        assert 0.02 < bragg.mean() < 0.3


def test_weak_and_unobserved_reflections_are_masked_too(simulation):
    spots = simulation.experiment.images[0].spots
    fast, slow = np.floor(spots.predicted_px).astype(int).T
    assert (mask_of(make("radius=2"), simulation.experiment)[slow, fast] == 1).all()


def test_wider_parameters_mask_more(simulation):
    def masked(text: str) -> np.ndarray:
        return mask_of(make(text), simulation.experiment) == 1

    reference = masked("")
    for text in ("radius=7", "excitation_error=0.005", "mosaic_width=1.5", "shape=box"):
        assert (masked(text) | ~reference).all() and masked(text).sum() > reference.sum(), text
    lower = masked("d_min=4")
    assert (reference | ~lower).all() and lower.sum() < reference.sum()


def test_the_mosaic_width_of_the_image_counts_unless_another_is_given(simulation):
    wide = tuple(replace(image, mosaic_width_deg=2.0) for image in simulation.experiment.images)
    experiment = replace(simulation.experiment, images=wide)
    assert mask_of(make(), experiment).sum() < mask_of(make(), simulation.experiment).sum()
    given = make("mosaic_width=0.3")
    assert np.array_equal(mask_of(given, experiment), mask_of(given, simulation.experiment))


def test_nodes_that_a_centred_lattice_lacks_are_not_masked(simulation):
    centred = replace(simulation.experiment, symmetry=replace(simulation.experiment.symmetry, space_group="I222"))
    primitive = (mask_of(make(), simulation.experiment) == 1).mean()
    assert (mask_of(make(), centred) == 1).mean() < 0.7 * primitive


def test_the_log_tells_how_much_is_masked_and_warns_where_little_is_left(simulation, caplog):
    with caplog.at_level(logging.INFO, logger="diffuse_plugins"):
        make().prepare(None, simulation.experiment, SerialEngine())
        assert "% of the pixels of sim_00003.cbf, with" in caplog.text
        assert "leaves only" not in caplog.text
        make("radius=40").prepare(None, simulation.experiment, SerialEngine())
    assert "leaves only" in caplog.text and "masker.bragg.radius (now 40)" in caplog.text


# Orientation of thau_3_2_0006.cbf and its mosaic spread, as found by dials.ssx_index (DIALS 3.12)
# with unit_cell=58,58,150,90,90,90 space_group=P41212.
THAUMATIN_SETTING = (
    0.010450881,
    0.006076560,
    -0.004652965,
    -0.012737785,
    0.009681495,
    -0.002346655,
    0.004688065,
    0.012759079,
    0.003996616,
)
THAUMATIN_MOSAIC_WIDTH_DEG = 0.2705


@pytest.mark.real_data
def test_the_defaults_cover_the_spots_of_real_stills(thaumatin_images):
    source = DxtbxSource(images_from_files(thaumatin_images(6)))
    image = Image(source.names[0], 0, 0, 0.02, np.reshape(THAUMATIN_SETTING, (3, 3)), THAUMATIN_MOSAIC_WIDTH_DEG)
    experiment = Experiment((source.geometry(0),), symmetry_of("P41212"), (image,))
    bragg = mask_of(make(), experiment) == 1
    panel = source.geometry(0).panels[0]
    counts = source.read(0).counts[0]
    classes = within_range(counts, *panel.trusted_range)
    classes[1250:1370, 1200:1330] = 0  # around the beamstop
    mean = block_levels(photons_of(counts, classes, 1.0, 0.0))[0]
    level = np.repeat(np.repeat(mean, BLOCK, 0), BLOCK, 1)[: panel.shape[0], : panel.shape[1]]
    with np.errstate(invalid="ignore"):
        strong = (classes == 2) & (counts > level + 8 * np.sqrt(level + 1))
    assert strong.sum() > 5000
    assert bragg[strong].mean() > 0.97
    assert 0.05 < bragg[classes == 2].mean() < 0.15
