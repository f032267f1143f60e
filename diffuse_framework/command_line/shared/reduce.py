"""What `diffuse.scale` and `diffuse.merge` share: opening the sums of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from dials.util.options import ArgumentParser

from diffuse_framework.command_line.shared.arguments import parse_arguments
from diffuse_framework.command_line.shared.logs import log_start, start_logs
from diffuse_framework.config.scope import build_scope
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.atomic import make_folder
from diffuse_framework.io.sums_store import StoredSums


@dataclass(frozen=True)
class Opened:
    """The sums, where results go, and what was asked for."""

    sums: StoredSums
    folder: Path
    params: Any
    registry: Registry

    @property
    def scales_path(self) -> Path:
        """The file of scales that belongs to the sums, unless another was named."""
        named = self.params.input.scales
        return Path(named) if named else self.sums.path.with_name("refined_scaling_model_params.json")


def open_sums(
    args: list[str], registry: Registry | None, command: str, usage: str, epilog: str, stages: tuple[str, ...]
) -> Opened | None:
    """Parse the command line, start the log and open the sums; None where only help was asked for.

    Raises:
        ConfigError, DataError: parameters or files that can't be used.
    """
    registry = registry or load_registry()
    core = (files("diffuse_phil") / "reduce.phil").read_text()
    parser = ArgumentParser(usage=usage, phil=build_scope(registry, stages, core), epilog=epilog)
    if not args:
        parser.print_help()
        return None
    params, options = parse_arguments(parser, args, {".h5": "input.sums", ".json": "input.scales"})
    if not params.input.sums:
        raise ConfigError("no sums: give the file sums.h5 that diffuse.process left in its output folder")
    sums = StoredSums(Path(params.input.sums))
    folder = make_folder(Path(params.output.directory or sums.path.parent))
    start_logs(options.verbose, folder / (params.output.log or f"{command}.log"), registry.modules())
    log_start(parser.diff_phil.as_str(), registry)
    return Opened(sums, folder, params, registry)
