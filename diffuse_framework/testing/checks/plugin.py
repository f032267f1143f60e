"""What holds for every plugin, whatever its stage."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from iotbx.phil import parse

from diffuse_framework.config.scope import build_scope
from diffuse_framework.errors import ConfigError, PluginError
from diffuse_framework.host.interfaces import INTERFACES, METHODS, interface_of
from diffuse_framework.host.registry import Plugin, Registry
from diffuse_framework.testing.checks.common import BrokenContract, first_difference, require, title_of, unpickled


def check_plugin(stage: str, factory: type, parameters: str = "") -> Any:
    """Check what every plugin must offer, and return it made with `parameters`.

    Args:
        stage: for example "scaler".
        factory: the plugin's class.
        parameters: PHIL text in the plugin's own scope, for one that does not work with its defaults.

    Raises:
        BrokenContract: a rule is broken.
    """
    missing = [word for word in ("name", "phil", "from_params", *METHODS[stage]) if not hasattr(factory, word)]
    require(not missing, factory, f"has no {' and no '.join(missing)}; see diffuse_framework/stages/{stage}.py")
    require(
        interface_of(factory) == INTERFACES[stage],
        factory,
        f"is written for interface {interface_of(factory)} of {stage}, this is {INTERFACES[stage]}; set "
        f"interface = {INTERFACES[stage]} once the changes in docs/compatibility.md are made",
    )
    require((factory.__doc__ or "").strip(), factory, "has no docstring; its first line is its description")
    frozen = dataclasses.is_dataclass(factory) and factory.__dataclass_params__.frozen  # type: ignore[attr-defined]
    require(frozen, factory, "is not a frozen dataclass; write @dataclass(frozen=True) above it")
    for method, wanted in METHODS[stage].items():
        _check_signature(factory, method, wanted)
    plugin = _made(stage, factory, parameters)
    again = unpickled(plugin)
    require(
        type(again) is type(plugin) and first_difference(plugin, again) is None,
        plugin,
        "is another object after pickling; workers get it pickled. Keep plain values and arrays as its fields",
    )
    return plugin


def _check_signature(factory: type, method: str, wanted: tuple[str, ...]) -> None:
    called = getattr(factory, method)
    own = () if inspect.ismethod(called) else ("self",)
    try:
        inspect.signature(called).bind(*own, *wanted)
    except TypeError as error:
        raise BrokenContract(
            f"{title_of(factory)}: {method} is called with ({', '.join(wanted)}), but {error}"
        ) from error


def _made(stage: str, factory: Any, parameters: str) -> Any:
    registry = Registry()
    try:
        registry.add(Plugin(stage, factory.name, factory, "", ""))
    except PluginError as error:
        raise BrokenContract(f"{title_of(factory)}: {error}") from error
    scope = build_scope(registry)
    if registry.failed:
        raise BrokenContract(f"{title_of(factory)}: {registry.failed[0].error}")
    for definition in parse(factory.phil, process_includes=True).all_definitions():
        for attribute in ("type", "help"):
            require(getattr(definition.object, attribute), factory, f"parameter {definition.path} has no .{attribute}")
    inner = f"{stage}.{factory.name} {{\n{parameters}\n}}"
    params = getattr(getattr(scope.fetch(parse(inner)).extract(), stage), factory.name, None)
    try:
        return factory.from_params(params)
    except ConfigError as error:
        raise BrokenContract(
            f"{title_of(factory)}: refuses {'these parameters' if parameters else 'its own defaults'} ({error}); give "
            "parameters with which it works"
        ) from error
    except AttributeError as error:
        raise BrokenContract(
            f"{title_of(factory)}: from_params asks for a parameter that its phil does not have ({error})"
        ) from error
