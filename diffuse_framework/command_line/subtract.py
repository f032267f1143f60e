"""Subtract one map from another, with errors: ligand, humidity, temperature, dose.

B is brought to the grid, the indexing and the scale of A as in diffuse.compare. The difference A - B is written in the
files of a run, which diffuse.report, diffuse.export and diffuse.compare read.

Examples::

  diffuse.subtract ligand/diffuse apo/diffuse
  diffuse.subtract ligand/diffuse apo/diffuse scale=none offset=False output.directory=as_measured
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from dials.util.options import ArgumentParser
from iotbx.phil import parse

from diffuse_framework.algorithms.comparison.compare import difference
from diffuse_framework.command_line.shared.arguments import parse_arguments
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import start_logs
from diffuse_framework.command_line.shared.maps import alignment_of, maps_as_parameters, phil_of, two_maps
from diffuse_framework.io.atomic import file_in, make_folder
from diffuse_framework.io.maps.write import write_voxel_map
from diffuse_framework.report.comparison.text import difference_text

logger = logging.getLogger(__name__)

USAGE = "diffuse.subtract [options] A B [scale=shells] [output.directory=difference]"

phil_scope = parse(phil_of("alignment", "subtract"))


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.subtract; `args` are those of the command line where None."""
    args = sys.argv[1:] if args is None else args
    parser = ArgumentParser(usage=USAGE, phil=phil_scope, epilog=__doc__)
    if not args:
        parser.print_help()
        return
    params, options = parse_arguments(parser, maps_as_parameters(args, ("input.a", "input.b")))
    folder = make_folder(Path(params.output.directory))
    start_logs(options.verbose, file_in(folder, params.output.log))
    a, b = two_maps(params)
    apart, aligned = difference(a, b, alignment_of(params))
    logger.info("%s", difference_text(apart, aligned))
    logger.info("The difference is in %s", write_voxel_map(folder, apart))


if __name__ == "__main__":
    run()
