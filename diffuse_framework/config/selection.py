"""From extracted parameters to the chosen plugins."""

from __future__ import annotations

from typing import Any

from libtbx import Auto

from diffuse_framework.config.scope import SEVERAL
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.registry import Registry
from diffuse_framework.stages.steps import Steps


def select(registry: Registry, params: Any, stage: str, auto: str | None = None) -> Any:
    """Return the chosen plugin of a stage, or the tuple of those of a stage that has several.

    Args:
        registry: all plugins.
        params: the whole extracted PHIL tree.
        stage: for example "scaler".
        auto: what Auto stands for.

    Raises:
        PluginError: a name that isn't there.
        ConfigError: a plugin named twice, none named, or parameters a plugin refuses.
    """
    scope = getattr(params, stage)
    if stage in SEVERAL:
        # Names in quotes are one string to PHIL, and a list to whoever wrote them.
        names = [name for words in scope.plugins or [] for name in words.split()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{stage}.plugins names {', '.join(twice)} twice")
        return tuple(_make(registry, scope, stage, name) for name in names)
    name = auto if scope.plugin is Auto and auto else scope.plugin
    if name is None or name is Auto:
        raise ConfigError(f"{stage}.plugin names no plugin")
    return _make(registry, scope, stage, name)


def _make(registry: Registry, scope: Any, stage: str, name: str) -> Any:
    return registry.find(stage, name).factory.from_params(getattr(scope, name, None))


def select_steps(registry: Registry, params: Any, auto_indexer: str) -> Steps:
    """Return the plugins of all stages; `auto_indexer` is what indexer.plugin=Auto stands for."""
    return Steps(
        indexer=select(registry, params, "indexer", auto_indexer),
        maskers=select(registry, params, "masker"),
        correctors=select(registry, params, "corrector"),
        grid=select(registry, params, "grid"),
        accumulator=select(registry, params, "accumulator"),
        scaler=select(registry, params, "scaler"),
        merger=select(registry, params, "merger"),
        absolute_scaler=select(registry, params, "absolute_scaler"),
    )
