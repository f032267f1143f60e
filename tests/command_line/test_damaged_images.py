"""Images whose bytes are not those that were written are rejected by name, and the others are processed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffuse_framework import api
from diffuse_framework.adapters.images.checksums import Compared, damage_of
from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.command_line import process
from diffuse_framework.errors import DataError, UnreadableImage
from diffuse_framework.pipeline.chunk import ChunkWork

START = b"\x0c\x1a\x04\xd5"
DAMAGE = {
    "a bit": lambda data, rng: flipped(data, rng.integers(data.find(START) + 4, data.find(START) + 4000)),
    "many bytes": lambda data, rng: data[: len(data) // 2] + rng.bytes(50) + data[len(data) // 2 + 50 :],
    "bytes lost": lambda data, rng: data[: len(data) // 2] + data[len(data) // 2 + 3 :],
    "cut short": lambda data, rng: data[: len(data) // 2],
    "empty": lambda data, rng: b"",
}


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 8
    return bytes(changed)


@pytest.fixture
def images(simulated, tmp_path) -> Path:
    """A copy of four images with their truth, whose models name the copies."""
    for path in simulated.glob("sim_*.cbf"):
        shutil.copy(path, tmp_path)
    (tmp_path / "truth.expt").write_text((simulated / "truth.expt").read_text().replace(str(simulated), str(tmp_path)))
    shutil.copy(simulated / "truth.refl", tmp_path)
    return tmp_path


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())["images"]


@pytest.mark.parametrize("damage", ["a bit", "many bytes", "bytes lost", "cut short"])
@pytest.mark.parametrize("nproc", [1, 2])
def test_one_of_several_of_known_orientation(images, simulated, damage, nproc):
    path = images / "sim_00002.cbf"
    path.write_bytes(DAMAGE[damage](path.read_bytes(), np.random.default_rng(0)))
    known = [str(images / "truth.expt"), str(images / "truth.refl"), f"mp.nproc={nproc}", "mp.chunk=1"]
    process.execute([*known, f"output.directory={images / 'out'}"])
    found = summary(images / "out")
    assert found["used"] == 3 and [item["name"] for item in found["rejected_images"]] == ["sim_00002.cbf"]
    assert "sim_00002.cbf" in found["rejected_images"][0]["reason"]


@pytest.mark.parametrize("damage", ["a bit", "cut short"])
def test_one_of_several_that_dials_indexes(stills, tmp_path, damage):
    paths = []
    for path in sorted(stills.glob("*.cbf"))[:3]:
        paths.append(Path(shutil.copy(path, tmp_path)))
    paths[1].write_bytes(DAMAGE[damage](paths[1].read_bytes(), np.random.default_rng(0)))
    crystal = ["crystal.unit_cell=34,39,45,90,90,90", "crystal.space_group=P212121"]
    process.execute([*map(str, paths), *crystal, "mp.nproc=1", f"output.directory={tmp_path / 'out'}"])
    rejected = summary(tmp_path / "out")["rejected_images"]
    assert (rejected[0]["name"], rejected[0]["stage"]) == (paths[1].name, "reading")


HEADERS = {
    "empty": lambda data: b"",
    "cut in the header": lambda data: data[:300],
    "cut before the pixels": lambda data: data[: data.find(START) - 100],
    "no pixels": lambda data: data[: data.find(START) + 4],
    "zeros": lambda data: bytes(5000),
    "bytes that are no text": lambda data: data[:100] + b"\xff\xfe" * 200 + data[500:],
    "text": lambda data: b"hello world\n",
}


@pytest.mark.parametrize(
    ("way", "damage"),
    [("files", "empty"), ("files", "bytes that are no text"), ("template", "cut before the pixels")]
    + [("python", damage) for damage in HEADERS],
)
def test_one_of_several_that_can_not_be_opened(stills, tmp_path, way, damage):
    paths = [Path(shutil.copy(path, tmp_path)) for path in sorted(stills.glob("*.cbf"))[:3]]
    paths[1].write_bytes(HEADERS[damage](paths[1].read_bytes()))
    crystal = ["crystal.unit_cell=34,39,45,90,90,90", "crystal.space_group=P212121", "mp.nproc=1"]
    if way == "python":
        source = api.open_images(tmp_path / "*.cbf")
        assert [item.name for item in source.left_out] == [paths[1].name][: len(source.left_out)]
        assert len(source) + len(source.left_out) == 3 and (source.left_out or damage == "no pixels")
        return
    images = map(str, paths) if way == "files" else [f"input.template={paths[0].parent}/{paths[0].stem[:-1]}#.cbf"]
    process.execute([*images, *crystal, f"output.directory={tmp_path / 'out'}"])
    found = summary(tmp_path / "out")
    assert found["given"] == 3 and paths[1].name in [item["name"] for item in found["rejected_images"]]


def test_every_single_bit_of_the_pixels_is_guarded(simulated, tmp_path):
    data = (simulated / "sim_00001.cbf").read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / "x_0001.cbf"
    begin = data.find(START)
    path.write_bytes(data)
    assert not damage_of(str(path))
    for place in rng.integers(begin + 4, begin + 4 + 20000, 300):
        path.write_bytes(flipped(data, place))
        assert "Content-MD5" in damage_of(str(path))


def test_a_file_without_a_checksum_is_let_pass(simulated, tmp_path):
    data = (simulated / "sim_00001.cbf").read_bytes()
    path = tmp_path / "x_0001.cbf"
    path.write_bytes(data.replace(b"Content-MD5:", b"Content-XXX:"))
    assert not damage_of(str(path))
    path.write_bytes(data[: len(data) // 2])
    assert "bytes are needed" in damage_of(str(path))


def test_hdf5_compares_the_checksums_that_a_file_has(tmp_path):
    """fletcher32: a bit flipped in the pixels of one image."""
    path = tmp_path / "image_0001.h5"
    with h5py.File(path, "w") as file:
        pixels = np.random.default_rng(0).integers(0, 50, (3, 64, 64)).astype(np.uint16)
        data = file.create_dataset("entry/data/data", data=pixels, chunks=(1, 64, 64), fletcher32=True)
        offset, size = data.id.get_chunk_info(1).byte_offset, data.id.get_chunk_info(1).size
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 1
    path.write_bytes(bytes(content))
    with h5py.File(path, "r") as file:
        assert np.array_equal(file["entry/data/data"][0], pixels[0])
        with pytest.raises(OSError, match="checksum|filter"):
            file["entry/data/data"][1]


def test_all_damaged(images, capsys):
    for path in images.glob("*.cbf"):
        path.write_bytes(DAMAGE["a bit"](path.read_bytes(), np.random.default_rng(0)))
    with pytest.raises(SystemExit):
        process.run([str(images / "truth.expt"), str(images / "truth.refl"), f"output.directory={images / 'out'}"])
    line = capsys.readouterr().err
    assert line.startswith("Error: ") and line.count("\n") == 1 and "none of 4 images can be read" in line


def test_python_says_which(images):
    path = images / "sim_00003.cbf"
    path.write_bytes(DAMAGE["a bit"](path.read_bytes(), np.random.default_rng(0)))
    source = open_source(images_from_files([str(path) for path in sorted(images.glob("*.cbf"))]))
    source.read(1)
    with pytest.raises(UnreadableImage, match="sim_00003.cbf.*Content-MD5"):
        source.read(2)


@pytest.mark.parametrize("same_time", [False, True])
def test_an_image_that_is_replaced_between_indexing_and_adding_up(images, monkeypatch, same_time):
    """It has another orientation now: left out by name, and indexed in the next run."""
    path, other = images / "sim_00002.cbf", (images / "sim_00003.cbf").read_bytes()
    status = path.stat()
    real = ChunkWork.__init__

    def replaced(self, *args, **kwargs):
        real(self, *args, **kwargs)
        # Of one size, too.
        path.write_bytes(other.ljust(status.st_size, b"\n")[: max(status.st_size, len(other))])
        if same_time:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    monkeypatch.setattr(ChunkWork, "__init__", replaced)
    known = [str(images / "truth.expt"), str(images / "truth.refl"), "mp.nproc=1"]
    process.execute([*known, f"output.directory={images / 'out'}"])
    (rejected,) = summary(images / "out")["rejected_images"]
    assert rejected["name"] == "sim_00002.cbf" and "written anew" in rejected["reason"]


@pytest.mark.parametrize("way", ["symbolic link", "hard link", "copy"])
def test_the_same_image_by_another_name(simulated, tmp_path, capsys, way):
    paths = [Path(shutil.copy(path, tmp_path)) for path in sorted(simulated.glob("sim_*.cbf"))[:2]]
    other = tmp_path / "sim_00007.cbf"
    {"symbolic link": os.symlink, "hard link": os.link, "copy": shutil.copy}[way](paths[0], other)
    args = [*map(str, [*paths, other]), f"output.directory={tmp_path / 'out'}"]
    with pytest.raises(SystemExit):
        process.run(args)
    line = capsys.readouterr().err
    assert f"{other} is the same file as {paths[0]}" in line and "input.duplicates=drop" in line
    with pytest.raises(DataError, match="same file"):
        api.open_images(tmp_path / "*.cbf")
    images = images_from_files([str(path) for path in [*paths, other]])
    assert open_source(images, duplicates="drop").names == ("sim_00001.cbf", "sim_00002.cbf")


def test_each_image_is_compared_once_a_run_by_all_processes_together(images, monkeypatch):
    """MD5 takes a seventh of what reading and adding up an image takes; validators, masks and sums read each one."""
    asked = images / "asked.txt"

    def count(path: str) -> str:
        with asked.open("a") as file:
            file.write(f"{Path(path).name}\n")
        return damage_of(path)

    monkeypatch.setattr("diffuse_framework.adapters.images.source.damage_of", count)
    known = [str(images / "truth.expt"), str(images / "truth.refl"), "mp.nproc=2", "mp.chunk=1"]
    process.execute([*known, f"output.directory={images / 'out'}"])
    assert sorted(asked.read_text().split()) == [f"sim_0000{number}.cbf" for number in (1, 2, 3, 4)]


def test_a_copy_of_the_notes_goes_on_by_itself():
    notes = Compared(3)
    notes.add(1)
    copy = pickle.loads(pickle.dumps(notes))
    copy.add(2)
    assert [n in notes for n in range(3)] == [False, True, False]
    assert [n in copy for n in range(3)] == [False, True, True]
