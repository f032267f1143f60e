"""Simulate stills of a crystal whose diffuse scattering is known, process them, and compare.

The folder diffuse_demo then holds the images, the results of diffuse.process, and demo.png: a
plane of the map beside the same plane of the truth.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import matplotlib
import numpy as np

from diffuse_framework.command_line import process, simulate
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.host.loader import load_registry
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import writing
from diffuse_framework.io.results import read_map_npz
from diffuse_framework.io.scales import read_scales
from diffuse_framework.io.sums_store import StoredSums
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.report.figures import draw_plane, plane_values
from diffuse_framework.simulate.compare import compare_map, compare_scales
from diffuse_framework.simulate.truth import Truth, load

logger = logging.getLogger("diffuse_framework.demo")

IMAGES, COUNTS_PER_PIXEL = 24, 2


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser("demo", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("diffuse_demo"))
    folder = parser.parse_args(args).directory
    images, results = folder / "images", folder / "results"
    if (images / "truth.h5").exists():
        print(f"Using the images of an earlier demo in {images}")
    else:
        simulate.run([f'output.directory="{images}"', f"images={IMAGES}", f"counts_per_pixel={COUNTS_PER_PIXEL}"])
    truth = load(images / "truth.h5")
    process.run(
        [
            *(str(path) for path in sorted(images.glob("*.cbf"))),
            f'output.directory="{results}"',
            f"crystal.unit_cell={','.join(f'{x:g}' for x in truth.intensity.cell)}",
            f"crystal.space_group={truth.intensity.symmetry.space_group}",
            "grid.hkl.d_min=2.2",
        ]
    )
    _compare(truth, results, folder / "demo.png")


def _compare(truth: Truth, results: Path, picture: Path) -> None:
    sums = StoredSums(results / filenames.SUMS)
    arrays = read_map_npz(results / filenames.RELATIVE_MAP)
    voxel = arrays["voxel_indices"]
    expected = truth.intensity.voxel_average(sums.grid, voxel)
    hkl = np.stack([arrays[f"{axis}_center"] for axis in "HKL"], axis=1)
    intensity, sigma = arrays["I_merged_relative"], arrays["Sigma_merged_relative"]
    agreement = compare_map(truth, hkl, intensity, sigma, expected, arrays["num_pixels"])
    scales = read_scales(results / filenames.SCALES, sums.image_names, sums.grid, load_registry())
    recovered = compare_scales(truth, sums.image_names, scales.per_image)
    logger.info("\nThe map against the simulated truth, %d voxels:", agreement.voxels)
    logger.info("  correlation                            %.4f", agreement.weighted_correlation)
    logger.info("  correlation of the anisotropic part    %.4f", agreement.weighted_anisotropic_correlation)
    logger.info("  chi squared per voxel                  %.3f", agreement.chi_squared)
    logger.info(
        "  scales of %d images                    %.2f %% rms off (worst %.2f %%)",
        recovered.images,
        100 * recovered.relative_rms,
        100 * recovered.largest,
    )
    _draw(picture, sums.grid, voxel, intensity / agreement.scale, expected)
    logger.info("\nThe plane l = 0 of both is in %s", picture)


def _draw(path: Path, grid: VoxelGrid, voxel: np.ndarray, found: np.ndarray, expected: np.ndarray) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(12, 6), sharex=True, sharey=True, layout="constrained")
    largest = float(np.percentile(expected, 99.5))
    for axes, values, title in zip(panels, (found, expected), ("measured", "true"), strict=True):
        plane, h, k = plane_values(grid, voxel, values, axis=2, level=0.0)
        drawn = draw_plane(axes, plane, h, k, ("h", "k"), vmin=0, vmax=largest, cmap="viridis")
        axes.set_title(f"diffuse intensity, {title}, l = 0")
    figure.colorbar(drawn, ax=panels, label="true units")
    with writing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


if __name__ == "__main__":
    run()
