from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.engine.choose import open_engine
from diffuse_framework.engine.processes import available_cpus, process_engine
from diffuse_framework.errors import DataError


class Square:
    def __call__(self, x):
        return x * x


class Failing:
    def __call__(self, x):
        if x == 3:
            raise DataError("image 3 is bad")
        return x


class Dying:
    def __call__(self, x):
        os._exit(9)


class Greedy:
    def __call__(self, x):
        raise MemoryError


class Who:
    """Gives the process, the thread, and how many items this copy of the work has seen."""

    def __init__(self):
        self.seen = 0

    def __call__(self, x):
        self.seen += 1
        return os.getpid(), threading.get_ident(), self.seen


@pytest.fixture(params=["serial", "processes"])
def engine(request):
    return {"serial": SerialEngine(), "processes": process_engine(2)}[request.param]


def test_results_come_in_order(engine):
    assert list(engine.map(Square(), range(20))) == [x * x for x in range(20)]


def test_an_engine_can_be_used_again_and_again(engine):
    for _ in range(3):
        assert list(engine.map(Square(), [1, 2, 3])) == [1, 4, 9]


def test_what_the_work_raises_passes_through(engine):
    with pytest.raises(DataError, match="image 3"):
        list(engine.map(Failing(), range(20)))
    assert list(engine.map(Square(), range(4))) == [0, 1, 4, 9], "and the engine still works"


def test_want_of_memory_is_said(engine):
    with pytest.raises(DataError, match="out of memory.*finished work is kept"):
        list(engine.map(Greedy(), range(4)))


def test_only_a_few_items_are_taken_ahead(engine):
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    results = engine.map(Square(), items())
    next(results)
    assert len(taken) <= 6
    results.close()


def test_work_is_sent_to_a_worker_once(engine):
    most: dict = {}
    for process, thread, seen in engine.map(Who(), range(12)):
        most[process, thread] = max(most.get((process, thread), 0), seen)
    assert sum(most.values()) == 12, "the counter of each worker's copy goes on from item to item"
    assert len(most) <= 2


def blas_threads(_item=None) -> list[int]:
    np.linalg.inv(np.eye(3))
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def needs_a_blas_with_threads() -> None:
    """Skip where numpy has one without: the reference BLAS, Debian's default."""
    if not blas_threads():
        pytest.skip("the BLAS here has no threads")


def test_blas_has_one_thread_in_a_worker_and_its_own_number_again_afterwards(engine):
    needs_a_blas_with_threads()
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert all(set(found) == {1} for found in engine.map(blas_threads, range(4)))
        assert blas_threads() == before


@pytest.mark.parametrize("method", ["serial", "processes"])
def test_blas_has_one_thread_beside_the_engine(method):
    needs_a_blas_with_threads()
    with threadpool_limits(2, user_api="blas"), open_engine(method, 2):
        assert set(blas_threads()) == {1}


# As dask starts its workers: all that is freed goes back to the system.
TOUCHES = """
import resource
import numpy as np
from diffuse_framework.engine.base import SerialEngine

def faults(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (6_000_000, 24_000_000, 12_000_000):
        np.ones(size, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults(n) for n in range(5)), min(SerialEngine().map(faults, range(5))))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_a_worker_keeps_freed_memory_for_the_next_image():
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", TOUCHES], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    without, kept = map(int, done.stdout.split())
    assert kept < 0.1 * without, done.stdout


@pytest.mark.parametrize("items", [[], [5]])
def test_a_single_item_is_worked_on_here(engine, items):
    assert [process for process, _, _ in engine.map(Who(), items)] == [os.getpid()] * len(items)


def test_a_worker_that_dies_is_said():
    with pytest.raises(DataError, match="worker process died.*finished work is kept"):
        list(process_engine(2).map(Dying(), range(4)))


def test_one_worker_needs_no_process():
    assert isinstance(process_engine(1), SerialEngine)
    assert available_cpus() >= 1


SBATCH = """#!/bin/sh
# Stands in for SLURM: takes a copy of the script, which is removed at once, runs it and gives it a number.
if [ "$1" = --test-only ]; then exit 0; fi
cp "$1" "$1.job"
nohup sh "$1.job" >/dev/null 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill "$1" 2>/dev/null || true
"""


@pytest.fixture(params=["a stand-in", "slurmctld"])
def slurm(request, tmp_path) -> Path:
    """A folder with what stands in for SLURM's commands, or without, where a real SLURM answers."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    if request.param == "a stand-in":
        for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
    elif shutil.which("scontrol") is None or subprocess.run(["scontrol", "ping"], capture_output=True).returncode:
        pytest.skip("no slurmctld answers; tests/one_machine_slurm.sh starts one")
    return tmp_path


