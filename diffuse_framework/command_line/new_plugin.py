"""Write a package with a working plugin of one stage and a test that passes, to start from.

Examples::

  diffuse.new_plugin masker cryostream
  diffuse.new_plugin scaler acme_smooth --directory ~/code
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.config.scope import DEFAULTS, SEVERAL
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Plugin, Registry
from diffuse_framework.io.atomic import reason


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.new_plugin."""
    parser = argparse.ArgumentParser(
        "diffuse.new_plugin", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES, help="what kind of plugin")
    parser.add_argument("name", help="how PHIL selects it: lower-case letters, digits and _; prefix it with yours")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the package's folder goes")
    options = parser.parse_args(args)
    _check_name(registry or load_registry(), options.stage, options.name)
    folder = write_package(options.stage, options.name, options.directory).resolve()
    print(
        f"{folder} holds a working {options.stage} to change. Next:\n\n"
        f"  pip install -e '{folder}[test]'\n"
        f"  pytest {folder}\n"
        f"  diffuse.plugins {options.stage} {options.name}\n"
        f"  diffuse.process {selection(options.stage, options.name)} ..."
    )


def _check_name(registry: Registry, stage: str, name: str) -> None:
    """Refuse what can't name a plugin, or names one already."""
    taken = registry.plugins.get((stage, name))
    if taken:
        raise ConfigError(
            f"there is a {stage} {name!r} already, of {taken.package} {taken.version}; choose another name"
        )
    Registry().add(Plugin(stage, name, object, f"diffuse_{name}", ""))


def selection(stage: str, name: str) -> str:
    """Return the parameter that selects a plugin."""
    if stage in SEVERAL:
        return f'{stage}.plugins="{DEFAULTS[stage]} {name}"'
    return f"{stage}.plugin={name}"


def write_package(stage: str, name: str, directory: Path) -> Path:
    """Write the package ``diffuse_<name>`` below `directory` and return its folder.

    Raises:
        ConfigError: it is there already.
        DataError: it can't be written.
    """
    folder = directory / f"diffuse_{name}"
    if folder.exists():
        raise ConfigError(f"{folder} is there already; remove it, or choose another name or --directory")
    texts = package_texts(stage, name)
    try:
        for path, text in texts.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    except OSError as error:
        raise DataError(f"can't write to {folder}: {reason(error)}") from error
    return folder


def package_texts(stage: str, name: str) -> dict[str, str]:
    """Return the files of a new package by their paths in it."""
    title = "".join(word.capitalize() for word in name.split("_"))
    kind = "".join(word.capitalize() for word in stage.split("_"))
    plugin = _text(f"{stage}.py")
    summary = plugin.split('"""')[1]

    def filled(text: str) -> str:
        for word, value in (
            ("CLASS", f"Template{kind}"),
            ("SELECTION", selection(stage, "template")),
            ("SUMMARY", summary),
            ("STAGE", stage),
            ("Template", title),
            ("template", name),
        ):
            text = text.replace(word, value)
        return text

    package = f"diffuse_{name}"
    return {
        "pyproject.toml": filled(_text("pyproject.toml.txt")),
        "README.md": filled(_text("README.md.txt")),
        "LICENSE": filled(_text("LICENSE.txt")),
        f"{package}/__init__.py": f'"""{summary}"""\n',
        f"{package}/{stage}.py": filled(plugin),
        f"tests/test_{name}.py": filled(_text("test.py.txt")),
    }


def _text(name: str) -> str:
    return (files("diffuse_framework.templates") / name).read_text()


if __name__ == "__main__":
    run()
