"""Observations as scaling reads them: all rows of a voxel together, whatever image they come from.

Sums come image by image, but all that scaling asks is asked of a voxel: what is its intensity, which row
disagrees with the rest. Sorted once, the rows answer in one pass, with nothing to look up. Where they don't fit
into memory they lie in a file without a name, which the system removes however the program ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, NamedTuple

import numpy as np
from numba import njit

from diffuse_framework.algorithms.geometry import voxel_q
from diffuse_framework.algorithms.merging import mean_share
from diffuse_framework.algorithms.scaling.failures import NoSpaceError
from diffuse_framework.errors import DataError
from diffuse_framework.model.voxels import SumsTable, VoxelSums

# The `operator` of a Bragg reflection.
REFLECTION = 255

# Rows handed out at a time: what is worked out for each of them needs memory only for so many.
_BLOCK_ROWS = 1 << 19

# Rows that are sorted at a time, at least, where not all fit into memory.
_LEAST_ROWS = 1 << 21


ROW = np.dtype(
    [
        ("image", "i4"),
        ("operator", "u1"),
        ("shared", "u1"),
        ("panel", "u2"),
        ("counts", "f4"),
        ("background", "f4"),
        ("background_variance", "f4"),
        ("exposure", "f4"),
        ("fast", "f4"),
        ("slow", "f4"),
    ],
    align=True,
)
"""One observation, 32 bytes; fields are those of `SumsTable`, but for a Bragg reflection: its operator is
`REFLECTION`, its counts are its intensity, its background variance is the variance of that, and its exposure what
its intensity is proportional to. By how much less than its counts an observation's variance is, because pixels are
shared, is `shared`, in 255ths."""


class Block(NamedTuple):
    """Some whole voxels of `Observations`, and their rows.

    Attributes:
        voxels: which of `Observations.voxel`.
        first: (n_voxels + 1,) where in `rows` the rows of each begin, and their end.
        q: (n_voxels,) |q|, 1/angstrom.
        rows: of these voxels, (n_rows,) of `ROW`.
        accepted: (n_rows,) False for rows that are left out.
        place: which of `Observations.accepted` these rows are.
    """

    voxels: slice
    first: np.ndarray
    q: np.ndarray
    rows: np.ndarray
    accepted: np.ndarray
    place: slice

    def by_row(self, values: np.ndarray) -> np.ndarray:
        """Return values of voxels (n_voxels,) for each of their rows, (n_rows,)."""
        return np.repeat(values, np.diff(self.first))


@dataclass(frozen=True, eq=False)
class Observations:
    """Rows of voxels that have two or more.

    Attributes:
        voxel: (n_voxels,) voxel numbers, ascending; numbers beyond the grid are Bragg reflections.
        q: (n_voxels,) |q|, 1/angstrom.
        first: (n_voxels + 1,) number of each voxel's first row, and the number of all.
        accepted: (n_rows,) False for rows that are left out.
        pieces: the rows, in order, in arrays of whole voxels, (n,) of `ROW`.
        n_reflections: how many of the voxels are Bragg reflections; they come last.
    """

    voxel: np.ndarray
    q: np.ndarray
    first: np.ndarray
    accepted: np.ndarray
    pieces: tuple[np.ndarray, ...]
    n_reflections: int = 0

    def __len__(self) -> int:
        return int(self.first[-1])

    def blocks(self) -> Iterator[Block]:
        """Yield all rows, the same blocks every time."""
        start = 0
        for piece in self.pieces:
            end = start + len(piece)
            lowest, highest = np.searchsorted(self.first, (start, end))
            while lowest < highest:
                most = np.searchsorted(self.first, self.first[lowest] + _BLOCK_ROWS, side="right") - 1
                last = min(max(most, lowest + 1), highest)
                first = self.first[lowest : last + 1]
                place, voxels = slice(first[0], first[-1]), slice(lowest, last)
                rows = piece[first[0] - start : first[-1] - start]
                yield Block(voxels, first - first[0], self.q[voxels], rows, self.accepted[place], place)
                lowest = last
            start = end

    def accepting(self, accepted: np.ndarray) -> Observations:
        """Return the same with other rows left out, (n_rows,)."""
        return replace(self, accepted=accepted)

    def sample(self, n_rows: int) -> tuple[Observations, np.ndarray]:
        """Return about so many rows, of whole voxels, and which voxels they are (n,); only accepted rows."""
        one_in = max(1, len(self) // n_rows)
        # A multiplicative hash: neighbouring voxels must not be drawn together.
        drawn = (self.voxel.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(33)) % np.uint64(one_in) == 0
        parts, numbers = [np.zeros(0, ROW)], [np.zeros(0, np.int64)]
        for block in self.blocks():
            use = block.by_row(drawn[block.voxels]) & block.accepted
            parts.append(block.rows[use])
            numbers.append(block.by_row(np.arange(block.voxels.start, block.voxels.stop))[use])
        rows = np.concatenate(parts)
        chosen, n_of_voxel = np.unique(np.concatenate(numbers), return_counts=True)
        return Observations(
            self.voxel[chosen],
            self.q[chosen],
            np.concatenate([[0], np.cumsum(n_of_voxel)]),
            np.ones(len(rows), bool),
            (rows,),
            int(np.count_nonzero(chosen >= len(self.voxel) - self.n_reflections)),
        ), chosen

    def with_reflections(self, rows: np.ndarray, first: np.ndarray, q: np.ndarray, voxel: np.ndarray) -> Observations:
        """Return the same with Bragg reflections after them.

        Args:
            rows: of all reflections, those of one together, (n,) of `ROW`.
            first: (n + 1,) where the rows of each begin, and their end.
            q, voxel: (n,) |q| and number of each reflection.
        """
        return Observations(
            np.concatenate([self.voxel, voxel]),
            np.concatenate([self.q, q]),
            np.concatenate([self.first, len(self) + first[1:]]),
            np.concatenate([self.accepted, np.ones(len(rows), bool)]),
            (*self.pieces, rows),
            len(voxel),
        )


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of all rows, also of those of voxels that have only one.

    Attributes:
        n_rows: rows with exposure.
        q: lowest and highest |q| that was observed, 1/angstrom.
        panels: (n_panels, 4) lowest and highest fast and slow, pixels; zeros where places were not asked for.
        net_counts: (n_images,) photons above background.
    """

    n_rows: int
    q: tuple[float, float]
    panels: np.ndarray
    net_counts: np.ndarray


