"""Say how good merged data are: CC1/2, R-split, multiplicity, completeness in resolution shells.

The images are split into two random halves, each half is merged with the scales beside the sums, and
the two maps are compared. The merger is that of the run, unless another is typed. No image is read.

Examples::

  diffuse.stats diffuse
  diffuse.stats diffuse statistics.shells=20 statistics.half_maps=True
"""

from __future__ import annotations

import sys

from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import logger
from diffuse_framework.command_line.shared.reduce import open_sums
from diffuse_framework.config.selection import select
from diffuse_framework.host.registry import Registry
from diffuse_framework.pipeline.run import statistics, write_statistics

USAGE = "diffuse.stats [options] [params.phil] FOLDER|sums.h5 [refined_scaling_model_params.json]"


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.stats."""
    args = sys.argv[1:] if args is None else args
    opened = open_sums(args, registry, "diffuse.stats", USAGE, __doc__, ("merger",))
    if opened is None:
        return
    merger = select(opened.registry, opened.params, "merger")
    options = opened.params.statistics
    found, halves = statistics(
        opened.sums, opened.scales(), merger, options.shells, options.isotropic_width, options.seed
    )
    path = write_statistics(opened.folder, found, halves if options.half_maps else None)
    logger.info("Statistics are in %s", path)
