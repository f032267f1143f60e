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
from diffuse_framework.errors import DataError
from diffuse_framework.model.voxels import SumsTable, VoxelSums

# The `operator` of a Bragg reflection.
REFLECTION = 255

# Rows handed out at a time: what is worked out for each of them needs memory only for so many.
_BLOCK_ROWS = 1 << 19

# Least memory in which rows that don't fit are sorted, bytes: with less they would be read too often.
_LEAST_MEMORY = 1 << 26


ROW = np.dtype(
    [
        ("image", "i4"), ("operator", "u1"), ("panel", "u2"), ("counts", "f4"), ("background", "f4"),
        ("background_variance", "f4"), ("exposure", "f4"), ("fast", "f4"), ("slow", "f4"),
    ],
    align=True,
)  # fmt: skip
"""One observation, 32 bytes; fields are those of `SumsTable`, but for a Bragg reflection: its operator is
`REFLECTION`, its counts are its intensity, its background variance is the variance of that, and its exposure what
its intensity is proportional to."""


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
        q: lowest and highest |q| that is seen, 1/angstrom.
        panels: (n_panels, 4) lowest and highest fast and slow, pixels; zeros where places were not asked for.
        net_counts: (n_images,) photons above background.
    """

    n_rows: int
    q: tuple[float, float]
    panels: np.ndarray
    net_counts: np.ndarray


def gather(sums: VoxelSums, memory_mib: float = 1024.0, places: bool = True) -> tuple[Observations, Survey]:
    """Sort the rows of all sums by voxel.

    Args:
        sums: read once where they fit into memory; else twice, and once more for each further `memory_mib`.
        memory_mib: most that sorted rows may take, and as much again while they are sorted; what is more lies
            in a temporary file.
        places: whether positions on the detector are needed.

    Raises:
        DataError: there is no observation, or no room for the temporary file.
    """
    kept = _Kept(sums, memory_mib, tuple(name for name in ROW.names or () if places or name not in ("fast", "slow")))
    n_rows = np.zeros(sums.grid.size, np.int32)
    net = np.zeros(len(sums.image_names))
    bounds: dict[int, np.ndarray] = {}
    for table in kept.tables():
        _count(table.voxel, table.image, table.counts, table.background, table.exposure, n_rows, net)
        if places:
            _widen(bounds, table)
    voxel = np.flatnonzero(n_rows)
    if not len(voxel):
        raise DataError("the sums hold no observation; nothing can be scaled")
    q = voxel_q(sums.grid, voxel)
    panels = np.array([bounds.get(panel, np.zeros(4)) for panel in range(max(bounds, default=0) + 1)])
    surveyed = Survey(int(n_rows.sum(dtype=np.int64)), (float(q.min()), float(q.max())), panels, net)
    several = n_rows[voxel] > 1
    voxel, q = voxel[several], q[several]
    first = np.concatenate([[0], np.cumsum(n_rows[voxel], dtype=np.int64)])
    pieces = _sorted(kept, voxel, first, memory_mib, places, n_rows)
    return Observations(voxel, q, first, np.ones(first[-1], bool), pieces), surveyed


class _Kept:
    """Sums that stay in memory once read, where they fit."""

    def __init__(self, sums: VoxelSums, memory_mib: float, columns: tuple[str, ...]) -> None:
        self._sums, self._limit, self._columns = sums, memory_mib * 2**20, columns
        self._tables: list[SumsTable] | None = None

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
                for name in self._columns:
                    getattr(table, name)
            yield table
        self._tables = kept


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
    kept: _Kept, voxel: np.ndarray, first: np.ndarray, memory_mib: float, places: bool, number: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return the rows of the given voxels in order; `number`, of the grid's size, is used up."""
    number.fill(-1)
    number[voxel] = np.arange(len(voxel))
    limit = memory_mib * 2**20
    in_memory = first[-1] * ROW.itemsize <= limit
    most = first[-1] if in_memory else int(max(limit, _LEAST_MEMORY)) // ROW.itemsize
    file = None if in_memory else tempfile.TemporaryFile(prefix="diffuse-")
    pieces, lowest = [], 0
    while lowest < len(voxel):
        highest = int(np.searchsorted(first, first[lowest] + most, side="right")) - 1
        highest = max(highest, lowest + 1)
        rows = np.empty(int(first[highest] - first[lowest]), ROW)
        following = first[lowest:highest] - first[lowest]
        for table in kept.tables():
            fast, slow = (table.fast, table.slow) if places else (_NOWHERE, _NOWHERE)
            _place(
                table.voxel, table.image, table.operator, table.panel, table.counts, table.background,
                table.background_variance, table.exposure, fast, slow, number, lowest, highest, following, rows,
            )  # fmt: skip
        pieces.append(rows if file is None else _moved(rows, file))
        lowest = highest
    return tuple(pieces)


_NOWHERE = np.zeros(0, np.float32)


def _moved(rows: np.ndarray, file: IO[bytes]) -> np.ndarray:
    """Write rows to the end of a file and return them as they lie there."""
    try:
        start = file.seek(0, 2)
        rows.tofile(file)
        file.flush()
        # "c": writable, as arrays in memory are; nobody writes to them.
        return np.memmap(file, ROW, "c", start, rows.shape).view(np.ndarray)
    except OSError as error:
        raise DataError(
            f"observations don't fit into scaler.smooth.memory_mib, and can't be written to {tempfile.gettempdir()} "
            f"({error.strerror}); set TMPDIR to a folder with room, or raise memory_mib"
        ) from error


@njit(cache=True)
def _count(voxel, image, counts, background, exposure, n_rows, net):
    """Count the rows of each voxel that have exposure, and add up their photons above background by image."""
    for row in range(len(voxel)):
        if exposure[row] > 0:
            n_rows[voxel[row]] += 1
            net[image[row]] += counts[row] - background[row]


@njit(cache=True)
def _place(
    voxel, image, operator, panel, counts, background, background_variance, exposure, fast, slow,
    number, lowest, highest, following, rows,
):  # fmt: skip
    """Copy the rows of voxels number `lowest` to `highest` to where the next row of their voxel belongs."""
    for row in range(len(voxel)):
        place = number[voxel[row]]
        if place < lowest or place >= highest or not exposure[row] > 0:
            continue
        at = following[place - lowest]
        following[place - lowest] += 1
        rows[at].image = image[row]
        rows[at].operator = operator[row]
        rows[at].panel = panel[row]
        rows[at].counts = counts[row]
        rows[at].background = background[row]
        rows[at].background_variance = background_variance[row]
        rows[at].exposure = exposure[row]
        rows[at].fast = fast[row] if len(fast) else 0.0
        rows[at].slow = slow[row] if len(slow) else 0.0
