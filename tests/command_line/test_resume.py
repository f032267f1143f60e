"""A run that was cut off, at any moment, goes on with the same command and ends with the same map."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from diffuse_framework.command_line import process

CRYSTAL = ("crystal.unit_cell=34,39,45,90,90,90", "crystal.space_group=P212121")

# Every file appears by being renamed: that is where a run is cut off, just before or just after.
SCRIPT = """
import fnmatch, os, signal, sys
from diffuse_framework.command_line import process
from diffuse_framework.io import atomic

pattern, count, when, who = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
main, replace = os.getpid(), os.replace

def cut_off():
    if who == "all":
        os.killpg(0, signal.SIGKILL)
    elif who == "main":
        os.kill(main, signal.SIGKILL)
    elif os.getpid() != main:
        os.kill(os.getpid(), signal.SIGKILL)

class Os:
    def __getattr__(self, name):
        return getattr(os, name)

    def replace(self, source, target):
        there = len([name for name in os.listdir(target.parent) if fnmatch.fnmatch(name, pattern)])
        due = fnmatch.fnmatch(target.name, pattern) and there >= count
        if due and when == "before":
            cut_off()
        replace(source, target)
        if due and when == "after":
            cut_off()

atomic.os = Os()
process.run(sys.argv[5:])
"""


def cut_off_run(args: list[str], pattern: str, count: int, when: str, who: str = "all") -> subprocess.CompletedProcess:
    """Run diffuse.process until the file after `count` of `pattern` is written, and kill it."""
    command = [sys.executable, "-c", SCRIPT, pattern, str(count), when, who, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, start_new_session=True)


def results(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    with np.load(folder / "voxel_data_relative.npz") as arrays:
        return dict(arrays), json.loads((folder / "refined_scaling_model_params.json").read_text())


def assert_same(folder: Path, other: Path) -> None:
    (arrays, scales), (expected, expected_scales) = results(folder), results(other)
    assert scales == expected_scales
    assert arrays.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(arrays[name], values, equal_nan=True), name


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*")}


def log(folder: Path) -> str:
    return (folder / "diffuse.process.log").read_text()


@pytest.fixture(scope="module")
def known(simulated) -> list[str]:
    """Arguments for images of known orientation, one a chunk."""
    return [str(simulated / "truth.expt"), str(simulated / "truth.refl"), "mp.chunk=1", "mp.nproc=2"]


@pytest.fixture(scope="module")
def undisturbed(known, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    process.execute([*known, f"output.directory={folder}"])
    return folder


@pytest.mark.parametrize(
    ("pattern", "count", "when"),
    [
        ("*.h5", 0, "before"),
        ("*.h5", 2, "before"),
        ("*.h5", 2, "after"),
        ("sums.h5", 0, "before"),
        ("refined*.json", 0, "before"),
        ("voxel*.npz", 0, "after"),
    ],
)
def test_killed_during_accumulation_or_later(known, undisturbed, tmp_path, pattern, count, when):
    args = [*known, f"output.directory={tmp_path}"]
    assert cut_off_run(args, pattern, count, when).returncode == -signal.SIGKILL
    parts = tmp_path / "sums.parts"
    before = times(parts)
    finished = {name for name in before if name.endswith(".h5")}
    assert len(finished) >= count
    process.execute(args)
    assert_same(tmp_path, undisturbed)
    after = times(parts)
    assert finished <= set(after) and all(after[name] == before[name] for name in finished)
    assert not [path for path in tmp_path.rglob(".*.part*")], "no half a file is left"
    if finished:
        assert f"{len(finished)} of 4 chunks of images were accumulated by an earlier run" in log(tmp_path)


def gone(group: int, within_s: float = 3.0) -> bool:
    """Whether no process of a group is left."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_workers_end_with_the_main_process_and_hold_no_lock(known, undisturbed, tmp_path):
    args = [*known, f"output.directory={tmp_path}"]
    command = [sys.executable, "-c", SCRIPT, "*.h5", "1", "after", "main", *args]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        assert run.wait(timeout=240) == -signal.SIGKILL
        process.execute(args)
        assert gone(run.pid), "workers are still there"
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize(("count", "when"), [(2, "after"), (3, "before")])
def test_killed_while_indexing(stills, processed, tmp_path, count, when):
    args = [
        *map(str, sorted(stills.glob("*.cbf"))),
        *CRYSTAL,
        f"output.directory={tmp_path}",
        "grid.hkl.divisions=1,1,1",
        "grid.hkl.d_min=2.5",
        "mp.nproc=2",
    ]
    assert cut_off_run(args, "*.result", count, when).returncode == -signal.SIGKILL
    kept = tmp_path / "indexing.parts"
    before = {name: time for name, time in times(kept).items() if name.endswith(".result")}
    assert count <= len(before) < 6
    process.execute(args)
    assert_same(tmp_path, processed)
    after = times(kept)
    assert len(after) == 6 and all(after[name] == time for name, time in before.items())
    assert f"{len(before)} of 6 were done by an earlier run" in log(tmp_path)


def test_a_worker_that_is_killed_costs_what_it_was_doing(known, undisturbed, tmp_path):
    args = [*known, f"output.directory={tmp_path}"]
    died = cut_off_run(args, "*.h5", 2, "before", "worker")
    assert died.returncode == 1
    assert "a worker process died" in died.stderr and "Traceback" not in died.stderr
    assert len(list((tmp_path / "sums.parts").glob("*.h5"))) >= 2
    process.execute(args)
    assert_same(tmp_path, undisturbed)


def test_with_other_parameters_nothing_is_used_and_the_log_says_so(known, undisturbed, tmp_path):
    args = [*known, f"output.directory={tmp_path}"]
    cut_off_run(args, "*.h5", 2, "after")
    process.execute([*args, "masker.bragg.radius=4"])
    assert "belong to other images, parameters or versions" in log(tmp_path)
    process.execute(args)
    assert "belong to other images, parameters or versions" in log(tmp_path)
    assert_same(tmp_path, undisturbed)


def test_an_image_that_changed_is_read_again(stills, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(stills.glob("*.cbf"))[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    args = [
        *map(str, sorted(folder.glob("*.cbf"))),
        *CRYSTAL,
        f"output.directory={tmp_path / 'out'}",
        "grid.hkl.d_min=3",
        "mp.nproc=1",
        "mp.chunk=1",
    ]
    process.execute(args)
    process.execute(args)
    assert "2 of 2 were done" in log(tmp_path / "out") and "2 of 2 chunks" in log(tmp_path / "out")
    os.utime(folder / "sim_00002.cbf", ns=(1, 1))
    process.execute(args)
    assert "1 of 2 were done" in log(tmp_path / "out") and "1 of 2 chunks" in log(tmp_path / "out")


def test_two_runs_in_one_folder_do_not_meet(known, tmp_path):
    args = [*known, f"output.directory={tmp_path}"]
    (tmp_path / "diffuse.process.log").write_text("what the run at work says")
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from diffuse_framework.io.atomic import only_run_in\n"
            f"with only_run_in({str(tmp_path)!r}): print('in', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "in\n"
        refused = subprocess.run(
            [sys.executable, "-c", "from diffuse_framework.command_line import process; process.run()", *args],
            capture_output=True,
            text=True,
        )
        other.communicate("")
    assert refused.returncode == 1 and "another diffuse.process is at work in" in refused.stderr
    assert log(tmp_path) == "what the run at work says"
