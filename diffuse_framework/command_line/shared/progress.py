"""How far long work has come: a bar on a terminal, plain lines elsewhere and in the log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from tqdm import tqdm

from diffuse_framework.command_line.shared.logs import PROGRESS
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(PROGRESS)

# Seconds before the first line and between lines; what is over sooner needs none.
_QUIET, _BETWEEN = 5.0, 20.0


class ShowProgress:
    """A mapper that says how far another one has come.

    Args:
        mapper: does the work.
        doing: says in a word or two what is being done.
    """

    def __init__(self, mapper: Mapper, doing: Callable[[], str]) -> None:
        self._mapper = mapper
        self._doing = doing

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield ``work(item)`` in the order of the items."""
        total = len(items) if isinstance(items, Sized) else None
        doing, start = self._doing(), time.monotonic()
        said = start + _QUIET - _BETWEEN
        # Nothing is drawn for work that is over in a moment.
        with tqdm(total=total, desc=doing, delay=1, leave=False, disable=not sys.stderr.isatty()) as bar:
            for done, result in enumerate(self._mapper.map(work, items), 1):
                bar.update()
                now = time.monotonic()
                if now - said >= _BETWEEN and done != total:
                    logger.info("%s", progress_line(doing, done, total, now - start))
                    said = now
                yield result


def progress_line(doing: str, done: int, total: int | None, seconds: float) -> str:
    """Return how far work has come and how long the rest will take, in words."""
    if not total:
        return f"  {doing}: {done} done in {duration(seconds)}"
    left = seconds / done * (total - done)
    return f"  {doing}: {done} of {total} ({done / total:.0%}), about {duration(left)} left"


def duration(seconds: float) -> str:
    """Return a time in the units a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
