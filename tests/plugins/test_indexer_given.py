"""Orientations that come with the input, from the simulator's true models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dials")

from dials.array_family import flex
from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.adapters.indexing.given import given_stills
from diffuse_framework.algorithms.validation.stills import Limits, validate
from diffuse_framework.command_line.simulate import run
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import CrystalHints
from diffuse_framework.simulate import truth as truth_file
from diffuse_plugins.indexer_given import GivenIndexer

NO_HINTS = CrystalHints()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return a folder of three simulated images with true models."""
    folder = tmp_path_factory.mktemp("given") / "sim"
    run(
        [
            "detector.model=100K",
            "images=3",
            "crystal.unit_cell=20,22,24,90,90,90",
            "mp.nproc=1",
            "seed=4",
            f"output.directory={folder}",
        ]
    )
    return folder


def load(folder):
    """Return the true experiments and reflections, fresh."""
    experiments = ExperimentListFactory.from_json_file(str(folder / "truth.expt"))
    return experiments, flex.reflection_table.from_file(str(folder / "truth.refl"))


def index(experiments, reflections, folder, hints=NO_HINTS):
    """Return what the indexer makes of experiments and reflection tables."""
    source = open_source(experiments, tuple(reflections))
    return GivenIndexer().index(source, hints, Path(folder), SerialEngine())


def test_true_models_come_back(simulated, tmp_path):
    experiments, reflections = load(simulated)
    truth = truth_file.load(simulated / "truth.h5")
    experiment = index(experiments, [reflections], tmp_path)
    assert tuple(image.name for image in experiment.images) == truth.names
    assert experiment.rejected == ()
    assert len(experiment.geometries) == 1
    for number, image in enumerate(experiment.images):
        np.testing.assert_allclose(image.setting_matrix, truth.setting_matrices[number], atol=1e-9)
        assert image.exposure_s == pytest.approx(0.1)
        assert image.mosaic_width_deg == pytest.approx(0.3)
        assert len(image.spots) == (reflections["id"] == number).count(True)
    accepted, checks = validate(experiment, Limits(max_rms_px=0.5), (20, 22, 24, 90, 90, 90))
    assert len(accepted.images) == 3
    assert not checks.unchecked


def test_files_left_behind_can_be_given_again(simulated, tmp_path):
    first = index(*_single(load(simulated)), tmp_path)
    experiments = ExperimentListFactory.from_json_file(str(tmp_path / "indexed.expt"))
    reflections = flex.reflection_table.from_file(str(tmp_path / "indexed.refl"))
    second = index(experiments, [reflections], tmp_path)
    for one, other in zip(first.images, second.images, strict=True):
        np.testing.assert_allclose(one.setting_matrix, other.setting_matrix, atol=1e-15)
        np.testing.assert_array_equal(one.spots.hkl, other.spots.hkl)


def _single(loaded):
    return loaded[0], [loaded[1]]


def test_reflections_are_matched_by_identifier_whatever_their_order(simulated, tmp_path):
    experiments, reflections = load(simulated)
    backwards = ExperimentList([experiments[2], experiments[0], experiments[1]])
    split = [reflections.select(reflections["id"] == number) for number in (1, 2, 0)]
    for number, table in zip((1, 2, 0), split, strict=True):
        _keep_identifier(table, number)
    straight = index(experiments, [reflections], tmp_path)
    turned = index(backwards, split, tmp_path)
    by_name = {image.name: image for image in turned.images}
    for image in straight.images:
        np.testing.assert_array_equal(by_name[image.name].spots.hkl, image.spots.hkl)


def _keep_identifier(table, number):
    """Make `table` one whose id starts at 0 again, as separate files have it."""
    identifier = table.experiment_identifiers()[number]
    for key in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[key]
    table["id"] = flex.int(len(table), 0)
    table.experiment_identifiers()[0] = identifier


def test_without_identifiers_the_number_counts(simulated, tmp_path):
    experiments, reflections = load(simulated)
    with_identifiers = index(experiments, [reflections], tmp_path)
    for key in list(reflections.experiment_identifiers().keys()):
        del reflections.experiment_identifiers()[key]
    without = index(experiments, [reflections], tmp_path)
    for one, other in zip(with_identifiers.images, without.images, strict=True):
        np.testing.assert_array_equal(one.spots.hkl, other.spots.hkl)


