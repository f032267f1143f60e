"""List every plugin: its stage, name, package, version, what it does, and its parameters.

Examples::

  diffuse.plugins
  diffuse.plugins scaler
  diffuse.plugins scaler per_image
"""

from __future__ import annotations

import argparse
import textwrap

from iotbx.phil import parse
from tabulate import tabulate

from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.config.scope import DEFAULTS, SEVERAL, build_scope
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Plugin, Registry


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.plugins."""
    parser = argparse.ArgumentParser(
        "diffuse.plugins", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", nargs="?", choices=STAGES, help="only the plugins of this stage")
    parser.add_argument("name", nargs="?", help="only this plugin, with the help of its parameters")
    options = parser.parse_args(args)
    registry = registry or load_registry()
    # Building the scope finds plugins whose parameters don't parse.
    build_scope(registry)
    if options.name:
        print(_whole(registry.find(options.stage, options.name)))
        return
    for stage in [options.stage] if options.stage else STAGES:
        print(f"\n{stage} ({'any number' if stage in SEVERAL else 'one'}; default: {DEFAULTS[stage]})")
        for plugin in registry.of_stage(stage):
            print(textwrap.indent(_short(plugin), "  "))
    if registry.failed and not options.stage:
        print("\nThese did not load, and stop a run only if it selects them:\n")
        rows = [(f.entry_point, f"{f.package} {f.version}", f.error) for f in registry.failed]
        print(tabulate(rows, ("entry point", "package", "error"), "simple"))


def _short(plugin: Plugin) -> str:
    """Name, owner, purpose and parameters in a few lines."""
    parameters = parse(plugin.factory.phil, process_includes=True).as_str().strip()
    head = f"{plugin.name}  [{plugin.package} {plugin.version}]\n    {plugin.summary}"
    return head + (f"\n{textwrap.indent(parameters, '      ')}" if parameters else "")


def _whole(plugin: Plugin) -> str:
    """Everything about one plugin: owner, purpose, and parameters with their help."""
    parameters = parse(plugin.factory.phil, process_includes=True).as_str(attributes_level=2).strip()
    return (
        f"{plugin.stage} {plugin.name}\n  of {plugin.package} {plugin.version}, "
        f"{plugin.factory.__module__}.{plugin.factory.__qualname__}\n\n"
        f"{textwrap.indent(textwrap.dedent(plugin.factory.__doc__ or '').strip(), '  ')}\n\n"
        f"{textwrap.indent(parameters or 'It has no parameters.', '  ')}"
    )
