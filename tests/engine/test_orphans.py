"""Workers end with the process that started them, by the kernel or by looking."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import os, sys, time
from diffuse_framework.engine import orphans

if sys.argv[1] == "look":
    orphans._kernel_watches = lambda: False
parent = os.getpid()
child = os.fork()
if child == 0:
    orphans.end_with_parent(parent)
    print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("method", ["kernel", "look"])
def test_a_worker_ends_when_its_parent_is_killed(method):
    with subprocess.Popen([sys.executable, "-c", SCRIPT, method], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        end = time.monotonic() + 5
        while time.monotonic() < end and _runs(child):
            time.sleep(0.02)
        assert not _runs(child)


def _runs(number: int) -> bool:
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_whose_parent_is_gone_already_ends_at_once():
    code = "import os; from diffuse_framework.engine.orphans import end_with_parent; end_with_parent(os.getppid() + 1)"
    assert subprocess.run([sys.executable, "-c", code + "; print('lives')"], capture_output=True).stdout == b""
