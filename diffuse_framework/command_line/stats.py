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
from typing import Any

import numpy as np

from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.statistics import half_maps, shell_statistics
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.reduce import open_sums
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.atomic import write_json
from diffuse_framework.io.results import read_scales, write_half_maps
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums
from diffuse_framework.report.summary import scaling_text, statistics_text

logger = logging.getLogger(__name__)

USAGE = "diffuse.stats [options] [params.phil] sums.h5 [refined_scaling_model_params.json]"


def merging_statistics(
    sums: VoxelSums, scales: Scales, options: Any
) -> tuple[dict[str, Any], tuple[MergedMap, MergedMap]]:
    """Return the content of ``merging_statistics.json``, and the maps of both halves.

    Args:
        sums: of a run.
        scales: its scales.
        options: the parameters ``statistics``.
    """
    halves = half_maps(sums, scales, np.random.default_rng(options.seed))
    shells = shell_statistics(poisson_merge(sums, scales), halves, options.shells, options.isotropic_width)
    return shells | {"scaling": scales.statistics}, halves


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.stats."""
    args = sys.argv[1:] if args is None else args
    opened = open_sums(args, registry, "diffuse.stats", USAGE, __doc__, ())
    if opened is None:
        return
    options = opened.params.statistics
    scales = read_scales(opened.scales_path, opened.sums.image_names, opened.sums.grid)
    statistics, halves = merging_statistics(opened.sums, scales, options)
    logger.info("\n%s\n", statistics_text(statistics))
    if scales.statistics:
        logger.info("%s\n", scaling_text(scales.statistics))
    path = opened.folder / "merging_statistics.json"
    write_json(path, statistics)
    if options.half_maps:
        write_half_maps(opened.folder, halves)
    logger.info("Statistics are in %s", path)