def gather(
    sums: VoxelSums, memory_mib: float = 1024.0, places: bool = True, folder: str | None = None
) -> tuple[Observations, Survey]:
    """Sort the rows of all sums by voxel.

    Args:
        sums: read once where they fit into memory, else twice.
        memory_mib: most that rows may take, and as much again while they are sorted; more of them lie in a
            temporary file.
        places: whether positions on the detector are needed.
        folder: for that file; None for the system's folder of temporary files.

    Raises:
        DataError: there is no observation.
        NoSpaceError: no room for the temporary file.
    """
    kept = _Kept(sums, memory_mib, places)
    n_rows = np.zeros(sums.grid.size, np.int32)
    net = np.zeros(len(sums.image_names))
    bounds: dict[int, np.ndarray] = {}
    for table in kept.tables():
        _count(table.voxel, table.image, table.counts, table.background, table.exposure, n_rows, net)
        if places:
            _widen(bounds, table)
    voxel = np.flatnonzero(n_rows)
    if not len(voxel):
        raise DataError("no pixel is left: masks, or resolution limits of masks and grid, exclude all of every image")
    q = voxel_q(sums.grid, voxel)
    panels = np.array([bounds.get(panel, np.zeros(4)) for panel in range(max(bounds, default=0) + 1)])
    surveyed = Survey(int(n_rows.sum(dtype=np.int64)), (float(q.min()), float(q.max())), panels, net)
    several = n_rows[voxel] > 1
    n_rows[voxel[~several]] = 0
    voxel, q = voxel[several], q[several]
    first = np.concatenate([[0], np.cumsum(n_rows[voxel], dtype=np.int64)])
    pieces = _sorted(kept, voxel, first, memory_mib, n_rows, folder)
    return Observations(voxel, q, first, np.ones(first[-1], bool), pieces), surveyed


