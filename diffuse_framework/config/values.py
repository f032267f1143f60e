"""Values that no parameter can have: Auto where nothing is automatic, numbers that no quantity has."""

from __future__ import annotations

import math
from typing import Any

from iotbx.phil import parse

from diffuse_framework.errors import ConfigError

# Larger than any quantity here in any unit; its square is a number still.
_LARGEST = 1e30
_LARGEST_WHOLE = 2**63


def refuse_impossible(changed: Any, where: str = "") -> None:
    """Refuse Auto where a parameter has no automatic value, and numbers that no quantity has.

    Args:
        changed: PHIL scope of the parameters that differ from their defaults.
        where: scopes around it, for messages: "masker.bragg.".

    Raises:
        ConfigError: there is one.
    """
    for item in changed.all_definitions():
        definition = item.object
        text = " ".join(word.value for word in definition.words)
        if text.lower() == "auto" and "Auto" not in str(definition.help):
            raise ConfigError(f"{where}{item.path}=Auto: it has no automatic value; give one, or leave it out")
        kind = str(getattr(definition.type, "phil_type", ""))
        limit = {"float": _LARGEST, "int": _LARGEST_WHOLE}.get(kind.removesuffix("s"), math.inf)
        if limit == math.inf:
            continue
        values = definition.extract()
        for value in values if isinstance(values, list | tuple) else [values]:
            if isinstance(value, int | float) and not abs(value) < limit:
                raise ConfigError(f"{where}{item.path}={text}: {value} is no value that it can have")


def refuse_impossible_parameters(phil: str, params: Any, where: str) -> None:
    """Refuse extracted parameters of a plugin that its own PHIL would not take, however they got their values.

    Args:
        phil: text of the plugin's parameters.
        params: extracted; None stands for a plugin without parameters.
        where: scopes around them, for messages: "masker.bragg.".

    Raises:
        ConfigError: a value of another type, out of its range, or none that a quantity has.
    """
    if params is None:
        return
    scope = parse(phil, process_includes=True)
    try:
        given = scope.format(params)
        # Single numbers are compared with their limits only as they are read.
        given.extract()
        changed = scope.fetch_diff(given)
    # Converters raise what the value leads to: RuntimeError, TypeError, Sorry, AttributeError ...
    except Exception as error:
        raise ConfigError(f"{where.rstrip('.')}: {' '.join(str(error).split())}") from error
    refuse_impossible(changed, where)
