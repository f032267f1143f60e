"""`dials.stills_process` on two good stills and a blank one."""

from __future__ import annotations

import logging
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dials")

from dials.array_family import flex
from dials.command_line import stills_process
from dxtbx.model.experiment_list import ExperimentListFactory
from iotbx.phil import parse

from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.algorithms.geometry import project
from diffuse_framework.algorithms.validation.stills import Limits, validate
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.engine.processes import process_engine
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.experiment import CrystalHints
from diffuse_plugins.indexer_dials_stills import DialsStillsIndexer
from diffuse_plugins.indexer_given import GivenIndexer

HINTS = CrystalHints((58.0, 58.0, 150.0, 90.0, 90.0, 90.0), "P41212")
# Half the time, and enough for all but the tests of what integration adds.
QUICK = DialsStillsIndexer(refine_all_candidates=False, integrate=False)


@pytest.fixture(scope="module")
def source(thaumatin_images):
    return open_source(images_from_files(thaumatin_images(14, 15, 16)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dials_stills")


@pytest.fixture(scope="module")
def indexed(source, folder):
    before = set(os.listdir())
    experiment = DialsStillsIndexer().index(source, HINTS, folder, SerialEngine())
    assert set(os.listdir()) == before
    return experiment


def default_params():
    return parse(DialsStillsIndexer.phil).extract()


def test_defaults_parse_and_the_indexer_pickles():
    indexer = DialsStillsIndexer.from_params(default_params())
    assert indexer == DialsStillsIndexer()
    assert pickle.loads(pickle.dumps(indexer)) == indexer


def test_every_parameter_has_type_and_help():
    for definition in parse(DialsStillsIndexer.phil).all_definitions():
        assert definition.object.type is not None and definition.object.help


def test_a_missing_parameter_file_is_refused():
    params = default_params()
    params.phil = ["not_there.phil"]
    with pytest.raises(ConfigError, match="not_there.phil"):
        DialsStillsIndexer.from_params(params)


def test_parameters_for_files_and_processes_stay_ours(tmp_path):
    path = tmp_path / "my.phil"
    path.write_text(
        "mp.nproc = 4\ndispatch.squash_errors = True\noutput.integration_pickle = x\n"
        "indexing.stills.rmsd_min_px = 3.5\n"
    )
    params = DialsStillsIndexer(phil_files=(str(path),), min_spots=20, d_min=1.8).parameters(HINTS).fresh()
    assert params.mp.nproc == 1
    assert params.dispatch.squash_errors is False
    assert params.output.integration_pickle is None
    assert params.indexing.stills.rmsd_min_px == 3.5
    assert params.dispatch.hit_finder.minimum_number_of_reflections == 20
    assert params.spotfinder.filter.d_min == params.prediction.d_min == 1.8
    assert params.indexing.stills.ewald_proximal_volume_max > 0.0025
    # The same word rejects outliers in one release and none in another.
    own = stills_process.phil_scope.extract().refinement.reflections.outlier.algorithm
    assert params.refinement.reflections.outlier.algorithm == own


@pytest.mark.real_data
def test_good_stills_are_indexed_and_the_blank_one_is_refused_by_name(indexed):
    assert [image.name for image in indexed.images] == ["thau_3_2_0014.cbf", "thau_3_2_0015.cbf"]
    assert [image.source_index for image in indexed.images] == [0, 1]
    (rejected,) = indexed.rejected
    assert (rejected.name, rejected.stage) == ("thau_3_2_0016.cbf", "spot finding")
    assert rejected.reason == "0 spots found, 16 needed"
    assert indexed.symmetry.laue_group == "4/mmm"
    assert len(indexed.geometries) == 1
    # Room-temperature thaumatin: the cell is within 2 % of the hint on all images.
    accepted, checks = validate(indexed, Limits(max_length_deviation=0.02, max_rms_px=2.0), HINTS.unit_cell)
    assert len(accepted.images) == 2
    assert (checks.n_observed > 30).all()
    assert (checks.rms_q < 0.002).all()


@pytest.mark.real_data
def test_spots_are_where_our_geometry_puts_the_reflections(indexed):
    for image in indexed.images:
        geometry = indexed.geometry_of(image)
        spots = image.spots
        panel, px = project(geometry, spots.hkl @ image.setting_matrix.T + geometry.beam.s0)
        np.testing.assert_array_equal(panel, spots.panel)
        # DIALS turns each reciprocal lattice point onto the Ewald sphere, ours goes straight along s1.
        assert np.median(np.linalg.norm(px - spots.predicted_px, axis=1)) < 1.0


@pytest.mark.real_data
def test_reflections_are_integrated(indexed):
    for image in indexed.images:
        spots = image.spots
        done = np.isfinite(spots.intensity)
        assert done.sum() > 500
        assert (spots.variance[done] > 0).all()
        assert ((spots.partiality[done] > 0) & (spots.partiality[done] <= 1)).all()
        found = np.isfinite(spots.observed_px).all(axis=1)
        assert 30 < found.sum() < len(spots)
        signal = spots.intensity / np.sqrt(spots.variance)
        assert np.nanmedian(signal[found]) > 3 > np.nanmedian(signal[~found])
        assert 0 < image.mosaic_width_deg < 2
        # Exposure_time of the header; dxtbx takes Exposure_period, 0.02.
        assert image.exposure_s == pytest.approx(0.019)


@pytest.mark.real_data
def test_files_left_behind_read_back_as_the_same_experiment(indexed, folder, tmp_path):
    assert sorted(path.name for path in folder.iterdir()) == ["indexed.expt", "indexed.refl"]
    experiments = ExperimentListFactory.from_json_file(str(folder / "indexed.expt"))
    reflections = flex.reflection_table.from_file(str(folder / "indexed.refl"))
    reflections.assert_experiment_identifiers_are_consistent(experiments)
    assert len(set(experiments.identifiers())) == 2
    for experiment in experiments:
        assert experiment.goniometer is None
        assert experiment.scan.get_oscillation()[1] == 0
    assert "partiality" in reflections
    again = open_source(experiments, (reflections,))
    given = GivenIndexer().index(again, CrystalHints(), tmp_path, SerialEngine())
    assert_same_images(indexed.images, given.images)
    assert given.symmetry.space_group == indexed.symmetry.space_group


def assert_same_images(first, second):
    """Assert that two tuples of images agree to rounding."""
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        assert one.exposure_s == pytest.approx(other.exposure_s)
        np.testing.assert_allclose(one.setting_matrix, other.setting_matrix, rtol=1e-9, atol=1e-15)
        assert one.mosaic_width_deg == pytest.approx(other.mosaic_width_deg)
        for field in one.spots.__dataclass_fields__:
            np.testing.assert_allclose(getattr(one.spots, field), getattr(other.spots, field), rtol=1e-9)


@pytest.mark.real_data
def test_the_input_is_left_alone(indexed, source):
    assert [experiment.crystal for experiment in source.experiments] == [None, None, None]
    assert all(experiment.imageset.get_beam() == experiment.beam for experiment in source.experiments)


def our_lines(caplog):
    """Return what was logged, without DIALS's part."""
    return [record.message for record in caplog.records if record.name.startswith("diffuse_framework")]


@pytest.mark.real_data
def test_processes_agree_with_one_process_to_the_last_digit(source, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "diffuse_framework"):
        serial = QUICK.index(source, HINTS, tmp_path, SerialEngine())
        lines = our_lines(caplog)
        caplog.clear()
        parallel = QUICK.index(source, HINTS, tmp_path, process_engine(2))
    assert our_lines(caplog) == lines
    assert [line.split(":")[0] for line in lines] == [
        "Indexed thau_3_2_0014.cbf",
        "Indexed thau_3_2_0015.cbf",
        "Rejected thau_3_2_0016.cbf at spot finding",
    ]
    assert serial.rejected == parallel.rejected
    for one, other in zip(serial.images, parallel.images, strict=True):
        np.testing.assert_array_equal(one.setting_matrix, other.setting_matrix)
        for field in one.spots.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one.spots, field), getattr(other.spots, field))
        assert np.isnan(one.spots.intensity).all()


