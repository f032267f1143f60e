"""Subtract one map from another, with errors: ligand, humidity, temperature, dose.

B is brought to the grid, the indexing and the scale of A as in diffuse.compare. The difference A - B is written in the
files of a run, which diffuse.report, diffuse.export and diffuse.compare read.

Examples::

  diffuse.subtract ligand/diffuse apo/diffuse
  diffuse.subtract ligand/diffuse apo/diffuse scale=none offset=False output.directory=as_measured
"""

from __future__ import annotations

import logging

from iotbx.phil import parse

from diffuse_framework.algorithms.comparison.compare import difference
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.maps import alignment_of, open_pair, phil_of
from diffuse_framework.io.maps.write import write_voxel_map
from diffuse_framework.report.comparison.text import difference_text

logger = logging.getLogger(__name__)

USAGE = "diffuse.subtract [options] A B [scale=shells] [output.directory=difference]"

phil_scope = parse(phil_of("alignment", "subtract"))


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.subtract; `args` are those of the command line where None."""
    opened = open_pair(args, USAGE, phil_scope, __doc__)
    if opened is None:
        return
    apart, aligned = difference(opened.a, opened.b, alignment_of(opened.params))
    logger.info("%s", difference_text(apart, aligned))
    logger.info("The difference is in %s", write_voxel_map(opened.folder, apart))


if __name__ == "__main__":
    run()
