"""The parameters of each command, for completion and for the documentation."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from diffuse_framework.command_line.compare import phil_scope as compare_scope
from diffuse_framework.command_line.export import phil_scope as export_scope
from diffuse_framework.command_line.rebin import phil_scope as rebin_scope
from diffuse_framework.command_line.simulate import phil_scope as simulate_scope
from diffuse_framework.command_line.subtract import phil_scope as subtract_scope
from diffuse_framework.config.scope import SEVERAL, build_scope
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.registry import Registry


def _reduce(*stages: str) -> Callable[[Registry], Any]:
    return lambda registry: build_scope(registry, stages, (files("diffuse_phil") / "reduce.phil").read_text())


SCOPES: dict[str, Callable[[Registry], Any]] = {
    "diffuse.process": build_scope,
    "diffuse.scale": _reduce("scaler"),
    "diffuse.merge": _reduce("merger", "absolute_scaler"),
    "diffuse.stats": _reduce("merger"),
    "diffuse.export": lambda registry: export_scope,
    "diffuse.compare": lambda registry: compare_scope,
    "diffuse.rebin": lambda registry: rebin_scope,
    "diffuse.subtract": lambda registry: subtract_scope,
    "diffuse.simulate": lambda registry: simulate_scope,
}


def allowed_values(definition: Any, registry: Registry) -> list[str]:
    """Return the values that a parameter may have, as far as they can be listed.

    Args:
        definition: one of a scope's ``all_definitions()``.
        registry: all plugins.
    """
    stage, _, rest = definition.path.partition(".")
    if stage in STAGES and rest == ("plugins" if stage in SEVERAL else "plugin"):
        return [plugin.name for plugin in registry.of_stage(stage)]
    kind = definition.object.type.phil_type
    if kind == "choice":
        return [str(word).lstrip("*") for word in definition.object.words]
    return ["True", "False"] if kind == "bool" else []
