"""Workers of a dask scheduler: one that runs already, one on this machine, or jobs of SLURM."""

from __future__ import annotations

import copy
import logging
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from diffuse_framework.engine.base import Engine, Placed, keep_freed_memory
from diffuse_framework.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_own = threading.local()

_LOOK_S = 5.0


@dataclass(frozen=True)
class DaskSettings:
    """Where dask's workers are.

    Attributes:
        scheduler: address of a scheduler that runs, or its scheduler file; "" to start one.
        cluster: what to start, "local" or "slurm".
        n_workers: workers to start or to wait for.
        memory: of a worker to start, for example "4GB".
        queue, account, walltime, directives: of a SLURM job; "" or empty for those of the site.
        seconds: to wait for a scheduler to answer, and for a worker where there is none (20 times that).
    """

    scheduler: str = ""
    cluster: str = "local"
    n_workers: int = 1
    memory: str = "4GB"
    queue: str = ""
    account: str = ""
    walltime: str = "04:00:00"
    directives: tuple[str, ...] = ()
    seconds: float = 30


def _placed(token: str, work: Callable[[Any], Any]) -> tuple[str, Callable[[Any], Any]]:
    return token, work


def _do(placed: tuple[str, Callable[[Any], Any]], item: Any) -> Any:
    """Apply work that dask keeps on a worker; each of its threads has a copy with scratch memory of its own.

    That BLAS uses one thread there is dask's own doing (``distributed.nanny.pre-spawn-environ``).
    """
    token, work = placed
    if getattr(_own, "token", None) != token:
        _own.token, _own.work = token, copy.copy(work)
        # dask has its workers give back all that they free, for the sake of programs of another kind.
        keep_freed_memory()
    return _own.work(item)


@contextmanager
def dask_engine(settings: DaskSettings) -> Iterator[Engine]:
    """Give an engine on dask's workers; what was started for it ends with it.

    Raises:
        ConfigError: dask is not there, the scheduler can't be reached, or SLURM takes no jobs.
        DataError: no worker came.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed.client import FutureCancelledError
    except ImportError as error:
        raise ConfigError(
            f"mp.method=dask needs dask's package distributed ({error}): pip install 'diffuse_framework[dask]'"
        ) from error
    # dask logs pages of tracebacks for lost connections; one line says it below.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        cluster = None if settings.scheduler else stack.enter_context(_cluster(settings))
        client = stack.enter_context(_client(Client, settings, cluster))
        try:
            client.wait_for_workers(1, timeout=20 * settings.seconds)
        except TimeoutError as error:
            raise DataError(
                f"no dask worker came within {20 * settings.seconds:g} s: look at the scheduler's log, or the queue"
            ) from error

        @contextmanager
        def place(work: Callable[[Any], Any]) -> Iterator[Placed]:
            # A task, not scattered data: workers hand its result to each other, those that join later too, and
            # when all that have it are lost the scheduler makes it again.
            placed = client.submit(_placed, uuid.uuid4().hex, work, pure=False)
            executor = client.get_executor(pure=False, retries=2)
            try:
                yield partial(executor.submit, _do, placed)
            except (FutureCancelledError, CancelledError) as error:
                raise DataError(
                    "the connection to dask's scheduler is lost, or it gave up the work; finished work is kept: run "
                    "the same command again"
                ) from error
            finally:
                # Without waiting it cancels what has not begun.
                executor.shutdown(wait=False)

        yield Engine(place, settings.n_workers, (KilledWorker,), _Watch(client, cluster, settings))


class _Watch:
    """Looks after the workers while they work: says how many there are, and asks for jobs that were lost again."""

    def __init__(self, client: Any, cluster: Any, settings: DaskSettings) -> None:
        self._client, self._cluster, self._settings = client, cluster, settings
        self._n = len(client.nthreads())
        self._looked = self._seen = time.monotonic()

    def __call__(self) -> None:
        """Look, unless that was a moment ago.

        Raises:
            DataError: there has been no worker for long.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        try:
            n = len(self._client.nthreads())
        except (OSError, TimeoutError) as error:
            # When it stays away the client gives up the results that are waited for.
            logger.warning("dask's scheduler does not answer (%s)", error)
            return
        if n < self._n:
            logger.warning("%d of %d dask workers are left; what the others were doing is done again", n, self._n)
        elif n > self._n:
            logger.info("%d dask workers", n)
        self._n = n
        if n > 0:
            self._seen = now
        elif now - self._seen > 20 * self._settings.seconds:
            raise DataError(
                f"all dask workers were lost, and none came within {20 * self._settings.seconds:g} s; finished work "
                "is kept: run the same command again"
            )
        if self._cluster is not None and self._settings.cluster == "slurm":
            # A job that was cancelled or ran into its time limit is not asked for again by dask itself.
            self._cluster.scale(self._settings.n_workers)


def _client(make: Callable[..., Any], settings: DaskSettings, cluster: Any) -> Any:
    if cluster is not None:
        return make(cluster)
    where = {"address": settings.scheduler}
    if settings.scheduler.endswith(".json"):
        where = {"scheduler_file": settings.scheduler}
    try:
        return make(**where, timeout=settings.seconds)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"mp.dask.scheduler={settings.scheduler} can't be reached: {error}") from error


def _cluster(settings: DaskSettings) -> Any:
    security = _own_certificates()
    if settings.cluster == "local":
        from distributed import LocalCluster

        return LocalCluster(
            n_workers=settings.n_workers,
            threads_per_worker=1,
            memory_limit=settings.memory,
            dashboard_address=None,
            security=security,
            protocol="tls://",
        )
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ConfigError(
            f"mp.dask.cluster=slurm needs dask-jobqueue ({error}): pip install 'diffuse_framework[dask]'"
        ) from error
    cluster = SLURMCluster(
        cores=1,
        processes=1,
        memory=settings.memory,
        queue=settings.queue or None,
        account=settings.account or None,
        walltime=settings.walltime,
        job_extra_directives=list(settings.directives),
        security=security,
        protocol="tls://",
    )
    try:
        _try_job(cluster.job_script())
    except BaseException:
        cluster.close()
        raise
    cluster.scale(settings.n_workers)
    return cluster


def _own_certificates() -> Any:
    """Return certificates of this run alone: a scheduler without any runs what any user of the machine sends it.

    Raises:
        ConfigError: the package that makes them is not there.
    """
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise ConfigError(
            f"mp.method=dask needs the package cryptography, so that nobody else gives work to its workers ({error}): "
            "pip install 'diffuse_framework[dask]'"
        ) from error


def _try_job(script: str) -> None:
    """Ask SLURM whether it would take a job; dask would wait for one that was refused.

    Raises:
        ConfigError: it would not, or is not there.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        try:
            done = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True, timeout=120)
        except FileNotFoundError as error:
            raise ConfigError("mp.dask.cluster=slurm: there is no sbatch, which hands jobs to SLURM") from error
        except subprocess.TimeoutExpired as error:
            raise ConfigError("mp.dask.cluster=slurm: SLURM does not answer within 120 s") from error
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ConfigError(f"SLURM refuses the jobs of mp.dask.cluster=slurm: {why}")
