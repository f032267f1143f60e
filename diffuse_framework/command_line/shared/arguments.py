"""Command lines as DIALS reads them, with one clear line for each mistake."""

from __future__ import annotations

import argparse
import glob
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from dials.util import Sorry
from dials.util import options as dials_options
from iotbx.phil import parse

from diffuse_framework.adapters.guards.phil import refuse_includes
from diffuse_framework.adapters.guards.pickles import refuse_pickle
from diffuse_framework.adapters.images.hdf5 import what_is_missing
from diffuse_framework.adapters.images.open import UnreadableFile, can_be_read, left_out_of, quiet_dxtbx
from diffuse_framework.adapters.images.scans import one_scan_a_template
from diffuse_framework.command_line.shared.abbreviations import in_full
from diffuse_framework.config.values import refuse_impossible
from diffuse_framework.errors import ConfigError, in_one_line

logger = logging.getLogger(__name__)


def parse_arguments(parser: Any, args: list[str], file_parameters: dict[str, str] | None = None) -> tuple[Any, Any]:
    """Return parameters and options of a DIALS `ArgumentParser`.

    Args:
        parser: the parser.
        args: the command line.
        file_parameters: which parameter a bare file name stands for, by its ending.

    Returns:
        Both; `options.unreadable` has the `UnreadableFile` of each image that can't be read among others that can, and
        `options.typed` the whole path of each parameter that the command line gives.

    Raises:
        ConfigError: anything that can't be understood, in one line.
    """
    args = [_as_parameter(arg, file_parameters or {}) for arg in _expanded(_levels_joined(args))]
    args = [in_full(arg, parser.system_phil) if is_setting(arg) else arg for arg in args]
    # DIALS 3.30 lets argparse print the usage before every message; one line is enough.
    parser.error = _refuse
    _refuse_unknown_options(parser, args)
    params, options = _parsed_without_unreadable(parser, args)
    options.typed = [arg.partition("=")[0].strip() for arg in args if is_setting(arg)]
    refuse_impossible(parser.diff_phil)
    return params, options


def _parsed_without_unreadable(parser: Any, args: list[str]) -> tuple[Any, Any]:
    try:
        return _parsed(parser, args)
    except ConfigError:
        rejected = _unreadable_images(parser, args)
        if not rejected:
            raise
        names = {item.path for item in rejected}
        params, options = _parsed(parser, [arg for arg in args if arg not in names])
        options.unreadable = rejected
        return params, options


def _parsed(parser: Any, args: list[str]) -> tuple[Any, Any]:
    try:
        with quiet_dxtbx(), one_scan_a_template(), _files_are_no_settings():
            params, options = parser.parse_args(args, show_diff_phil=False)
            options.unreadable = ()
            return params, options
    except (Sorry, RuntimeError, ValueError, AttributeError) as error:
        raise ConfigError(_unreadable(str(error), args) or in_one_line(error)) from error
    except SystemExit as error:
        # DIALS 3.30 exits with a message where 3.12 raises RuntimeError.
        if isinstance(error.code, str):
            raise ConfigError(in_one_line(RuntimeError(error.code))) from error
        raise
    except MemoryError:
        raise
    # A damaged image makes dxtbx's format classes raise anything: OSError, KeyError, AssertionError ...
    except Exception as error:
        damaged = [arg for arg in args if Path(arg).is_file() and not _is_text(arg) and not can_be_read(arg)]
        if not damaged:
            # A value that PHIL or DIALS stumbles over: OverflowError, EOFError, TypeError ...
            logger.debug("Parsing %s", args, exc_info=True)
            raise ConfigError(f"the command line can't be understood: {in_one_line(error)}") from error
        others = f" (and {len(damaged) - 1} others)" if len(damaged) > 1 else ""
        raise ConfigError(
            what_is_missing(damaged[0])
            or f"{damaged[0]}{others} can't be read; it is cut short or damaged ({in_one_line(error)})"
        ) from error


@contextmanager
def _files_are_no_settings() -> Iterator[None]:
    """Have DIALS take an argument that is the name of a file for one, also where ``=`` is in it; of URLs it does."""
    own = dials_options.get_url_scheme

    def scheme(arg: str) -> Any:
        return "file" if Path(arg).is_file() else own(arg)

    dials_options.get_url_scheme = scheme
    try:
        yield
    finally:
        dials_options.get_url_scheme = own


def _unreadable_images(parser: Any, args: list[str]) -> tuple[UnreadableFile, ...]:
    """Return the images that are why a command line can't be parsed, where others of their kind can be read."""
    images = [arg for arg in args if not is_setting(arg) and Path(arg).is_file() and not _is_text(arg)]
    if len(images) < 2:
        return ()
    try:
        _parsed(parser, [arg for arg in args if arg not in images])
    except ConfigError:
        # Without the images too.
        return ()
    return left_out_of(images)


def _refuse(message: str) -> NoReturn:
    raise ConfigError(in_one_line(RuntimeError(message)))


def _refuse_unknown_options(parser: Any, args: list[str]) -> None:
    """DIALS passes over options that it doesn't know, and over the images that stand before them."""
    _, others = argparse.ArgumentParser.parse_known_args(parser, args)
    unknown = [arg for arg in others if arg.startswith("-")]
    if unknown:
        raise ConfigError(f"there is no option {unknown[0]}; -h lists all options")


