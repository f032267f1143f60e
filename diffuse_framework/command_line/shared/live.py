"""diffuse.process live=True: rounds over a folder that is still being filled."""

from __future__ import annotations

import glob
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffuse_framework.adapters.images.open import can_be_read, files_of
from diffuse_framework.command_line.shared.arguments import is_phil, is_setting
from diffuse_framework.errors import ConfigError, DataError, DiffuseError

logger = logging.getLogger(__name__)


def mentions_live(args: list[str]) -> bool:
    """Whether a command line, or a parameter file on it, may ask for live."""
    return any(
        "live" in (arg if is_setting(arg) else Path(arg).read_text(errors="replace")) for arg in settings_of(args)
    )


def settings_of(args: list[str]) -> list[str]:
    """Return parameters and parameter files of a command line."""
    return [arg for arg in args if is_setting(arg) or (is_phil(arg) and Path(arg).is_file())]


def split_images(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the patterns of images on a command line, and the other arguments.

    Raises:
        ConfigError: images that are no pattern, so that new ones can't be found.
    """
    patterns = [arg for arg in args if _is_pattern(arg)]
    others = [arg for arg in args if arg not in patterns]
    if not patterns:
        raise ConfigError(
            "live=True needs a pattern that new images will match, in quotes so that the shell leaves it alone: "
            "'images/*.cbf' or images/img_####.cbf"
        )
    return patterns, others


def _is_pattern(arg: str) -> bool:
    return (
        not is_setting(arg)
        and not arg.startswith("-")
        and not Path(arg).exists()
        and (glob.has_magic(arg) or "#" in arg)
    )


class Arrivals:
    """Finds images that have come and are complete."""

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = patterns
        self._seen: dict[str, tuple[int, int]] = {}
        self._complete: dict[str, tuple[int, int]] = {}

    def look(self) -> dict[str, tuple[int, int]]:
        """Return size and time of the files that have not changed since the last check and can be read, in order."""
        before, self._seen = self._seen, {}
        for path in self._files():
            try:
                status = Path(path).stat()
            except OSError:
                continue
            self._seen[path] = state = (status.st_size, status.st_mtime_ns)
            if self._complete.get(path) != state and before.get(path) == state and can_be_read(path):
                self._complete[path] = state
        return {path: state for path, state in self._seen.items() if self._complete.get(path) == state}

    def waiting(self) -> int:
        """Return how many files are there that are not complete."""
        return sum(self._complete.get(path) != state for path, state in self._seen.items())

    def _files(self) -> list[str]:
        found: dict[str, None] = {}
        for pattern in self._patterns:
            with suppress(DataError):
                found |= dict.fromkeys(files_of([pattern]))
        return list(found)


def follow(
    patterns: list[str],
    process: Callable[[list[str], Any], Any],
    finish: Callable[[list[str]], Any],
    interval: float,
    patience: float,
) -> Any:
    """Process images as they come, and all of them in the end.

    Args:
        patterns: of image files.
        process: takes image files and what it returned last, None at first or when the number of images has
            doubled since grid and masks were made: they are made anew then.
        finish: takes all image files when no more come.
        interval: seconds between checks for new images.
        patience: seconds without a new image after which the series is over.

    Raises:
        DataError: no image came, or what `finish` raises.
    """
    arrivals = Arrivals(patterns)
    done: dict[str, tuple[int, int]] = {}
    frozen, frozen_at = None, 0
    last_news = time.monotonic()
    logger.info("Waiting for images %s", " ".join(patterns))
    while time.monotonic() - last_news < patience:
        files = arrivals.look()
        new = files.items() - done.items()
        if not new:
            time.sleep(interval)
            continue
        logger.info(
            "%d images are there, %d of them new%s",
            len(files),
            len(new),
            f"; {arrivals.waiting()} are not complete yet" if arrivals.waiting() else "",
        )
        if len(files) >= 2 * frozen_at:
            frozen = None
        try:
            outcome = process(list(files), frozen)
            if frozen is None:
                frozen, frozen_at = outcome, len(files)
        except DiffuseError as error:
            # The first images may be blank, or too few; the next may do.
            logger.warning("No map yet: %s", error)
        done = files
        last_news = time.monotonic()
    if not done:
        raise DataError(f"no image {' '.join(patterns)} has come within {patience:g} s (watch.patience)")
    logger.info("No new image for %g s: processing all %d from the start", patience, len(done))
    return finish(list(done))
