"""How engines share the work: wall time on one and two workers, the same sums to the bit; what else an image costs.

    DIALS_DATA=... .venv/bin/python tests/benchmarks/engines.py [--images 240]

Accumulates PILATUS 6M stills of thaumatin (repeated, orientations made up) into parts on disk, as diffuse.process does,
with one process kept to one core, with one that may read ahead on a second, with two processes, and with two workers
of dask; then prints what docs/scaling_out.md reckons with. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from dxtbx.model.experiment_list import ExperimentListFactory
from numba import njit
from thaumatin import experiment_on, unpack

from diffuse_framework.adapters.images.open import open_source
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.engine.choose import open_engine
from diffuse_framework.engine.processes import process_engine
from diffuse_framework.fingerprint import fingerprint
from diffuse_framework.io.sums_store import StoredSums, SumsWriter, _Fold
from diffuse_framework.model.voxels import COLUMNS
from diffuse_framework.pipeline.chunk import ChunkWork
from support.runs import known_steps

CHUNK = 4


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `work` returns, and its wall seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def digest(sums: StoredSums) -> str:
    """Return a digest of all columns of all tables."""
    return fingerprint(*[fingerprint([getattr(table, name) for name in COLUMNS]) for table in sums.tables()])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=240)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), options.images)


def measure(folder: Path, n_images: int) -> None:
    """Print all figures."""
    source = open_source(ExperimentListFactory.from_filenames(unpack(folder, n_images, 15)))
    experiment = experiment_on(source)
    steps = known_steps(experiment, "masker.plugins = trusted bragg\ngrid.hkl.d_min = 1.6")
    grid = steps.grid.build(experiment)
    maskers = tuple(masker.prepare(source, experiment, SerialEngine()) for masker in steps.maskers)
    work = ChunkWork(source, experiment, grid, maskers, steps.correctors, steps.accumulator)
    chunks = [range(start, min(start + CHUNK, n_images)) for start in range(0, n_images, CHUNK)]
    work(range(2))

    found = {}
    cores = sorted(os.sched_getaffinity(0))[:2]
    for engine in ("one core", "one process", "two processes", "two workers of dask"):
        writer = SumsWriter(folder / engine / "sums.h5", grid, source.names)
        os.sched_setaffinity(0, cores[:1] if engine == "one core" else cores)
        if "dask" in engine:
            with open_engine("dask", 2) as mapper:
                # Before, once: each worker loads numba and DIALS.
                SumsWriter(folder / "loading" / "sums.h5", grid, source.names).collect(work, chunks[:2], mapper)
                _, seconds = timed(lambda w=writer, m=mapper: w.collect(work, chunks, m))
        else:
            mapper = process_engine(2) if engine == "two processes" else SerialEngine()
            _, seconds = timed(lambda w=writer, m=mapper: w.collect(work, chunks, m))
        sums = writer.finish()
        found[engine] = seconds, digest(sums)
        ratio = found["one core"][0] / seconds
        same = "the same bits" if found[engine][1] == found["one core"][1] else "OTHER SUMS"
        each = 1e3 * seconds / n_images
        print(f"{engine:22s} {seconds:7.2f} s   {each:6.1f} ms an image   {ratio:5.2f} times   {same}", flush=True)

    _, resumed = timed(
        lambda: SumsWriter(folder / "one process" / "sums.h5", grid, source.names).collect(work, chunks, SerialEngine())
    )
    limit = found["one core"][0] / timed(lambda: _apart(work, chunks, folder, grid, source.names))[1]
    print(f"{'two programs apart':22s} {'':31s} {limit:5.2f} times   what the machine itself allows")
    _spin(10)
    one, two = (timed(lambda n=n: _at_once(lambda: _spin(200_000_000), n))[1] for n in (1, 2))
    print(f"{'a loop in registers':22s} {'':31s} {2 * one / two:5.2f} times   two at once")
    rows = sum(len(table) for table in sums.tables())
    _, reading = timed(lambda: [getattr(table, name) for table in sums.tables() for name in COLUMNS])
    small, large = (len(pickle.dumps(part)) for part in (_first(work, 2), work))
    folding = _folding(folder / "one process" / "sums.parts", len(chunks))
    per = 1 / n_images
    for what, value, unit in (
        ("rows of sums", rows * per / 1e3, "thousand an image"),
        ("sums on disk", sums.n_bytes * per / 2**20, "MiB an image"),
        ("reading sums back", 1e3 * reading * per, "ms an image"),
        ("folding parts into one file", 1e3 * folding * per, "ms an image"),
        ("finding that all is done", 1e3 * resumed * per, "ms an image"),
        ("the work on its way to a worker", small / 2**20, "MiB for 2 images"),
        ("", (large - small) / max(n_images - 2, 1) / 2**10, "KiB for each further image"),
        ("the work's answer through the scheduler", len(pickle.dumps(sums._parts[0])), "bytes a chunk"),
    ):
        print(f"{what:42s} {value:9.2f} {unit}")
    if len({bits for _, bits in found.values()}) != 1:
        sys.exit("the engines do not agree")


def _first(work: ChunkWork, n: int) -> ChunkWork:
    """Return the same work with the first images only."""
    source = open_source(work._source.experiments[:n])
    return ChunkWork(source, experiment_on(source), work._grid, work._maskers, work._correctors, work._accumulator)


def _apart(work: ChunkWork, chunks: list[range], folder: Path, grid: Any, names: tuple[str, ...]) -> None:
    """Accumulate each half of the chunks in a process that knows nothing of the other."""

    def half() -> None:
        number = int(multiprocessing.current_process().name)
        writer = SumsWriter(folder / f"half {number}" / "sums.h5", grid, names)
        writer.collect(work, chunks[number::2], SerialEngine())

    _at_once(half, 2)


def _at_once(work: Callable[[], Any], n: int) -> None:
    """Do the same in `n` processes, named by their number."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, name=str(number)) for number in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


@njit
def _spin(n):
    total = 1.0
    for k in range(n):
        total = total * 1.0000001 + np.sqrt(total + k) * 1e-9
    return total


def _folding(folder: Path, n_files: int) -> float:
    """Return the seconds it takes to fold the parts of a run into one file."""
    names = tuple(sorted(path.name for path in folder.glob("*.h5")))
    assert len(names) == n_files
    return timed(lambda: _Fold(folder)(names))[1]


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
