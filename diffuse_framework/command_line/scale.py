"""Scale the images of an earlier run again, from its sums; no image is read.

Example::

  diffuse.scale diffuse/sums.h5 scaler.per_image.tolerance=1e-6
"""

from __future__ import annotations

import logging
import sys

from diffuse_framework.command_line.failures import report_failures
from diffuse_framework.command_line.reduce import open_sums
from diffuse_framework.config.selection import select
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.outputs import write_scales
from diffuse_framework.report.summary import scales_text

logger = logging.getLogger(__name__)

USAGE = "diffuse.scale [options] [params.phil] sums.h5"


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.scale."""
    args = sys.argv[1:] if args is None else args
    opened = open_sums(args, registry, "diffuse.scale", USAGE, __doc__, ("scaler",))
    if opened is None:
        return
    scaler = select(opened.registry, opened.params, "scaler")
    scales = scaler.fit(opened.sums, None)
    logger.info("\n%s\n", scales_text(scales, opened.sums.image_names))
    path = opened.folder / "refined_scaling_model_params.json"
    write_scales(path, scales, opened.sums.image_names)
    logger.info("Scales are in %s; diffuse.merge makes the map", path)