class _Kept:
    """Sums that stay in memory once read, where they fit."""

    def __init__(self, sums: VoxelSums, memory_mib: float, places: bool) -> None:
        self._sums, self._limit, self._places = sums, memory_mib * 2**20, places
        self._tables: list[SumsTable] | None = None

    def columns(self, table: SumsTable) -> tuple[np.ndarray, ...]:
        """Return the columns that rows are made of, those of places empty where they are not wanted."""
        nowhere = np.zeros(0, np.float32)
        return (
            table.voxel,
            table.image,
            table.operator,
            table.panel,
            table.counts,
            table.background,
            table.background_variance,
            table.exposure,
            shared_255ths(table),
            table.fast if self._places else nowhere,
            table.slow if self._places else nowhere,
        )

    def tables(self) -> Iterator[SumsTable]:
        """Yield all tables, from memory or as the sums do."""
        if self._tables is not None:
            yield from self._tables
            return
        kept: list[SumsTable] | None = []
        size = 0
        for table in self._sums.tables():
            size += len(table) * ROW.itemsize
            kept = None if kept is None or size > self._limit else [*kept, table]
            if kept is not None:
                # While its file is open: stored tables read a column when it is first asked for.
                self.columns(table)
            yield table
        self._tables = kept


def shared_255ths(table: SumsTable) -> np.ndarray:
    """Return the field `shared` of the rows of a table (n,) uint8: 0 where pixels are whole."""
    return np.rint(255 * (1 - mean_share(table.share_squares, table.pixels))).astype(np.uint8)


def _widen(bounds: dict[int, np.ndarray], table: SumsTable) -> None:
    """Let the boxes of panels (lowest and highest fast and slow) hold the rows that have exposure."""
    seen = table.exposure > 0
    for panel in np.unique(table.panel[seen]):
        on = seen & (table.panel == panel)
        fast, slow = table.fast[on], table.slow[on]
        box = np.array([fast.min(), fast.max(), slow.min(), slow.max()], float)
        old = bounds.get(int(panel), box)
        bounds[int(panel)] = np.where([True, False] * 2, np.minimum(old, box), np.maximum(old, box))


