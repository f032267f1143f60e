from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from iotbx.phil import parse

from diffuse_framework.adapters.images.open import images_from_files
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.geometry import pixel_q
from diffuse_framework.algorithms.masking.bad_pixels import BLOCK, block_levels, photons_of
from diffuse_framework.algorithms.masking.shapes import within_range
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.simulate.experiment import Simulation, SimulationSettings, simulate
from diffuse_plugins.masker_bragg import BraggMasker
from support.stranger import TETRAGONAL, Conditions, Stranger

NO_TABLE = PixelTable((), ())


def make(text: str = "") -> BraggMasker:
    return BraggMasker.from_params(parse(BraggMasker.phil).fetch(parse(text)).extract())


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(SimulationSettings(n_images=4, counts_per_pixel=0.5, seed=5))


def prepared(text: str, simulation: Simulation, experiment: Experiment | None = None) -> BraggMasker:
    return make(text).prepare(simulation.source, experiment or simulation.experiment, SerialEngine())


def mask_of(masker: BraggMasker, simulation: Simulation, index: int = 0, experiment: Experiment | None = None):
    experiment = experiment or simulation.experiment
    masker = masker.prepare(simulation.source, experiment, SerialEngine())
    geometry = experiment.geometries[0]
    table = PixelTable(tuple(pixel_q(panel, geometry.beam) for panel in geometry.panels), ())
    frame = simulation.source.read(index)
    return masker.image_mask(frame, experiment.images[index], geometry, table).panels[0]


# Masks that do not look at the images.
FIXED = "radius=6\nexcitation_error=0.004\nunpredicted=False"


@pytest.mark.parametrize("text", ["", FIXED])
def test_what_is_left_holds_no_bragg_photons(simulation, text):
    for index in range(4):
        bragg = mask_of(make(text), simulation, index) == 1
        with_peaks = simulation.source.expected(index)[0]
        without = simulation.source.diffuse_only().expected(index)[0]
        peaks = with_peaks - without
        assert peaks.sum() > 1000
        assert peaks[~bragg].sum() < (1e-3 if text else 0.02) * peaks.sum()
        assert 0.01 < bragg.mean() < 0.3


def test_weak_and_unobserved_reflections_are_masked_too(simulation):
    spots = simulation.experiment.images[0].spots
    fast, slow = np.floor(spots.predicted_px).astype(int).T
    fixed = "radius=2\nexcitation_error=0.004"
    assert (mask_of(make(fixed), simulation)[slow, fast] == 1).all()


def test_wider_parameters_mask_more(simulation):
    def masked(text: str) -> np.ndarray:
        return mask_of(make(f"{FIXED}\n{text}"), simulation) == 1

    reference = masked("")
    for text in ("radius=7", "excitation_error=0.005", "mosaic_width=1.5", "shape=box"):
        assert (masked(text) | ~reference).all() and masked(text).sum() > reference.sum(), text
    lower = masked("d_min=4")
    assert (reference | ~lower).all() and lower.sum() < reference.sum()


def test_a_smaller_share_masks_more(simulation):
    shares = [(mask_of(make(f"share={share}"), simulation) == 1).mean() for share in (0.5, 0.05, 0.01)]
    assert shares[0] < shares[1] < shares[2]


def test_the_mosaic_width_of_the_image_counts_unless_another_is_given(simulation):
    wide = tuple(replace(image, mosaic_width_deg=2.0) for image in simulation.experiment.images)
    experiment = replace(simulation.experiment, images=wide)
    masks = [mask_of(make(FIXED), simulation, 0, which) for which in (experiment, simulation.experiment)]
    assert masks[0].sum() < masks[1].sum()
    given = make(f"{FIXED}\nmosaic_width=0.3")
    assert np.array_equal(mask_of(given, simulation, 0, experiment), mask_of(given, simulation))


def test_nodes_that_a_centred_lattice_lacks_are_not_masked(simulation):
    centred = replace(simulation.experiment, symmetry=replace(simulation.experiment.symmetry, space_group="I222"))
    primitive = (mask_of(make(FIXED), simulation) == 1).mean()
    assert (mask_of(make(FIXED), simulation, 0, centred) == 1).mean() < 0.7 * primitive