@pytest.mark.real_data
def test_any_dials_parameter_can_be_set_and_dials_stays_out_of_the_terminal(source, tmp_path, capfd, caplog):
    path = tmp_path / "my.phil"
    path.write_text("dispatch.hit_finder.minimum_number_of_reflections = 100")
    work = replace(QUICK, phil_files=(str(path),))
    with caplog.at_level(logging.DEBUG, "dials"):
        experiment = work.index(source, HINTS, tmp_path, SerialEngine())
    assert capfd.readouterr().out == ""
    assert [image.name for image in experiment.images] == ["thau_3_2_0014.cbf"]
    # How many spots there are depends on the release of DIALS.
    assert all(rejected.reason.endswith(" spots found, 100 needed") for rejected in experiment.rejected)
    assert sum("DIALS on thau_3_2_0014.cbf" in record.message for record in caplog.records) == 1


@pytest.mark.real_data
def test_foreground_is_kept_on_request(thaumatin_images, tmp_path):
    source = open_source(images_from_files(thaumatin_images(15)))
    indexer = DialsStillsIndexer(refine_all_candidates=False, shoeboxes=True)
    (image,) = indexer.index(source, HINTS, tmp_path, SerialEngine()).images
    spots = image.spots
    marked = np.zeros(source.geometry(0).panels[0].shape, bool)
    marked[spots.foreground[:, 1], spots.foreground[:, 2]] = True
    inside = np.isfinite(spots.intensity)
    fast, slow = spots.predicted_px[inside].astype(int).T
    assert marked[slow, fast].all()
    assert marked.mean() < 0.2

    reflections = flex.reflection_table.from_file(str(tmp_path / "indexed.refl"))
    again = open_source(ExperimentListFactory.from_json_file(str(tmp_path / "indexed.expt")), (reflections,))
    given = GivenIndexer().index(again, CrystalHints(), tmp_path, SerialEngine())
    np.testing.assert_array_equal(given.images[0].spots.foreground, spots.foreground)


