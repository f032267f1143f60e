"""Adding pixels to voxels, and values to bins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numba import njit

from diffuse_framework.algorithms.accumulation import (
    BACKGROUND,
    BACKGROUND_VARIANCE,
    BRAGG_BACKGROUND,
    BRAGG_BACKGROUND_VARIANCE,
    CLASS_BITS,
    N_BACKGROUND_SUMS,
    N_SUMS,
    REMEMBERED,
    SKIPPED,
    Box,
    Line,
    Pixels,
    Rows,
    Turn,
    add_lines,
    ascending,
    fill_columns,
    forget,
)
from diffuse_framework.algorithms.symmetry import q2_limits, voxel_operators
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.voxels import COLUMN_TYPES, SumsTable

__all__ = ["VoxelAdder", "add_by", "shell_numbers", "sum_by"]

_BACKGROUNDS = {
    "background": BACKGROUND,
    "background_variance": BACKGROUND_VARIANCE,
    "bragg_background": BRAGG_BACKGROUND,
    "bragg_background_variance": BRAGG_BACKGROUND_VARIANCE,
}

_NO_BACKGROUND = np.zeros((1, 1), np.float32)

_LARGEST_SHORT_KEY = np.iinfo(np.int32).max
# A power of two, well above the number of voxels that an image reaches.
_MOST_SLOTS = 1 << 24


def _empty_rows(n_rows: int, n_columns: int) -> np.ndarray:
    """Return an array (n_rows, n_columns) of doubles that starts where a cache line does."""
    spare = np.empty(n_rows * n_columns + 8)
    start = -(spare.ctypes.data // 8) % 8
    return spare[start : start + n_rows * n_columns].reshape(n_rows, n_columns)


def _longer(rows: np.ndarray, n_rows: int) -> np.ndarray:
    """Return `rows` with space after them."""
    longer = _empty_rows(n_rows, rows.shape[1])
    longer[: len(rows)] = rows
    return longer


class VoxelAdder:
    """Adds the pixels of one panel after another to the voxels of one grid.

    Its scratch memory (4 bytes per voxel of the box, 64 MiB at most, and the rows of one panel) is kept
    from image to image.
    """

    def __init__(self, grid: VoxelGrid) -> None:
        """Prepare for `grid`.

        Raises:
            GeometryError: the grid's divisions are not invariant under its symmetry.
        """
        self._grid = grid
        basis = grid.reciprocal_basis / np.array(grid.divisions, float)
        # Along each axis the first index at which every voxel is beyond the resolution limit.
        longest = np.linalg.norm(np.linalg.inv(basis), axis=1) / grid.d_min
        reach = np.floor(longest + 1e-6).astype(np.int64) + 1
        self._box = Box(
            reach,
            *voxel_operators(grid.symmetry, grid.divisions),
            basis.T @ basis,
            *q2_limits(grid.d_min, grid.d_max),
            np.array(grid.index_min, np.int64),
            np.array(grid.dimensions, np.int64),
        )
        self._slot = np.zeros(min(1 << (grid.size - 1).bit_length(), _MOST_SLOTS), np.int32)
        self._keys = np.empty((1 << 16, 3), np.int64)
        self._sums = _empty_rows(1 << 16, N_SUMS)
        self._background_sums = np.empty((0, N_BACKGROUND_SUMS))
        self._share_squares = np.empty(0)
        largest_key = int(np.prod(2 * reach + 1)) << CLASS_BITS
        self._integer = np.int32 if largest_key <= _LARGEST_SHORT_KEY else np.int64
        self._remembered = np.empty((REMEMBERED, 2), self._integer)

    def add(
        self,
        image: int,
        panel: int,
        values: np.ndarray,
        mask: np.ndarray,
        q: np.ndarray,
        response: np.ndarray,
        setting_matrix: np.ndarray,
        seconds: float,
        gain: float = 1.0,
        pedestal: float = 0.0,
        background: np.ndarray | None = None,
        background_variance: np.ndarray | None = None,
        read_noise: float = 0.0,
    ) -> SumsTable:
        """Return the sums of one panel of one image, rows ascending in voxel and operator.

        Args:
            image, panel: numbers for the columns of the same name.
            values: (slow, fast) raw values, integer or floating; finite where they are not masked, for a line is
                accumulated as one.
            mask: (slow, fast) uint8 classes of `model.conventions`.
            q: (slow, fast, 3) float32 scattering vectors, 1/angstrom; fastest where the three components
                lie apart in memory, as `pipeline.chunk.pixel_table` makes them.
            response: (slow, fast) float32.
            setting_matrix: (3, 3) A of the image, or (m, 3, 3) at the middles of m equal parts of
                its rotation. Every sum of a pixel is then shared equally between the m voxels it
                goes through: photons are conserved, n/m of them with an exposure e/m leave n/e as it
                is, and the variance of counts goes by the squares of the shares. Voxels that share photons have
                errors in common.
            seconds: exposure time.
            gain, pedestal: photons = (value - pedestal) / gain.
            background, background_variance: (slow, fast) float32 photons, both or neither.
            read_noise: of a pixel, photons; its square counts for each pixel as variance that is not of counting.
        """
        grid = self._grid
        settings = np.asarray(setting_matrix, float).reshape(-1, 3, 3)
        share = 1.0 / len(settings)
        has_background = background is not None
        planes = np.ascontiguousarray(np.moveaxis(q, -1, 0))
        to_index = (np.array(grid.divisions, float)[:, None] * np.linalg.inv(settings)).astype(np.float32)
        n_fast = values.shape[1]
        pixels = Pixels(
            values,
            mask,
            planes,
            response,
            has_background,
            _NO_BACKGROUND if background is None else background,
            _NO_BACKGROUND if background_variance is None else background_variance,
        )
        turn = Turn(share, float(seconds) * share, float(gain) / share, float(pedestal), to_index)
        line = Line(
            self._remembered,
            np.empty(n_fast, self._integer),
            np.empty(n_fast + 1, np.int32),
            # A sum of integers is exact.
            np.zeros(n_fast + 1, np.int64 if values.dtype.kind in "iu" else float),
            np.empty(n_fast + 1),
            np.empty(n_fast + 1),
            np.empty(n_fast + 1),
            np.empty(n_fast, self._integer),
            np.empty(n_fast, np.int32),
            np.zeros(n_fast + 1, np.int64),
        )
        self._remembered.fill(SKIPPED)
        done = n_rows = 0
        while True:
            if has_background and len(self._background_sums) < len(self._sums):
                self._background_sums = _longer(self._background_sums, len(self._sums))
            if len(settings) > 1 and len(self._share_squares) < len(self._sums):
                more = np.empty(len(self._sums) - len(self._share_squares))
                self._share_squares = np.concatenate([self._share_squares, more])
            rows = Rows(self._slot, self._keys, self._sums, self._background_sums, self._share_squares)
            done, n_rows = add_lines(done, pixels, turn, self._box, line, rows, n_rows)
            if done == len(values):
                break
            n_more = max(2 * len(self._keys), len(self._keys) + n_fast * len(to_index))
            self._keys = np.concatenate([self._keys, np.empty((n_more - len(self._keys), 3), np.int64)])
            self._sums = _longer(self._sums, n_more)
        forget(self._slot, self._keys, n_rows)
        return _with_read_noise(self._table(image, panel, n_rows, has_background, len(settings) > 1), read_noise)

    def _table(self, image: int, panel: int, n_rows: int, has_background: bool, turns: bool) -> SumsTable:
        order = ascending(self._keys, n_rows, self._grid.size, len(self._box.operators))
        others = (*_BACKGROUNDS, "share_squares")
        columns = {name: np.empty(n_rows, kind) for name, kind in COLUMN_TYPES.items() if name not in others}
        columns["image"].fill(image)
        columns["panel"].fill(panel)
        filled = [values for name, values in columns.items() if name not in ("image", "panel")]
        fill_columns(order, self._keys, self._sums, *filled)
        for name, number in _BACKGROUNDS.items():
            kind = COLUMN_TYPES[name]
            columns[name] = (
                self._background_sums[order, number].astype(kind) if has_background else np.zeros(n_rows, kind)
            )
        if turns:
            columns["share_squares"] = self._share_squares[order].astype(COLUMN_TYPES["share_squares"])
        return SumsTable(**columns)


def _with_read_noise(table: SumsTable, read_noise: float) -> SumsTable:
    if not read_noise:
        return table
    variance = np.float32(read_noise**2)
    return replace(
        table,
        background_variance=table.background_variance + variance * table.pixels,
        bragg_background_variance=table.bragg_background_variance + variance * table.bragg_pixels,
    )


def sum_by(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Return sums (size,) of `values` (n,) over equal `index` (n,)."""
    return np.bincount(index, weights=values, minlength=size)


@njit(cache=True, nogil=True)
def _add_by(index, values, totals):
    for n in range(len(index)):
        if not 0 <= index[n] < len(totals):
            return n
        totals[index[n]] += values[n]
    return -1


def add_by(index: np.ndarray, values: np.ndarray, totals: np.ndarray) -> None:
    """Add `values` (n,) to ``totals[index]``, in place; costs nothing for what no index names.

    Raises:
        IndexError: an index is not one of `totals`.
    """
    wrong = _add_by(index, values, totals)
    if wrong >= 0:
        raise IndexError(f"index {index[wrong]} into {len(totals)} totals")


def shell_numbers(q: np.ndarray, n_shells: int) -> tuple[np.ndarray, np.ndarray]:
    """Assign |q| (n,) to shells of equal volume in reciprocal space.

    Returns:
        Shell number (n,) and shell edges (n_shells + 1,) in 1/angstrom.
    """
    largest = float(q.max()) if len(q) else 1.0
    edges = np.cbrt(np.linspace(0, largest**3, n_shells + 1))
    return np.clip(np.searchsorted(edges, q, side="right") - 1, 0, n_shells - 1), edges
