"""The memory of a map of fifty million voxels: scaling, merging and writing it, in one process.

    .venv/bin/python tests/benchmarks/large_map.py [--voxels 5e7] [--images 12]

Every image covers a slab of the asymmetric unit, random counts on the way from a pixel's sums to the files: what
the images hold does not matter here, only that every voxel is seen. Prints the peak of the process after each
part; the program itself, with numba and DIALS loaded, is the first figure.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.scaling.per_image import fit_image_scales
from diffuse_framework.io.results import write_map
from diffuse_framework.io.sums_store import SumsWriter
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import AbsoluteMap
from diffuse_framework.model.voxels import COLUMN_TYPES, SumsTable
from diffuse_framework.testing.fakes import grid_of

CELL = (58.4, 58.4, 152.2, 90.0, 90.0, 90.0)


def grid_with(n_voxels: float) -> VoxelGrid:
    """Return a grid of thaumatin with about that many voxels in its box."""
    coarse = grid_of(symmetry_of("P41212"), CELL, (3, 3, 3), 2.0)
    return grid_of(symmetry_of("P41212"), CELL, (3, 3, 3), 2.0 * (coarse.size / n_voxels) ** (1 / 3))


def in_unit(grid: VoxelGrid) -> np.ndarray:
    """Return the voxels of the asymmetric unit within the limits, ascending."""
    n_h, n_k, n_l = grid.dimensions
    found = []
    for i in range(n_h):
        voxels = i * n_k * n_l + np.arange(n_k * n_l)
        h, k, l = (grid.index_of(voxels)).T
        q2 = np.einsum("ni,ni->n", grid.q_of(voxels), grid.q_of(voxels))
        found.append(voxels[(h >= k) & (k >= 0) & (l >= 0) & (q2 <= 1 / grid.d_min**2)])
    return np.concatenate(found)


def slab(image: int, voxel: np.ndarray, rng: np.random.Generator) -> SumsTable:
    """Return the sums of one image over some voxels."""
    n = len(voxel)
    columns = {name: np.zeros(n, kind) for name, kind in COLUMN_TYPES.items()}
    columns["image"][:] = image
    columns["voxel"] = voxel
    columns["counts"] = rng.poisson(5, n).astype(np.float32)
    columns["exposure"] = rng.uniform(0.5, 1.5, n).astype(np.float32)
    columns["pixels"][:] = 3
    columns["bragg_counts"] = rng.poisson(1, n).astype(np.float32)
    columns["bragg_exposure"] = (0.1 * columns["exposure"]).astype(np.float32)
    columns["bragg_pixels"][:] = 1
    return SumsTable(**columns)


def report(name: str, start: float) -> None:
    """Print the peak so far and the CPU seconds since `start`."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"large_map_peak_after_{name} {peak:.2f} GiB (limit 4 GB; {time.process_time() - start:.1f} CPU s so far)",
        flush=True,
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=float, default=5e7)
    parser.add_argument("--images", type=int, default=12)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    start = time.process_time()
    grid = grid_with(options.voxels)
    print(f"large_map_voxels {grid.size} in the box, {grid.n_voxels} in the asymmetric unit")
    report("loading", start)
    names = tuple(f"image_{number}" for number in range(options.images))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = SumsWriter(folder / "sums.h5", grid, names)
        unit = in_unit(grid)
        # Neighbouring slabs overlap by half, so that every voxel is seen twice.
        edges = np.linspace(0, len(unit), options.images + 1).astype(int)
        for image in range(options.images):
            pieces = [unit[edges[n] : edges[n + 1]] for n in sorted({image, (image + 1) % options.images})]
            for piece in pieces:
                writer.append(slab(image, piece, rng))
        del unit
        sums = writer.finish()
        report("accumulation", start)
        scales = fit_image_scales(sums, 1e-3, 5)
        report("scaling", start)
        merged = poisson_merge(sums, scales)
        report("merging", start)
        final = AbsoluteMap(merged, merged.intensity, merged.variance, 1.0, 0.0, "relative")
        write_map(folder, final)
        report("writing", start)


if __name__ == "__main__":
    main()
