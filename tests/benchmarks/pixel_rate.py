"""How fast the diffuse side is, and how its memory grows: read, mask, correct, locate, add.

    .venv/bin/python tests/benchmarks/pixel_rate.py [--images 15] [--memory]

Takes the PILATUS 6M stills of `thaumatin_grid_scan` (set DIALS_DATA, or have the package
dials_data), with made-up orientations: indexing is not what is measured. One core.
"""

from __future__ import annotations

import argparse
import bz2
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from dxtbx.model.experiment_list import ExperimentListFactory
from scipy.spatial.transform import Rotation

from diffuse_framework.adapters.inputs import open_source
from diffuse_framework.adapters.symmetry import symmetry_of
from diffuse_framework.io.sums_store import SumsWriter
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.lattice import reciprocal_basis
from diffuse_framework.pipeline.chunk import ChunkWork
from diffuse_framework.testing.runs import make_steps

CELL = (58.4, 58.4, 152.2, 90.0, 90.0, 90.0)


def thaumatin(folder: Path, n_images: int) -> list[str]:
    """Unpack the stills into `folder`, as often as needed for `n_images`."""
    packed = sorted((Path(os.environ["DIALS_DATA"]) / "thaumatin_grid_scan").glob("*.cbf.bz2"))[:15]
    for number, path in enumerate(packed[:n_images]):
        (folder / f"still_{number + 1:05d}.cbf").write_bytes(bz2.decompress(path.read_bytes()))
    for number in range(len(packed), n_images):
        (folder / f"still_{number + 1:05d}.cbf").symlink_to(folder / f"still_{number % len(packed) + 1:05d}.cbf")
    return [str(folder / f"still_{number + 1:05d}.cbf") for number in range(n_images)]


def experiment_on(source, seed: int = 0) -> Experiment:
    """Random orientations for every image of the source."""
    turns = Rotation.random(len(source), random_state=seed).as_matrix()
    images = tuple(
        Image(name, number, 0, source.exposure_s(number), turns[number] @ reciprocal_basis(CELL), 0.1)
        for number, name in enumerate(source.names)
    )
    return Experiment((source.geometry(0),), symmetry_of("P41212"), images)


def rate(paths: list[str]) -> None:
    """Print seconds per image and million pixels a second, of the whole and of its parts."""
    source = open_source(ExperimentListFactory.from_filenames(paths))
    experiment = experiment_on(source)
    steps = make_steps(experiment, "masker.plugins = trusted bragg")
    grid = steps.grid.build(experiment)
    maskers = tuple(masker.prepare(source, experiment, None) for masker in steps.maskers)
    work = ChunkWork(source, experiment, grid, maskers, steps.correctors, steps.accumulator)
    n_pixels = experiment.geometries[0].n_pixels
    start = time.process_time()
    work(range(1))
    print(f"first image, with compiling and tables: {time.process_time() - start:.2f} s")
    start = time.process_time()
    for number in range(1, len(source)):
        source.read(number)
    reading = (time.process_time() - start) / (len(source) - 1)
    start = time.process_time()
    for number in range(1, len(source)):
        work(range(number, number + 1))
    whole = (time.process_time() - start) / (len(source) - 1)
    for name, seconds in (("reading alone", reading), ("read, mask, correct, locate, add", whole)):
        print(f"{name:35s} {1e3 * seconds:7.1f} ms an image {n_pixels / seconds / 1e6:7.1f} Mpixel/s")


def memory(paths: list[str], folder: Path) -> None:
    """Print the peak memory of one process that adds up all images and streams the sums to disk."""
    source = open_source(ExperimentListFactory.from_filenames(paths))
    experiment = experiment_on(source)
    steps = make_steps(experiment, "masker.plugins = trusted bragg")
    grid = steps.grid.build(experiment)
    maskers = tuple(masker.prepare(source, experiment, None) for masker in steps.maskers)
    work = ChunkWork(source, experiment, grid, maskers, steps.correctors, steps.accumulator)
    writer = SumsWriter(folder / "sums.h5", grid, source.names)
    for number in range(len(source)):
        writer.append(work(range(number, number + 1)))
    sums = writer.finish()
    scales = steps.scaler.fit(sums, experiment)
    merged = steps.merger.merge(sums, scales)
    rows = sum(len(table) for table in sums.tables())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(paths):4d} images: peak {peak:.0f} MiB; {rows} sums, "
        f"{sums.path.stat().st_size / 2**20:.0f} MiB on disk, {len(merged)} voxels, "
        f"{np.prod(grid.dimensions)} in the box"
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--memory", action="store_true", help="measure memory with that many images instead")
    options = parser.parse_args()
    if "DIALS_DATA" not in os.environ:
        sys.exit("set DIALS_DATA to the folder that holds thaumatin_grid_scan (dials.data get thaumatin_grid_scan)")
    with tempfile.TemporaryDirectory() as name:
        paths = thaumatin(Path(name), options.images)
        if options.memory:
            memory(paths, Path(name))
            return
        rate(paths)
    for n_images in (20, 200):
        subprocess.run([sys.executable, __file__, "--memory", "--images", str(n_images)], check=True)


if __name__ == "__main__":
    main()