def test_the_log_tells_how_peaks_look_and_how_much_is_masked_and_warns_where_little_is_left(simulation, caplog):
    with caplog.at_level(logging.INFO, logger="diffuse_plugins"):
        prepared("", simulation)
        assert "% of the pixels of 4 images; next to it pixels count" in caplog.text
        assert "peaks measured on" in caplog.text and "leaves only" not in caplog.text
        prepared("radius=40", simulation)
    assert "leaves only" in caplog.text and "masker.bragg.radius (now 40)" in caplog.text


def test_peaks_that_were_not_predicted_are_masked_and_single_spikes_are_not_trusted(simulation):
    geometry = simulation.experiment.geometries[0]
    table = PixelTable(tuple(pixel_q(panel, geometry.beam) for panel in geometry.panels), ())
    image, frame = simulation.experiment.images[1], simulation.source.read(1)
    hkl = table.q[0] @ np.linalg.inv(image.setting_matrix).T
    between = (np.abs(hkl - np.rint(hkl)) > 0.35).any(axis=-1) & (frame.counts[0] >= 0)
    between[:40] = between[-40:] = between[:, :40] = between[:, -40:] = False
    places = np.argwhere(between)[:: between.sum() // 12][1:11]
    counts = frame.counts[0].copy()
    for slow, fast in places[:5]:
        counts[slow - 1 : slow + 2, fast - 1 : fast + 2] += (100 * np.outer([0.4, 1, 0.4], [0.4, 1, 0.4])).astype(int)
    for slow, fast in places[5:]:
        counts[slow, fast] += 5000
    masker = prepared("", simulation)
    mask = masker.image_mask(replace(frame, counts=(counts,)), image, geometry, table).panels[0]
    assert all((mask[slow - 1 : slow + 2, fast - 1 : fast + 2] == 1).all() for slow, fast in places[:5])
    assert (mask[tuple(places[5:].T)] == 0).all()


@pytest.mark.parametrize("shape", [(0.4, 0.03), (0.8, 0.1), (1.8, 0.2)])
def test_the_mask_follows_the_size_of_the_spots(shape, tmp_path):
    """Sharp and broad spots of a crystal that no code of ours simulates, with no number set."""
    spot_px, mosaic_deg = shape
    conditions = Conditions(n_images=6, spot_px=spot_px, mosaic_deg=mosaic_deg, n_zingers=1, beam_stop=False)
    run = Stranger(replace(TETRAGONAL, cell=(40.0, 40.0, 30.0, 90.0, 90.0, 90.0)), conditions)
    source = DxtbxSource(images_from_files([str(path) for path in run.write(tmp_path)]))
    images = tuple(Image(name, n, 0, 1.0, run.setting(n)) for n, name in enumerate(source.names))
    experiment = Experiment((source.geometry(0),), symmetry_of("P43212"), images)
    masker = make().prepare(source, experiment, SerialEngine())
    assert masker.model is not None
    mask = masker.image_mask(source.read(2), images[2], experiment.geometries[0], NO_TABLE).panels[0]
    smooth, peaks = run.expected(2)
    left = run.usable & (mask == 2)
    assert peaks[left].sum() < 0.01 * smooth[left].sum()
    assert (peaks[left] > 0.3 * smooth[left]).mean() < 2e-3
    assert (mask[run.usable] < 2).mean() < 3 * (peaks[run.usable] > 0.02 * smooth[run.usable]).mean() + 0.06


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
    masker = make().prepare(source, experiment, SerialEngine())
    frame = source.read(0)
    bragg = masker.image_mask(frame, image, experiment.geometries[0], NO_TABLE).panels[0] < 2
    panel = source.geometry(0).panels[0]
    counts = frame.counts[0]
    classes = within_range(counts, *panel.trusted_range)
    classes[1250:1370, 1200:1330] = 0  # around the beamstop
    mean = block_levels(photons_of(counts, classes, 1.0, 0.0))[0]
    level = np.repeat(np.repeat(mean, BLOCK, 0), BLOCK, 1)[: panel.shape[0], : panel.shape[1]]
    with np.errstate(invalid="ignore"):
        strong = (classes == 2) & (counts > level + 8 * np.sqrt(level + 1))
    assert strong.sum() > 5000
    assert bragg[strong].mean() > 0.97
    assert 0.02 < bragg[classes == 2].mean() < 0.1
