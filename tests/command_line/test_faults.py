"""Faults and hostile input that test_bad_input, test_resume and test_live leave: docs/faults.md lists them all."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuse_framework.adapters.images.masks import write_mask
from diffuse_framework.adapters.images.open import images_from_files
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.command_line import merge, process
from diffuse_framework.command_line.shared.arguments import parse_arguments
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.io.atomic import file_in
from diffuse_framework.io.journal import Journal, read_plain
from diffuse_framework.io.results import file_stem
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.pipeline.chunk import ChunkWork
from diffuse_framework.pipeline.process import fit_scales
from support.sums import known_sums

CRYSTAL = ("crystal.unit_cell=34,39,45,90,90,90", "crystal.space_group=P212121")
COARSE = ("grid.hkl.divisions=1,1,1", "grid.hkl.d_min=2.5", "mp.nproc=1")


def said(capsys, command, *args) -> str:
    """Run a command that must fail; return the one line it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command.run([str(arg) for arg in args])
    line = capsys.readouterr().err
    assert stop.value.code == 1 and line.startswith("Error: ") and line.count("\n") == 1, line
    return line


@pytest.fixture
def known(simulated) -> list[str]:
    return [str(simulated / "truth.expt"), str(simulated / "truth.refl"), "mp.nproc=1", "grid.hkl.divisions=1,1,1"]


