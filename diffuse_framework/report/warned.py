"""What a run warned of, for its verdict: a warning in the middle of a log is soon out of sight."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["warnings_kept"]

_OURS = ("diffuse_framework", "diffuse_plugins")


class _Keep(logging.Handler):
    """Keeps the first line of each warning, once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        sentence = record.getMessage().strip().partition("\n")[0]
        if sentence not in self.sentences:
            self.sentences.append(sentence)


@contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """Give a list that grows by each of our warnings, once each, as long as the context is open."""
    keep = _Keep()
    for name in _OURS:
        logging.getLogger(name).addHandler(keep)
    try:
        yield keep.sentences
    finally:
        for name in _OURS:
            logging.getLogger(name).removeHandler(keep)
