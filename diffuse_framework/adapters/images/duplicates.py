"""Images that are there under two names: links to one file, or copies of it."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

from dxtbx.model import ExperimentList

from diffuse_framework.errors import DataError

logger = logging.getLogger(__name__)

REFUSE, DROP = "refuse", "drop"
_SAMPLE_BYTES = 1 << 12


def without_duplicates(experiments: Any, action: str) -> Any:
    """Return the experiments without those whose images are there already under another name.

    Args:
        experiments: of dxtbx.
        action: `REFUSE` or `DROP`.

    Raises:
        DataError: there are some, and they are to be refused, or are part of a sweep.
    """
    paths = list(dict.fromkeys(path for experiment in experiments for path in experiment.imageset.paths()))
    same = duplicates_of(paths)
    if not same:
        return experiments
    path, first = next(iter(same.items()))
    if action == REFUSE:
        raise DataError(
            f"{len(same)} images are there twice: {path} is the same file as {first}, or a copy of it; its photons "
            "must count once: leave it out, or set input.duplicates=drop"
        )
    kept = ExperimentList()
    for experiment in experiments:
        repeated = [path in same for path in experiment.imageset.paths()]
        if any(repeated) and not all(repeated):
            raise DataError(f"{path} is the same file as {first}, or a copy of it, and part of a sweep: leave it out")
        if not any(repeated):
            kept.append(experiment)
    logger.warning("Left out %d images that are there twice, for example %s, as %s", len(same), path, first)
    return kept


def duplicates_of(paths: Iterable[str]) -> dict[str, str]:
    """Return which of different paths lead to a file that an earlier one leads to, or to a copy, and the earlier one.

    Files of one size are compared by their ends first; only those that agree are read.
    """
    same: dict[str, str] = {}
    files = [path for path in paths if Path(path).is_file()]
    for group in _alike(files, lambda path: (Path(path).stat().st_dev, Path(path).stat().st_ino)):
        same |= dict.fromkeys(group[1:], group[0])
    files = [path for path in files if path not in same]
    for sizes in _alike(files, lambda path: Path(path).stat().st_size):
        for ends in _alike(sizes, _ends):
            for group in _alike(ends, _digest):
                same |= dict.fromkeys(group[1:], group[0])
    return same


def _alike(paths: list[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    """Return those groups of paths, of two or more, that have the same key."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _ends(path: str) -> bytes:
    with open(path, "rb") as file:
        head = file.read(_SAMPLE_BYTES)
        file.seek(max(Path(path).stat().st_size - _SAMPLE_BYTES, 0))
        return head + file.read(_SAMPLE_BYTES)


def _digest(path: str) -> bytes:
    # Not hashlib.file_digest, which Python 3.10 lacks.
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
