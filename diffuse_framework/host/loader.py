"""Entry points of all installed packages -> the registry of plugins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from diffuse_framework.errors import PluginError
from diffuse_framework.host import hookspecs
from diffuse_framework.host.interfaces import misfit
from diffuse_framework.host.registry import FailedPlugin, Plugin, Registry

GROUP = "diffuse_framework"


def load_registry(found: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every plugin of the entry-point group, one at a time.

    A plugin that fails, or whose name another one has, is recorded with its error and leaves the others alone.

    Args:
        found: entry points to load; by default those of all installed packages.
    """
    found = entry_points(group=GROUP) if found is None else found
    registry = Registry()
    for entry_point in sorted(found, key=lambda e: (_package(e)[0], e.name)):
        _register(registry, entry_point)
    return registry


def _register(registry: Registry, entry_point: EntryPoint) -> None:
    package, version = _package(entry_point)
    try:
        for plugin in _offered(entry_point.load()):
            registry.add(replace(plugin, package=package, version=version))
    # A third party's module may raise anything at all while it is imported.
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        registry.failed.append(FailedPlugin(entry_point.name, package, version, f"{type(error).__name__}: {line}"))


def _offered(module: object) -> list[Plugin]:
    """Return what the hooks of one module offer, with its own plugin manager so that none hides another."""
    manager = pluggy.PluginManager("diffuse_framework")
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    manager.check_pending()
    offered = []
    for stage in hookspecs.STAGES:
        for classes in getattr(manager.hook, f"diffuse_{stage}s")():
            offered += [Plugin(stage, _name(stage, factory), factory, "", "") for factory in classes]
    if not offered:
        raise PluginError("it offers no plugin: none of its functions is a hook of diffuse_framework")
    return offered


def _name(stage: str, factory: Any) -> str:
    reason = misfit(stage, factory)
    if reason:
        raise PluginError(reason)
    return factory.name


def _package(entry_point: EntryPoint) -> tuple[str, str]:
    distribution = entry_point.dist
    return (distribution.name, distribution.version) if distribution else ("", "")
