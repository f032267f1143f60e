from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from iotbx.phil import parse
from scipy.ndimage import binary_dilation

from diffuse_framework.adapters.images.open import images_from_files
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.algorithms.geometry import pixel_q
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame
from diffuse_framework.simulate.experiment import Simulation, SimulationSettings, simulate
from diffuse_framework.testing.fakes import orthorhombic_symmetry
from diffuse_plugins.masker_dynamic import DynamicMasker

NO_TABLE = PixelTable((), ())


def make(text: str = "") -> DynamicMasker:
    return DynamicMasker.from_params(parse(DynamicMasker.phil).fetch(parse(text)).extract())


class Faulty:
    """A source whose detector has the given faults: (slow, fast) -> value of every image."""

    def __init__(self, source, faults: dict[tuple[int, int], int]) -> None:
        self._source, self._faults = source, faults
        self.names = source.names

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> Frame:
        frame = self._source.read(index)
        counts = frame.counts[0].copy()
        for at, value in self._faults.items():
            counts[at] = value
        return replace(frame, counts=(counts,))


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(SimulationSettings(n_images=12, counts_per_pixel=6.0, seed=3))


def test_a_good_detector_has_no_bad_pixels(simulation):
    masker = make().prepare(simulation.source, simulation.experiment, SerialEngine())
    assert len(masker.bad) == 0
    assert masker.static_mask(simulation.experiment.geometries[0], NO_TABLE) is None


def test_faults_are_found_and_gaps_are_not_reported(simulation, caplog):
    model = simulation.experiment.geometries[0]
    # Well inside modules, and away from the direct beam.
    faults = {(100, 100): 0, (100, 300): 4000, (500, 120): 900}
    with caplog.at_level(logging.INFO, logger="diffuse_plugins"):
        masker = make().prepare(Faulty(simulation.source, faults), simulation.experiment, SerialEngine())
    found = {(slow, fast) for _, slow, fast in masker.bad}
    assert found == set(faults)
    mask = masker.static_mask(model, NO_TABLE)
    assert mask.count(np.uint8(0)) == 3 and mask.panels[0][100, 100] == 0
    assert masker.image_mask(None, None, model, NO_TABLE) is None
    assert "2 hot, 1 dead or stuck, 0 negative" in caplog.text
    assert "from 12 of 12 images" in caplog.text


def test_few_images_mark_nothing_and_the_log_says_so(simulation, caplog):
    few = replace(simulation.experiment, images=simulation.experiment.images[:4])
    with caplog.at_level(logging.INFO, logger="diffuse_plugins"):
        masker = make().prepare(Faulty(simulation.source, {(100, 100): 0}), few, SerialEngine())
    assert len(masker.bad) == 0
    assert "no pixel marked; 4 images" in caplog.text
    none = make().prepare(simulation.source, replace(few, images=()), SerialEngine())
    assert len(none.bad) == 0


@pytest.mark.parametrize(("n_images", "expected"), [(20, list(range(12))), (5, [0, 3, 6, 8, 11]), (1, [0])])
def test_the_sample_is_spread_evenly(simulation, n_images, expected):
    seen = []

    class Watching(Faulty):
        def read(self, index: int) -> Frame:
            seen.append(index)
            return super().read(index)

    make(f"n_images={n_images}\nmin_images=2").prepare(
        Watching(simulation.source, {}), simulation.experiment, SerialEngine()
    )
    assert seen == (expected if n_images > 1 else [])


def test_images_of_another_shape_are_an_error_of_ours(simulation):
    class Odd(Faulty):
        def read(self, index: int) -> Frame:
            frame = super().read(index)
            return frame if index < 6 else replace(frame, counts=(frame.counts[0][:-8],))

    with pytest.raises(DataError, match="sim_00007"):
        make().prepare(Odd(simulation.source, {}), simulation.experiment, SerialEngine())


