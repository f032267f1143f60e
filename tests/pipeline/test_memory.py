"""What a run needs is said before it starts, with what to change."""

from __future__ import annotations

import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from diffuse_framework.adapters.guards.memory import raise_if_short
from diffuse_framework.engine.memory import Room
from diffuse_framework.errors import ConfigError
from diffuse_framework.pipeline.memory import needed, require_memory

GIB = 1 << 30
SIX_MILLION = 6_224_001
GRID = SimpleNamespace(n_voxels=200_000_000, size=400_000_000)


def job(n_bytes: float) -> Room:
    return Room(int(n_bytes), "the memory limit of this job or container", True, False)


def test_too_many_processes_for_a_job_are_refused_with_the_number_that_fits():
    with pytest.raises(ConfigError, match=r"16 processes, a detector of 6.22 million.*mp.nproc=5;"):
        require_memory(needed(SIX_MILLION, 16), [job(2 * GIB)])
    require_memory(needed(SIX_MILLION, 5), [job(2 * GIB)])


def test_a_grid_that_can_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"400 million voxels.*coarser grid, grid.hkl.divisions="):
        require_memory(needed(SIX_MILLION, 1, GRID, 10), [job(2 * GIB)])


def test_memory_that_may_become_free_is_warned_of_in_one_line(caplog):
    with caplog.at_level(logging.WARNING, "diffuse_framework"):
        require_memory(needed(SIX_MILLION, 16), [Room(GIB, "memory that is free", False, False)])
    assert len(caplog.records) == 1 and "mp.nproc=2" in caplog.records[0].getMessage()


def test_what_fits_is_not_spoken_of(caplog):
    with caplog.at_level(logging.INFO, "diffuse_framework"):
        require_memory(needed(SIX_MILLION, 2, GRID, 10), [job(200 * GIB)])
    assert not caplog.records


def test_a_limit_of_address_space_is_that_of_each_process():
    space = Room(GIB, "the limit of address space, ulimit -v", True, True)
    require_memory(needed(SIX_MILLION, 64), [space])
    with pytest.raises(ConfigError, match="ulimit -v"):
        require_memory(needed(4 * SIX_MILLION, 1), [space])


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v limits address space on Linux alone")
def test_a_run_without_room_ends_at_once_and_in_one_line(tmp_path):
    """OpenBLAS would try again for ever, in silence."""
    code = (
        "import resource, numpy as np\n"
        "from diffuse_framework.command_line.shared.failures import report_failures\n"
        "from diffuse_framework.pipeline.memory import needed, require_memory\n"
        "used = int(next(x for x in open('/proc/self/status') if x.startswith('VmSize')).split()[1]) << 10\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)\n"
        "report_failures()(lambda: require_memory(needed(300_000, 1)))()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1 and "ulimit -v" in ended.stderr


@pytest.mark.parametrize("short", [True, False])
def test_a_lack_of_memory_is_no_damage(monkeypatch, short):
    def refuse(*_):
        raise MemoryError

    if short:
        monkeypatch.setattr(np, "empty", refuse)
        with pytest.raises(MemoryError):
            raise_if_short(MemoryError(), 10)
    else:
        raise_if_short(MemoryError(), 10)
    raise_if_short(ValueError(), 10)
