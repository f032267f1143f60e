"""The functions behind `dials.ssx_index` and `dials.ssx_integrate` on two good stills and a blank one."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

pytest.importorskip("dials")

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory
from iotbx.phil import parse

from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.adapters.indexing.ssx import FindSpotsWork
from diffuse_framework.algorithms.validation.stills import Limits, validate
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.engine.processes import process_engine
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.experiment import CrystalHints
from diffuse_plugins.indexer_dials_ssx import DialsSsxIndexer
from diffuse_plugins.indexer_given import GivenIndexer

HINTS = CrystalHints((58.0, 58.0, 150.0, 90.0, 90.0, 90.0), "P41212")


@pytest.fixture(scope="module")
def source(thaumatin_images):
    return open_source(images_from_files(thaumatin_images(14, 15, 16)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dials_ssx")


@pytest.fixture(scope="module")
def indexed(source, folder):
    before = set(os.listdir())
    experiment = DialsSsxIndexer().index(source, HINTS, folder, process_engine(2))
    assert set(os.listdir()) == before
    return experiment


def test_defaults_parse_and_the_indexer_pickles():
    indexer = DialsSsxIndexer.from_params(parse(DialsSsxIndexer.phil).extract())
    assert indexer == DialsSsxIndexer()
    assert pickle.loads(pickle.dumps(indexer)) == indexer


def test_every_parameter_has_type_and_help():
    for definition in parse(DialsSsxIndexer.phil).all_definitions():
        assert definition.object.type is not None and definition.object.help


def test_each_program_takes_its_own_files(tmp_path):
    files = {}
    for program, text in (
        ("find", "spotfinder.filter.min_spot_size = 4\nspotfinder.mp.nproc = 3"),
        ("index", "indexing.stills.rmsd_min_px = 3.5\nnproc = 3"),
        ("integrate", "profile.ellipsoid.refinement.n_cycles = 2\nnproc = 3"),
    ):
        files[program] = (str(tmp_path / f"{program}.phil"),)
        (tmp_path / f"{program}.phil").write_text(text)
    indexer = DialsSsxIndexer(
        files["find"], files["index"], files["integrate"], 12, 1.8, ("fft1d",), integrator="ellipsoid"
    )
    find, index = indexer.find_parameters().fresh(), indexer.index_parameters(HINTS).fresh()
    integrate = indexer.integrate_parameters().fresh()
    assert (find.spotfinder.filter.min_spot_size, find.spotfinder.filter.d_min) == (4, 1.8)
    assert (find.spotfinder.mp.nproc, index.nproc, integrate.nproc) == (1, 1, 1)
    assert (index.indexing.stills.rmsd_min_px, index.min_spots, index.method) == (3.5, 12, ["fft1d"])
    assert (integrate.algorithm, integrate.prediction.d_min) == ("ellipsoid", 1.8)
    assert integrate.profile.ellipsoid.rlp_mosaicity.model == "simple6"
    assert integrate.profile.ellipsoid.refinement.n_cycles == 2
    with pytest.raises(ConfigError, match="find.phil"):
        DialsSsxIndexer(index_phil=files["find"]).index_parameters(HINTS).check()


@pytest.mark.real_data
def test_good_stills_are_indexed_and_the_blank_one_is_refused_by_name(indexed):
    assert [image.name for image in indexed.images] == ["thau_3_2_0014.cbf", "thau_3_2_0015.cbf"]
    (rejected,) = indexed.rejected
    assert (rejected.name, rejected.stage) == ("thau_3_2_0016.cbf", "spot finding")
    assert rejected.reason == "0 spots found, 10 needed"
    accepted, checks = validate(indexed, Limits(max_length_deviation=0.02, max_rms_px=2.0), HINTS.unit_cell)
    assert len(accepted.images) == 2
    assert (checks.n_observed > 30).all()
    assert (checks.rms_q < 0.002).all()
    for image in indexed.images:
        done = np.isfinite(image.spots.intensity)
        assert done.sum() > 500
        assert ((image.spots.partiality[done] > 0) & (image.spots.partiality[done] <= 1)).all()


@pytest.mark.real_data
def test_files_left_behind_read_back_as_the_same_experiment(indexed, folder, tmp_path):
    assert sorted(path.name for path in folder.iterdir()) == ["indexed.expt", "indexed.refl"]
    experiments = ExperimentListFactory.from_json_file(str(folder / "indexed.expt"))
    reflections = flex.reflection_table.from_file(str(folder / "indexed.refl"))
    reflections.assert_experiment_identifiers_are_consistent(experiments)
    given = GivenIndexer().index(open_source(experiments, (reflections,)), CrystalHints(), tmp_path, SerialEngine())
    for one, other in zip(indexed.images, given.images, strict=True):
        np.testing.assert_allclose(one.setting_matrix, other.setting_matrix, rtol=1e-9, atol=1e-15)
        for field in one.spots.__dataclass_fields__:
            np.testing.assert_allclose(getattr(one.spots, field), getattr(other.spots, field), rtol=1e-9)


@pytest.mark.real_data
def test_ellipsoids_give_partialities(thaumatin_images, tmp_path):
    source = open_source(images_from_files(thaumatin_images(15)))
    indexer = DialsSsxIndexer(refine_all_candidates=False, integrator="ellipsoid", profile_model="simple1")
    (image,) = indexer.index(source, HINTS, tmp_path, SerialEngine()).images
    partiality = image.spots.partiality[np.isfinite(image.spots.intensity)]
    assert len(partiality) > 100
    assert ((partiality > 0) & (partiality < 1.1)).all()
    assert partiality.std() > 0.1
    ExperimentListFactory.from_json_file(str(tmp_path / "indexed.expt"))


@pytest.mark.real_data
def test_the_longest_axis_is_looked_for_only_where_no_cell_is_known(source):
    indexer = DialsSsxIndexer()
    known = FindSpotsWork(source, indexer.find_parameters(), indexer.index_parameters(HINTS))(0)
    unknown = FindSpotsWork(source, indexer.find_parameters(), indexer.index_parameters(CrystalHints()))(0)
    assert known.max_cell is None
    # Stills show too few spots along the long axis, of 150 angstrom, to suggest it.
    assert 58 < unknown.max_cell < 150
    assert known.n_found == unknown.n_found == len(known.table)


@pytest.mark.real_data
def test_no_image_left_says_what_to_try(source, tmp_path):
    """Without a cell too few spots of these stills are indexed."""
    indexer = DialsSsxIndexer(min_spots=60, method=("fft1d",), integrate=False)
    with pytest.raises(DataError, match="none of 3 images.*Try: give crystal.unit_cell= and crystal.space"):
        indexer.index(source, CrystalHints(), tmp_path, SerialEngine())
    assert list(tmp_path.iterdir()) == []