def test_a_spike_on_one_image_is_taken_out_and_bragg_peaks_are_not(simulation):
    geometry = simulation.experiment.geometries[0]
    table = PixelTable(tuple(pixel_q(panel, geometry.beam) for panel in geometry.panels), ())
    masker = make("spikes=True").prepare(simulation.source, simulation.experiment, SerialEngine())
    image, frame = simulation.experiment.images[2], simulation.source.read(2)
    counts = frame.counts[0].copy()
    hkl = table.q[0] @ np.linalg.inv(image.setting_matrix).T
    between = (np.abs(hkl - np.rint(hkl)) > 0.3).all(axis=-1) & (counts >= 0)
    spikes = np.argwhere(between)[:: between.sum() // 20]
    counts[tuple(spikes.T)] += 300
    mask = masker.image_mask(replace(frame, counts=(counts,)), image, geometry, table)
    out = {tuple(at) for at in np.argwhere(mask.panels[0] == 0)}
    assert {tuple(at) for at in spikes} <= out and len(out) < 30
    clean = masker.image_mask(frame, image, geometry, table)
    assert clean is None or clean.count(np.uint8(0)) < 10


def test_the_shadow_of_beam_stop_and_arm_is_masked_with_a_margin_and_told(simulation, caplog):
    model = simulation.experiment.geometries[0]
    y, x = np.mgrid[: model.panels[0].shape[0], : model.panels[0].shape[1]]
    stop, arm = np.hypot(x - 240, y - 300) < 60, (np.abs(y - x - 60) < 6) & (x > 240)

    class Shaded(Faulty):
        def read(self, index: int) -> Frame:
            frame = super().read(index)
            counts = np.where((stop | arm) & (frame.counts[0] > 0), frame.counts[0] // 20, frame.counts[0])
            return replace(frame, counts=(counts,))

    with caplog.at_level(logging.INFO, logger="diffuse_plugins"):
        masker = make().prepare(Shaded(simulation.source, {}), simulation.experiment, SerialEngine())
    out = masker.static_mask(model, NO_TABLE).panels[0] == 0
    seen = simulation.source.read(0).counts[0] >= 0
    assert out[(stop | arm) & seen].mean() > 0.995
    assert not (out & ~binary_dilation(stop | arm, iterations=12)).any()
    assert "pixels lie in a shadow" in caplog.text
    assert (
        make("shadow=False").prepare(Shaded(simulation.source, {}), simulation.experiment, SerialEngine()).shaded.size
        == 0
    )


def test_more_images_are_looked_at_until_pixels_are_judged(simulation):
    seen = []

    class Hidden(Faulty):
        def read(self, index: int) -> Frame:
            seen.append(index)
            frame = super().read(index)
            counts = frame.counts[0].copy()
            # A band that only every second image has.
            counts[50:90] = np.where(index % 2, counts[50:90], -1)
            return replace(frame, counts=(counts,))

    hot = {(60, 100): 4000}
    masker = make("n_images=6").prepare(Hidden(simulation.source, hot), simulation.experiment, SerialEngine())
    assert sorted(seen) == list(range(12))
    assert (60, 100) in {(slow, fast) for _, slow, fast in masker.bad}


@pytest.mark.real_data
def test_bad_pixels_of_a_real_detector(thaumatin_images):
    source = DxtbxSource(images_from_files(thaumatin_images(*range(1, 16))))
    # Without an orientation: a tiny cell has no reflections to leave out.
    images = tuple(Image(name, n, 0, 0.02, np.eye(3)) for n, name in enumerate(source.names))
    experiment = Experiment((source.geometry(0),), orthorhombic_symmetry(), images)
    bad = {(int(slow), int(fast)) for _, slow, fast in make().prepare(source, experiment, SerialEngine()).bad}
    # Seen by eye: one pixel is stuck at 112775 counts, four never count anything.
    assert {(1319, 1260), (561, 1057), (1486, 2095), (1660, 988), (2140, 766)} <= bad
    assert len(bad) < 100
