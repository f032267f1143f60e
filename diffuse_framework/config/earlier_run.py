"""What an earlier run says of itself, by the parameters that it left beside its results."""

from __future__ import annotations

from pathlib import Path

from iotbx.phil import parse

from diffuse_framework.config.scope import DEFAULTS
from diffuse_framework.errors import DataError
from diffuse_framework.io import filenames


def merger_of_run(path: Path) -> str:
    """Return the name of the merger of an earlier run, by its folder or a file in it.

    Raises:
        DataError: its parameters can't be read.
    """
    file = (path if path.is_dir() else path.parent) / filenames.PARAMETERS
    if not file.is_file():
        return DEFAULTS["merger"]
    try:
        given = parse(file.read_text()).all_definitions()
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise DataError(f"can't read {file}: {str(error).splitlines()[0]}; remove it to go by the defaults") from error
    named = [item.object.words[0].value for item in given if item.path == "merger.plugin"]
    return named[-1] if named else DEFAULTS["merger"]
