"""How work is spread: any `concurrent.futures.Executor`, results in order, no science."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from diffuse_framework.errors import DataError

_work: Callable[[Any], Any]


def _keep(work: Callable[[Any], Any]) -> None:
    """Keep the work in a worker, so that it is sent once and not with every item."""
    global _work
    _work = work


def _do(item: Any) -> Any:
    return _work(item)


class Engine:
    """Applies work to items on an executor that is made for each run of work.

    Args:
        make_executor: takes an initializer and its arguments, returns an executor.
        n_workers: how many items are worked on at a time.
    """

    def __init__(self, make_executor: Callable[[Callable, tuple], Executor], n_workers: int) -> None:
        self._make_executor = make_executor
        self.n_workers = n_workers

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield ``work(item)`` in the order of the items, only a few ahead of what is taken.

        Raises:
            DataError: a worker died; what the work itself raises passes through.
        """
        with self._make_executor(_keep, (work,)) as executor:
            waiting: deque = deque()
            try:
                for item in items:
                    waiting.append(executor.submit(_do, item))
                    if len(waiting) > 2 * self.n_workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BrokenProcessPool as error:
                raise DataError(
                    "a worker process died, most likely killed for lack of memory; run again with a smaller "
                    "mp.nproc="
                ) from error
            finally:
                for future in waiting:
                    future.cancel()


class SerialEngine:
    """Applies work in this process, one item after another."""

    n_workers = 1

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield ``work(item)`` for each item."""
        return map(work, items)
