"""Dask between hosts that have nothing but the network and the files in common: network namespaces of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

PORT = 8786


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts(tmp_path) -> Iterator[tuple[str, str, str]]:
    """Three hosts at 10.77.0.1, .2 and .3, joined by a switch: the names of their namespaces."""
    pytest.importorskip("distributed", reason="dask is not installed")
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("hosts are made by root, with iproute2")
    switch, *names = (f"diffuse{os.getpid()}_{n}" for n in range(4))
    with ExitStack() as stack:
        try:
            for name in (switch, *names):
                ip("netns", "add", name)
                stack.callback(ip, "netns", "del", name)
            ip("-n", switch, "link", "add", "br0", "type", "bridge")
            ip("-n", switch, "link", "set", "br0", "up")
            for n, name in enumerate(names, 1):
                ip("link", "add", f"port{n}", "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("-n", switch, "link", "set", f"port{n}", "master", "br0", "up")
                ip("-n", name, "addr", "add", f"10.77.0.{n}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no hosts can be made here: {error.stderr.strip()}")
        yield names[0], names[1], names[2]


@pytest.fixture
def cluster(hosts, tmp_path) -> Iterator[tuple[str, str, str]]:
    """The hosts, with a scheduler on the first and a worker, in a folder of its own, on each of the others."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with ExitStack() as stack:

        def start(host: str, program: str, *words: str) -> None:
            folder = tmp_path / host
            folder.mkdir()
            code = f"from distributed.cli.{program} import main; main()"
            command = ["ip", "netns", "exec", host, sys.executable, "-c", code, *words, "--no-dashboard"]
            log = stack.enter_context((folder / "log").open("w"))
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)

        start(hosts[0], "dask_scheduler", "--host", "10.77.0.1", "--port", str(PORT))
        for host in hosts[1:]:
            start(host, "dask_worker", f"tcp://10.77.0.1:{PORT}", "--nthreads", "1", "--local-directory", ".")
        wait_for(lambda: (tmp_path / hosts[0] / "log").read_text().count("Register worker") == 2)
        yield hosts


def wait_for(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_workers_of_other_hosts_keep_the_rules(keeps_the_rules, cluster, tmp_path):
    on_first = ("ip", "netns", "exec", cluster[0], sys.executable)
    keeps_the_rules("dask", {"scheduler": f"tcp://10.77.0.1:{PORT}"}, tmp_path, on_first)


CUT = """
import logging, subprocess, sys, time
from diffuse_framework.engine.choose import open_engine
from diffuse_framework.engine.dask import DaskSettings

class Slow:
    def __call__(self, x):
        time.sleep(0.5)
        return x * x

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    scheduler, host = sys.argv[1:]
    found = []
    with open_engine("dask", 2, DaskSettings(n_workers=2, scheduler=scheduler)) as engine:
        for result in engine.map(Slow(), range(30)):
            found.append(result)
            if len(found) == 5:
                subprocess.run(["ip", "-n", host, "link", "set", "eth0", "down"], check=True)
    assert found == [x * x for x in range(30)]
    print("all well")
"""


def test_a_host_that_is_cut_off(cluster, tmp_path):
    """Its work goes to the other, the run says so, and nothing is missing or there twice."""
    (tmp_path / "cut.py").write_text(CUT)
    done = subprocess.run(
        ["ip", "netns", "exec", cluster[0], sys.executable, "cut.py", f"tcp://10.77.0.1:{PORT}", cluster[2]],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
    )
    assert "all well" in done.stdout, done.stderr
    assert "1 of 2 dask workers are left" in done.stderr and "Traceback" not in done.stderr