def _unreadable(message: str, args: list[str]) -> str:
    """Say in one line what DIALS says with tracebacks of all its readers: a file that nothing can read."""
    if "filename template" in message:
        return "dxtbx takes images only if their names hold a number: rename them, for example to image_0001.cbf"
    if "Unable to handle" not in message:
        return ""
    files = [arg for arg in args if Path(arg).is_file() and arg in message]
    if not files:
        return ""
    others = f" (and {len(files) - 1} others)" if len(files) > 1 else ""
    if re.search(r"_data_\d+\.h5$", files[0]):
        return f"{files[0]}{others} holds pixels alone: give the master file that belongs to it"
    return (
        f"{files[0]}{others} is neither an image that dxtbx can read nor a file of experiments, reflections or "
        "parameters"
    )


def _levels_joined(args: list[str]) -> list[str]:
    """Write ``-e 1`` as ``-e1``: its number is no file."""
    result: list[str] = []
    for arg in args:
        if result and result[-1] in ("-a", "-e"):
            result[-1] += arg
        elif result and result[-1] in ("--attributes-level", "--expert-level"):
            result[-1] += f"={arg}"
        else:
            result.append(arg)
    return result


def _expanded(args: list[str]) -> list[str]:
    """Replace templates and patterns by the files they stand for; refuse files that aren't there."""
    result = []
    for arg in args:
        if arg.startswith("-") or is_setting(arg):
            refuse_includes("the command line", arg) if "include" in arg else None
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
            refuse_pickle(arg)
            _check_phil(arg)
            result.append(arg)
    return result


def is_setting(arg: str) -> bool:
    """Whether an argument gives a parameter a value; one that leads to files does not, ``=`` in their names or not."""
    if not re.match(r"[\w.]+\s*=", arg) or Path(arg).exists():
        return False
    return not (glob.has_magic(arg) or "#" in arg) or not glob.glob(_as_pattern(arg))


def split_experiments(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the .expt files of a command line, and its other arguments.

    DIALS says of a file whose images have moved that it is none; reading it apart lets the reason be said.
    """
    files: list[str] = []
    others: list[str] = []
    for arg in args:
        setting = re.match(r"(?:input\s*\.\s*)?experiments\s*=\s*(.+)", arg) if is_setting(arg) else None
        path = setting[1].strip("\"'") if setting else arg
        is_pattern = glob.has_magic(path) and not Path(path).exists()
        found = sorted(glob.glob(path)) if is_pattern else [path]
        if path.endswith(".expt") and (setting or not is_setting(arg)) and all(Path(one).is_file() for one in found):
            files += found
            if is_pattern and not found:
                others.append(arg)
        else:
            others.append(arg)
    return files, others


def with_files_of_folders(args: list[str], names: tuple[str, ...]) -> list[str]:
    """Replace the output folder of a run, where it stands for its results, by the first of files `names` that it holds.

    Raises:
        ConfigError: it holds none.
    """
    result = []
    for arg in args:
        if is_setting(arg) or not Path(arg).is_dir():
            result.append(arg)
            continue
        found = [Path(arg, name) for name in names if Path(arg, name).is_file()]
        if not found:
            raise ConfigError(f"{arg} holds no {' or '.join(names)}: give the output folder of a finished run")
        result.append(str(found[0]))
    return result


def _as_parameter(arg: str, file_parameters: dict[str, str]) -> str:
    name = file_parameters.get(Path(arg).suffix) if Path(arg).exists() else None
    return f'{name}="{arg}"' if name else arg


def without_images(changed: str) -> str:
    """Return PHIL text without what stands in it for the images, experiments and reflections of the command line."""
    scope = parse(changed)
    for part in scope.objects:
        if part.is_scope and part.name == "input":
            part.objects = [item for item in part.objects if item.name not in ("experiments", "reflections")]
    return "".join(part.as_str() for part in scope.objects if not part.is_scope or part.objects)


def template_files(template: str) -> list[str]:
    """Return the files of a template such as ``image_####.cbf``, in order.

    Raises:
        ConfigError: there are none.
    """
    found = sorted(glob.glob(_as_pattern(template)))
    if not found:
        raise ConfigError(f"no file matches the template {template}")
    return found


def _as_pattern(template: str) -> str:
    """Return the pattern of a template; a pattern without ``#`` stays what it is."""
    if "#" not in template:
        return template
    return re.sub("#+", lambda run: "[0-9]" * len(run.group()), _escape(template))


def _escape(template: str) -> str:
    return "#".join(glob.escape(part) for part in template.split("#"))


def is_phil(path: str) -> bool:
    """Whether a name is that of a parameter file."""
    return path.endswith((".phil", ".eff", ".def", ".param", ".params"))


def _is_text(path: str) -> bool:
    return is_phil(path) or path.endswith((".expt", ".refl", ".json"))


def _check_phil(path: str) -> None:
    """Refuse a parameter file with a mistake by its line; the parser would only call it unknown."""
    if not is_phil(path):
        return
    try:
        text = Path(path).read_text()
        refuse_includes(path, text)
        parse(file_name=path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file of parameters") from error
    except RuntimeError as error:
        raise ConfigError(f"{path}: {in_one_line(error)}") from error
