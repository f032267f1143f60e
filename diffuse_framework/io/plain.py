"""Plain values as JSON and back, unchanged: numbers, text, None, arrays, and lists and dictionaries of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffuse_framework.errors import DataError

_ARRAY, _FLOAT = "array of", "float"
_STRANGE = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}
_KINDS = "biuf"


def encoded(value: Any, what: str) -> Any:
    """Return a value as what JSON holds without loss: an array as its type, shape and values, NaN as a word.

    Args:
        value: numbers, text, None, arrays of numbers or booleans, and lists, tuples and dictionaries of them.
        what: it is, for messages.

    Raises:
        DataError: it holds anything else, named with its place.
    """
    if isinstance(value, Mapping):
        strange = [key for key in value if not isinstance(key, str)]
        if strange:
            raise DataError(f"{what} has the key {strange[0]!r}: keys must be text")
        return {key: encoded(item, f"{what}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(item, f"{what}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in _KINDS:
            raise DataError(f"{what} is an array of {value.dtype}: only numbers and booleans can be kept")
        values = [_word(item) for item in value.ravel().tolist()]
        return {_ARRAY: value.dtype.str, "shape": list(value.shape), "values": values}
    if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return {_FLOAT: _word(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataError(
        f"{what} is a {type(value).__name__}: only numbers, text, None, arrays, and lists and dictionaries of them "
        "can be kept"
    )


def decoded(value: Any) -> Any:
    """Return the value that `encoded` wrote; tuples come back as lists, numpy's single numbers as Python's.

    Raises:
        ValueError, TypeError: it is not what `encoded` writes.
    """
    if isinstance(value, dict):
        if _ARRAY in value:
            kind = np.dtype(value[_ARRAY])
            if kind.kind not in _KINDS:
                raise ValueError(f"an array of {kind}")
            values = [_STRANGE[item] if isinstance(item, str) else item for item in value["values"]]
            return np.array(values, kind).reshape(value["shape"])
        if value.keys() == {_FLOAT}:
            return _STRANGE[value[_FLOAT]]
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return value


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
