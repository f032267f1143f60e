"""The memory of a worker: flat in the number of images, and under 1.5 GB for PILATUS 6M.

    .venv/bin/python tests/benchmarks/memory_flat.py

One process accumulates the stills of thaumatin, links to which make 200 images, streams the sums to disk, scales
and merges them. Prints the peak of a process with 20 images and of one with 200.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from dxtbx.model.experiment_list import ExperimentListFactory
from thaumatin import N_INDEXED, experiment_on, unpack

from diffuse_framework.adapters.images.open import open_source
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.io.sums_store import SumsWriter
from diffuse_framework.pipeline.chunk import ChunkWork
from support.runs import known_steps

CHUNK = 4


def measure(n_images: int, folder: Path) -> None:
    """Print the peak memory of this process after so many images."""
    source = open_source(ExperimentListFactory.from_filenames(unpack(folder, n_images, N_INDEXED)))
    experiment = experiment_on(source)
    steps = known_steps(experiment)
    grid = steps.grid.build(experiment)
    maskers = tuple(masker.prepare(source, experiment, SerialEngine()) for masker in steps.maskers)
    work = ChunkWork(source, experiment, grid, maskers, steps.correctors, steps.accumulator)
    writer = SumsWriter(folder / "sums.h5", grid, source.names)
    chunks = [range(start, min(start + CHUNK, n_images)) for start in range(0, n_images, CHUNK)]
    writer.collect(work, chunks, SerialEngine())
    worker = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sums = writer.finish()
    merged = steps.merger.merge(sums, steps.scaler.fit(sums, experiment))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"peak_memory_{n_images}_images {worker:.0f} MiB for accumulation (limit 1430, 1.5 GB), {peak:.0f} MiB with "
        f"scaling and merging; {sums.n_bytes / 2**20:.0f} MiB of sums on disk, {len(merged)} voxels",
        flush=True,
    )


def main() -> None:
    """Measure in a process for each number of images."""
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as name:
            measure(int(sys.argv[1]), Path(name))
        return
    for n_images in (20, 200):
        subprocess.run([sys.executable, __file__, str(n_images)], check=True)


if __name__ == "__main__":
    main()
