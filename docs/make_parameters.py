"""Write ``parameters.md``: every parameter of every command and plugin, from their PHIL."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from iotbx.phil import parse

from diffuse_framework.config.scope import DEFAULTS, SEVERAL, build_scope, core_text
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.loader import load_registry
from diffuse_framework.simulate.parameters import PHIL as SIMULATE

HEAD = """# Every parameter

This page is made from the programs themselves. Give parameters on the command line as `name=value`, or in a
file of the same names. A parameter that is not known, or not possible, stops a run at once with a message.

"""


def write_parameters(path: Path) -> None:
    """Write the page."""
    registry = load_registry()
    build_scope(registry)
    parts = [HEAD, "## diffuse.process\n\n", _table(parse(core_text(), process_includes=True), "")]
    for stage in STAGES:
        several = stage in SEVERAL
        word = "plugins" if several else "plugin"
        names = ", ".join(f"`{plugin.name}`" for plugin in registry.of_stage(stage))
        parts.append(
            f"## {stage.replace('_', ' ').capitalize()}\n\n`{stage}.{word}` = `{DEFAULTS[stage]}` chooses "
            f"{'any number, separated by blanks, of' if several else 'one of'} {names}.\n\n"
        )
        for plugin in registry.of_stage(stage):
            parts.append(f"### {stage}.{plugin.name}\n\n{plugin.summary} *({plugin.package})*\n\n")
            scope = parse(plugin.factory.phil, process_includes=True)
            parts.append(_table(scope, f"{stage}.{plugin.name}.") or "It has no parameters.\n\n")
    reduce = (files("diffuse_phil") / "reduce.phil").read_text()
    parts += [
        "## diffuse.scale and diffuse.merge\n\nThey also take the parameters of the scaler, or of the merger "
        "and the "
        "absolute scaler.\n\n",
        _table(parse(reduce), ""),
        "## diffuse.simulate\n\n",
        _table(parse(SIMULATE), ""),
    ]
    text = "".join(parts).rstrip() + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _table(scope: Any, prefix: str) -> str:
    """Return the parameters of a scope as a list of definitions."""
    lines = []
    for found in scope.all_definitions():
        definition = found.object
        value = " ".join(
            word.value if word.quote_token is None else f'"{word.value}"' for word in definition.words
        )
        kind = str(definition.type) if definition.type is not None else ""
        if kind.startswith("choice"):
            kind = "choice"
        help_text = " ".join((definition.help or "").split())
        lines.append(f"`{prefix}{found.path}` = `{value or 'None'}`\n: {_plain(help_text)} *({kind})*\n\n")
    return "".join(lines)


def _plain(text: str) -> str:
    """Return text in which Markdown sees nothing to do."""
    for mark in "\\`*_<>[]#|$":
        text = text.replace(mark, "\\" + mark)
    return text
