"""Say how good merged data are: CC1/2, R-split, multiplicity, completeness in resolution shells.

The images are split into two random halves, each half is merged with the scales beside the sums, and
the two maps are compared. No image is read.

Examples::

  diffuse.stats diffuse/sums.h5
  diffuse.stats diffuse/sums.h5 statistics.shells=20 statistics.half_maps=True
"""

from __future__ import annotations

import logging
import sys

import numpy as np

from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.statistics import half_maps, shell_statistics
from diffuse_framework.command_line.failures import report_failures
from diffuse_framework.command_line.reduce import open_sums
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.outputs import read_scales, write_half_maps
from diffuse_framework.io.whole import write_json
from diffuse_framework.report.summary import scaling_text, statistics_text

logger = logging.getLogger(__name__)

USAGE = "diffuse.stats [options] [params.phil] sums.h5 [refined_scaling_model_params.json]"


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.stats."""
    args = sys.argv[1:] if args is None else args
    opened = open_sums(args, registry, "diffuse.stats", USAGE, __doc__, ())
    if opened is None:
        return
    options = opened.params.statistics
    scales = read_scales(opened.scales_path, opened.sums.image_names, opened.sums.grid)
    halves = half_maps(opened.sums, scales, np.random.default_rng(options.seed))
    statistics = shell_statistics(
        poisson_merge(opened.sums, scales), halves, options.shells, options.isotropic_width
    )
    logger.info("\n%s\n", statistics_text(statistics))
    if scales.statistics:
        logger.info("%s\n", scaling_text(scales.statistics))
    path = opened.folder / "merging_statistics.json"
    write_json(path, statistics | {"scaling": scales.statistics})
    if options.half_maps:
        write_half_maps(opened.folder, halves)
    logger.info("Statistics are in %s", path)
