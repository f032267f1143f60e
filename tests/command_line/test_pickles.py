"""A file that is a pickle, whatever its name and whoever names it, is never run."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx import easy_pickle

from diffuse_framework import api
from diffuse_framework.adapters.guards.pickles import is_pickle, refuse_pickle
from diffuse_framework.adapters.images.masks import write_mask
from diffuse_framework.adapters.images.open import can_be_read, images_from_files
from diffuse_framework.command_line import process, show, simulate, view
from diffuse_framework.command_line.shared.live import Arrivals
from diffuse_framework.errors import DataError


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def sprung(tmp_path) -> Path:
    """A file that no test may leave behind."""
    path = tmp_path / "sprung"
    yield path
    assert not path.exists(), "the pickle ran"


PACKED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}
# The first is what dxtbx takes for an image.
CONTENTS = {"dictionary": lambda trap: {"DATA": trap}, "tuple": lambda trap: (trap,), "bare": lambda trap: trap}
NAMES = ("x_0001.cbf", "x.refl", "x.expt", "x_0001.h5", "x_0001.img", "x.pickle", "x.phil", "x")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("content", CONTENTS)
def test_pickles_are_told_by_their_content(tmp_path, sprung, content, protocol):
    for name, (ending, pack) in itertools.product(NAMES, PACKED.items()):
        path = tmp_path / f"{name}{ending}"
        path.write_bytes(pack(pickle.dumps(CONTENTS[content](Trap(sprung)), protocol)))
        assert is_pickle(path)
        with pytest.raises(DataError, match=f"{name}{ending} is a pickle"):
            images_from_files([str(path)])
        assert not can_be_read(str(path))


@pytest.mark.parametrize("name", NAMES)
def test_no_command_runs_a_file_it_is_given(tmp_path, sprung, capsys, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"DATA": Trap(sprung)}))
    with pytest.raises(SystemExit) as stop:
        process.run([str(path), f"output.directory={tmp_path / 'out'}"])
    line = capsys.readouterr().err
    assert stop.value.code == 1 and line.count("\n") == 1 and f"{path} is a pickle" in line
    with pytest.raises(DataError, match="pickle"):
        api.open_images(path)


@pytest.mark.parametrize("command", ["process", "show", "view", "compare", "template", "reference", "background"])
def test_every_command_refuses_it(tmp_path, sprung, capsys, simulated, command):
    trap = tmp_path / "x_0001.cbf"
    trap.write_bytes(pickle.dumps({"DATA": Trap(sprung)}))
    known = [str(simulated / "truth.expt"), str(simulated / "truth.refl"), f"output.directory={tmp_path / 'out'}"]
    run, args = {
        "process": (process, [trap]),
        "show": (show, [trap]),
        "view": (view, [trap]),
        "compare": (simulate, [f"compare.images={trap}", f"output.directory={tmp_path / 'sim'}"]),
        "template": (process, [f"input.template={tmp_path}/x_####.cbf", f"output.directory={tmp_path / 'out'}"]),
        "reference": (process, [*known, f"input.reference_geometry={trap}"]),
        "background": (process, [*known, "corrector.plugins=background", f"corrector.background.map.file={trap}"]),
    }[command]
    with pytest.raises(SystemExit) as stop:
        run.run([str(arg) for arg in args])
    assert stop.value.code not in (0, 70), capsys.readouterr().err


@pytest.mark.parametrize("kind", ["mask", "gain", "pedestal", "dx", "images"])
def test_nor_one_that_an_expt_file_names(tmp_path, sprung, simulated, capsys, kind):
    trap = tmp_path / "x_0001.cbf"
    trap.write_bytes(pickle.dumps({"DATA": Trap(sprung)} if kind == "images" else (Trap(sprung),)))
    content = json.loads((simulated / "truth.expt").read_text())
    for imageset in content["imageset"]:
        imageset.update({"images": [str(trap)]} if kind == "images" else {kind: str(trap)})
        if kind == "images" and "template" in imageset:
            imageset["template"] = str(trap)
    (tmp_path / "hostile.expt").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stop:
        process.run([str(tmp_path / "hostile.expt"), str(simulated / "truth.refl"), f"output.directory={tmp_path}/out"])
    assert stop.value.code == 1 and capsys.readouterr().err.count("\n") == 1
    with pytest.raises(DataError):
        api.open_images(tmp_path / "hostile.expt")


def test_nor_one_that_is_dropped_into_a_folder_that_is_watched(tmp_path, sprung, simulated):
    (tmp_path / "x_0001.cbf").write_bytes(pickle.dumps({"DATA": Trap(sprung)}))
    shutil.copy(simulated / "sim_00001.cbf", tmp_path / "x_0002.cbf")
    arrivals = Arrivals([str(tmp_path / "x_*.cbf")])
    arrivals.look()
    assert [Path(path).name for path in arrivals.look()] == ["x_0002.cbf"]


def unpickle_by_dials(path: str) -> str:
    """Try what DIALS has to unpickle with; return what it said. Runs in other processes too."""
    import diffuse_framework.adapters.images.source  # noqa: F401

    said = []
    for read in (
        flex.reflection_table.from_file,
        flex.reflection_table.from_pickle,
        ExperimentListFactory.from_serialized_format,
        getattr(ExperimentListFactory, "from_pickle_file", None),
    ):
        try:
            read(path) if read else None
        except Exception as error:
            said.append(str(error))
    return " ".join(said)


@pytest.mark.parametrize("method", ["here", "fork", "spawn"])
def test_the_unpickling_of_dials_itself_is_stopped(tmp_path, sprung, method):
    """Also in workers, however they were started."""
    path = tmp_path / "x.refl"
    path.write_bytes(pickle.dumps(Trap(sprung)))
    if method == "here":
        assert "not read" in unpickle_by_dials(str(path))
    else:
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert "not read" in pool.apply(unpickle_by_dials, (str(path),))


def test_no_program_in_a_lookup_mask_of_dials(tmp_path, sprung):
    from dials.algorithms.spot_finding import factory

    from diffuse_framework.adapters.indexing.dials_phil import DialsParameters

    DialsParameters("dials.command_line.find_spots", "phil_scope", ()).check()
    path = tmp_path / "mask.pickle"
    path.write_bytes(pickle.dumps((Trap(sprung),)))
    read = next(value for name, value in vars(factory.SpotFinderFactory).items() if name == "load_image")
    with pytest.raises(DataError, match="not a DIALS mask"):
        read.__func__(str(path))
    write_mask(path, (np.array([[True, False], [True, True]]),))
    (mask,) = read.__func__(str(path))
    assert flumpy.to_numpy(mask).tolist() == [[True, False], [True, True]]


def test_an_old_reflection_table_is_told_how_to_be_converted(tmp_path):
    path = tmp_path / "old.refl"
    table = flex.reflection_table()
    table["id"] = flex.int(3, 0)
    path.write_bytes(pickle.dumps(table, 2))
    with pytest.raises(DataError, match="from_pickle") as error:
        refuse_pickle(path)
    command = str(error.value).partition("dials.python -c ")[2].strip('"').replace("new.refl", f"{tmp_path}/new.refl")
    subprocess.run([sys.executable, "-c", command], check=True)
    assert len(flex.reflection_table.from_file(f"{tmp_path}/new.refl")) == 3


@pytest.mark.parametrize("protocol", range(6))
def test_maps_of_numbers_that_an_expt_file_names_are_read(tmp_path, simulated, protocol):
    """Without running them: DIALS's own reader gives the same."""
    rng = np.random.default_rng(0)
    images = images_from_files([str(simulated / "sim_00001.cbf")])
    fast, slow = images[0].detector[0].get_image_size()
    values = rng.normal(size=(slow, fast)) * 10.0 ** rng.integers(-30, 30, (slow, fast))
    values[0, :4] = [0, -1, 256, 0.5]
    (tmp_path / "gain.pickle").write_bytes(pickle.dumps((flumpy.from_numpy(values),), protocol))
    images.as_file(str(tmp_path / "one.expt"))
    content = json.loads((tmp_path / "one.expt").read_text())
    content["imageset"][0]["gain"] = str(tmp_path / "gain.pickle")
    (tmp_path / "one.expt").write_text(json.dumps(content))
    read = ExperimentListFactory.from_json_file(str(tmp_path / "one.expt"))
    assert np.array_equal(flumpy.to_numpy(read[0].imageset.external_lookup.gain.data.tile(0).data()), values)


