"""What `diffuse.scale`, `diffuse.merge` and `diffuse.stats` share: the sums of an earlier run, and its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from dials.util.options import ArgumentParser
from iotbx.phil import parse

from diffuse_framework.adapters.guards.phil import refuse_includes
from diffuse_framework.command_line.shared.arguments import parse_arguments, with_files_of_folders
from diffuse_framework.command_line.shared.logs import log_start, start_logs
from diffuse_framework.config.idle import refuse_idle
from diffuse_framework.config.scope import build_scope
from diffuse_framework.errors import ConfigError, DataError, in_one_line
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Registry
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import make_folder
from diffuse_framework.io.scales import read_scales
from diffuse_framework.io.sums_store import StoredSums
from diffuse_framework.model.scales import Scales


@dataclass(frozen=True)
class Opened:
    """The sums, where results go, and what was asked for."""

    sums: StoredSums
    folder: Path
    params: Any
    registry: Registry

    def scales(self) -> Scales:
        """Return the scaling model that belongs to the sums, unless another was named.

        Raises:
            DataError, PluginError: it can't be read.
        """
        return read_scales(self.scales_path, self.sums.image_names, self.sums.grid, self.registry)

    @property
    def scales_path(self) -> Path:
        """The file of scales that belongs to the sums, unless another was named."""
        named = self.params.input.scales
        return Path(named) if named else self.sums.path.with_name(filenames.SCALES)


def open_sums(
    args: list[str],
    registry: Registry | None,
    command: str,
    usage: str,
    epilog: str,
    stages: tuple[str, ...],
    log: bool = True,
) -> Opened | None:
    """Parse the command line, start the log and open the sums; None where only help was asked for.

    What is not typed is as in the run that left the sums: its plugins and their parameters.

    Raises:
        ConfigError, DataError: parameters or files that can't be used.
    """
    registry = registry or load_registry()
    core = (files("diffuse_phil") / "reduce.phil").read_text()
    parser = ArgumentParser(usage=usage, phil=build_scope(registry, stages, core), epilog=epilog)
    if not args:
        parser.print_help()
        return None
    args = with_files_of_folders(args, (filenames.SUMS,))
    files_by_ending = {".h5": "input.sums", ".json": "input.scales"}
    params, options = parse_arguments(parser, args, files_by_ending)
    if not params.input.sums:
        raise ConfigError(f"no sums: give the output folder of diffuse.process, or the file {filenames.SUMS} in it")
    sums = StoredSums(Path(params.input.sums))
    as_before = run_parameters(sums.path.with_name(filenames.PARAMETERS), stages)
    if as_before:
        scope = parser.phil.fetch(parse(as_before))
        parser = ArgumentParser(usage=usage, phil=scope, epilog=epilog)
        params, options = parse_arguments(parser, args, files_by_ending)
    refuse_idle(params, options.typed)
    folder = make_folder(Path(params.output.directory or sums.path.parent))
    if log:
        start_logs(options.verbose, folder / (params.output.log or f"{command}.log"), registry.modules())
        log_start(parser.diff_phil.as_str(), registry)
    return Opened(sums, folder, params, registry)


def run_parameters(path: Path, stages: tuple[str, ...]) -> str:
    """Return what the parameters of an earlier run say of some stages, as PHIL text; "" where it left none.

    Raises:
        DataError: the file can't be read.
    """
    if not path.is_file():
        return ""
    try:
        text = path.read_text()
        refuse_includes(str(path), text)
        found = parse(text)
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise DataError(f"can't read {path}: {in_one_line(error)}; remove it to go by the defaults") from error
    return "\n".join(item.as_str() for item in found.objects if item.name in stages)
