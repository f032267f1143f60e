"""Parameters of plugins that a run does not select: without effect, though whoever gave them expects one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from libtbx import Auto

from diffuse_framework.config.scope import SEVERAL
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.hookspecs import STAGES


def idle_parameters(params: Any, paths: Iterable[str]) -> list[str]:
    """Return a sentence for each of some parameters that has no effect, with what would give it one.

    Args:
        params: the whole extracted PHIL tree.
        paths: of parameters that were given.
    """
    idle = []
    for path in paths:
        stage, *inner = path.split(".")
        if stage not in STAGES or len(inner) < 2:
            continue
        plugin, scope = inner[0], getattr(params, stage)
        if stage in SEVERAL:
            names = " ".join(scope.plugins or []).split()
            if plugin not in names:
                more = f'{stage}.plugins="{" ".join([*names, plugin])}"'
                idle.append(f"{path} has no effect: {stage}.plugins does not name {plugin}; give {more} too")
        # Which indexer is automatic follows from the images.
        elif scope.plugin is not Auto and scope.plugin != plugin:
            idle.append(f"{path} has no effect: {stage}.plugin is {scope.plugin}; give {stage}.plugin={plugin} too")
    return idle


def refuse_idle(params: Any, typed: Iterable[str]) -> None:
    """Refuse parameters without effect that were typed for this very run.

    Raises:
        ConfigError: there are some.
    """
    idle = idle_parameters(params, typed)
    if idle:
        raise ConfigError("; ".join(idle))
