"""Random choices of plugins and of their parameters, as PHIL text."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from hypothesis import strategies as st
from iotbx.phil import parse

from diffuse_framework.config.scope import SEVERAL
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.registry import Plugin, Registry


@st.composite
def parameters(draw: Any, plugin: Plugin) -> str:
    """Draw values, within their bounds, for some parameters of a plugin; the others keep their defaults.

    Paths, names and whatever may be given several times keep their defaults too.
    """
    lines = []
    for definition in parse(plugin.factory.phil, process_includes=True).all_definitions():
        values = _values(definition.object)
        repeated = definition.object.multiple or getattr(definition.parent, "multiple", False)
        if values is not None and not repeated and draw(st.integers(0, 3)) == 0:
            lines.append(f"{plugin.stage}.{plugin.name}.{definition.path} = {draw(values)}")
    return "\n".join(lines)


def _values(definition: Any) -> st.SearchStrategy[str] | None:
    """Return PHIL values for one definition, None where there is nothing to draw."""
    kind = definition.type.phil_type
    if kind == "bool":
        return st.sampled_from(["True", "False"])
    if kind == "choice":
        return st.sampled_from([str(word).lstrip("*") for word in definition.words])
    if kind not in ("int", "float", "ints", "floats"):
        return None
    default = definition.extract()
    numbers = default if isinstance(default, (list, tuple)) else [default]
    if any(not isinstance(number, (int, float)) for number in numbers):
        return None
    each = [_near(number, definition.type, kind.startswith("int")) for number in numbers]
    return st.tuples(*each).map(lambda drawn: " ".join(map(str, drawn)))


def _near(number: float, kind: Any, whole: bool) -> st.SearchStrategy[float]:
    """Draw around a default: up to three times as large or small, within the bounds."""
    low, high = sorted((number / 3, number * 3)) if number else (0.0, 1.0)
    if kind.value_min is not None:
        low, high = max(low, kind.value_min), max(high, kind.value_min)
    if kind.value_max is not None:
        low, high = min(low, kind.value_max), min(high, kind.value_max)
    # Drawn as a share of the range, so that numbers of any size shrink alike.
    share = st.integers(0, 8).map(lambda eighth: low + (high - low) * eighth / 8)
    return share.map(lambda value: max(round(value), int(kind.value_min or 0))) if whole else share


@st.composite
def selections(draw: Any, registry: Registry, wanted: Callable[[Plugin], bool] = lambda plugin: True) -> str:
    """Draw a plugin for every stage but indexing, any number and order of maskers and correctors, and parameters."""
    lines = []
    for stage in STAGES[1:]:
        plugins = [plugin for plugin in registry.of_stage(stage) if wanted(plugin)]
        chosen: Collection[Plugin]
        if stage in SEVERAL:
            chosen = draw(st.lists(st.sampled_from(plugins), unique_by=lambda plugin: plugin.name)) if plugins else []
            names = " ".join(plugin.name for plugin in chosen) or "None"
            lines.append(f"{stage}.plugins = {names}")
        else:
            chosen = [draw(st.sampled_from(plugins))]
            lines.append(f"{stage}.plugin = {chosen[0].name}")
        lines += [draw(parameters(plugin)) for plugin in chosen]
    return "\n".join(line for line in lines if line)
