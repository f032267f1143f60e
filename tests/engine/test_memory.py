"""What is read of /proc and /sys, as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffuse_framework.engine.memory import rooms

MIB = 1 << 20


def machine(folder: Path, files: dict[str, str]) -> Path:
    for name, text in ({"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:   {8 * 1024} kB\n"} | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def found(folder: Path) -> dict[str, int]:
    return {room.what: room.n_bytes for room in rooms(folder) if not room.each}


def test_free_memory_without_a_limit(tmp_path):
    assert found(machine(tmp_path, {"proc/self/cgroup": "0::/\n"})) == {"memory that is free": 8 * MIB}


@pytest.mark.parametrize(
    ("of_process", "folder", "files"),
    [
        ("0::/job/step\n", "sys/fs/cgroup/job", ("memory.max", "memory.current")),
        (
            "4:cpu:/x\n7:hugetlb,memory:/job/step\n",
            "sys/fs/cgroup/memory/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ),
    ],
)
def test_the_limit_of_a_job_is_found_above_its_step_and_caches_do_not_count(tmp_path, of_process, folder, files):
    limit, used = files
    contents = {
        "proc/self/cgroup": of_process,
        f"{folder}/{limit}": f"{5 * MIB}\n",
        f"{folder}/{used}": f"{4 * MIB}\n",
        f"{folder}/memory.stat": f"anon 3\ninactive_file {MIB}\n",
        f"{folder}/step/{limit}": "max\n",
        f"{folder}/step/{used}": "1\n",
    }
    assert found(machine(tmp_path, contents))["the memory limit of this job or container"] == 2 * MIB


def test_systems_that_tell_nothing_set_no_limit(tmp_path):
    assert found(tmp_path) == {}
