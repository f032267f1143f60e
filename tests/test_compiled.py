"""Where numba can keep no compiled loops, the program runs all the same, and one line says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# A function whose source lies where nothing can be written, as root neither.
_CODE = """
import {first}
from numba import njit
scope = {{}}
exec(compile("def half(x): return x / 2", "/proc/self/status", "exec"), scope)
exec(compile("def twice(x): return x * 2", "/proc/self/status", "exec"), scope)
print(njit(cache=True)(scope["half"])(3.0), njit(cache=True)(scope["twice"])(3.0))
"""


def run(first: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    command = [sys.executable, "-c", _CODE.format(first=first)]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=False)


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc stands in for folders nobody can write")


@needs_proc
def test_without_a_folder_for_them_loops_are_compiled_anew():
    found = run("diffuse_framework", HOME="/proc/self")
    assert found.returncode == 0 and found.stdout == "1.5 6.0\n"
    assert found.stderr.count("\n") == 1 and "NUMBA_CACHE_DIR" in found.stderr and "/proc/self" in found.stderr


@needs_proc
def test_by_itself_numba_stops():
    assert "cannot cache function" in run("numba", HOME="/proc/self").stderr


@needs_proc
def test_nothing_is_said_where_there_is_a_folder(tmp_path):
    found = run("diffuse_framework", HOME=str(tmp_path))
    assert found.returncode == 0 and found.stderr == ""


@needs_proc
def test_a_disk_that_is_full():
    found = run("diffuse_framework", HOME="/proc/self", NUMBA_CACHE_DIR="/dev/full/numba")
    assert found.returncode == 0 and "/dev/full/numba" in found.stderr
