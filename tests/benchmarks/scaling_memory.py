"""The memory and time of scaling very many observations, which need not fit into memory.

    .venv/bin/python tests/benchmarks/scaling_memory.py [--observations 1e8] [--memory-mib 1024] [--keep FOLDER]

Counts are drawn from a known map, known scales, offsets and absorption, image by image straight to disk. Then
`diffuse.scale` with scaler `smooth` and `diffuse.merge` run as a user runs them; printed are their CPU seconds,
their peak memory, with and without the pages of the temporary file that the system keeps in memory while there is
room, and how far the scales are from the truth. Linux only.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.host.loader import load_registry
from diffuse_framework.io.scales import read_scales
from diffuse_framework.io.sums_store import StoredSums, SumsWriter
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.testing.fakes import orthorhombic_grid
from support.sums import KnownModel, known_model

MODEL = ScalingOptions(
    scale="smooth",
    scale_order=5.0,
    offset=True,
    offset_order=20.0,
    absorption=True,
    absorption_px=250.0,
    absorption_order=40.0,
)
PHIL = [
    "scaler.plugin=smooth",
    "scaler.smooth.scale.model=smooth",
    "scaler.smooth.scale.order_spacing=5",
    "scaler.smooth.offset.refine=True",
    "scaler.smooth.offset.order_spacing=20",
    "scaler.smooth.absorption.refine=True",
    "scaler.smooth.absorption.px_spacing=250",
    "scaler.smooth.absorption.order_spacing=40",
]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", type=float, default=1e8)
    parser.add_argument("--images", type=int, default=720)
    parser.add_argument("--memory-mib", type=float, default=1024.0)
    parser.add_argument("--keep", type=Path, help="draw into this folder, or use what was drawn there before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        known = model_for(int(options.observations / options.images), options.images)
        if not (folder / "sums.h5").exists():
            writer = SumsWriter(folder / "sums.h5", known.grid, known.image_names)
            for table in known.tables():
                writer.append(table)
            writer.finish()
        size = StoredSums(folder / "sums.h5").n_bytes / 2**20
        n_rows = known.rows_per_image * options.images
        print(f"observations {n_rows:.3g} in {known.grid.size:.3g} voxels of the box, {size:.0f} MiB on disk")
        print(f"  they take {32 * n_rows / 2**20:.0f} MiB; {options.memory_mib:.0f} MiB may be in memory", flush=True)
        measured("diffuse.scale", folder, [*PHIL, f"scaler.smooth.memory_mib={options.memory_mib}"])
        path = folder / "refined_scaling_model_params.json"
        scales = read_scales(path, known.image_names, known.grid, load_registry())
        print(f"  outliers {scales.statistics['outliers']['rejected']}, cycles {scales.statistics['cycles']}")
        ratio = scales.per_image / known.scales.per_image
        print(f"  scales against the truth: {100 * np.std(ratio / ratio.mean()):.3f} % rms", flush=True)
        measured("diffuse.merge", folder, [])


def model_for(rows_per_image: int, n_images: int) -> KnownModel:
    """Return a model of a map that the images see 20 times."""
    edge = 20.0 * max(1.0, (rows_per_image * n_images / 20 / 8500) ** (1 / 3))
    grid: VoxelGrid = orthorhombic_grid((edge, 1.25 * edge, 1.5 * edge, 90.0, 90.0, 90.0))
    rng = np.random.default_rng(3)
    return known_model(MODEL, rng, n_images=n_images, rows_per_image=rows_per_image, grid=grid)


def measured(command: str, folder: Path, parameters: list[str]) -> None:
    """Run a command on the sums and print what it took."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    program = Path(sys.executable).parent / command
    with open(folder / "output.log", "w") as log:
        running = subprocess.Popen([program, "sums.h5", *parameters], cwd=folder, stdout=log, stderr=log)
        own = mapped = 0
        while running.poll() is None:
            found = memory_mib(running.pid)
            own, mapped = max(own, found[0]), max(mapped, sum(found))
            time.sleep(0.05)
    if running.returncode:
        sys.exit(f"{command} failed, see {folder / 'output.log'}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{command} {cpu:.1f} CPU s, {time.perf_counter() - start:.1f} s, "
        f"peak {own} MiB of its own, {mapped} MiB with pages of files",
        flush=True,
    )


def memory_mib(pid: int) -> tuple[int, int]:
    """Return memory of a process's own, and pages of files in it, in MiB."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except ProcessLookupError:
        return 0, 0
    kib = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Rss")}
    return int(kib.get("RssAnon", 0)) // 1024, (int(kib.get("RssFile", 0)) + int(kib.get("RssShmem", 0))) // 1024


if __name__ == "__main__":
    main()
