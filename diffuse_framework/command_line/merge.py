"""Merge the sums of an earlier run again with the scales beside them; no image is read.

What is not typed is as in that run: its merger, its absolute scaler and their parameters.

Examples::

  diffuse.merge diffuse
  diffuse.merge diffuse merger.plugin=inverse_variance output.directory=weighted
  diffuse.merge diffuse absolute_scaler.plugin=krogh_moe \\
    krogh_moe.contents.sequence=lysozyme.fasta krogh_moe.wavelength=0.98
"""

from __future__ import annotations

import sys

from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import logger
from diffuse_framework.command_line.shared.reduce import open_sums
from diffuse_framework.config.selection import select
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.scales import read_maker
from diffuse_framework.pipeline.run import make_map
from diffuse_framework.stages.steps import MergingSteps

USAGE = "diffuse.merge [options] [params.phil] FOLDER|sums.h5 [refined_scaling_model_params.json]"


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.merge."""
    args = sys.argv[1:] if args is None else args
    opened = open_sums(args, registry, "diffuse.merge", USAGE, __doc__, ("merger", "absolute_scaler"))
    if opened is None:
        return
    steps = MergingSteps(
        select(opened.registry, opened.params, "merger"), select(opened.registry, opened.params, "absolute_scaler")
    )
    options = opened.params.statistics
    seed = options.seed if options.half_maps else None
    logger.info("The map goes to %s", opened.folder)
    make_map(opened.sums, opened.scales(), read_maker(opened.scales_path), steps, opened.folder, seed)
