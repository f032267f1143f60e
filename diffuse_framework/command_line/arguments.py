"""Command lines as DIALS reads them, with one clear line for each mistake."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any

from dials.util import Sorry
from iotbx.phil import parse

from diffuse_framework.errors import ConfigError


def parse_arguments(
    parser: Any, args: list[str], file_parameters: dict[str, str] | None = None
) -> tuple[Any, Any]:
    """Return parameters and options of a DIALS `ArgumentParser`.

    Args:
        parser: the parser.
        args: the command line.
        file_parameters: which parameter a bare file name stands for, by its ending.

    Raises:
        ConfigError: anything that can't be understood, in one line.
    """
    args = [_as_parameter(arg, file_parameters or {}) for arg in _expanded(args)]
    try:
        return parser.parse_args(args, show_diff_phil=False)
    except (Sorry, RuntimeError, ValueError, AttributeError) as error:
        raise ConfigError(_in_one_line(str(error))) from error
    except SystemExit as error:
        # DIALS 3.30 exits by itself where 3.12 raises RuntimeError; it has said why on stderr.
        if error.code in (0, None):
            raise
        raise ConfigError(_in_one_line(str(error.code)) if isinstance(error.code, str) else _HELP) from error


_HELP = "the command line can't be understood; see the option -h"


def _expanded(args: list[str]) -> list[str]:
    """Replace templates and patterns by the files they stand for; refuse files that aren't there."""
    result = []
    for arg in args:
        if arg.startswith("-") or re.match(r"[\w.]+\s*=", arg):
            result.append(arg)
        elif "#" in arg and not Path(arg).exists():
            result += template_files(arg)
        elif glob.has_magic(arg) and not Path(arg).exists():
            found = sorted(glob.glob(arg))
            if not found:
                raise ConfigError(f"no file matches {arg}")
            result += found
        elif not Path(arg).exists():
            raise ConfigError(f"there is no file {arg}")
        elif Path(arg).is_dir():
            raise ConfigError(f"{arg} is a folder; give its images, for example {arg.rstrip('/')}/*.cbf")
        else:
            _check_phil(arg)
            result.append(arg)
    return result


def _as_parameter(arg: str, file_parameters: dict[str, str]) -> str:
    name = file_parameters.get(Path(arg).suffix) if Path(arg).exists() else None
    return f'{name}="{arg}"' if name else arg


def template_files(template: str) -> list[str]:
    """Return the files of a template such as ``image_####.cbf``, in order.

    Raises:
        ConfigError: there are none.
    """
    pattern = re.sub("#+", lambda run: "[0-9]" * len(run.group()), _escape(template))
    found = sorted(glob.glob(pattern))
    if not found:
        raise ConfigError(f"no file matches the template {template}")
    return found


def _escape(template: str) -> str:
    return "#".join(glob.escape(part) for part in template.split("#"))


def _check_phil(path: str) -> None:
    """Refuse a parameter file with a mistake by its line; the parser would only call it unknown."""
    if not path.endswith((".phil", ".eff", ".def", ".params")):
        return
    try:
        parse(file_name=path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file of parameters") from error
    except RuntimeError as error:
        raise ConfigError(f"{path}: {_in_one_line(str(error))}") from error


def _in_one_line(text: str) -> str:
    """Fold a message of several lines, without the tracebacks that DIALS puts in."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Traceback", "File ", "raise ", "^"))]
    return " ".join(kept[:4])
