"""From extracted parameters to the chosen plugins."""

from __future__ import annotations

from typing import Any

from libtbx import Auto

from diffuse_framework.config.scope import SEVERAL
from diffuse_framework.config.values import refuse_impossible_parameters
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.registry import Registry
from diffuse_framework.stages.indexer import Indexer
from diffuse_framework.stages.steps import Steps

# In the parameters that a run leaves, in place of the name of a plugin that was an object made in Python.
FROM_PYTHON = "from_python"


def select(registry: Registry, params: Any, stage: str) -> Any:
    """Return the chosen plugin of a stage, or the tuple of those of a stage that has several.

    Args:
        registry: all plugins.
        params: the whole extracted PHIL tree.
        stage: for example "scaler".

    Raises:
        PluginError: a name that isn't there.
        ConfigError: a plugin named twice, none named, values that a parameter can't have, or that a plugin refuses.
    """
    scope = getattr(params, stage)
    if stage in SEVERAL:
        # Names in quotes are one string to PHIL, and a list to whoever wrote them.
        names = [name for words in scope.plugins or [] for name in words.split()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{stage}.plugins names {', '.join(twice)} twice")
        return tuple(_make(registry, scope, stage, name) for name in names)
    if scope.plugin is None or scope.plugin is Auto:
        raise ConfigError(f"{stage}.plugin names no plugin")
    if scope.plugin == FROM_PYTHON:
        raise ConfigError(
            f"the {stage} of this run was an object made in Python, which no file of parameters holds: give "
            f"{stage}.plugin=..., and its parameters, as they shall be now"
        )
    return _make(registry, scope, stage, scope.plugin)


def select_named(registry: Registry, params: Any, stage: str, name: str) -> Any:
    """Return the plugin `name` of a stage, whatever its scope selects.

    Raises:
        PluginError, ConfigError: see `select`.
    """
    return _make(registry, getattr(params, stage), stage, name)


def _make(registry: Registry, scope: Any, stage: str, name: str) -> Any:
    factory, params = registry.find(stage, name).factory, getattr(scope, name, None)
    refuse_impossible_parameters(factory.phil, params, f"{stage}.{name}.")
    return factory.from_params(params)


def select_steps(registry: Registry, params: Any, indexer: Indexer | None = None) -> Steps:
    """Return the plugins of all stages.

    Args:
        registry: all plugins.
        params: the whole extracted PHIL tree.
        indexer: what indexer.plugin=Auto stands for.

    Raises:
        PluginError, ConfigError: see `select`.
    """
    if indexer is None or params.indexer.plugin is not Auto:
        indexer = select(registry, params, "indexer")
    return Steps(
        indexer=indexer,
        validators=select(registry, params, "validator"),
        maskers=select(registry, params, "masker"),
        correctors=select(registry, params, "corrector"),
        **{
            stage: select(registry, params, stage)
            for stage in ("grid", "accumulator", "reindexer", "scaler", "merger", "absolute_scaler")
        },
    )
