"""Processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from diffuse_framework.engine.base import Engine, Placed, SerialEngine, do, keep
from diffuse_framework.engine.orphans import end_with_parent


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(work: Callable[[Any], Any], parent: int) -> None:
    """Begin a worker; Ctrl-C ends it at once and in silence, the main process says what is to say."""
    end_with_parent(parent)
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    keep(work)


def process_engine(n_workers: int) -> Engine | SerialEngine:
    """Return an engine of `n_workers` processes; one needs none of its own."""
    if n_workers == 1:
        return SerialEngine()
    # Fork starts at once and shares what is loaded; DIALS itself relies on it. Said explicitly
    # because Python 3.14 starts with forkserver and libtbx.easy_mp changes the default on import.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)

    @contextmanager
    def place(work: Callable[[Any], Any]) -> Iterator[Placed]:
        executor = ProcessPoolExecutor(n_workers, context, _start, (work, os.getpid()))
        try:
            yield lambda item: executor.submit(do, item)
        finally:
            # Not one future.cancel() after another: Python 3.11's pool can then wait for ever.
            executor.shutdown(wait=True, cancel_futures=True)

    return Engine(place, n_workers, (BrokenProcessPool,))
