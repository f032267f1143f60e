"""Make the pictures of these pages from simulated images, with the commands that the pages show.

``make docs-figures`` runs it; the pictures are small enough to keep.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from diffuse_framework.command_line import process, simulate
from diffuse_framework.command_line.looking import load_extraction, run_map, save_figure
from diffuse_framework.report import extraction, mapping

FOLDER = Path(__file__).parent / "figures"
DPI = 60


def main() -> None:
    """Simulate, process and draw."""
    with tempfile.TemporaryDirectory() as temporary:
        images, results = Path(temporary) / "images", Path(temporary) / "diffuse"
        simulate.run([f"output.directory={images}", "images=40", "counts_per_pixel=5"])
        process.execute(
            [str(images / "truth.expt"), str(images / "truth.refl"), f"output.directory={results}",
             "output.pixels=True", "output.masks=all", "grid.hkl.d_min=2.0"]
        )  # fmt: skip
        stem = results / "images" / "sim_00001"
        one = load_extraction(
            images / "sim_00001.cbf",
            results / "indexed.expt",
            Path(f"{stem}_total_diffuse_mask.pickle"),
            Path(f"{stem}_diffuse_data.npz"),
            pixel_mask=Path(f"{stem}_pixel_mask.pickle"),
        )
        save_figure(FOLDER / "overlay.png", extraction.overlay(one), 55)
        data = run_map(results)
        save_figure(
            FOLDER / "intensity_l0.png", mapping.slice_figure(data, "intensity", 2, 0.0, log=False), DPI
        )
        save_figure(FOLDER / "occupancy_l0.png", mapping.slice_figure(data, "occupancy", 2), DPI)
        save_figure(FOLDER / "radial.png", mapping.radial_figure(data), DPI)
        save_figure(FOLDER / "scales.png", mapping.scales_figure(data), DPI)


if __name__ == "__main__":
    sys.exit(main())
