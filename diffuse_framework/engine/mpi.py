"""Ranks of an MPI job: ``mpiexec -n 33 python -m mpi4py.futures $(command -v diffuse.process) mp.method=mpi ...``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffuse_framework.engine.base import Engine, Placed, do, keep
from diffuse_framework.errors import ConfigError


def mpi_engine() -> Engine:
    """Return an engine of all ranks but this one, which hands out the work.

    Raises:
        ConfigError: mpi4py is not there, or this is no MPI job of two ranks or more.
    """
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPIPoolExecutor
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"mp.method=mpi needs mpi4py and an MPI library ({error}): pip install 'diffuse_framework[mpi]'"
        ) from error
    n_workers = MPI.COMM_WORLD.Get_size() - 1
    if n_workers < 1:
        raise ConfigError(
            "mp.method=mpi finds no other rank: start it as mpiexec -n N python -m mpi4py.futures "
            "$(command -v diffuse.process) mp.method=mpi ..., N one more than there shall be workers"
        )

    @contextmanager
    def place(work: Callable[[Any], Any]) -> Iterator[Placed]:
        executor = MPIPoolExecutor(n_workers, initializer=keep, initargs=(work,))
        try:
            yield lambda item: executor.submit(do, item)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    return Engine(place, n_workers)
