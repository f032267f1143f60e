"""How fast the diffuse side is on one core: read, decode, mask, correct, locate, fold, add.

    .venv/bin/python tests/benchmarks/pixel_rate.py [--images 15]

PILATUS 6M: the stills of `thaumatin_grid_scan` (set DIALS_DATA, or have the package dials_data) with made-up
orientations: indexing is not what is measured. EIGER 16M: counts drawn at random on a detector of that size,
in memory, 32 bits a pixel; and the same from HDF5 files as its file writer leaves them, bitshuffle and LZ4, 32 and
16 bits a pixel. CPU seconds, the median over the images; beside them what the machine takes for the
same bytes: decoding alone, and copying an array. Neighbours that share its caches make a machine slower: the
best image is told too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

# Threads of a BLAS that wait for work would be counted; the loops over pixels have one anyway.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import h5py
import numpy as np
from dxtbx.model.experiment_list import ExperimentListFactory
from thaumatin import N_INDEXED, experiment_on, unpack

from diffuse_framework.adapters.images.hdf5 import bitshuffle_lz4
from diffuse_framework.adapters.images.open import open_source
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.model.geometry import Beam, Geometry, Panel
from diffuse_framework.model.mask import combine
from diffuse_framework.model.source import Frame
from diffuse_framework.pipeline.chunk import ChunkWork
from diffuse_framework.simulate.nxmx import SeriesWriter
from support.runs import known_steps

BYTES_A_PIXEL = {"q": 12, "response": 4, "values": 4, "mask": 1}


def cpu(function: Callable[[int], Any], numbers: range, of: Callable = statistics.median) -> Any:
    """Return the CPU seconds of a function, of all numbers the median."""
    seconds = []
    for number in numbers:
        start = time.process_time()
        function(number)
        seconds.append(time.process_time() - start)
    return of(seconds)


def copy_rate() -> float:
    """Return the bytes a second that one core reads and writes when it copies a large array."""
    source, target = np.ones(20_000_000), np.zeros(20_000_000)
    return 2 * source.nbytes / cpu(lambda _: np.copyto(target, source), range(7))


class Drawn:
    """A source of images in memory: as fast as reading can be."""

    def __init__(self, geometry: Geometry, frames: list[Frame]) -> None:
        self._geometry, self._frames = geometry, frames
        self.names = tuple(frame.name for frame in frames)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Frame:
        """Return an image."""
        return self._frames[index]

    def geometry(self, index: int) -> Geometry:
        """Return the geometry."""
        return self._geometry

    def exposure_s(self, index: int) -> float:
        """Return a tenth of a second."""
        return 0.1

    def trusted_pixels(self, index: int) -> None:
        """Return None: there is no mask."""


def eiger(n_images: int) -> Drawn:
    """Return images of an EIGER 16M's size, its gaps marked as EIGER files mark them."""
    rng = np.random.default_rng(0)
    shape, pixel, distance = (4362, 4148), 0.075, 200.0
    panel = Panel(
        "EIGER",
        np.array([-shape[1] / 2 * pixel, shape[0] / 2 * pixel, -distance]),
        np.array([1.0, 0, 0]),
        np.array([0, -1.0, 0]),
        (pixel, pixel),
        shape,
        "Si",
        0.45,
        0.4,
        trusted_range=(0, 100_000),
        parallax=True,
    )
    beam = Beam(np.array([0.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0]), 0.99)
    frames = []
    for number in range(n_images):
        counts = rng.poisson(1.0, shape).astype(np.uint32)
        for start in range(514, shape[0], 551):
            counts[start : start + 37] = 2**32 - 1
        for start in range(1030, shape[1], 1040):
            counts[:, start : start + 10] = 2**32 - 1
        frames.append(Frame(f"drawn_{number}", (counts,)))
    return Drawn(Geometry(beam, (panel,)), frames)


