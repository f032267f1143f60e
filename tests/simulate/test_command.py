"""diffuse.simulate, from the command line to files that DIALS reads."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dials")

from diffuse_framework.adapters.images.open import images_from_files
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.command_line.simulate import run
from diffuse_framework.simulate import truth as truth_file

SMALL = ["detector.model=100K", "images=3", "crystal.unit_cell=20,22,24,90,90,90", "mp.nproc=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "sim"
    run([*SMALL, "seed=4", "beam.polarization=0.9", f"output.directory={folder}"])
    return folder


def test_images_and_truth_belong_together(folder):
    source = DxtbxSource(images_from_files(sorted(map(str, folder.glob("*.cbf")))))
    truth = truth_file.load(folder / "truth.h5")
    assert source.names == truth.names == ("sim_00001.cbf", "sim_00002.cbf", "sim_00003.cbf")
    mean = np.mean([np.median(source.read(index).counts[0]) for index in range(3)])
    assert 0 <= mean <= 2


def test_models_are_true(folder):
    from dials.array_family import flex
    from dxtbx.model.experiment_list import ExperimentListFactory

    experiments = ExperimentListFactory.from_json_file(str(folder / "truth.expt"))
    truth = truth_file.load(folder / "truth.h5")
    reflections = flex.reflection_table.from_file(str(folder / "truth.refl"))
    source = DxtbxSource(experiments)
    assert len(experiments.beams()) == len(experiments.detectors()) == 1
    assert experiments[0].beam.get_polarization_fraction() == pytest.approx(0.9)
    assert list(reflections.experiment_identifiers().values()) == list(experiments.identifiers())
    for number, experiment in enumerate(experiments):
        np.testing.assert_allclose(
            np.array(experiment.crystal.get_A()).reshape(3, 3), truth.setting_matrices[number], atol=1e-9
        )
        assert source.exposure_s(number) == pytest.approx(0.1)
        assert experiment.crystal.get_half_mosaicity_deg() == pytest.approx(0.15)
        assert source.read(number).counts[0].shape == (195, 487)
        here = reflections.select(reflections["id"] == number)
        assert len(here) > 5
        # The parallax of dxtbx from mm to pixels is not quite the inverse of that from pixels to mm.
        for row in here[:10].rows():
            x, y = experiment.detector[0].get_ray_intersection_px(row["s1"])
            assert (x, y) == pytest.approx(row["xyzcal.px"][:2], abs=0.02)


def test_spots_are_where_dials_predicts_them(folder):
    from dials.algorithms.spot_prediction import StillsReflectionPredictor
    from dials.array_family import flex
    from dxtbx.model.experiment_list import ExperimentListFactory

    experiments = ExperimentListFactory.from_json_file(str(folder / "truth.expt"), check_format=False)
    reflections = flex.reflection_table.from_file(str(folder / "truth.refl"))
    for number, experiment in enumerate(experiments):
        ours = reflections.select(reflections["id"] == number)
        theirs = flex.reflection_table()
        theirs["miller_index"] = ours["miller_index"]
        theirs["panel"] = ours["panel"]
        theirs["id"] = flex.int(len(ours), 0)
        theirs["flags"] = flex.size_t(len(ours), 0)
        theirs["entering"] = flex.bool(len(ours), False)
        for name in ("s1", "xyzcal.mm", "xyzcal.px"):
            theirs[name] = flex.vec3_double(len(ours))
        theirs["delpsical.rad"] = flex.double(len(ours))
        predictor = StillsReflectionPredictor(experiment, dmin=1.0)
        predictor.for_reflection_table(theirs, np.array(experiment.crystal.get_A()).tolist())
        distance = (theirs["xyzcal.px"] - ours["xyzcal.px"]).norms()
        assert flex.max(distance) < 1e-3


def test_extinct_reflections_are_not_there(folder):
    from dials.array_family import flex

    reflections = flex.reflection_table.from_file(str(folder / "truth.refl"))
    hkl = np.array(list(reflections["miller_index"]))
    for axis in range(3):
        others = np.delete(hkl, axis, axis=1)
        on_axis = hkl[(others == 0).all(axis=1), axis]
        assert (on_axis % 2 == 0).all()


def test_the_same_seed_writes_the_same_files(folder, tmp_path):
    run([*SMALL, "seed=4", "beam.polarization=0.9", f"output.directory={tmp_path}"])
    for path in sorted(folder.glob("*.cbf")):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("crystal.space_group=P4", "does not have the symmetry"),
        ("crystal.space_group=nonsense", "nonsense"),
        ("detector.distance=0", "distance"),
        ("counts_per_pixel=0", "counts_per_pixel"),
        ("images=0", "images"),
        ("nonsense=1", "nonsense"),
        ("detector.beamstop_radius=1000", "beamstop"),
    ],
)
def test_bad_input_is_one_line_and_a_failure(argument, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as failure:
        run([*SMALL, f"output.directory={tmp_path}", argument])
    assert failure.value.code != 0
    message = capsys.readouterr().err
    assert said in message
    assert len(message.strip().splitlines()) == 1


def test_images_of_another_data_set_are_not_mixed_in(tmp_path, capsys):
    (tmp_path / "thaumatin_1.cbf").touch()
    with pytest.raises(SystemExit):
        run([*SMALL, f"output.directory={tmp_path}"])
    assert "thaumatin_1.cbf" in capsys.readouterr().err
