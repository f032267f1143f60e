"""The fast indexer on simulated stills of known orientation, and on three of thaumatin."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("dials")

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory
from iotbx.phil import parse

from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.adapters.indexing.common import INDEXING, StillOutcome
from diffuse_framework.adapters.indexing.fast import with_fallback
from diffuse_framework.adapters.indexing.ssx import default_work
from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.indexing.known_cell import known_cell
from diffuse_framework.command_line import simulate
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.engine.processes import process_engine
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.experiment import CrystalHints
from diffuse_plugins.indexer_dials_ssx import DialsSsxIndexer
from diffuse_plugins.indexer_fast_stills import FastStillsIndexer
from diffuse_plugins.indexer_given import GivenIndexer
from support.stills import angle_deg

CELL = (34.0, 39.0, 45.0, 90.0, 90.0, 90.0)
HINTS = CrystalHints(CELL, "P212121")
THAUMATIN = CrystalHints((58.0, 58.0, 150.0, 90.0, 90.0, 90.0), "P41212")


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    """Folder of four simulated stills."""
    folder = tmp_path_factory.mktemp("stills")
    simulate.run([f"output.directory={folder}", "images=4", "counts_per_pixel=1", "mp.nproc=1"])
    return folder


@pytest.fixture(scope="module")
def source(stills):
    return open_source(images_from_files([str(path) for path in sorted(stills.glob("*.cbf"))]))


@pytest.fixture(scope="module")
def truth(stills):
    experiments = ExperimentListFactory.from_json_file(str(stills / "truth.expt"), check_format=False)
    return [np.array(experiment.crystal.get_A()).reshape(3, 3) for experiment in experiments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fast")


@pytest.fixture(scope="module")
def indexed(source, folder):
    return FastStillsIndexer().index(source, HINTS, folder, SerialEngine())


def test_defaults_parse_and_the_indexer_pickles():
    indexer = FastStillsIndexer.from_params(parse(FastStillsIndexer.phil).extract())
    assert indexer == FastStillsIndexer()
    assert pickle.loads(pickle.dumps(indexer)) == indexer


def test_orientations_are_those_of_the_simulation(indexed, truth):
    known = known_cell(CELL, symmetry_of("P212121"))
    assert len(indexed.images) == 4
    for image in indexed.images:
        assert angle_deg(image.setting_matrix, truth[image.source_index], known) < 0.12
        assert image.indexed_by == "fast_stills"
        assert np.isfinite(image.spots.observed_px).all(axis=1).sum() > 30
    np.testing.assert_allclose(indexed.cells().mean(axis=0), CELL, rtol=1e-3)


def test_a_cell_off_by_three_per_cent_is_put_right(source, truth, tmp_path):
    hints = CrystalHints((34.9, 38.0, 46.1, 90.0, 90.0, 90.0), "P212121")
    found = FastStillsIndexer().index(source, hints, tmp_path, SerialEngine())
    assert len(found.images) == 4
    np.testing.assert_allclose(found.cells().mean(axis=0), CELL, rtol=1e-3)


def test_reflections_are_integrated(indexed):
    for image in indexed.images:
        done = np.isfinite(image.spots.intensity)
        assert done.sum() > 50
        assert ((image.spots.partiality[done] > 0) & (image.spots.partiality[done] <= 1)).all()
        assert image.mosaic_width_deg >= 0


def test_files_left_behind_read_back_as_the_same_experiment(indexed, folder, tmp_path):
    experiments = ExperimentListFactory.from_json_file(str(folder / "indexed.expt"))
    reflections = flex.reflection_table.from_file(str(folder / "indexed.refl"))
    reflections.assert_experiment_identifiers_are_consistent(experiments)
    given = GivenIndexer().index(open_source(experiments, (reflections,)), CrystalHints(), tmp_path, SerialEngine())
    for one, other in zip(indexed.images, given.images, strict=True):
        np.testing.assert_allclose(one.setting_matrix, other.setting_matrix, rtol=1e-9, atol=1e-15)
        for field in one.spots.__dataclass_fields__:
            np.testing.assert_allclose(getattr(one.spots, field), getattr(other.spots, field), rtol=1e-9)


def test_the_number_of_workers_changes_nothing(indexed, source, tmp_path):
    again = FastStillsIndexer().index(source, HINTS, tmp_path, process_engine(2))
    for one, other in zip(indexed.images, again.images, strict=True):
        assert (one.setting_matrix == other.setting_matrix).all()
        np.testing.assert_array_equal(one.spots.intensity, other.spots.intensity)


def test_a_detector_that_is_off_is_moved(stills, truth, tmp_path):
    experiments = images_from_files([str(path) for path in sorted(stills.glob("*.cbf"))])
    for detector in experiments.detectors():
        for panel in detector:
            origin = np.array(panel.get_origin()) + [0.25, -0.2, 0.0]
            panel.set_frame(panel.get_fast_axis(), panel.get_slow_axis(), tuple(origin))
    found = FastStillsIndexer().index(open_source(experiments), HINTS, tmp_path, SerialEngine())
    right = open_source(images_from_files([str(sorted(stills.glob("*.cbf"))[0])])).geometry(0).panels[0].origin_mm
    assert len(found.images) == 4
    np.testing.assert_allclose(found.geometries[0].panels[0].origin_mm, right, atol=0.04)
    known = known_cell(CELL, symmetry_of("P212121"))
    for image in found.images:
        assert angle_deg(image.setting_matrix, truth[image.source_index], known) < 0.15


def test_without_integration_spots_are_what_was_explained(source, tmp_path):
    indexer = FastStillsIndexer(limits=replace(FastStillsIndexer().limits, integrate=False))
    for image in indexer.index(source, HINTS, tmp_path, SerialEngine()).images:
        assert np.isfinite(image.spots.observed_px).all()
        assert np.isnan(image.spots.intensity).all()


def test_a_wrong_cell_is_refused_with_what_to_try(source, tmp_path):
    hints = CrystalHints((61.0, 71.0, 83.0, 90.0, 90.0, 90.0), "P212121")
    with pytest.raises(DataError, match=r"none of 4 images could be indexed.*Try: check crystal.unit_cell"):
        FastStillsIndexer(fallback=False).index(source, hints, tmp_path, SerialEngine())
    assert list(tmp_path.iterdir()) == []


def test_without_a_cell_another_indexer_is_named(source, tmp_path):
    with pytest.raises(DataError, match=r"needs the cell: give crystal.unit_cell=.*indexer.plugin=dials_ssx"):
        FastStillsIndexer().index(source, CrystalHints(), tmp_path, SerialEngine())


def test_a_file_that_cannot_be_read_is_rejected_by_name(stills, tmp_path):
    paths = [tmp_path / path.name for path in sorted(stills.glob("*.cbf"))]
    for path in paths:
        path.write_bytes((stills / path.name).read_bytes())
    source = open_source(images_from_files([str(path) for path in paths]))
    paths[3].write_bytes(paths[3].read_bytes()[:100000])
    folder = tmp_path / "out"
    folder.mkdir()
    found = FastStillsIndexer().index(source, HINTS, folder, SerialEngine())
    (rejected,) = found.rejected
    assert (rejected.name, rejected.stage) == ("sim_00004.cbf", "reading")


def test_rotations_are_refused(tmp_path):
    from diffuse_framework.adapters.images.sequences import SequenceSource

    with pytest.raises(ConfigError, match="indexer.plugin=dials_sequence"):
        FastStillsIndexer().index(SequenceSource.__new__(SequenceSource), HINTS, tmp_path, SerialEngine())


def outcomes_of(*stages: str) -> list[StillOutcome]:
    return [StillOutcome(n, None if stage else ("{}", None), 20, rejected_at=stage) for n, stage in enumerate(stages)]


def test_images_that_fail_go_to_dials_up_to_a_share(caplog):
    tried = []

    def again(number: int) -> StillOutcome:
        tried.append(number)
        return StillOutcome(
            number, ("{}", None) if number == 1 else None, 30, rejected_at="" if number == 1 else INDEXING
        )

    caplog.set_level("INFO")
    first = outcomes_of("", INDEXING, "spot finding", INDEXING)
    found = with_fallback(first, again, 2, lambda work, items: map(work, items), "dials_ssx")
    assert tried == [1, 3]
    assert [outcome.packed is not None for outcome in found] == [True, True, False, False]
    assert found[1].indexed_by == "dials_ssx"
    assert "DIALS indexed 1 of 2 images" in caplog.text
    assert with_fallback(first, again, 1, lambda work, items: map(work, items), "dials_ssx") == first
    assert "more than DIALS is given to try again (1)" in caplog.text and tried == [1, 3]


@pytest.mark.parametrize("integrate", [False, True])
def test_what_images_fall_back_on_indexes_them(source, truth, integrate):
    outcome = default_work(source, HINTS, integrate)(1)
    still = outcome.still()
    assert still is not None, outcome.reason
    setting = np.array(still.experiment.crystal.get_A()).reshape(3, 3)
    assert angle_deg(setting, truth[1], known_cell(CELL, symmetry_of("P212121"))) < 0.2


@pytest.mark.real_data
def test_good_stills_are_indexed_as_by_dials(thaumatin_images, tmp_path):
    source = open_source(images_from_files(thaumatin_images(14, 15, 16)))
    (tmp_path / "fast").mkdir()
    fast = FastStillsIndexer().index(source, THAUMATIN, tmp_path / "fast", SerialEngine())
    other = DialsSsxIndexer(integrate=False, refine_all_candidates=False)
    dials = other.index(source, THAUMATIN, tmp_path, SerialEngine())
    (rejected,) = fast.rejected
    assert (rejected.name, rejected.stage, rejected.reason) == (
        "thau_3_2_0016.cbf",
        "spot finding",
        "0 spots found, 15 needed",
    )
    known = known_cell(THAUMATIN.unit_cell, symmetry_of("P41212"))
    for one, other in zip(fast.images, dials.images, strict=True):
        assert angle_deg(one.setting_matrix, other.setting_matrix, known) < 0.15
        assert np.isfinite(one.spots.observed_px).all(axis=1).sum() >= len(other.spots)
    np.testing.assert_allclose(fast.cells(), dials.cells(), rtol=2e-3)
