"""What the commands on finished maps share: maps by name on the command line, and options from parameters."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from dials.util.options import ArgumentParser

from diffuse_framework.algorithms.comparison.alignment import AlignmentOptions
from diffuse_framework.algorithms.comparison.halos import Halo
from diffuse_framework.command_line.shared.arguments import is_phil, is_setting, parse_arguments
from diffuse_framework.command_line.shared.logs import start_logs
from diffuse_framework.errors import ConfigError
from diffuse_framework.io.atomic import file_in, make_folder
from diffuse_framework.io.maps.hints import MapHints
from diffuse_framework.io.maps.read import read_pair
from diffuse_framework.model.voxel_map import VoxelMap


def phil_of(*names: str) -> str:
    """Return the parameters of several files of ours, one after the other."""
    return "\n".join((files("diffuse_phil") / f"{name}.phil").read_text() for name in names)


def maps_as_parameters(args: list[str], names: tuple[str, ...]) -> list[str]:
    """Return a command line on which each map, a file or a folder, is the parameter it stands for, in their order.

    Raises:
        ConfigError: more maps than there are parameters, or one that is not there.
    """
    left, result = list(names), []
    for arg in args:
        if arg.startswith("-") or is_setting(arg) or is_phil(arg):
            result.append(arg)
            continue
        if not Path(arg).exists():
            raise ConfigError(f"there is no file or folder {arg}")
        if not left:
            raise ConfigError(f"{arg} is one map too many: give {len(names)}")
        result.append(f'{left.pop(0)}="{arg}"')
    return result


@dataclass(frozen=True)
class OpenedPair:
    """Two maps, where results go, and what was asked for."""

    a: VoxelMap
    b: VoxelMap
    folder: Path
    params: Any


def open_pair(args: list[str] | None, usage: str, phil_scope: Any, epilog: str | None) -> OpenedPair | None:
    """Parse a command line with two maps, start the log and read them; None where only help was asked for.

    Raises:
        ConfigError, DataError: parameters or files that can't be used.
    """
    args = sys.argv[1:] if args is None else args
    parser = ArgumentParser(usage=usage, phil=phil_scope, epilog=epilog)
    if not args:
        parser.print_help()
        return None
    params, options = parse_arguments(parser, maps_as_parameters(args, ("input.a", "input.b")))
    folder = make_folder(Path(params.output.directory))
    start_logs(options.verbose, file_in(folder, params.output.log))
    return OpenedPair(*_two_maps(params), folder, params)


def hints_of(params: Any) -> MapHints:
    """Return what the parameters say of files that leave something open."""
    given = params.input
    return MapHints(
        unit_cell=tuple(given.unit_cell) if given.unit_cell else None,
        space_group=given.space_group,
        divisions=tuple(given.divisions) if given.divisions else None,
        column=given.column,
    )


def alignment_of(params: Any) -> AlignmentOptions:
    """Return how two maps are brought together.

    Raises:
        ConfigError: resolution limits in the wrong order.
    """
    if params.d_min and params.d_max and params.d_min >= params.d_max:
        raise ConfigError(f"d_min={params.d_min:g} must be below d_max={params.d_max:g} (angstrom)")
    return AlignmentOptions(
        reindex=str(params.reindex),
        scale=params.scale or "none",
        offset=params.offset,
        coverage=params.coverage,
        cell_tolerance=params.cell_tolerance / 100,
        d_min=params.d_min,
        d_max=params.d_max,
    )


def halo_of(params: Any) -> Halo:
    """Return which voxels around a node count as its halo."""
    return Halo(params.halo.shape, tuple(params.halo.size))


def _two_maps(params: Any) -> tuple[VoxelMap, VoxelMap]:
    if not params.input.a or not params.input.b:
        raise ConfigError("two maps are needed: folders of results, or files of maps")
    return read_pair(Path(params.input.a), Path(params.input.b), hints_of(params))
