"""Finished work on disk, so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from diffuse_framework.errors import DataError
from diffuse_framework.io.atomic import make_folder, writing
from diffuse_framework.stages.work import Mapper, ResumableWork

logger = logging.getLogger(__name__)

_SUFFIX = ".result"
_DIGEST_BYTES = 16


class Journal:
    """A mapper that keeps results of resumable work in a folder, and finds those that are there.

    A result is named by its key: all that it depends on. Workers write it, and only its name travels.

    Args:
        mapper: does the work that is missing.
        folder: of the results; made when the first is written.
    """

    def __init__(self, mapper: Mapper, folder: Path) -> None:
        self._mapper = mapper
        self.folder = Path(folder)
        self._used: set[str] = set()

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield ``work(item)`` in the order of the items; what a run before has finished is not done again.

        Raises:
            DataError: a result can't be written.
        """
        if not isinstance(work, ResumableWork):
            yield from self._mapper.map(work, items)
            return
        items = list(items)
        keys = [work.key(item) for item in items]
        there = {path.stem for path in self.folder.glob(f"*{_SUFFIX}")}
        found = {key: read_plain(self._path(key)) for key in there.intersection(keys)}
        found = {key: plain for key, plain in found.items() if plain is not None}
        strangers = len(there - set(keys) - self._used)
        if found:
            logger.info("%d of %d were done by an earlier run: going on from there", len(found), len(items))
        elif strangers:
            logger.info("Indexing of an earlier run is not used: it belongs to other images, parameters or versions")
        missing = [(key, item) for key, item in zip(keys, items, strict=True) if key not in found]
        if missing:
            make_folder(self.folder)
        done = self._mapper.map(_Keep(work, self.folder), missing)
        for key in keys:
            self._used.add(key)
            if key in found:
                plain = found.pop(key)
            else:
                next(done)
                plain = read_plain(self._path(key))
                if plain is None:
                    raise DataError(
                        f"a worker wrote {self._path(key)}, and it can't be read here: output.directory must be on a "
                        "disk that all workers share"
                    )
            yield work.from_plain(plain)

    def prune(self) -> None:
        """Remove results that this run had no use for; call it when the run has ended well."""
        for path in self.folder.glob(f"*{_SUFFIX}"):
            if path.stem not in self._used:
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"


class _Keep:
    """Work that writes its result and returns nothing."""

    def __init__(self, work: ResumableWork, folder: Path) -> None:
        self._work, self._folder = work, folder

    def __call__(self, named: tuple[str, Any]) -> None:
        key, item = named
        plain = self._work.to_plain(self._work(item))
        with writing(self._folder / f"{key}{_SUFFIX}") as temporary:
            content = pickle.dumps(plain, 4)
            temporary.write_bytes(_digest(content) + content)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def read_plain(path: Path) -> Any:
    """Return what a file of numbers, text and bytes holds; None where it can't be read or holds anything else.

    Nothing in the file is executed: a pickle that names any function or class is refused.
    """
    try:
        data = path.read_bytes()
        content = data[_DIGEST_BYTES:]
        if _digest(content) != data[:_DIGEST_BYTES]:
            raise ValueError("its checksum does not fit")
        return _PlainUnpickler(io.BytesIO(content)).load()
    # What a damaged or hostile pickle can end in.
    except (
        OSError,
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        EOFError,
        OverflowError,
        MemoryError,
    ) as error:
        logger.warning("%s can't be used: %s", path, error)
        return None


class _PlainUnpickler(pickle.Unpickler):
    """Makes numbers, text, bytes and containers of them, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
