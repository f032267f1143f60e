"""Parameter files that come with the program, named on the command line as ``preset=weak``."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from diffuse_framework.errors import ConfigError


def preset_names() -> list[str]:
    """Return the names of all presets."""
    found = (path.name for path in (files("diffuse_phil") / "presets").iterdir())
    return sorted(name.removesuffix(".phil") for name in found if name.endswith(".phil"))


def preset_path(name: str) -> Path:
    """Return the file of a preset.

    Raises:
        ConfigError: there is none of that name.
    """
    names = preset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"there is no preset {name!r}{hint} (there are: {', '.join(names)})")
    return Path(str(files("diffuse_phil") / "presets" / f"{name}.phil"))


def with_presets(args: list[str]) -> list[str]:
    """Return a command line with each ``preset=name`` replaced by its file, in front: what follows overrides it.

    Raises:
        ConfigError: a preset that there is not.
    """
    named = [arg for arg in args if arg.replace(" ", "").startswith("preset=")]
    paths = [str(preset_path(arg.partition("=")[2].strip())) for arg in named]
    return paths + [arg for arg in args if arg not in named]
