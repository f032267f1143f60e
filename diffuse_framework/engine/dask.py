"""Workers of a dask scheduler: one that runs already, one on this machine, or jobs of SLURM."""

from __future__ import annotations

import copy
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from diffuse_framework.engine.base import Engine, Placed
from diffuse_framework.errors import ConfigError, DataError

_own = threading.local()


@dataclass(frozen=True)
class DaskSettings:
    """Where dask's workers are.

    Attributes:
        scheduler: address of a scheduler that runs, or its scheduler file; "" to start one.
        cluster: what to start, "local" or "slurm".
        n_workers: workers to start or to wait for.
        memory: of a worker to start, for example "4GB".
        queue, account, walltime, directives: of a SLURM job; "" or empty for those of the site.
        seconds: to wait for a scheduler to answer, and for the first worker (20 times that).
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
    """Apply work that dask keeps on a worker; each of its threads has a copy with scratch memory of its own."""
    token, work = placed
    if getattr(_own, "token", None) != token:
        _own.token, _own.work = token, copy.copy(work)
    return _own.work(item)


@contextmanager
def dask_engine(settings: DaskSettings) -> Iterator[Engine]:
    """Give an engine on dask's workers; what was started for it ends with it.

    Raises:
        ConfigError: dask is not there, or the scheduler can't be reached.
        DataError: no worker came.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed.client import FutureCancelledError
    except ImportError as error:
        raise ConfigError(
            f"mp.method=dask needs dask's package distributed ({error}): pip install 'diffuse_framework[dask]'"
        ) from error
    with ExitStack() as stack:
        client = stack.enter_context(_client(Client, settings, stack))
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
            finally:
                # Without waiting it cancels what has not begun.
                executor.shutdown(wait=False)

        yield Engine(place, settings.n_workers, (KilledWorker, FutureCancelledError, CancelledError))


def _client(make: Callable[..., Any], settings: DaskSettings, stack: ExitStack) -> Any:
    if not settings.scheduler:
        return make(stack.enter_context(_cluster(settings)))
    where = {"address": settings.scheduler}
    if settings.scheduler.endswith(".json"):
        where = {"scheduler_file": settings.scheduler}
    try:
        return make(**where, timeout=settings.seconds)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"mp.dask.scheduler={settings.scheduler} can't be reached: {error}") from error


def _cluster(settings: DaskSettings) -> Any:
    if settings.cluster == "local":
        from distributed import LocalCluster

        return LocalCluster(
            n_workers=settings.n_workers,
            threads_per_worker=1,
            memory_limit=settings.memory,
            dashboard_address=None,
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
    )
    cluster.scale(settings.n_workers)
    return cluster