@pytest.mark.parametrize("name", ["hostile.phil", "hostile.param", "hostile.params", "hostile.eff"])
@pytest.mark.parametrize(
    "line",
    [
        "include scope trap.master",
        "  include file other.phil",
        "mp.chunk = 2; include file other.phil",
        "mp { include scope trap.master\n}",
    ],
)
def test_a_parameter_file_can_not_run_a_module(tmp_path, monkeypatch, capsys, known, line, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trap.py").write_text("open('sprung', 'w').close()\n")
    (tmp_path / "other.phil").write_text("grid.hkl.d_min = 3\n")
    (tmp_path / name).write_text(f"grid.hkl.d_min = 2\n{line}\n")
    assert f"{name}, line 2" in said(capsys, process, name, *known)
    assert f"{name}, line 2" in said(
        capsys, process, *known, "indexer.plugin=dials_ssx", f"indexer.dials_ssx.index_phil={name}"
    )
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "text",
    [
        "grid.hkl.d_min = \"__import__('os').system('touch sprung') or 2\"",
        "x = 1\n  .type = float(value_min=__import__('os').system('touch sprung'))",
        "x\n  .call = trap.run\n{\n  y = 1\n}",
    ],
)
def test_values_in_a_parameter_file_run_nothing(tmp_path, monkeypatch, capsys, known, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trap.py").write_text("open('sprung', 'w').close()\n")
    (tmp_path / "hostile.phil").write_text(text)
    assert said(capsys, process, "hostile.phil", *known)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_kept_result_that_is_a_program_is_not_run(tmp_path):
    path = tmp_path / "x.result"
    path.write_bytes(pickle.dumps({"source_index": 0, "packed": Trap(tmp_path / "sprung")}))
    assert read_plain(path) is None and not (tmp_path / "sprung").exists()


def test_a_kept_result_in_which_a_bit_turned_is_made_again(tmp_path):
    work, path = Doubling(), tmp_path / "key1.result"
    assert list(Journal(SerialEngine(), tmp_path).map(work, range(3))) == [0, 2, 4]
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
            assert read_plain(path) is None
    assert list(Journal(SerialEngine(), tmp_path).map(work, range(3))) == [0, 2, 4]


class Doubling:
    def key(self, item):
        return f"key{item}"

    def __call__(self, item):
        return 2 * item

    def to_plain(self, result):
        return {"result": result}

    def from_plain(self, plain):
        return plain["result"]


@given(content=st.binary(max_size=60))
def test_a_kept_result_that_is_damaged_is_made_again(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("journal")
    (folder / "key1.result").write_bytes(content)
    before = read_plain(folder / "key1.result")
    if before is None:
        assert list(Journal(SerialEngine(), folder).map(Doubling(), range(3))) == [0, 2, 4]


def test_a_mask_of_another_detector(tmp_path, capsys, known):
    write_mask(tmp_path / "mask.pickle", (np.ones((10, 20), bool),))
    line = said(
        capsys,
        process,
        *known,
        f"masker.trusted.mask.file={tmp_path / 'mask.pickle'}",
        f"output.directory={tmp_path / 'out'}",
    )
    assert "mask.pickle" in line and "20 x 10 pixels" in line and "487 x 619 pixels" in line


@pytest.mark.parametrize("scale", [float("nan"), -1.0, 0.0, float("inf")])
def test_a_scale_that_is_no_positive_number(scale, results, tmp_path, capsys):
    content = json.loads((results / "refined_scaling_model_params.json").read_text())
    first = next(iter(content["refined_parameters"].values()))
    first["multiplicative_scale"] = scale
    (tmp_path / "scales.json").write_text(json.dumps(content))
    line = said(capsys, merge, results / "sums.h5", tmp_path / "scales.json", f"output.directory={tmp_path / 'out'}")
    assert "not positive numbers" in line

    class Broken:
        name, phil = "broken", ""

        def fit(self, sums, experiment):
            scales = np.ones(len(sums.image_names))
            scales[1] = scale
            return ImageScales(scales, np.ones(len(scales)), {})

    sums = known_sums(ScalingOptions(), np.random.default_rng(0), n_images=4, rows_per_image=50).sums
    with pytest.raises(DataError, match="scaler 'broken' gives .* no positive number"):
        fit_scales(sums, Broken(), None)


def test_names_with_spaces_and_letters_of_any_language(stills, processed, tmp_path, monkeypatch):
    folder = tmp_path / "Proteïne nº 1 — 晶体"
    folder.mkdir()
    for path in sorted(stills.glob("*.cbf")):
        shutil.copy(path, folder / f"Bild ä {path.name}")
    monkeypatch.chdir(folder)
    process.run([f"{folder}/Bild ä *.cbf", *CRYSTAL, *COARSE, "output.directory=Ergebnis für 晶体", "output.masks=all"])
    out = folder / "Ergebnis für 晶体"
    with np.load(out / "voxel_data_relative.npz") as found, np.load(processed / "voxel_data_relative.npz") as expected:
        assert np.array_equal(found["I_merged_relative"], expected["I_merged_relative"])
    assert len(list((out / "images").glob("Bild_ä_*_total_diffuse_mask.pickle"))) == 6


@pytest.mark.parametrize("way", ["files", "pattern", "template", "table"])
def test_names_with_an_equals_sign(simulated, tmp_path, monkeypatch, way):
    folder = tmp_path / "T=100K"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        shutil.copy(simulated / f"sim_{number:05d}.cbf", folder / f"a=b_{number:05d}.cbf")
    given = {
        "files": ["T=100K/a=b_00001.cbf", str(folder / "a=b_00002.cbf")],
        "pattern": ["T=100K/*.cbf"],
        "template": ["T=100K/a=b_####_.cbf".replace("_.", "#.")],
        "table": ["T=100K/x.expt"],
    }[way]
    images_from_files(sorted(map(str, folder.glob("*.cbf")))).as_file(str(folder / "x.expt"))
    parser = process._parser(load_registry())
    params, _ = parse_arguments(parser, [*given, "mp.nproc=3"])
    assert params.mp.nproc == 3
    (experiments,) = [item.data for item in params.input.experiments]
    found = {Path(path).name for experiment in experiments for path in experiment.imageset.paths()}
    assert found == {"a=b_00001.cbf", "a=b_00002.cbf"}


def test_symbolic_links(simulated, known, tmp_path):
    """Links to images and to the output folder are followed; a link in place of a result is replaced."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("sim_00001.cbf", "sim_00002.cbf"):
        (images / name).symlink_to(simulated / name)
    precious = tmp_path / "precious"
    precious.write_text("do not write over me")
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "out").symlink_to(real)
    for name in ("voxel_data_relative.npz", "diffuse.process.log", "summary.json", "sums.h5", "indexed.expt"):
        (real / name).symlink_to(precious)
    process.run([*known, f"output.directory={tmp_path / 'out'}"])
    assert precious.read_text() == "do not write over me"
    assert (real / "voxel_data_relative.npz").stat().st_size > 1000 and (real / "sums.h5").stat().st_size > 1000


def test_files_of_others_are_left_alone(simulated, known, tmp_path):
    """What a killed run left goes; all else stays, whatever its name."""
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    gone, lives = int(dead.stdout), os.getppid()
    for folder in (tmp_path, tmp_path / "sums.parts", tmp_path / "images", tmp_path / "thesis"):
        folder.mkdir(exist_ok=True)
        for name in (".thesis.part1.tex", f".x.{gone}.part", f".sums.h5.diffuse-{lives}.part"):
            (folder / name).write_text("mine")
        for name in (f".sums.h5.diffuse-{gone}.part", f".indexed.diffuse-{gone}.part.expt", f".diffuse-{gone}.part"):
            (folder / name).write_text("left over")
    (tmp_path / ".cache.parts").mkdir()
    (tmp_path / f".y.diffuse-{gone}.part").mkdir()
    process.run([*known, f"output.directory={tmp_path}"])
    kept = {path.parent.name: [] for path in tmp_path.rglob(".*.part*")}
    for path in tmp_path.rglob(".*.part*"):
        kept[path.parent.name].append(path.name)
    mine = {".thesis.part1.tex", f".x.{gone}.part", f".sums.h5.diffuse-{lives}.part"}
    assert set(kept["sums.parts"]) == set(kept["images"]) == mine
    assert set(kept[tmp_path.name]) == mine | {".cache.parts", f".y.diffuse-{gone}.part"}
    assert len(kept["thesis"]) == 6


@pytest.mark.parametrize("name", ["../out.log", "/tmp/out.log", "..", "a/b.log", ""])
def test_a_log_can_not_leave_the_output_folder(tmp_path, capsys, known, name):
    with pytest.raises(ConfigError, match="plain name of a file"):
        file_in(tmp_path, name)
    if name:
        assert "plain name" in said(capsys, process, *known, f"output.directory={tmp_path}", f"output.log={name}")


@given(name=st.text(min_size=1))
def test_files_of_an_image_stay_in_their_folder(name):
    stem = file_stem(name)
    assert "/" not in stem and stem not in ("..", ".")


def test_a_clock_that_runs_backwards(simulated, known, results, tmp_path, monkeypatch):
    seconds = itertools.count(2e9, -1000.0)
    monkeypatch.setattr(time, "time", lambda: next(seconds))
    process.run([*known, f"output.directory={tmp_path}"])
    parts = json.loads((tmp_path / "summary.json").read_text())
    assert all(part["seconds"] >= 0 for part in _parts(parts))


def _parts(summary: dict) -> list[dict]:
    (found,) = [value for value in summary.values() if isinstance(value, list) and value and "seconds" in value[0]]
    return found


@pytest.mark.parametrize("kind", ["cut short", "another format", "no data"])
def test_an_hdf5_file_that_is_no_image(tmp_path, capsys, kind):
    path = tmp_path / "image_0001.h5"
    with h5py.File(path, "w") as file:
        if kind != "no data":
            file["entry/data/data"] = np.zeros((1, 100, 100), np.int32)
    if kind == "cut short":
        path.write_bytes(path.read_bytes()[:3000])
    assert "image_0001.h5" in said(capsys, process, path, f"output.directory={tmp_path / 'out'}")


def test_memory_that_runs_out_is_said_and_nothing_is_lost(simulated, known, tmp_path, capsys, monkeypatch):
    real = ChunkWork.__call__

    def greedy(self, numbers):
        if numbers.start >= 2:
            raise MemoryError
        return real(self, numbers)

    args = [*known, f"output.directory={tmp_path}", "mp.chunk=1"]
    with monkeypatch.context() as patch:
        patch.setattr(ChunkWork, "__call__", greedy)
        assert "ran out of memory" in said(capsys, process, *args)
    assert len(list((tmp_path / "sums.parts").glob("*.h5"))) == 2
    process.run(args)
    assert (
        "2 of 4 chunks of images were accumulated by an earlier run" in (tmp_path / "diffuse.process.log").read_text()
    )