def test_images_without_crystal_are_refused(simulated, tmp_path):
    experiments, reflections = load(simulated)
    experiments[1].crystal = None
    experiment = index(experiments, [reflections], tmp_path)
    assert len(experiment.images) == 2
    (rejected,) = experiment.rejected
    assert rejected.name == "sim_00002.cbf" and "no crystal" in rejected.reason


def test_images_without_any_crystal_end_it(simulated, tmp_path):
    images = images_from_files(sorted(map(str, simulated.glob("*.cbf"))))
    with pytest.raises(DataError, match="no crystal.*indexer.plugin"):
        index(images, [], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_crystals_are_enough(simulated, tmp_path):
    experiments, _ = load(simulated)
    experiment = index(experiments, [], tmp_path)
    assert [len(image.spots) for image in experiment.images] == [0, 0, 0]
    _, checks = validate(experiment, Limits())
    assert len(checks.unchecked) == 3


class Lattices:
    """A source in which one image has two crystals."""

    def __init__(self, experiments, reflections):
        self.experiments, self.reflections = experiments, reflections
        self.names = tuple(Path(experiment.imageset.get_path(0)).name for experiment in experiments)

    def __len__(self):
        return len(self.experiments)


def test_one_lattice_of_an_image_is_kept(simulated, caplog):
    experiments, reflections = load(simulated)
    for key in list(reflections.experiment_identifiers().keys())[1:]:
        del reflections.experiment_identifiers()[key]
    first = reflections.select(reflections["id"] == 0)
    few = reflections.select(reflections["id"] == 0)[:3]
    for key in list(few.experiment_identifiers().keys()):
        del few.experiment_identifiers()[key]
    few.experiment_identifiers()[0] = "second"
    lattices = ExperimentList()
    for identifier, crystal in (("second", experiments[1].crystal), ("0", experiments[0].crystal)):
        lattices.append(Experiment(imageset=experiments[0].imageset, crystal=crystal, identifier=identifier))
    with caplog.at_level("INFO", "diffuse_framework"):
        stills, rejected = given_stills(Lattices(lattices, (first, few)))
    assert rejected == []
    assert [(still.source_index, len(still.reflections)) for still in stills] == [(1, len(first))]
    assert "1 of 1 images have several lattices, 2 in all" in caplog.text
    assert stills[0].other_crystals == (experiments[1].crystal,)


def test_reflections_of_other_experiments_are_refused(simulated, tmp_path):
    experiments, reflections = load(simulated)
    for number in range(3):
        reflections.experiment_identifiers()[number] = f"other {number}"
    with pytest.raises(DataError, match="identifiers differ"):
        index(experiments, [reflections], tmp_path)


def test_more_reflections_than_experiments_are_refused(simulated, tmp_path):
    experiments, reflections = load(simulated)
    for key in list(reflections.experiment_identifiers().keys()):
        del reflections.experiment_identifiers()[key]
    with pytest.raises(DataError, match="3 experiments.*has 2"):
        index(experiments[:2], [reflections], tmp_path)
    with pytest.raises(DataError, match="2 .refl files"):
        index(experiments, [reflections, reflections], tmp_path)


def test_reflections_on_panels_that_are_not_there_are_refused(simulated, tmp_path):
    experiments, reflections = load(simulated)
    reflections["panel"] = flex.size_t(len(reflections), 5)
    with pytest.raises(DataError, match="panel 5"):
        index(experiments, [reflections], tmp_path)


def test_the_users_space_group_is_the_maps(simulated, tmp_path):
    experiment = index(*_single(load(simulated)), tmp_path, CrystalHints(space_group="P222"))
    assert (experiment.symmetry.space_group, experiment.symmetry.laue_group) == ("P222", "mmm")


def test_crystals_that_cannot_have_the_users_space_group_are_refused(simulated, tmp_path):
    with pytest.raises(DataError, match="can't be that of P4"):
        index(*_single(load(simulated)), tmp_path, CrystalHints(space_group="P4"))


def test_crystals_of_another_space_group_than_most_are_refused(simulated, tmp_path):
    from cctbx import sgtbx

    experiments, reflections = load(simulated)
    experiments[2].crystal.set_space_group(sgtbx.space_group_info("P222").group())
    experiment = index(experiments, [reflections], tmp_path)
    assert len(experiment.images) == 2
    assert "most images" in experiment.rejected[0].reason


def test_a_folder_that_can_not_be_written_to_is_named(simulated, tmp_path):
    with pytest.raises(DataError, match="can't write .*indexed.refl"):
        index(*_single(load(simulated)), tmp_path / "not_there")
