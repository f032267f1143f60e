"""Each mistake of a user ends in one clear line and a non-zero exit."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from libtbx import Auto

from diffuse_framework import api
from diffuse_framework.command_line import merge, process, scale, stats
from diffuse_framework.config.scope import build_scope
from diffuse_framework.config.selection import select_named
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.loader import load_registry

CRYSTAL = ("crystal.unit_cell=34,39,45,90,90,90", "crystal.space_group=P212121")


def refusal(capsys, command, *args) -> str:
    """Run a command that must fail; return the one line it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command.run([str(arg) for arg in args])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: ") and said.count("\n") == 1, said
    return said


@pytest.fixture
def here(tmp_path, monkeypatch, stills) -> Path:
    """A folder to be in, with one image that can be indexed."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(stills / "sim_00001.cbf", tmp_path)
    shutil.copy(stills / "sim_00001.cbf", tmp_path / "cut.cbf")
    return tmp_path


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["mp.nproc=1"], "no images"),
        (["nothing_*.cbf"], "no file matches nothing_"),
        (["nothing_####.cbf"], "no file matches the template nothing_####.cbf"),
        (["input.template=nothing_##.cbf"], "no file matches the template nothing_##.cbf"),
        (["nothing.cbf"], "there is no file nothing.cbf"),
        (["."], "is a folder"),
        (["sim_00001.cbf", "grid.hkl.dmin=2"], "there is no parameter grid.hkl.dmin; did you mean grid.hkl.d_min?"),
        (["sim_00001.cbf", "nprok=2"], "did you mean mp.nproc or"),
        (["sim_00001.cbf", "plugin=x"], "plugin may mean indexer.plugin, "),
        (["sim_00001.cbf", "-e", "x"], "invalid int value"),
        (["sim_00001.cbf", "plugin=x"], "absolute_scaler.plugin"),
        (["sim_00001.cbf", "--nothing"], "there is no option --nothing"),
        (["sim_00001.cbf", "grid.hkl.d_min=high"], "high"),
        (["sim_00001.cbf", "mp.nproc=0"], "nproc"),
        (["sim_00001.cbf", "crystal.space_group=P99"], "P99"),
        (["sim_00001.cbf", "crystal.unit_cell=1,2"], "no crystal's"),
        (["sim_00001.cbf", "crystal.unit_cell=34,39,45,90,90,90", "crystal.space_group=P4"], "can't be that of"),
        (["sim_00001.cbf", "indexer.plugin=dials_sxs"], "did you mean 'dials_ssx'"),
        (["sim_00001.cbf", "masker.plugins=trusted nothing"], "no masker called 'nothing'"),
        (["sim_00001.cbf", "input.reference_geometry=nothing.expt"], "there is no file nothing.expt"),
        (["sim_00001.cbf", "crystal.reference=nothing.pdb"], "nothing.pdb"),
        (["sim_00001.cbf", "geometry.beam.wavelength=-1"], "wavelength"),
        (["sim_00001.cbf", "geometry.beam.wavelength=1e-300"], "wavelength is 1e-300"),
        (["sim_00001.cbf", "detector.gain=much"], "detector.gain=much is neither a number nor estimate"),
        (["sim_00001.cbf", "detector.gain=0"], "detector.gain=0 must be above 0"),
        (["sim_00001.cbf", "detector.pedestal=inf"], "detector.pedestal=inf is no value"),
        (["sim_00001.cbf", "sim_00001.cbf"], "more than once"),
        (["cut.cbf"], "hold a number"),
        (["input.experiments=nothing.expt"], "File nothing.expt does not exist"),
    ],
)
def test_arguments_that_cannot_be(here, capsys, args, message):
    assert message in refusal(capsys, process, *args)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.phil", b"grid { hkl {\n", "bad.phil"),
        ("bad.phil", b"grid.hkl.d_min = high\n", "high"),
        ("bad.phil", b"no.such.parameter = 1\n", "not recognised"),
        ("bad.phil", b"\xff\xfe\x00", "bad.phil"),
        ("empty.cbf", b"", "empty.cbf is neither an image"),
        ("text.cbf", b"hello\n", "text.cbf is neither an image"),
        ("text.expt", b"{}", "text.expt is not an .expt file that can be read (it holds no list"),
        ("two words ä.cbf", b"", "two words ä.cbf is neither an image"),
    ],
)
def test_files_that_are_not_what_they_seem(here, capsys, name, content, message):
    (here / name).write_bytes(content)
    assert message in refusal(capsys, process, "sim_00001.cbf", name)


def test_a_cell_of_another_crystal(here, capsys):
    said = refusal(
        capsys, process, "sim_00001.cbf", "crystal.unit_cell=57,61,71,90,90,90", "crystal.space_group=P212121"
    )
    assert "check crystal.unit_cell" in said


def test_a_truncated_image_alone(here, capsys):
    whole = (here / "sim_00001.cbf").read_bytes()
    (here / "sim_00001.cbf").write_bytes(whole[: len(whole) // 2])
    assert "cut short or damaged" in refusal(capsys, process, "sim_00001.cbf", *CRYSTAL)


def test_images_of_two_detectors(here, stills, capsys):
    from diffuse_framework.command_line import simulate

    simulate.run(["images=1", "output.directory=other", "detector.model=1M", "detector.distance=200", "mp.nproc=1"])
    said = refusal(capsys, process, "sim_00001.cbf", here / "other" / "sim_00001.cbf")
    assert "images of 2 detectors" in said and "487 x 619" in said


def test_given_without_orientations(here, capsys):
    assert "has no crystal" in refusal(capsys, process, "sim_00001.cbf", "indexer.plugin=given")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; /proc stands in for root")
def test_a_folder_without_permission(here, capsys):
    (here / "closed").mkdir(mode=0o500)
    assert "no permission" in refusal(capsys, process, "sim_00001.cbf", "output.directory=closed/out")


def test_a_folder_that_cant_be_written(here, capsys):
    assert "can't write to folder /proc/1/out" in refusal(
        capsys, process, "sim_00001.cbf", "output.directory=/proc/1/out"
    )


def test_a_full_disk_leaves_no_half_a_file(processed, here, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    said = refusal(
        capsys,
        process,
        processed / "indexed.expt",
        processed / "indexed.refl",
        "output.directory=out",
        "grid.hkl.divisions=1,1,1",
        "grid.hkl.d_min=2.5",
        "mp.nproc=1",
    )
    assert "the disk is full" in said
    assert not [path for path in (here / "out").iterdir() if "sums" in path.name]


@pytest.mark.parametrize("command", [scale, merge])
def test_sums_that_are_none(here, capsys, command):
    (here / "sums.h5").write_bytes(b"nothing")
    assert "sums.h5" in refusal(capsys, command, "sums.h5")
    assert "no sums" in refusal(capsys, command, "output.directory=x")
    (here / "empty").mkdir()
    assert "empty holds no sums.h5: give the output folder" in refusal(capsys, command, "empty")


@pytest.mark.parametrize("command", [scale, merge, stats])
def test_the_folder_of_a_run_stands_for_its_sums(processed, here, command):
    shutil.copytree(processed, "run", ignore=shutil.ignore_patterns("images", "indexing.parts"))
    command.run(["run", "output.directory=out"])
    assert list((here / "out").glob("*.json"))


def test_images_of_experiments_that_are_found_in_another_folder(processed, stills, here, capsys):
    text = (processed / "indexed.expt").read_text()
    assert str(stills) in text
    (here / "moved.expt").write_text(text.replace(str(stills), "/nowhere"))
    said = refusal(capsys, process, "moved.expt", processed / "indexed.refl")
    assert "moved.expt names 6 of 6 images that are not there, for example /nowhere/sim_00001.cbf" in said
    where = f'input.image_map="/nowhere" "{stills}"'
    for args in (("moved.expt", where), ("input.experiments=moved.expt", f"input.image_folder={stills}")):
        finished = process._parsed(process.with_presets([*args]), process.load_registry())
        assert [one.filename for one in finished[0].input.experiments] == ["moved.expt"]
        assert "moved.expt" in finished[2]


def test_merging_with_the_scales_of_other_sums(processed, here, capsys):
    (here / "scales.json").write_text('{"refined_parameters": {}}')
    said = refusal(capsys, merge, processed / "sums.h5", "scales.json", "output.directory=out")
    assert "belongs to other sums" in said


@pytest.mark.parametrize(
    "setting",
    [
        "masker.bragg.d_min=Auto",
        "masker.trusted.border=Auto",
        "corrector.air.mu=Auto",
        "corrector.air.temperature=auto",
        "corrector.efficiency.thickness=Auto",
        "corrector.background.sigma=1e300",
        "corrector.background.constant=nan",
        "mp.chunk=Auto",
        "geometry.beam.wavelength=inf",
        "geometry.detector.distance=-100",
        "geometry.detector.distance=inf",
        "geometry.detector.panel.pixel_size=-1,-1",
        "geometry.detector.panel.image_size=0,0",
        "geometry.beam.direction=0,0,0",
        "geometry.detector.hierarchy.origin=nan,0,0",
    ],
)
def test_values_that_no_quantity_has(here, capsys, setting):
    assert setting.partition("=")[0].rpartition(".")[2] in refusal(capsys, process, "sim_00001.cbf", setting) or (
        "geometry" in setting
    )


IMPOSSIBLE = {
    "auto": Auto,
    "infinite": float("inf"),
    "nan": float("nan"),
    "huge": 1e300,
    "negative": -1e300,
    "text": "x",
    "list": [[]],
}


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.mark.parametrize("value", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize(
    ("stage", "plugin", "name"),
    [
        ("masker", "bragg", "d_min"),
        ("masker", "trusted", "border"),
        ("masker", "trusted", "d_max"),
        ("corrector", "air", "temperature"),
        ("corrector", "air", "mu"),
        ("corrector", "efficiency", "thickness"),
        ("corrector", "background", "sigma"),
        ("accumulator", "sums", "step"),
        ("scaler", "per_image", "tolerance"),
        ("grid", "hkl", "d_min"),
    ],
)
def test_values_set_in_python_that_no_quantity_has(registry, stage, plugin, name, value):
    params = build_scope(registry, core="").extract()
    setattr(getattr(getattr(params, stage), plugin), name, value)
    with pytest.raises(ConfigError, match=f"{stage}.{plugin}"):
        select_named(registry, params, stage, plugin)


@pytest.mark.parametrize("value", ["Auto", "inf", "nan", "1e300", "-1e300", "x", "9**9**9", "1e999"])
@pytest.mark.parametrize("name", ["masker.bragg.d_min", "corrector.air.temperature", "grid.hkl.d_max"])
def test_values_in_parameters_of_the_python_interface_that_no_quantity_has(registry, name, value):
    with pytest.raises(ConfigError) as refusal:
        api.make_steps(f"corrector.plugins = air\n{name} = {value}\n", registry)
    assert "\n" not in str(refusal.value) and name.rpartition(".")[2] in str(refusal.value)


@pytest.mark.parametrize(
    "values",
    [
        {"fast_axis": "0,0,0"},
        {"fast_axis": "1,0,0", "slow_axis": "1,0,0"},
        {"fast_axis": "nan,0,0"},
        {"origin": "inf,0,0"},
        {"origin": "-1e300,0,0"},
        {"origin": "0,0,0", "group": "1"},
    ],
)
def test_a_hierarchy_of_panels_that_can_not_be(here, capsys, values):
    settings = [f"geometry.detector.hierarchy.{name}={value}" for name, value in values.items()]
    refusal(capsys, process, "sim_00001.cbf", *settings)