def _sorted(
    kept: _Kept, voxel: np.ndarray, first: np.ndarray, memory_mib: float, number: np.ndarray, folder: str | None
) -> tuple[np.ndarray, ...]:
    """Return the rows of the given voxels in order; `number`, of the grid's size and 0 elsewhere, is used up."""
    # From 1 on: memory of voxels that were not observed stays untouched.
    number[voxel] = np.arange(1, len(voxel) + 1)
    most_rows = int(memory_mib * 2**20) // ROW.itemsize
    if first[-1] > most_rows:
        # Half of what may be used is for rows before they are sorted, half for them after.
        return _sorted_in_file(kept, first, max(most_rows // 2, _LEAST_ROWS), number, folder)
    rows = np.empty(int(first[-1]), ROW)
    following = first[:-1].copy()
    for table in kept.tables():
        places, unsorted = _rows_of(kept.columns(table), number)
        _put(places, unsorted, 0, following, rows)
    return (rows,)


def _sorted_in_file(
    kept: _Kept, first: np.ndarray, most_rows: int, number: np.ndarray, folder: str | None
) -> tuple[np.ndarray, ...]:
    """Return the rows in pieces that lie in a file.

    They are first dealt out to pieces that fit into memory, then each piece is sorted: whatever the number of rows,
    the sums are read once here, and every row is written twice.
    """
    ends = [0]
    while ends[-1] < len(first) - 1:
        ends.append(max(int(np.searchsorted(first, first[ends[-1]] + most_rows, side="right")) - 1, ends[-1] + 1))
    borders = np.array(ends)
    filled = first[borders[:-1]].copy()

    def unnamed_file() -> IO[bytes]:
        return tempfile.TemporaryFile(prefix="diffuse-", dir=folder)

    try:
        with unnamed_file() as file_of_places, unnamed_file() as dealt:
            for places, rows in _batches(kept, most_rows // 2, number):
                piece = np.searchsorted(borders, places, side="right") - 1
                order = np.argsort(piece, kind="stable")
                places, rows = places[order], rows[order]
                starts = np.searchsorted(piece[order], np.arange(len(borders)))
                for which, (start, end) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
                    _write(file_of_places, places[start:end], filled[which])
                    _write(dealt, rows[start:end], filled[which])
                filled += np.diff(starts)
            result = unnamed_file()
            for low, high in zip(borders[:-1], borders[1:], strict=True):
                n_rows = int(first[high] - first[low])
                places = _read(file_of_places, np.dtype(np.int32), first[low], n_rows)
                rows = np.empty(n_rows, ROW)
                _put(places, _read(dealt, ROW, first[low], n_rows), low, first[low:high] - first[low], rows)
                _write(result, rows, first[low])
            result.flush()
            # "c": writable, as arrays in memory are; they are never written to.
            return tuple(
                np.memmap(result, ROW, "c", int(first[low]) * ROW.itemsize, int(first[high] - first[low])).view(
                    np.ndarray
                )
                for low, high in zip(borders[:-1], borders[1:], strict=True)
            )
    except OSError as error:
        where = folder or "the folder of temporary files"
        raise NoSpaceError(
            f"the observations are too many to be scaled in memory, and can't be written to {where} ({error.strerror})"
        ) from error


def _batches(kept: _Kept, most_rows: int, number: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places and rows of several tables at a time: few large pieces are written faster than many small ones."""
    batch: list[tuple[np.ndarray, np.ndarray]] = []
    n_rows = 0
    for table in kept.tables():
        batch.append(_rows_of(kept.columns(table), number))
        n_rows += len(batch[-1][0])
        if n_rows >= most_rows:
            yield tuple(np.concatenate(parts) for parts in zip(*batch, strict=True))  # type: ignore[misc]
            batch, n_rows = [], 0
    if batch:
        yield tuple(np.concatenate(parts) for parts in zip(*batch, strict=True))  # type: ignore[misc]


def _write(file: IO[bytes], values: np.ndarray, start: int) -> None:
    """Write `values` as numbers `start` and following of their kind."""
    file.seek(int(start) * values.itemsize)
    values.tofile(file)


def _read(file: IO[bytes], kind: np.dtype, start: int, length: int) -> np.ndarray:
    file.seek(int(start) * kind.itemsize)
    return np.fromfile(file, kind, length)


def _rows_of(columns: tuple[np.ndarray, ...], number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a table that belong to numbered voxels, (n,) of `ROW`, and the voxels' numbers, (n,) int32."""
    places, rows = np.empty(len(columns[0]), np.int32), np.empty(len(columns[0]), ROW)
    n_rows = _take(columns, number, places, rows)
    return places[:n_rows], rows[:n_rows]


@njit(cache=True)
def _count(voxel, image, counts, background, exposure, n_rows, net):
    """Count the rows of each voxel that have exposure, and sum their photons above background by image."""
    for row in range(len(voxel)):
        if exposure[row] > 0:
            n_rows[voxel[row]] += 1
            net[image[row]] += counts[row] - background[row]


@njit(cache=True)
def _take(columns, number, places, rows):
    """Copy the rows that have exposure and whose voxel has a number; return how many there are."""
    voxel, image, operator, panel, counts, background, background_variance, exposure, shared, fast, slow = columns
    n = 0
    for row in range(len(voxel)):
        place = number[voxel[row]] - 1
        if place < 0 or not exposure[row] > 0:
            continue
        places[n] = place
        rows[n].image = image[row]
        rows[n].operator = operator[row]
        rows[n].shared = shared[row]
        rows[n].panel = panel[row]
        rows[n].counts = counts[row]
        rows[n].background = background[row]
        rows[n].background_variance = background_variance[row]
        rows[n].exposure = exposure[row]
        rows[n].fast = fast[row] if len(fast) else 0.0
        rows[n].slow = slow[row] if len(slow) else 0.0
        n += 1
    return n


@njit(cache=True)
def _put(places, unsorted, lowest, following, rows):
    """Copy each row to where the next one of its voxel belongs; voxels are numbered from `lowest` on."""
    for row in range(len(places)):
        at = following[places[row] - lowest]
        following[places[row] - lowest] += 1
        rows[at] = unsorted[row]