def as_hdf5(drawn: Drawn, folder: Path, dtype: type, n_images: int = 12) -> Any:
    """Return a source of the same images, repeated, in HDF5 files."""
    master = folder / f"{np.dtype(dtype)}_master.h5"
    writer = SeriesWriter(drawn.geometry(0), drawn.exposure_s(0), nullcontext, bitshuffle_lz4(), dtype=dtype)
    writer(master, (drawn.read(number % len(drawn)).counts[0].view(np.int32) for number in range(n_images)))
    source = open_source(ExperimentListFactory.from_filenames([str(master)]))
    n_pixels = drawn.geometry(0).n_pixels
    with h5py.File(master.with_name(master.name.replace("master", "data_000001"))) as file:
        data = file["entry/data/data"]
        pixels = np.empty(data.shape[1:], dtype)
        alone = cpu(lambda number: data.read_direct(pixels, np.s_[number]), range(1, n_images))
        packed = data.id.get_storage_size() / n_images
    dxtbx = cpu(lambda number: source.experiments[number].imageset.get_raw_data(0), range(1, n_images))
    for what, seconds in (("decoding alone", alone), ("reading by dxtbx", dxtbx)):
        print(
            f"eiger_16m_{np.dtype(dtype)}_hdf5, {packed / 1e6:.1f} MB an image: {what} {1e3 * seconds:.1f} ms, "
            f"{n_pixels / seconds / 1e6:.0f} Mpixel/s"
        )
    # Which compares our way with dxtbx's, once.
    source.read(0)
    return source


def rates(label: str, source: Any, copying: float) -> None:
    """Print CPU milliseconds an image and million pixels a second of the whole and of its parts."""
    experiment = experiment_on(source)
    steps = known_steps(experiment)
    grid = steps.grid.build(experiment)
    start = time.process_time()
    maskers = tuple(masker.prepare(source, experiment, SerialEngine()) for masker in steps.maskers)
    preparing = time.process_time() - start
    start = time.process_time()
    work = ChunkWork(source, experiment, grid, maskers, steps.correctors, steps.accumulator)
    tables = time.process_time() - start
    work(range(1))
    n_pixels, numbers = experiment.geometries[0].n_pixels, range(1, len(source))
    geometry, (pixels, static) = experiment.geometries[0], work._of_geometry(experiment.images[0])

    def mask(number: int) -> Any:
        image = experiment.images[number]
        found = [masker.image_mask(frame, image, geometry, pixels) for masker in maskers]
        return combine([static, *(one for one in found if one is not None)])

    reading = cpu(source.read, numbers)
    whole, best = cpu(
        lambda number: work(range(number, number + 1)), numbers, lambda all_of: (statistics.median(all_of), min(all_of))
    )
    frame = source.read(0)
    masking = cpu(mask, numbers)
    moving = n_pixels * sum(BYTES_A_PIXEL.values()) / copying
    for name, seconds, limit in (
        ("read_and_decode", reading, "what our reader takes"),
        (
            "read_mask_correct_locate_add",
            whole,
            f"decoding alone {n_pixels / reading / 1e6:.0f}; goal 60" if reading > 1e-4 else "in memory; goal 60",
        ),
        ("all_but_reading", whole - reading, f"memory alone {n_pixels / moving / 1e6:.0f}; goal 100"),
        ("masking", masking, f"the rest of the arithmetic takes {1e3 * (whole - reading - masking):.0f} ms"),
    ):
        if seconds > 1e-4:
            print(f"{label}_{name} {n_pixels / seconds / 1e6:.1f} Mpixel/s, {1e3 * seconds:.1f} ms an image ({limit})")
    print(f"{label}_best_image {n_pixels / best / 1e6:.1f} Mpixel/s, {1e3 * best:.1f} ms (the machine least disturbed)")
    print(f"{label}_once_a_run {preparing:.2f} s for the dynamic mask, {tables:.2f} s for tables of the geometry")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=N_INDEXED)
    options = parser.parse_args()
    copying = copy_rate()
    print(f"copy {copying / 1e9:.1f} GB/s of memory traffic on one core")
    with tempfile.TemporaryDirectory() as name:
        paths = unpack(Path(name), options.images, N_INDEXED)
        rates("pilatus_6m", open_source(ExperimentListFactory.from_filenames(paths)), copying)
    drawn = eiger(6)
    rates("eiger_16m", drawn, copying)
    for dtype in (np.uint32, np.uint16):
        with tempfile.TemporaryDirectory() as name:
            rates(f"eiger_16m_{np.dtype(dtype)}_hdf5", as_hdf5(drawn, Path(name), dtype), copying)


if __name__ == "__main__":
    main()
