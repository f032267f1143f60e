"""How work is spread: any `concurrent.futures.Executor`, results in order, no science."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import threadpool_limits

from diffuse_framework.errors import DataError

Placed = Callable[[Any], Future]
"""Takes an item to an executor whose workers have the work, and returns the future of its result."""

_work: Callable[[Any], Any]

_LOOK_S = 1.0

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_KEPT_BYTES = 1 << 26, 1 << 25
_libc = ctypes.CDLL(None) if hasattr(ctypes.CDLL(None), "malloc_trim") else None


def one_blas_thread() -> threadpool_limits:
    """Have BLAS use one thread, until the context that this returns is left.

    The small matrices of an image wake all its threads, which then wait for more, busily, for a good part of what an
    image takes: on the very cores that other workers need.
    """
    return threadpool_limits(1, user_api="blas")


def keep_freed_memory() -> None:
    """Have this process keep what it frees, up to 64 MiB, for the next image; does nothing without glibc.

    To give it back and get it again, cleared, page by page, costs an image up to half as much again.
    """
    if _libc is not None:
        _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        _libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)


def give_back_memory() -> None:
    """Give back what was kept: all images are done."""
    if _libc is not None:
        _libc.malloc_trim(0)


def keep(work: Callable[[Any], Any]) -> None:
    """Keep the work in a worker, so that it is sent once and not with every item."""
    global _work
    _work = work
    one_blas_thread()
    keep_freed_memory()


def do(item: Any) -> Any:
    """Apply the work that this worker keeps."""
    return _work(item)


class Engine:
    """Applies work to items on an executor that is opened for each run of work.

    Args:
        place: takes the work to the workers of an executor; a context that gives what submits items to it, and
            that cancels what has not begun when it is left.
        n_workers: how many items are worked on at a time.
        lost: exceptions of the executor that mean that a worker is gone.
        look: called every now and then while results are waited for, to look after the workers; what it raises
            passes through.
    """

    def __init__(
        self,
        place: Callable[[Callable[[Any], Any]], AbstractContextManager[Placed]],
        n_workers: int,
        lost: tuple[type[BaseException], ...] = (),
        look: Callable[[], None] | None = None,
    ) -> None:
        self._place = place
        self.n_workers = n_workers
        self._lost = lost
        self._look = look

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield ``work(item)`` in the order of the items, only a few ahead of what is taken.

        A single item is worked on here: it needs no worker, and may have its own way to use several CPUs.

        Raises:
            DataError: a worker died or ran out of memory; what else the work raises passes through.
        """
        if isinstance(items, Sized) and len(items) < 2:
            yield from SerialEngine().map(work, items)
            return
        with self._place(work) as submit:
            waiting: deque[Future] = deque()
            try:
                for item in items:
                    waiting.append(submit(item))
                    if len(waiting) > 2 * self.n_workers:
                        yield self._result(waiting.popleft())
                while waiting:
                    yield self._result(waiting.popleft())
            except self._lost as error:
                raise DataError(
                    "a worker process died, most likely killed for lack of memory; finished work is kept: run the "
                    "same command again, with a smaller mp.nproc="
                ) from error
            except MemoryError as error:
                raise _out_of_memory() from error

    def _result(self, future: Future) -> Any:
        if self._look is not None:
            self._look()
            while not wait([future], _LOOK_S).done:
                self._look()
        return future.result()


class SerialEngine:
    """Applies work in this process, one item after another."""

    n_workers = 1

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield ``work(item)`` for each item.

        Raises:
            DataError: there is not enough memory; what else the work raises passes through.
        """
        keep_freed_memory()
        try:
            with one_blas_thread():
                for item in items:
                    yield work(item)
        except MemoryError as error:
            raise _out_of_memory() from error
        finally:
            give_back_memory()


def _out_of_memory() -> DataError:
    return DataError(
        "a worker process ran out of memory; finished work is kept: run the same command again with a smaller "
        "mp.nproc= or mp.chunk=, or with fewer voxels (grid.hkl.d_min=)"
    )