@pytest.mark.real_data
def test_no_image_left_says_what_to_try(thaumatin_images, tmp_path):
    source = open_source(images_from_files(thaumatin_images(16, 17)))
    with pytest.raises(DataError, match="0 spots found, 16 needed.*Try: lower .*min_spots"):
        QUICK.index(source, HINTS, tmp_path, SerialEngine())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_data
def test_a_wrong_cell_is_refused_at_indexing(thaumatin_images, tmp_path):
    source = open_source(images_from_files(thaumatin_images(14)))
    wrong = CrystalHints((40.0, 70.0, 90.0, 90.0, 90.0, 90.0), "P212121")
    with pytest.raises(DataError, match=r"at indexing: .*\(\d+ spots found\).*check crystal.unit_cell"):
        DialsStillsIndexer(integrate=False).index(source, wrong, tmp_path, SerialEngine())


@pytest.mark.real_data
def test_a_truncated_image_is_rejected(thaumatin_images, tmp_path):
    (good,) = thaumatin_images(15)
    cut = tmp_path / "cut_0001.cbf"
    cut.write_bytes(Path(good).read_bytes()[:1_000_000])
    source = open_source(images_from_files([str(cut), good]))
    experiment = QUICK.index(source, HINTS, tmp_path, SerialEngine())
    (rejected,) = experiment.rejected
    assert (rejected.name, rejected.stage) == ("cut_0001.cbf", "reading")
    assert "can't read the image" in rejected.reason and "\n" not in rejected.reason
    assert len(experiment.images) == 1
