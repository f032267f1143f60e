"""Make the pictures of these pages, with the commands that the pages show.

``make docs-figures`` runs it; the pictures are small enough to keep. Those of staphylococcal nuclease need
the images (DIFFUSE_REAL_DATA, a folder with ``snase/``) and are left as they are without.
"""

from __future__ import annotations

import bz2
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffuse_framework.algorithms.comparison.compare import compare_maps
from diffuse_framework.algorithms.statistics import half_maps, isotropic_part
from diffuse_framework.command_line import process, simulate
from diffuse_framework.command_line.shared.diagnostics import load_extraction, run_map, save_figure
from diffuse_framework.host.loader import load_registry
from diffuse_framework.io import filenames
from diffuse_framework.io.scales import read_scales
from diffuse_framework.io.sums_store import StoredSums
from diffuse_framework.model.maps import RELATIVE, AbsoluteMap
from diffuse_framework.model.voxel_map import VoxelMap
from diffuse_framework.report.comparison.pictures import curves_figure, slices_figure
from diffuse_framework.report.image import pictures as image_pictures
from diffuse_framework.report.map import pictures as map_pictures

FOLDER = Path(__file__).parent / "figures"
DPI = 60


def main() -> None:
    """Simulate, process and draw."""
    with tempfile.TemporaryDirectory() as temporary:
        images, results = Path(temporary) / "images", Path(temporary) / "diffuse"
        simulate.run([f"output.directory={images}", "images=40", "counts_per_pixel=5"])
        process.execute(
            [
                str(images / "truth.expt"),
                str(images / "truth.refl"),
                f"output.directory={results}",
                "output.pixels=True",
                "output.masks=all",
                "grid.hkl.d_min=2.0",
            ]
        )
        stem = results / "images" / "sim_00001"
        one = load_extraction(
            images / "sim_00001.cbf",
            results / "indexed.expt",
            Path(f"{stem}_total_diffuse_mask.pickle"),
            Path(f"{stem}_diffuse_data.npz"),
            pixel_mask=Path(f"{stem}_pixel_mask.pickle"),
        )
        save_figure(FOLDER / "overlay.png", image_pictures.overlay(one), 55)
        data = run_map(results)
        save_figure(FOLDER / "intensity_l0.png", map_pictures.slice_figure(data, "intensity", 2, 0.0, log=False), DPI)
        save_figure(FOLDER / "occupancy_l0.png", map_pictures.slice_figure(data, "occupancy", 2), DPI)
        save_figure(FOLDER / "radial.png", map_pictures.radial_figure(data), DPI)
        save_figure(FOLDER / "scales.png", map_pictures.scales_figure(data), DPI)
        two_halves(results)
        if "DIFFUSE_REAL_DATA" in os.environ:
            nuclease(Path(os.environ["DIFFUSE_REAL_DATA"]) / "snase", Path(temporary))


def two_halves(results: Path) -> None:
    """Draw the comparison of the maps of two halves of the images, which are as good as two data sets."""
    sums = StoredSums(results / filenames.SUMS)
    scales = read_scales(results / filenames.SCALES, sums.image_names, sums.grid, load_registry())
    halves = half_maps(sums, scales, np.random.default_rng(0))
    a, b = (
        VoxelMap.of(AbsoluteMap(half, half.intensity, half.variance, 1.0, 0.0, RELATIVE), name=name)
        for half, name in zip(halves, ("the first half", "the second half"), strict=True)
    )
    compared = compare_maps(a, b)
    save_figure(FOLDER / "comparison_curves.png", curves_figure(compared), DPI)
    save_figure(FOLDER / "comparison_l0.png", slices_figure(compared, 2), DPI)


def nuclease(data: Path, folder: Path) -> None:
    """Process the ten images of docs/rotation.md and draw two planes of their map."""
    images = []
    for path in sorted(data.glob("*.img.bz2")):
        images.append(folder / path.stem)
        images[-1].write_bytes(bz2.decompress(path.read_bytes()))
    models = data / "refined_experiments.json"
    process.execute(
        [
            *map(str, images),
            f"input.reference_geometry={models}",
            f"indexer.given.crystals={models}",
            "geometry.scan.oscillation=-0.5,1",
            "geometry.beam.polarization_fraction=0.93",
            "geometry.detector.panel.trusted_range=250,60000",
            "grid.hkl.d_min=1.8",
            "grid.hkl.divisions=5,5,5",
            f"output.directory={folder / 'snase'}",
        ]
    )
    draw_nuclease(folder / "snase")


def draw_nuclease(results: Path) -> None:
    """Draw two planes, divided by the mean of each resolution shell."""
    data = run_map(results)
    mean = isotropic_part(data.q, data.intensity, 1 / data.sigma**2, 0.01)
    relative = replace(data, intensity=data.intensity / mean, units="over the mean of its shell")
    for name, axis, level in (("snase_h6.4", 0, 6.4), ("snase_l3", 2, 3.0)):
        save_figure(
            FOLDER / f"{name}.png", map_pictures.slice_figure(relative, "intensity", axis, level, log=False), DPI
        )


if __name__ == "__main__":
    sys.exit(main())
