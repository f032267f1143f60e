"""Put a map on coarser voxels, with or without those at the nodes of the reciprocal lattice.

A folder of results is rebinned from its sums where they are there: each voxel then counts by how long it was exposed.
A map alone is averaged by its pixels, or by volume where it does not say how many there were. The new map is written in
the files of a run, which diffuse.report, diffuse.export and diffuse.compare read.

Examples::

  diffuse.rebin diffuse divisions=2,2,2 halo.voxels=exclude
  diffuse.rebin diffuse divisions=1,1,1 halo.voxels=only halo.shape=ellipsoid halo.size=0.3,0.3,0.3
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from dials.util.options import ArgumentParser
from iotbx.phil import parse

from diffuse_framework.algorithms.comparison.regridding import Rebinning
from diffuse_framework.command_line.shared.arguments import parse_arguments
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import start_logs
from diffuse_framework.command_line.shared.maps import halo_of, hints_of, maps_as_parameters, phil_of
from diffuse_framework.config.earlier_run import merger_of_run
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.atomic import file_in, make_folder
from diffuse_framework.io.maps.write import write_voxel_map
from diffuse_framework.pipeline.rebin import rebin

logger = logging.getLogger(__name__)

USAGE = "diffuse.rebin [options] diffuse divisions=2,2,2 [halo.voxels=exclude]"

phil_scope = parse(phil_of("rebin"))


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.rebin; `args` are those of the command line where None."""
    args = sys.argv[1:] if args is None else args
    parser = ArgumentParser(usage=USAGE, phil=phil_scope, epilog=__doc__)
    if not args:
        parser.print_help()
        return
    params, options = parse_arguments(parser, maps_as_parameters(args, ("input.map",)))
    if not params.input.map:
        raise ConfigError("no map: give a folder of results, or a file of a map")
    if not params.divisions:
        raise ConfigError("how coarse? give divisions=, for example divisions=2,2,2")
    folder = make_folder(Path(params.output.directory))
    start_logs(options.verbose, file_in(folder, params.output.log))
    how = Rebinning(tuple(params.divisions), params.halo.voxels, halo_of(params), params.coverage)
    path = Path(params.input.map)
    merger = merger_of_run(path)
    new = rebin(path, how, registry or load_registry(), hints_of(params), params.input.source, params.seed, merger)
    logger.info("%s", new)
    logger.info("The map is in %s", write_voxel_map(folder, new))


if __name__ == "__main__":
    run()
