"""Names for results by all that they depend on, so that they can be found and trusted again."""

from __future__ import annotations

import hashlib
import inspect
import pickle
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


def fingerprint(*things: Any) -> str:
    """Return 32 hexadecimal digits that differ when any of `things` does.

    Objects are taken apart into numbers, text and arrays: where they lie in memory, and whether two of
    them are one object, changes nothing. An object counts with its class and the source file of
    that, so that results of a plugin that was edited are not taken for those of the new one.
    """
    digest = hashlib.blake2b(digest_size=16)
    for thing in things:
        _add(digest, thing)
    return digest.hexdigest()


def _add(digest: Any, thing: Any) -> None:
    if isinstance(thing, _PLAIN):
        _mark(digest, type(thing).__name__, repr(thing).encode())
    elif isinstance(thing, PurePath):
        _mark(digest, "path", str(thing).encode())
    elif isinstance(thing, np.ndarray) and thing.dtype != object:
        _mark(digest, f"array {thing.dtype.str} {thing.shape}", np.ascontiguousarray(thing).tobytes())
    elif isinstance(thing, np.dtype):
        _mark(digest, "dtype", thing.str.encode())
    elif isinstance(thing, (list, tuple)):
        _sequence(digest, type(thing).__name__, thing)
    elif isinstance(thing, (set, frozenset)):
        _sequence(digest, "set", sorted(fingerprint(item) for item in thing))
    elif isinstance(thing, Mapping):
        pairs = sorted((fingerprint(key), fingerprint(value)) for key, value in thing.items())
        _sequence(digest, "mapping", pairs)
    elif isinstance(thing, partial):
        _sequence(digest, "partial", [thing.func, thing.args, thing.keywords])
    elif inspect.isroutine(thing) or isinstance(thing, type):
        _mark(digest, "name", f"{thing.__module__}.{thing.__qualname__}".encode())
    elif is_dataclass(thing):
        _mark(digest, "object", _class(type(thing)))
        _sequence(digest, "fields", [getattr(thing, field.name) for field in fields(thing)])
    elif type(thing).__module__ != "builtins" and hasattr(thing, "__dict__"):
        _mark(digest, "object", _class(type(thing)))
        _add(digest, thing.__dict__)
    else:
        # Extension types. At worst two equal ones differ, and a result is not found again.
        _mark(digest, "pickle", pickle.dumps(thing, 4))


def _sequence(digest: Any, kind: str, things: Any) -> None:
    _mark(digest, kind, str(len(things)).encode())
    for thing in things:
        _add(digest, thing)


def _mark(digest: Any, kind: str, content: bytes) -> None:
    """Add a piece so that no two lists of pieces run together."""
    digest.update(f"{kind} {len(content)}:".encode())
    digest.update(content)


def _class(kind: type) -> bytes:
    """Return the name of a class with a digest of the file that defines it."""
    try:
        path = inspect.getfile(kind)
        status = Path(path).stat()
        source = _digest(path, status.st_size, status.st_mtime_ns)
    except (TypeError, OSError):
        source = ""
    return f"{kind.__module__}.{kind.__qualname__} {source}".encode()


@lru_cache(maxsize=256)
def _digest(path: str, n_bytes: int, time_ns: int) -> str:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()
