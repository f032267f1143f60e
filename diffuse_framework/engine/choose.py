"""The engine that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffuse_framework.engine.base import Engine, SerialEngine, one_blas_thread
from diffuse_framework.engine.dask import DaskSettings, dask_engine
from diffuse_framework.engine.mpi import mpi_engine
from diffuse_framework.engine.processes import process_engine


@contextmanager
def open_engine(method: str, n_workers: int = 1, dask: DaskSettings | None = None) -> Iterator[Engine | SerialEngine]:
    """Give the engine `method`; its workers end with the context, and BLAS has one thread until then, here too.

    Args:
        method: serial, processes, dask or mpi.
        n_workers: as many as that; mpi takes the ranks there are.
        dask: where its workers are.

    Raises:
        ConfigError: something that the engine needs is not there.
    """
    with one_blas_thread():
        if method == "dask":
            with dask_engine(dask or DaskSettings(n_workers=n_workers)) as engine:
                yield engine
        elif method == "mpi":
            yield mpi_engine()
        else:
            yield process_engine(1 if method == "serial" else n_workers)
