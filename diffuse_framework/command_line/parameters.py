"""Write docs/parameters.md: every parameter of every command and default plugin.

Example::

  dev.diffuse.parameters docs/parameters.md
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from iotbx.phil import parse

from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.scopes import SCOPES, allowed_values
from diffuse_framework.config.presets import preset_names, preset_path
from diffuse_framework.config.scope import DEFAULTS, SEVERAL
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Plugin, Registry
from diffuse_framework.io.atomic import writing

_HEADER = """\
# Parameters

Written by `dev.diffuse.parameters`; don't edit. `diffuse.process -c` prints what a first user sets, `-c -e 2 -a 1` all
of it, plugins of other packages included, and `diffuse.plugins scaler per_image` shows one plugin.

On a command line a parameter may be named in part: `nproc=4`. Of several that a word may mean it means the one that
`diffuse.process -c` lists: `d_min=2` is `grid.hkl.d_min=2`.

Defaults marked `None` are decided from the data. `geometry.*` are those of DIALS (`dials.import -c`).
"""


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run dev.diffuse.parameters."""
    parser = argparse.ArgumentParser("dev.diffuse.parameters", description=__doc__)
    parser.add_argument("page", type=Path, help="the file to write")
    page = parser.parse_args(args).page
    with writing(page) as temporary:
        temporary.write_text(parameters_page(own_plugins(load_registry())))


def own_plugins(registry: Registry) -> Registry:
    """Return the plugins that come with this package."""
    return Registry({key: plugin for key, plugin in registry.plugins.items() if plugin.package == "diffuse_framework"})


def parameters_page(registry: Registry) -> str:
    """Return the page."""
    parts = [_HEADER, "## Presets\n", "`diffuse.process preset=<name>`; parameters beside it override it.\n"]
    for name in preset_names():
        lines = preset_path(name).read_text().splitlines()
        remark = " ".join(line[1:].strip() for line in lines if line.startswith("#"))
        parts.append(f"- `{name}`: {remark}")
    for command, scope_of in SCOPES.items():
        definitions = [
            item
            for item in scope_of(registry).all_definitions()
            if item.path.split(".")[0] not in (*STAGES, "geometry")
        ]
        parts += [f"\n## {command}\n", _table(definitions, registry)]
    for stage in STAGES:
        several = "any number, in any order" if stage in SEVERAL else "one"
        word = "plugins" if stage in SEVERAL else "plugin"
        parts.append(f"\n## {stage}\n\n`{stage}.{word}` selects {several}; default `{DEFAULTS[stage]}`.")
        for plugin in registry.of_stage(stage):
            parts.append(_plugin(plugin, registry))
    return "\n".join(parts) + "\n"


def _plugin(plugin: Plugin, registry: Registry) -> str:
    definitions = parse(plugin.factory.phil, process_includes=True).all_definitions()
    prefix = f"{plugin.stage}.{plugin.name}."
    table = _table(definitions, registry, prefix) if definitions else "It has no parameters."
    return f"\n### {plugin.stage} `{plugin.name}`\n\n{plugin.summary}\n\n{table}"


def _table(definitions: list[Any], registry: Registry, prefix: str = "") -> str:
    rows = ["| parameter | type | default | help |", "|---|---|---|---|"]
    for item in definitions:
        default = " ".join(str(word) for word in item.object.words).replace("*", "")
        allowed = allowed_values(item, registry)
        if item.object.type.phil_type == "choice":
            default = next((str(w)[1:] for w in item.object.words if str(w).startswith("*")), "None")
        kind = item.object.type.phil_type
        kind += f": {', '.join(allowed)}" if kind == "choice" else _bounds(item.object.type)
        help_text = " ".join(str(item.object.help).split()).replace("|", "\\|")
        repeated = " May be given several times." if item.object.multiple else ""
        repeated = "" if repeated.strip() in help_text else repeated
        rows.append(f"| `{prefix}{item.path}` | {kind} | `{default}` | {help_text}{repeated} |")
    return "\n".join(rows)


def _bounds(kind: Any) -> str:
    low, high = getattr(kind, "value_min", None), getattr(kind, "value_max", None)
    if low is not None and high is not None:
        return f", {low:g} to {high:g}"
    if low is not None:
        return f", from {low:g}"
    return f", up to {high:g}" if high is not None else ""