def test_dask_on_this_machine(keeps_the_rules, tmp_path):
    pytest.importorskip("distributed", reason="dask is not installed")
    keeps_the_rules("dask", {}, tmp_path)


def test_a_dask_scheduler_that_runs_already(keeps_the_rules, tmp_path):
    pytest.importorskip("distributed", reason="dask is not installed")
    code = """
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None)
    print(cluster.scheduler_address, flush=True)
    input()
"""
    (tmp_path / "cluster.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "cluster.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    ) as cluster:
        keeps_the_rules("dask", {"scheduler": cluster.stdout.readline().strip()}, tmp_path)
        cluster.communicate("\n")


LOST = """
import os, sys
from pathlib import Path
from diffuse_framework.engine.choose import open_engine
from diffuse_framework.errors import DataError

class Mortal:
    def __init__(self, flag, deaths):
        self.flag, self.deaths = Path(flag), deaths

    def __call__(self, x):
        if x == 3:
            died = len(self.flag.read_text()) if self.flag.exists() else 0
            if died < self.deaths:
                self.flag.write_text("x" * (died + 1))
                os._exit(9)
        return x

if __name__ == "__main__":
    with open_engine("dask", 2) as engine:
        assert list(engine.map(Mortal("once", 1), range(8))) == list(range(8))
        try:
            list(engine.map(Mortal("always", 1000), range(8)))
        except DataError as error:
            print(error)
"""


def test_items_of_a_dask_worker_that_is_lost_go_to_another(tmp_path):
    pytest.importorskip("distributed", reason="dask is not installed")
    (tmp_path / "lost.py").write_text(LOST)
    done = subprocess.run([sys.executable, "lost.py"], capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "a worker process died" in done.stdout


def test_jobs_of_slurm(keeps_the_rules, slurm):
    directives = ("--comment=test",)
    keeps_the_rules("dask", {"cluster": "slurm", "directives": directives}, slurm)


CANCELLED = """
import logging, os, signal, sys
from pathlib import Path
from diffuse_framework.engine.choose import open_engine
from diffuse_framework.engine.dask import DaskSettings

class Doomed:
    def __call__(self, x):
        if x in (2, 3) and not Path(f"died {x}").exists():
            Path(f"died {x}").touch()
            # With its parent, which would start it again, the job is over.
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(9)
        return x * x

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with open_engine("dask", 2, DaskSettings(n_workers=2, memory="2GB", cluster="slurm")) as engine:
        assert list(engine.map(Doomed(), range(8))) == [x * x for x in range(8)]
    print("all well")
"""


@pytest.mark.parametrize("refusal", ["invalid partition specified: nowhere", ""])
def test_jobs_that_slurm_refuses_are_said(tmp_path, refusal):
    """At once, and in SLURM's words."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    if refusal:
        (tmp_path / "sbatch").write_text(f"#!/bin/sh\necho 'sbatch: error: {refusal}' >&2\nexit 1\n")
        (tmp_path / "sbatch").chmod(0o755)
    code = """
from diffuse_framework.engine.dask import DaskSettings, dask_engine
from diffuse_framework.errors import ConfigError
try:
    with dask_engine(DaskSettings(n_workers=2, memory="2GB", cluster="slurm")):
        pass
except ConfigError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PATH": str(tmp_path)},
    )
    assert (refusal or "there is no sbatch") in done.stdout and done.stdout.count("\n") == 1, done.stdout + done.stderr


def test_jobs_that_are_lost_are_asked_for_again(slurm):
    """Cancelled, or over their time limit: both at once, so that no job is left to go on."""
    (slurm / "cancelled.py").write_text(CANCELLED)
    environment = os.environ | {"PATH": f"{slurm}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "cancelled.py"], capture_output=True, text=True, timeout=200, cwd=slurm, env=environment
    )
    assert done.returncode == 0 and "all well" in done.stdout, done.stderr
    assert (slurm / "died 2").exists() and (slurm / "died 3").exists()
    assert re.search(r"[01] of [12] dask workers are left", done.stderr), done.stderr


