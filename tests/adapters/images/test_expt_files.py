"""Files of experiments as they come: images that have moved or are missing, no images, positions in mm alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from dials.array_family import flex
from dials.util.options import geometry_phil_scope
from dxtbx import flumpy

from diffuse_framework.adapters.images.experiments import spots_of
from diffuse_framework.adapters.images.expt_files import ImagePlaces, experiments_from_file, image_places
from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.adapters.images.sequences import spots_by_frame
from diffuse_framework.command_line import simulate
from diffuse_framework.errors import ConfigError, DataError, GeometryError


def simulated(folder, *args):
    simulate.run([f"output.directory={folder}", "mp.nproc=1", *args])
    return folder


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("stills"), "images=3")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("sweep"), "images=3", "rotation.width=1")


@pytest.fixture(params=["stills", "sweep"])
def moved(request, tmp_path):
    """A folder from which the images have gone to another, and that folder."""
    shutil.copytree(request.getfixturevalue(request.param), tmp_path / "a" / "data")
    (tmp_path / "b").mkdir()
    shutil.move(tmp_path / "a" / "data", tmp_path / "b" / "data")
    (tmp_path / "a" / "data").mkdir(parents=True, exist_ok=True)
    text = (tmp_path / "b" / "data" / "truth.expt").read_text()
    old = request.getfixturevalue(request.param)
    expt = tmp_path / "a" / "data" / "truth.expt"
    expt.write_text(text.replace(str(old), str(tmp_path / "a" / "data")))
    return expt, tmp_path / "b" / "data"


def test_images_that_have_moved_are_named_with_what_to_give(moved):
    expt, _ = moved
    with pytest.raises(DataError) as refused:
        experiments_from_file(expt)
    said = str(refused.value)
    assert f"names 3 of 3 images that are not there, for example {expt.parent / 'sim_00001.cbf'}" in said
    assert "input.image_folder=" in said and "input.image_map=" in said


@pytest.mark.parametrize("how", ["folder", "folder above", "map"])
def test_images_are_found_where_they_are_now(moved, how):
    expt, now = moved
    places = {
        "folder": ImagePlaces(str(now)),
        "folder above": ImagePlaces(str(now.parent)),
        "map": ImagePlaces(beginnings=((str(expt.parent.parent.parent / "a"), str(now.parent)),)),
    }[how]
    experiments = experiments_from_file(expt, places=places)
    source = open_source(experiments)
    assert len(source) == 3
    assert source.read(2).counts[0].max() > 0
    assert source.experiments[0].imageset.get_path(0) == str(now / "sim_00001.cbf")


def test_one_image_that_is_missing_is_named(moved):
    expt, now = moved
    (now / "sim_00002.cbf").unlink()
    with pytest.raises(DataError) as refused:
        experiments_from_file(expt, places=ImagePlaces(str(now)))
    said = str(refused.value)
    assert "names 1 of 3 images that are not there and not where" in said
    assert str(now / "sim_00002.cbf") in said


def test_an_image_that_stayed_is_found_though_others_moved(stills, tmp_path):
    shutil.copytree(stills, tmp_path / "old")
    content = json.loads((stills / "truth.expt").read_text())
    content["imageset"] = [
        {"__id__": "ImageSet", "images": [str(tmp_path / "old" / f"sim_0000{number}.cbf")]} for number in (1, 2, 3)
    ]
    for number, experiment in enumerate(content["experiment"]):
        experiment["imageset"] = number
        experiment.pop("scan", None)
        experiment.pop("goniometer", None)
    (tmp_path / "truth.expt").write_text(json.dumps(content))
    (tmp_path / "new").mkdir()
    shutil.move(tmp_path / "old" / "sim_00003.cbf", tmp_path / "new")
    places = ImagePlaces(str(tmp_path / "new"))
    found = [one.imageset.get_path(0) for one in experiments_from_file(tmp_path / "truth.expt", places=places)]
    assert [path.split("/")[-2:] for path in found] == [
        ["old", "sim_00001.cbf"],
        ["old", "sim_00002.cbf"],
        ["new", "sim_00003.cbf"],
    ]


@pytest.mark.parametrize(
    ("folder", "pairs", "message"),
    [("nowhere", (), "there is no folder nowhere"), (None, (["one"],), "what paths begin with")],
)
def test_places_that_are_none_are_refused(folder, pairs, message):
    with pytest.raises(ConfigError, match=message):
        image_places(folder, pairs)
    assert image_places(None, (None, [])) == ImagePlaces()


def test_experiments_without_image_sets_are_refused_in_one_line(stills, tmp_path):
    content = json.loads((stills / "truth.expt").read_text())
    del content["imageset"]
    for experiment in content["experiment"]:
        del experiment["imageset"]
    path = tmp_path / "bare.expt"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"bare.expt names no images: it has no image set.*input.reference_geometry="):
        experiments_from_file(path)
    # As a geometry for other images it will do.
    assert len(experiments_from_file(path, check_format=False)) == 3
    images = sorted(str(image) for image in stills.glob("*.cbf"))
    assert len(open_source(images_from_files(images), reference_geometry=path)) == 3


@pytest.mark.parametrize("image_range", [[None, 3], ["a", "b"], [1], [1, 10**15], [5, 1]])
def test_image_ranges_that_are_none_are_refused(sweep, tmp_path, image_range):
    content = json.loads((sweep / "truth.expt").read_text())
    content["scan"][0]["image_range"] = image_range
    path = sweep / "odd.expt"
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(DataError, match=r"odd.expt is not an .expt file that can be read"):
            experiments_from_file(path)
    finally:
        path.unlink()


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": 1}', "not json", ""])
def test_files_of_something_else_are_refused(tmp_path, text):
    path = tmp_path / "x.expt"
    path.write_text(text)
    with pytest.raises(DataError, match=r"x.expt is not an .expt file that can be read"):
        experiments_from_file(path)


def test_predicted_positions_in_mm_alone_will_do(stills, sweep):
    still = experiments_from_file(stills / "truth.expt")[0]
    table = flex.reflection_table.from_file(str(stills / "truth.refl"))
    table = table.select(table["id"] == 0)
    wanted = spots_of(table, still.detector)
    del table["xyzcal.px"]
    found = spots_of(table, still.detector)
    np.testing.assert_allclose(found.predicted_px, wanted.predicted_px, atol=0.01)

    turned = experiments_from_file(sweep / "truth.expt")[0]
    table = flex.reflection_table.from_file(str(sweep / "truth.refl"))
    z = flumpy.to_numpy(table["xyzcal.px"])[:, 2].copy()
    wanted = spots_by_frame(table, turned)
    start, width = turned.scan.get_oscillation()
    mm = flumpy.to_numpy(table["xyzcal.mm"])
    mm[:, 2] = np.radians(start + width * (z - turned.scan.get_array_range()[0]))
    del table["xyzcal.px"]
    for one, other in zip(spots_by_frame(table, turned), wanted, strict=True):
        np.testing.assert_array_equal(one.hkl, other.hkl)
        np.testing.assert_allclose(one.predicted_px, other.predicted_px, atol=0.01)


def test_reflections_that_were_only_predicted_have_no_observed_position(stills):
    still = experiments_from_file(stills / "truth.expt")[0]
    table = flex.reflection_table.from_file(str(stills / "truth.refl"))
    for name in ("flags", "xyzobs.px.value"):
        if name in table:
            del table[name]
    assert np.isnan(spots_of(table, still.detector).observed_px).all()


def test_a_beam_without_wavelength_is_said_where_no_geometry_was_set(stills):
    experiments = images_from_files([str(stills / "sim_00001.cbf")])
    experiments[0].beam.set_wavelength(0)
    with pytest.raises(GeometryError, match=r"wavelength is 0.*set geometry.beam.wavelength="):
        open_source(experiments, overrides=geometry_phil_scope.extract().geometry)