@pytest.mark.parametrize("text", ["", "N.", "{}", "input.scales=x\ninput.y=z\n", "image = 1\n", "###CBF: VERSION 1.5"])
def test_texts_are_no_pickles(tmp_path, text):
    (tmp_path / "x").write_text(text)
    assert not is_pickle(tmp_path / "x")


def test_a_notebook_can_read_its_own_old_tables(tmp_path):
    """What it trusts is said for a block; after it, and in other threads, nothing is run."""
    path = tmp_path / "old.pickle"
    path.write_bytes(pickle.dumps(flex.reflection_table([("id", flex.int([1, 2]))])))
    with pytest.raises(Exception, match="not read"):
        flex.reflection_table.from_pickle(str(path))
    with api.trusting_pickles():
        assert list(flex.reflection_table.from_pickle(str(path))["id"]) == [1, 2]
        with ThreadPoolExecutor(1) as other, pytest.raises(Exception, match="not read"):
            other.submit(flex.reflection_table.from_pickle, str(path)).result()
    with pytest.raises(Exception, match="not read"):
        flex.reflection_table.from_pickle(str(path))


def test_what_is_trusted_ends_with_an_error():
    with pytest.raises(ValueError, match="mine"), api.trusting_pickles():
        raise ValueError("mine")
    with pytest.raises(pickle.UnpicklingError, match="not read"):
        easy_pickle.loads(pickle.dumps(Path("x")))