LEFT = '''
import os, subprocess, sys, time
from diffuse_framework.engine.choose import open_engine
from diffuse_framework.engine.dask import DaskSettings
from diffuse_framework.errors import DataError

class Leaving:
    """Ends its worker, or the scheduler."""

    def __init__(self, scheduler):
        self.scheduler = scheduler

    def __call__(self, x):
        if self.scheduler is None:
            os._exit(9)
        os.kill(self.scheduler, 9)
        time.sleep(60)

if __name__ == "__main__":
    code = "from distributed.cli.dask_scheduler import main; main()"
    scheduler = subprocess.Popen(
        [sys.executable, "-c", code, "--port", "0", "--no-dashboard", "--scheduler-file", "where.json"]
    )
    code = "from distributed.cli.dask_worker import main; main()"
    worker = subprocess.Popen([sys.executable, "-c", code, "--no-nanny", "--no-dashboard", "--nthreads", "1",
                               "--scheduler-file", "where.json"])
    try:
        with open_engine("dask", 1, DaskSettings(scheduler="where.json", n_workers=1, seconds=1)) as engine:
            list(engine.map(Leaving(scheduler.pid if sys.argv[1] == "scheduler" else None), range(8)))
    except DataError as error:
        print(error)
    finally:
        scheduler.kill()
        worker.kill()
'''


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ("workers", "all dask workers were lost, and none came within 20 s"),
        ("scheduler", "the connection to dask's scheduler is lost"),
    ],
)
def test_workers_or_a_scheduler_that_do_not_come_back_are_said(tmp_path, who, message):
    pytest.importorskip("distributed", reason="dask is not installed")
    (tmp_path / "left.py").write_text(LEFT)
    done = subprocess.run([sys.executable, "left.py", who], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert message in done.stdout, done.stderr


def test_ranks_of_an_mpi_job(keeps_the_rules, tmp_path):
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("there is no mpiexec")
    keeps_the_rules("mpi", {}, tmp_path, (mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures"))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [("mpi", {}, "no other rank"), ("dask", {"scheduler": "tcp://127.0.0.1:1", "seconds": 1}, "can't be reached")],
)
def test_workers_that_are_not_there_are_said(method, settings, message):
    pytest.importorskip({"mpi": "mpi4py", "dask": "distributed"}[method])
    code = f"""
from diffuse_framework.engine.choose import open_engine
from diffuse_framework.engine.dask import DaskSettings
from diffuse_framework.errors import ConfigError
try:
    with open_engine({method!r}, 2, DaskSettings(**{settings!r})):
        pass
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert message in done.stdout, done.stderr


INTRUDER = """
import sys
from distributed import Client

if __name__ == "__main__":
    try:
        client = Client(sys.argv[1].replace("tls://", sys.argv[2]), timeout=3)
        print("in:", client.submit(lambda: "ran").result(timeout=3))
    except Exception as error:
        print("refused:", type(error).__name__)
"""

HOST = """
import subprocess, sys
from diffuse_framework.engine import dask

if __name__ == "__main__":
    with dask._cluster(dask.DaskSettings(n_workers=1, memory="1GB")) as cluster:
        address = cluster.scheduler_address
        for protocol in ("tcp://", "tls://"):
            subprocess.run([sys.executable, sys.argv[1], address, protocol], timeout=60)
        print(address.partition(":")[0])
"""


def test_no_one_else_gives_work_to_a_cluster_of_dask(tmp_path):
    """Whoever has not the certificates of the run is refused; it would run code as the user whose workers they are."""
    pytest.importorskip("distributed")
    (tmp_path / "intruder.py").write_text(INTRUDER)
    (tmp_path / "host.py").write_text(HOST)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "host.py"), str(tmp_path / "intruder.py")],
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    said = done.stdout.splitlines()
    assert said[-1] == "tls" and len([line for line in said if line.startswith("refused")]) == 2, said
    assert not [line for line in said if line.startswith("in:")]
