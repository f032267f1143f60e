"""Compare two maps: two crystals, two beamlines, a map and a simulation.

B is brought to the grid, the indexing and the scale of A. What is said: correlations by shell beside what noise
allows, apart for voxels at the nodes of the lattice and between them; chi squared of the difference; tables, JSON and a
page with pictures. Each map may be a folder of results, .npz, .nxs, .mtz, .ccp4, .lat (Lunus), .h5 (CXIDB 128) or .npy
(eryx).

Examples::

  diffuse.compare diffuse other/diffuse
  diffuse.compare diffuse model.mtz scale=shells halo.size=0.25,0.25,0.25
  diffuse.compare diffuse lunus.lat input.space_group=P41
"""

from __future__ import annotations

import logging
from datetime import datetime

from iotbx.phil import parse

from diffuse_framework import __version__
from diffuse_framework.algorithms.comparison.compare import compare_maps
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.maps import alignment_of, halo_of, open_pair, phil_of
from diffuse_framework.io.atomic import write_json, write_text
from diffuse_framework.report.comparison.text import comparison_text

logger = logging.getLogger(__name__)

USAGE = "diffuse.compare [options] A B [scale=shells] [reindex=as_indexed]"

phil_scope = parse(phil_of("alignment", "compare"))


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.compare; `args` are those of the command line where None."""
    opened = open_pair(args, USAGE, phil_scope, __doc__)
    if opened is None:
        return
    params, folder = opened.params, opened.folder
    comparison = compare_maps(
        opened.a, opened.b, alignment_of(params), halo_of(params), params.shells, params.samples, params.seed
    )
    text = comparison_text(comparison)
    logger.info("%s\n", text)
    write_json(folder / "comparison.json", comparison.to_plain())
    write_text(folder / "comparison.txt", text + "\n")
    if params.output.page:
        # Here, for it loads matplotlib.
        from diffuse_framework.report.comparison.page import comparison_page

        made = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
        write_text(folder / "comparison.html", comparison_page(comparison, __version__, made))
    logger.info("Tables, JSON%s are in %s", " and comparison.html" if params.output.page else "", folder)


if __name__ == "__main__":
    run()
