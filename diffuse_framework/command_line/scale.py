"""Scale the images of an earlier run again, from its sums; no image is read.

What is not typed is as in that run: its scaler and its parameters.

Examples::

  diffuse.scale diffuse scaler.per_image.tolerance=1e-6
  diffuse.scale diffuse scaler.plugin=smooth scaler.smooth.offset.refine=True
"""

from __future__ import annotations

import sys
from pathlib import Path

from diffuse_framework.adapters.scaling.model import write_scaled_experiments
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import logger
from diffuse_framework.command_line.shared.reduce import open_sums
from diffuse_framework.config.selection import select
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.registry import Registry
from diffuse_framework.io import filenames
from diffuse_framework.pipeline.run import scale

USAGE = "diffuse.scale [options] [params.phil] FOLDER|sums.h5"


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.scale."""
    args = sys.argv[1:] if args is None else args
    opened = open_sums(args, registry, "diffuse.scale", USAGE, __doc__, ("scaler",))
    if opened is None:
        return
    scales = scale(opened.sums, select(opened.registry, opened.params, "scaler"), opened.folder)
    experiments = opened.params.input.experiments
    if experiments:
        if not isinstance(scales, SmoothScales):
            raise ConfigError("only scaler.plugin=smooth and dials_target make a scaling model that DIALS can hold")
        scaled = opened.folder / filenames.SCALED
        write_scaled_experiments(Path(experiments), scaled, scales)
        logger.info("The experiments with their scaling models are in %s", scaled)
    logger.info("Scales are in %s; diffuse.merge makes the map", opened.folder / filenames.SCALES)
