"""How a stage spreads work without knowing where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = ["Item", "Mapper", "Result", "ResumableWork"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapper(Protocol):
    """What an engine offers a stage."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield ``work(item)`` for each item, in the order of the items.

        `work` pickles, opens its own files, and is sent to each worker once. A single item is worked on
        here, where the work may start processes of its own.
        """


@runtime_checkable
class ResumableWork(Protocol):
    """Work whose results outlast a run that was cut off."""

    def __call__(self, item: Any) -> Any:
        """Return the result for one item."""

    def key(self, item: Any) -> str:
        """Return a name that differs when anything does that the result for `item` depends on."""

    def to_plain(self, result: Any) -> Any:
        """Return a result as numbers, text, bytes, None, and tuples, lists and dictionaries of them."""

    def from_plain(self, plain: Any) -> Any:
        """Return the result that `to_plain` took apart."""
