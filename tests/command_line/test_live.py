"""live=True: a folder that is still being filled."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from diffuse_framework.command_line import process
from diffuse_framework.command_line.shared.live import Arrivals, follow
from diffuse_framework.errors import ConfigError, DataError

CRYSTAL = ("crystal.unit_cell=34,39,45,90,90,90", "crystal.space_group=P212121")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "being filled"
    folder.mkdir()
    return folder


def whole_images(stills) -> list[bytes]:
    return [path.read_bytes() for path in sorted(stills.glob("*.cbf"))]


@pytest.mark.parametrize("pattern", ["*.cbf", "sim_#####.cbf"])
def test_a_file_is_taken_when_it_is_complete_and_no_longer_changes(stills, folder, pattern):
    arrivals = Arrivals([f"{folder}/{pattern}"])
    first, second = whole_images(stills)[:2]
    (a, b) = folder / "sim_00001.cbf", folder / "sim_00002.cbf"
    assert not arrivals.look()
    a.write_bytes(first)
    b.write_bytes(second[: len(second) // 2])
    assert not arrivals.look(), "not before it has rested from one look to the next"
    assert list(arrivals.look()) == [str(a)] and arrivals.waiting() == 1
    b.write_bytes(second)
    assert list(arrivals.look()) == [str(a)]
    assert list(arrivals.look()) == [str(a), str(b)] and arrivals.waiting() == 0
    a.unlink()
    assert list(arrivals.look()) == [str(b)]


def test_a_clock_that_jumps_does_not_matter(stills, folder):
    """Times of files are compared with themselves only."""
    arrivals = Arrivals([f"{folder}/*.cbf"])
    for number, (content, when) in enumerate(zip(whole_images(stills)[:3], (0, 2**33, 10**9), strict=True)):
        path = folder / f"sim_{number:05d}.cbf"
        path.write_bytes(content)
        os.utime(path, (when, when))
    assert not arrivals.look()
    assert len(arrivals.look()) == 3


def test_rounds_keep_grid_and_masks_until_images_have_doubled(stills, folder):
    images = whole_images(stills)
    rounds = []

    def one_round(files, frozen):
        rounds.append((len(files), frozen))
        if len(rounds) < 5:
            (folder / f"sim_{len(files):05d}.cbf").write_bytes(images[len(files)])
        return f"outcome of {len(files)}"

    for number in range(2):
        (folder / f"sim_{number:05d}.cbf").write_bytes(images[number])
    assert follow([f"{folder}/*.cbf"], one_round, lambda files: len(files), 0.01, 2.0) == 6
    assert rounds == [
        (2, None),
        (3, "outcome of 2"),
        (4, None),
        (5, "outcome of 4"),
        (6, "outcome of 4"),
    ]


def test_a_round_that_fails_waits_for_more(stills, folder):
    tries = []

    def one_round(files, frozen):
        tries.append(len(files))
        if len(files) == 1:
            (folder / "sim_00001.cbf").write_bytes(whole_images(stills)[1])
            raise DataError("blank")

    (folder / "sim_00000.cbf").write_bytes(whole_images(stills)[0])
    follow([f"{folder}/*.cbf"], one_round, len, 0.01, 1.0)
    assert tries == [1, 2]


def test_no_image_at_all_is_said(folder):
    with pytest.raises(DataError, match="no image .* has come"):
        follow([f"{folder}/*.cbf"], None, None, 0.01, 0.1)


def test_a_list_of_files_can_not_grow(stills):
    with pytest.raises(ConfigError, match="in quotes"):
        process.execute(["live=True", *map(str, stills.glob("*.cbf"))])


def test_the_map_grows_with_the_folder(stills, processed, folder, tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        "from diffuse_framework.command_line import process; process.run()",
        "live=True",
        f"{folder}/*.cbf",
        *CRYSTAL,
        f"output.directory={out}",
        "grid.hkl.divisions=1,1,1",
        "grid.hkl.d_min=2.5",
        "output.pixels=True",
        "output.masks=all",
        "mp.nproc=2",
        "mp.chunk=1",
        "watch.interval=0.5",
        "watch.patience=8",
    ]
    images = whole_images(stills)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as live:
        for number, content in enumerate(images[:3], 1):
            (folder / f"sim_{number:05d}.cbf").write_bytes(content)
        until = time.monotonic() + 200
        while not (out / "report.html").exists() and time.monotonic() < until:
            time.sleep(0.2)
        for number, content in enumerate(images[3:], 4):
            (folder / f"sim_{number:05d}.cbf").write_bytes(content)
        said, _ = live.communicate(timeout=300)
    assert live.returncode == 0, said
    assert "3 images are there, 3 of them new" in said and "6 images are there, 3 of them new" in said
    assert "were done by an earlier run" in said and "processing all 6 from the start" in said
    with np.load(out / "voxel_data_relative.npz") as found, np.load(processed / "voxel_data_relative.npz") as expected:
        assert (found["voxel_indices"] == expected["voxel_indices"]).all()
        assert np.allclose(found["I_merged_relative"], expected["I_merged_relative"], rtol=1e-6)
