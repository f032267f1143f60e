"""What a plugin of each stage must offer, and which version of it this is.

A plugin states the version it was written for as ``interface: ClassVar[int]``. One that states none
was written for version 1. `docs/compatibility.md` says what changes a version.
"""

from __future__ import annotations

import inspect
from typing import Any

from diffuse_framework.stages.absolute_scaler import AbsoluteScaler
from diffuse_framework.stages.accumulator import Accumulator
from diffuse_framework.stages.corrector import Corrector
from diffuse_framework.stages.grid import Grid
from diffuse_framework.stages.indexer import Indexer
from diffuse_framework.stages.masker import Masker
from diffuse_framework.stages.merger import Merger
from diffuse_framework.stages.reindexer import Reindexer
from diffuse_framework.stages.scaler import Scaler
from diffuse_framework.stages.validator import Validator

# Raise a number when plugins written for the old one no longer work.
INTERFACES = {
    "indexer": 2,
    "validator": 1,
    "masker": 1,
    "corrector": 1,
    "grid": 1,
    "accumulator": 1,
    "reindexer": 1,
    "scaler": 2,
    "merger": 1,
    "absolute_scaler": 1,
}

_PROTOCOLS = (
    Indexer,
    Validator,
    Masker,
    Corrector,
    Grid,
    Accumulator,
    Reindexer,
    Scaler,
    Merger,
    AbsoluteScaler,
)


def _methods(protocol: type) -> dict[str, tuple[str, ...]]:
    """Return the arguments of each method that the pipeline calls, without self or cls."""
    functions = {
        name: getattr(value, "__func__", value)
        for name, value in vars(protocol).items()
        if not name.startswith("_") and name != "from_params"
    }
    return {
        name: tuple(inspect.signature(function).parameters)[1:]
        for name, function in functions.items()
        if inspect.isfunction(function)
    }


METHODS = {stage: _methods(protocol) for stage, protocol in zip(INTERFACES, _PROTOCOLS, strict=True)}


def interface_of(factory: Any) -> int:
    """Return the version of its stage's interface that a plugin was written for."""
    return getattr(factory, "interface", 1)


def misfit(stage: str, factory: Any) -> str | None:
    """Return why a class can't be a plugin of `stage`, None where it can."""
    title = getattr(factory, "__name__", repr(factory))
    missing = [word for word in ("name", "phil", "from_params") if not hasattr(factory, word)]
    if missing:
        return f"{title} has no {' and no '.join(missing)}"
    written_for, current = interface_of(factory), INTERFACES[stage]
    if written_for != current:
        newer = isinstance(written_for, int) and written_for > current
        advice = "install a newer diffuse_framework" if newer else "install a newer version of the plugin"
        return (
            f"{title} is written for interface {written_for} of {stage}, this diffuse_framework has {current}; "
            f"{advice} (docs/compatibility.md)"
        )
    missing = [method for method in METHODS[stage] if not callable(getattr(factory, method, None))]
    if missing:
        return f"{title} is offered as {stage}, but has no {' and no '.join(missing)}"
    return None
