"""Merge the sums of an earlier run again with the scales beside them; no image is read.

Examples::

  diffuse.merge diffuse/sums.h5
  diffuse.merge diffuse/sums.h5 merger.plugin=inverse_variance output.directory=weighted
  diffuse.merge diffuse/sums.h5 absolute_scaler.plugin=krogh_moe \\
    krogh_moe.contents.sequence=lysozyme.fasta krogh_moe.wavelength=0.98
"""

from __future__ import annotations

import logging
import sys

import numpy as np

from diffuse_framework.algorithms.statistics import half_maps
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.reduce import open_sums
from diffuse_framework.config.selection import select
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.atomic import write_figure
from diffuse_framework.io.results import (
    read_scales,
    write_absolute,
    write_grid,
    write_half_maps,
    write_map,
)
from diffuse_framework.report.figures import absolute_scale_figure
from diffuse_framework.report.summary import log_map, map_statistics

logger = logging.getLogger(__name__)

USAGE = "diffuse.merge [options] [params.phil] sums.h5 [refined_scaling_model_params.json]"


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.merge."""
    args = sys.argv[1:] if args is None else args
    opened = open_sums(args, registry, "diffuse.merge", USAGE, __doc__, ("merger", "absolute_scaler"))
    if opened is None:
        return
    merger = select(opened.registry, opened.params, "merger")
    absolute_scaler = select(opened.registry, opened.params, "absolute_scaler")
    scales = read_scales(opened.scales_path, opened.sums.image_names, opened.sums.grid)
    final = absolute_scaler.scale(merger.merge(opened.sums, scales), scales, None)
    log_map(final, map_statistics(final.merged))
    write_grid(opened.folder / "global_voxel_grid_definition.json", opened.sums.grid)
    halves = None
    if opened.params.statistics.half_maps:
        halves = half_maps(opened.sums, scales, np.random.default_rng(opened.params.statistics.seed))
        write_half_maps(opened.folder, halves)
    write_map(opened.folder, final, halves)
    if final.report is not None:
        write_absolute(opened.folder, final, scales, opened.sums.image_names, halves)
        write_figure(opened.folder / "absolute_scale.png", absolute_scale_figure(final.report))
    logger.info("The map is in %s", opened.folder)
