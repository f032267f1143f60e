"""One PHIL tree from the core's parameters and each plugin's own."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from iotbx.phil import parse

from diffuse_framework.errors import PluginError
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.registry import FailedPlugin, Plugin, Registry

# Stages of which a run has several, in the order they are written down.
SEVERAL = ("validator", "masker", "corrector")

# The plugins a run takes unless told otherwise.
DEFAULTS = {
    "indexer": "Auto",
    "validator": "sweeps images",
    "masker": "trusted dynamic bragg",
    "corrector": "solid_angle polarization efficiency air",
    "grid": "hkl",
    "accumulator": "sums",
    "reindexer": "diffuse",
    "scaler": "per_image",
    "merger": "poisson",
    "absolute_scaler": "unit",
}

# Expert levels: what a first user sets, what is set once one knows one's data, and what hardly anybody sets. They hold
# where the PHIL text does not say otherwise.
_FIRST, _AFTERWARDS, _EXPERT = 0, 1, 2
_RARELY_CHOSEN = ("accumulator",)

_HELP = {
    "indexer": "Finds the crystal's orientation on each image. Auto takes orientations that come with the "
    "input, and indexes where there are none.",
    "validator": "Reject indexed images that can't be trusted.",
    "masker": "Mask pixels that can't be used, or that belong to Bragg peaks.",
    "corrector": "Factors of a pixel's response, and backgrounds.",
    "grid": "The voxels of reciprocal space.",
    "accumulator": "Accumulates pixels in voxels.",
    "reindexer": "Brings crystals whose lattice is more symmetric than they are (P4, P3 and others) to one indexing.",
    "scaler": "Brings images to one relative scale.",
    "merger": "Merges the observations of each voxel.",
    "absolute_scaler": "Puts the merged map on its final scale.",
}


def core_text() -> str:
    """Return the text of the core's own parameters."""
    return (files("diffuse_phil") / "core.phil").read_text()


def build_scope(registry: Registry, stages: tuple[str, ...] = STAGES, core: str | None = None) -> Any:
    """Return the PHIL scope of the core and of every plugin of `stages`.

    A plugin whose parameters don't parse moves to `registry.failed`.
    """
    text = core_text() if core is None else core
    scope = parse(text + "".join(_stage_text(registry, stage) for stage in stages), process_includes=True)
    for part in scope.objects:
        if part.name in stages:
            for item in part.objects:
                _set_levels(item, _AFTERWARDS if item.is_scope or part.name in _RARELY_CHOSEN else _FIRST)
        else:
            _set_levels(part, _EXPERT if part.name == "geometry" else _FIRST)
        _show_what_it_holds(part)
    return scope


def _set_levels(part: Any, default: int) -> None:
    """Give what has no expert level of its own the one of the scope around it."""
    level = default if part.expert_level is None else part.expert_level
    for inner in part.objects if part.is_scope else ():
        _set_levels(inner, level)
    part.expert_level = level


def _show_what_it_holds(scope: Any) -> int:
    """Give a scope the lowest level of its parameters, so that it is listed where one of them is; return it."""
    if scope.is_scope:
        scope.expert_level = min((_show_what_it_holds(inner) for inner in scope.objects), default=scope.expert_level)
    return int(scope.expert_level)


def _stage_text(registry: Registry, stage: str) -> str:
    word, kind = ("plugins", "strings") if stage in SEVERAL else ("plugin", "str")
    names = []
    scopes = ""
    for plugin in registry.of_stage(stage):
        try:
            parse(plugin.factory.phil, process_includes=True)
        # libtbx raises RuntimeError, its converters ValueError or AttributeError.
        except Exception as error:
            _fail(registry, plugin, error)
            continue
        names.append(plugin.name)
        scopes += f"{plugin.name}\n.help = {_quoted(plugin.summary)}\n{{\n{plugin.factory.phil}\n}}\n"
    several = " Names, separated by blanks." if stage in SEVERAL else ""
    help_text = f"{_HELP[stage]}{several} Available: {', '.join(names)}."
    return f"{stage} {{\n{word} = {DEFAULTS[stage]}\n.type = {kind}\n.help = {_quoted(help_text)}\n{scopes}}}\n"


def _fail(registry: Registry, plugin: Plugin, error: Exception) -> None:
    message = str(PluginError(f"its parameters don't parse: {str(error).splitlines()[0]}"))
    registry.failed.append(FailedPlugin(f"{plugin.stage}_{plugin.name}", plugin.package, plugin.version, message))
    del registry.plugins[plugin.stage, plugin.name]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "'") + '"'
