"""Names for results by all that they depend on, so that they can be found and trusted again."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

_SOURCES = (".py", ".so", ".phil")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


def fingerprint(*things: Any) -> str:
    """Return 32 hexadecimal digits that differ when any of `things` does.

    Objects are taken apart into numbers, text and arrays: where they lie in memory, and whether two of
    them are one object, changes nothing. An object counts with its class and all source files of the package
    that this comes from, so that results of a plugin that was edited are not taken for those of the new one.
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
    """Return the name of a class with a digest of the package that defines it."""
    return f"{kind.__module__}.{kind.__qualname__} {source_digest(kind.__module__.partition('.')[0])}".encode()


_digests: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()


def source_digest(package: str) -> str:
    """Return a digest of every source file of a top-level package, or of a single module; "" where it has none.

    A result depends on all that the code it came from calls: a helper of a plugin as well as the plugin. Files are
    read once for each module that is loaded: what is edited later is not what runs.
    """
    module = sys.modules.get(package)
    if module is None:
        spec = find_spec(package)
        return "" if spec is None else _digest_of(list(spec.submodule_search_locations or []), spec.origin)
    if module not in _digests:
        _digests[module] = _digest_of(list(getattr(module, "__path__", [])), getattr(module, "__file__", None))
    return _digests[module]


def _digest_of(folder_names: list[str], file: str | None) -> str:
    folders = [Path(name) for name in folder_names]
    files = [(folder, path) for folder in folders for path in folder.rglob("*") if path.suffix in _SOURCES]
    if not folders and file:
        files = [(Path(file).parent, Path(file))]
    digest = hashlib.blake2b(digest_size=8)
    for folder, path in sorted(files):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest() if files else ""


# What else a result depends on besides our code and the plugins'.
_PROGRAMS = ("dials", "dxtbx", "numpy", "numba")


@lru_cache(maxsize=1)
def code_versions() -> tuple[str, ...]:
    """Return what names the code that every result depends on: our sources, and versions of the programs below."""
    ours = [source_digest(package) for package in ("diffuse_framework", "diffuse_plugins")]
    return (*ours, *(_version(name) for name in _PROGRAMS))


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name
