"""For notebooks: open the results of a run.

from diffuse_framework.notebook import open_map
diffuse_map = open_map("diffuse")
diffuse_map
diffuse_map.slice(l=1.5, kind="isigi")
"""

from __future__ import annotations

from pathlib import Path

from diffuse_framework.command_line.shared.diagnostics import run_map
from diffuse_framework.report.map.diffuse_map import DiffuseMap


def open_map(folder: str | Path = "diffuse") -> DiffuseMap:
    """Return the map of a run, on the absolute scale where it has one.

    Args:
        folder: output folder of diffuse.process.

    Raises:
        DataError: files that are not there or can't be read.
    """
    return DiffuseMap(run_map(Path(folder)), str(folder))
