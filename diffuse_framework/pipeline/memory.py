"""Whether a run fits into memory: said before it starts, and again when the grid is known."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from diffuse_framework.engine.memory import Room, rooms
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.grid import VoxelGrid

logger = logging.getLogger(__name__)

# Measured with tests/benchmarks/memory_flat.py and large_map.py (docs/performance.md): a worker's images, masks and
# tables; of a grid its box, and in merging a row for each voxel that was observed.
_WORKER_BYTES_A_PIXEL = 60
_BOX_BYTES_A_VOXEL = 10
_ROW_BYTES = 130
# What BLAS and threads reserve of the address space as work begins. OpenBLAS that finds less tries again for ever, in
# silence. It has it when the grid is known.
_RESERVED_BYTES = 512 << 20
_GIB = 1 << 30


@dataclass(frozen=True)
class Needed:
    """What a run takes at its largest, in bytes.

    Attributes:
        worker: of each process that reads images.
        n_workers: processes of this machine that do.
        grid: for certain, for the box of the grid.
        rows: at most, for voxels that are observed.
        n_pixels, n_voxels: of the detector, and of the box; 0 while it isn't known.
    """

    worker: int
    n_workers: int
    n_pixels: int
    grid: int = 0
    rows: int = 0
    n_voxels: int = 0

    @property
    def certain(self) -> int:
        """What all processes together take in any case: workers first, the grid after them."""
        return max(self.worker * self.n_workers, self.grid)

    @property
    def most(self) -> int:
        """What they take if every voxel is observed."""
        return max(self.worker * self.n_workers, self.grid + self.rows)


def needed(n_pixels: int, n_workers: int, grid: VoxelGrid | None = None, n_images: int = 0) -> Needed:
    """Return what a run takes.

    Args:
        n_pixels: of the detector.
        n_workers: processes of this machine that read images.
        grid: where it is known.
        n_images: that are used.
    """
    worker = _WORKER_BYTES_A_PIXEL * n_pixels
    if grid is None:
        return Needed(worker, n_workers, n_pixels)
    observed = min(grid.n_voxels, n_pixels * n_images)
    return Needed(worker, n_workers, n_pixels, _BOX_BYTES_A_VOXEL * grid.size, _ROW_BYTES * observed, grid.size)


def require_memory(need: Needed, there: Iterable[Room] | None = None) -> None:
    """Say what a run needs where that is not there; stop where it can't end well.

    Args:
        need: see `needed`.
        there: the limits; those of this machine where not given.

    Raises:
        ConfigError: more is needed than a hard limit leaves.
    """
    there = tuple(rooms() if there is None else there)
    reserved = 0 if need.n_voxels else _RESERVED_BYTES
    for room in there:
        certain = max(need.worker, need.grid) + reserved if room.each else need.certain
        if room.hard and certain > room.n_bytes:
            raise ConfigError(f"{_sentence(need, certain, room)}: {_advice(need, room)}")
    for room in there:
        most = max(need.worker, need.grid + need.rows) + reserved if room.each else need.most
        if most > room.n_bytes:
            logger.warning("%s. If it runs out: %s", _sentence(need, most, room), _advice(need, room))
            return
    logger.debug("Memory: %.2f GiB are needed at most, %s", need.most / _GIB, there)


def _sentence(need: Needed, n_bytes: int, room: Room) -> str:
    processes = "a process" if room.each or need.n_workers == 1 else f"{need.n_workers} processes"
    grid = f" and a grid of {need.n_voxels / 1e6:.3g} million voxels" if need.n_voxels else ""
    return (
        f"about {n_bytes / _GIB:.2f} GiB of memory are needed for {processes}, a detector of {need.n_pixels / 1e6:.3g} "
        f"million pixels{grid}, and {room.n_bytes / _GIB:.2f} GiB are there ({room.what})"
    )


def _advice(need: Needed, room: Room) -> str:
    advice = []
    fitting = room.n_bytes // max(need.worker, 1)
    if not room.each and need.worker * need.n_workers > room.n_bytes and 1 <= fitting < need.n_workers:
        advice.append(f"take fewer processes, mp.nproc={fitting}")
    if need.grid + need.rows > need.worker * (1 if room.each else need.n_workers):
        advice.append("take a coarser grid, grid.hkl.divisions= or grid.hkl.d_min=")
    advice.append("raise the limit" if room.hard else "end other programs, or take a machine with more")
    return "; or ".join(advice)
