"""Write a finished map in the formats of other programs.

CCP4/MRC maps of reciprocal space open in Coot, ChimeraX and PyMOL; MTZ files hold voxels as
reflections of a supercell; VTK files open in ParaView; Lunus, GOODVIBES (CXIDB layout) and eryx have formats of
their own. The scale of every file is written into it.

Examples::

  diffuse.export diffuse
  diffuse.export diffuse/voxel_data_absolute.npz formats=mtz+vtk+text d_min=2.5
  diffuse.export diffuse/voxel_data_relative.nxs formats=ccp4+pdf isotropic=remove
"""

from __future__ import annotations

import logging
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from dials.util.options import ArgumentParser
from iotbx.phil import parse

from diffuse_framework.adapters.models.reflections import write_voxels
from diffuse_framework.adapters.models.symmetry import laue_group_hall, point_group_hall
from diffuse_framework.algorithms.expansion import BoxTooLarge
from diffuse_framework.command_line.shared.arguments import parse_arguments, with_files_of_folders
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import start_logs
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import make_folder, writing
from diffuse_framework.io.export.export import Export, ExportOptions
from diffuse_framework.io.export.stored_map import read_stored_map

logger = logging.getLogger(__name__)

USAGE = "diffuse.export [options] FOLDER|voxel_data_absolute.npz [formats=ccp4+mtz] [isotropic=remove]"

phil_scope = parse((files("diffuse_phil") / "export.phil").read_text())


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.export; `args` are those of the command line where None."""
    args = sys.argv[1:] if args is None else args
    parser = ArgumentParser(usage=USAGE, phil=phil_scope, epilog=__doc__)
    if not args:
        parser.print_help()
        return
    args = with_files_of_folders(args, (filenames.ABSOLUTE_MAP, filenames.RELATIVE_MAP))
    endings = {".npz": "input.map", ".nxs": "input.map", ".json": "input.grid"}
    params, options = parse_arguments(parser, args, endings)
    if not params.input.map:
        raise ConfigError(
            "no map: give the output folder of a run, or voxel_data_absolute.npz or voxel_data_relative.npz"
        )
    path = Path(params.input.map)
    prefix = Path(params.output.prefix) if params.output.prefix else path.with_suffix("")
    start_logs(options.verbose, make_folder(prefix.parent) / params.output.log)

    stored = read_stored_map(path, params.input.grid)
    export = Export(stored, _options(params), path.name)
    hall_of = laue_group_hall if params.mtz.columns == "mdx2" else point_group_hall
    for name in params.formats:
        if name == "refl":
            written = [prefix.with_name(prefix.name + ".refl")]
            column = export.columns[0]
            with writing(written[0]) as temporary:
                write_voxels(temporary, export.grid, export.voxel, export.values(column), export.sigma(column))
        else:
            try:
                written = export.write(name, prefix, hall_of(stored.grid.symmetry.space_group))
            except BoxTooLarge as error:
                raise DataError(
                    f"{error}: write the asymmetric unit (region=asymmetric_unit) or a lower resolution (d_min=)"
                ) from error
        for one in written:
            logger.info("%-12s %s", name, one)
    logger.info("%s", export.text())


def _options(params: Any) -> ExportOptions:
    if params.d_min and params.d_max and params.d_min >= params.d_max:
        raise ConfigError(f"d_min={params.d_min:g} must be below d_max={params.d_max:g} (angstrom)")
    return ExportOptions(
        column=params.input.column,
        halves=params.input.halves,
        whole=params.region == "whole",
        remove_isotropic=params.isotropic == "remove",
        d_min=params.d_min,
        d_max=params.d_max,
        scale=params.ccp4.scale,
        fill_with_mean=params.ccp4.missing == "mean",
        window=params.pdf.window,
        mdx2_columns=params.mtz.columns == "mdx2",
        expand_to_p1=params.mtz.expand_to_p1,
    )


if __name__ == "__main__":
    run()
