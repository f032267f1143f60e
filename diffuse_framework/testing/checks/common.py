"""What all checks share: the error, and calls that notice changes."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np


class BrokenContract(AssertionError):
    """A plugin breaks a rule of its stage; the message says which and how to mend it."""


def require(condition: Any, plugin: Any, message: str) -> None:
    """Raise `BrokenContract` with a message for the plugin's author unless `condition` is true."""
    if not condition:
        raise BrokenContract(f"{title_of(plugin)}: {message}")


def title_of(plugin: Any) -> str:
    """Return a plugin's name and that of its class."""
    factory = plugin if isinstance(plugin, type) else type(plugin)
    return f"{getattr(factory, 'name', None) or '?'} ({factory.__name__})"


def unpickled(plugin: Any) -> Any:
    """Return a plugin as a worker process gets it."""
    try:
        return pickle.loads(pickle.dumps(plugin))
    # Pickle raises PicklingError, TypeError, AttributeError, or whatever __reduce__ does.
    except Exception as error:
        raise BrokenContract(
            f"{title_of(plugin)}: does not pickle ({type(error).__name__}: {error}); it is sent to worker processes. "
            "Keep plain values and arrays as its fields, open files where they are used, and define it at the top "
            "of a module"
        ) from error


def first_difference(a: Any, b: Any, path: str = "") -> str | None:
    """Return where two objects of the model differ, None where they are equal; NaN equals NaN."""
    if a is b:
        return None
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        same_kind = isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype == b.dtype
        if same_kind and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"):
            return None
        return path or "the array"
    if type(a) is not type(b):
        return path or "the type"
    if dataclasses.is_dataclass(a):
        parts: Iterable = ((f".{f.name}", getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    elif isinstance(a, dict):
        if a.keys() != b.keys():
            return path or "the keys"
        parts = ((f"[{key!r}]", a[key], b[key]) for key in a)
    elif isinstance(a, (tuple, list)):
        if len(a) != len(b):
            return path or "the length"
        parts = ((f"[{n}]", x, y) for n, (x, y) in enumerate(zip(a, b, strict=True)))
    elif isinstance(a, float) and a != a and b != b:
        return None
    elif type(a).__eq__ is object.__eq__:
        # What begins with an underscore may be a cache.
        own = {key: value for key, value in getattr(a, "__dict__", {}).items() if not key.startswith("_")}
        parts = ((f".{key}", value, vars(b).get(key)) for key, value in own.items())
    else:
        return None if a == b else path or "the value"
    for name, x, y in parts:
        found = first_difference(x, y, path + name)
        if found:
            return found
    return None


def call(plugin: Any, method: str, **arguments: Any) -> Any:
    """Call a method with unpickled (writable) copies of the arguments; neither they nor the plugin may change."""
    given = pickle.loads(pickle.dumps(arguments))
    before = pickle.loads(pickle.dumps((arguments, vars(plugin) if dataclasses.is_dataclass(plugin) else None)))
    result = getattr(plugin, method)(*given.values())
    for name, value in given.items():
        where = first_difference(before[0][name], value, name)
        require(
            where is None,
            plugin,
            f"{method} changes what it is given: {where}. Others use it too; return a new object, or copy first",
        )
    for name, value in (before[1] or {}).items():
        where = first_difference(value, getattr(plugin, name, None), f"self.{name}")
        require(
            where is None,
            plugin,
            f"{method} changes the plugin itself: {where}. Workers have copies of their own, and results must "
            "not depend on what was worked on before",
        )
    return result


def check_arrays(plugin: Any, what: str, arrays: Any, shapes: list[tuple[int, ...]]) -> None:
    """Require one array of the right shape for each panel."""
    found = [np.shape(array) for array in arrays]
    require(found == shapes, plugin, f"{what} has arrays of shapes {found}, the panels are {shapes} (slow, fast)")


def check_finite(plugin: Any, what: str, values: np.ndarray) -> None:
    """Require that all values are finite."""
    bad = np.count_nonzero(~np.isfinite(values))
    require(bad == 0, plugin, f"{what} is NaN or infinite for {bad} of {np.size(values)} values")
