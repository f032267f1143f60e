"""Accumulation: the loop that adds every pixel to its voxel."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_framework.algorithms.symmetry import fold_one, q2_limits, q_squared, voxel_operators
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.voxels import COLUMN_TYPES, SumsTable

__all__ = ["VoxelAdder", "add_by", "shell_numbers", "sum_by"]

# Columns of the array of sums in which the loop works: one cache line of 64 bytes a row.
(COUNTS, EXPOSURE, PIXELS, FAST, SLOW, BRAGG_COUNTS, BRAGG_EXPOSURE, BRAGG_PIXELS) = range(8)
N_SUMS = 8
# Columns of a second array, used where there is a background.
(BACKGROUND, BACKGROUND_VARIANCE, BRAGG_BACKGROUND, BRAGG_BACKGROUND_VARIANCE) = range(4)
N_BACKGROUND_SUMS = 4
_BACKGROUNDS = {
    "background": BACKGROUND,
    "background_variance": BACKGROUND_VARIANCE,
    "bragg_background": BRAGG_BACKGROUND,
    "bragg_background_variance": BRAGG_BACKGROUND_VARIANCE,
}

_NO_BACKGROUND = np.zeros((1, 1), np.float32)

# A key is the number of an unfolded voxel, in the box of all that may be met, and in two bits a class of pixels:
# in an integer of four bytes where it fits, which takes half the time.
_CLASS_BITS = 2
_LARGEST_SHORT_KEY = np.iinfo(np.int32).max
_SKIPPED = -1

# Voxels of the lines just read, and their rows: the next line mostly crosses the same ones. A power of two,
# well above the number of voxels on a line and small enough for a processor's second cache.
_REMEMBERED = 1 << 14
_GOLDEN = 0x9E3779B9
_SORT_BITS = 11
# A power of two, well above the number of voxels that an image reaches.
_MOST_SLOTS = 1 << 24


@njit(cache=True, nogil=True)
def _keys_of_line(mask, qx, qy, qz, to_index, reach, line):
    """Write the keys of the pixels of one line to `line`; so plain that a compiler does many at a time.

    In single precision, as q is: what it rounds is less than a thousandth of a voxel up to indices of 2000.
    """
    a, b, c = to_index[0, 0], to_index[0, 1], to_index[0, 2]
    d, e, f = to_index[1, 0], to_index[1, 1], to_index[1, 2]
    g, h, m = to_index[2, 0], to_index[2, 1], to_index[2, 2]
    # Indices from -reach to reach, counted from 0, and rounded to the nearest: what is cut off is positive.
    zero = np.float32(0)
    first_i, first_j, first_k = np.float32(reach[0] + 0.5), np.float32(reach[1] + 0.5), np.float32(reach[2] + 0.5)
    last_i, last_j, last_k = np.float32(2 * reach[0]), np.float32(2 * reach[1]), np.float32(2 * reach[2])
    integer = line.dtype.type
    n_j, n_k = integer(2 * reach[1] + 1), integer(2 * reach[2] + 1)
    for fast in range(mask.shape[0]):
        x, y, z = qx[fast], qy[fast], qz[fast]
        # There is no voxel at the reach, so what is beyond may go there.
        i = integer(min(max(a * x + b * y + c * z + first_i, zero), last_i))
        j = integer(min(max(d * x + e * y + f * z + first_j, zero), last_j))
        k = integer(min(max(g * x + h * y + m * z + first_k, zero), last_k))
        kind = integer(mask[fast])
        voxel = integer(integer(i * n_j + j) * n_k + k)
        line[fast] = integer((voxel << _CLASS_BITS) | kind) if kind != 0 else integer(_SKIPPED)


@njit(cache=True, nogil=True)
def _row_of(unfolded, reach, operators, cuts, laue, metric, q2_min, q2_max, index_min, dimensions, slot, keys, n_rows):
    """Return the row of a voxel, -1 where it is not on the grid, and the number of rows filled.

    A slot holds the newest row, plus one, of the voxels that share it: of one voxel, unless the grid has more
    voxels than there are slots. Rows of a slot are chained by ``keys[:, 2]``.
    """
    n_j, n_k = 2 * reach[1] + 1, 2 * reach[2] + 1
    line = unfolded // n_k
    i, j, k = line // n_j - reach[0], line % n_j - reach[1], unfolded % n_k - reach[2]
    q2 = q_squared(i, j, k, metric)
    if q2 < q2_min or q2 > q2_max:
        return -1, n_rows
    m, i, j, k = fold_one(i, j, k, operators, cuts, laue)
    i -= index_min[0]
    j -= index_min[1]
    k -= index_min[2]
    if not (0 <= i < dimensions[0] and 0 <= j < dimensions[1] and 0 <= k < dimensions[2]):
        return -1, n_rows
    voxel = (i * dimensions[1] + j) * dimensions[2] + k
    place = voxel & (len(slot) - 1)
    newest = int(slot[place]) - 1
    row = newest
    while row >= 0 and (keys[row, 1] != m or keys[row, 0] != voxel):
        row = keys[row, 2]
    if row < 0:
        row = n_rows
        n_rows += 1
        keys[row, 0] = voxel
        keys[row, 1] = m
        keys[row, 2] = newest
        slot[place] = row + 1
    return row, n_rows


@njit(cache=True, nogil=True)
def _sums_along(mask, values, others, sums, other_sums):
    """Write to `sums` (n + 1,) what the `values` before each pixel add up to, masked pixels left out; twice."""
    sums[0] = other_sums[0] = 0
    total, other_total = sums[0], other_sums[0]
    for fast in range(len(values)):
        if mask[fast] != 0:
            total += values[fast]
            other_total += others[fast]
        sums[fast + 1] = total
        other_sums[fast + 1] = other_total


@njit(cache=True, nogil=True)
def _runs_of_line(line, starts):
    """Write where runs of one key start, and the end of the last; return how many runs there are."""
    starts[0] = 0
    n = 1
    # Written whether a run starts there or not: a branch would be guessed wrongly once a run.
    for fast in range(1, len(line)):
        starts[n] = fast
        n += line[fast] != line[fast - 1]
    starts[n] = len(line)
    return n


@njit(cache=True, nogil=True)
def _add_lines(
    first,
    values,
    mask,
    q,
    response,
    share,
    seconds,
    gain,
    pedestal,
    has_background,
    background,
    background_variance,
    to_index,
    reach,
    operators,
    cuts,
    laue,
    metric,
    q2_min,
    q2_max,
    index_min,
    dimensions,
    slot,
    remembered,
    line,
    starts,
    along,
    response_along,
    background_along,
    variance_along,
    keys,
    sums,
    background_sums,
    n_rows,
):
    """Add lines of pixels from number `first` on; return the line to go on with and the rows filled.

    It stops early where `keys` and `sums` may not have room for a line. Each line is added once for every
    part of the rotation, while it is at hand. Neighbouring pixels mostly share a voxel: what such a run adds
    is the difference of two sums along the line, and a voxel is folded and looked up only where it is
    not among those met lately. Of every sum the part `share` is added; `seconds` and `gain` hold it already.
    """
    n_slow, n_fast = values.shape
    for slow in range(first, n_slow):
        if n_rows + n_fast * len(to_index) > len(keys):
            return slow, n_rows
        _sums_along(mask[slow], values[slow], response[slow], along, response_along)
        if has_background:
            _sums_along(mask[slow], background[slow], background_variance[slow], background_along, variance_along)
        for part_number in range(len(to_index)):
            _keys_of_line(mask[slow], q[0, slow], q[1, slow], q[2, slow], to_index[part_number], reach, line)
            n_runs = _runs_of_line(line, starts)
            for run in range(n_runs):
                start, end = starts[run], starts[run + 1]
                key = line[start]
                if key == _SKIPPED:
                    continue
                unfolded = key >> _CLASS_BITS
                place = ((unfolded * _GOLDEN) >> 16) & (_REMEMBERED - 1)
                if remembered[place, 0] == unfolded:
                    row = remembered[place, 1]
                else:
                    before = n_rows
                    row, n_rows = _row_of(
                        np.int64(unfolded),
                        reach,
                        operators,
                        cuts,
                        laue,
                        metric,
                        q2_min,
                        q2_max,
                        index_min,
                        dimensions,
                        slot,
                        keys,
                        n_rows,
                    )
                    if n_rows > before:
                        sums[row, :] = 0.0
                        if has_background:
                            background_sums[row, :] = 0.0
                    remembered[place, 0] = unfolded
                    remembered[place, 1] = row
                if row < 0:
                    continue
                n = end - start
                photons = (along[end] - along[start] - n * pedestal) / gain
                exposure = (response_along[end] - response_along[start]) * seconds
                part = share * n
                diffuse = key & ((1 << _CLASS_BITS) - 1) == 2
                if diffuse:
                    sums[row, COUNTS] += photons
                    sums[row, EXPOSURE] += exposure
                    sums[row, PIXELS] += part
                    # Of centres of pixels: the mean of start + 0.5 ... end - 0.5.
                    sums[row, FAST] += part * (0.5 * (start + end))
                    sums[row, SLOW] += part * (slow + 0.5)
                else:
                    sums[row, BRAGG_COUNTS] += photons
                    sums[row, BRAGG_EXPOSURE] += exposure
                    sums[row, BRAGG_PIXELS] += part
                if has_background:
                    column = BACKGROUND if diffuse else BRAGG_BACKGROUND
                    background_sums[row, column] += share * (background_along[end] - background_along[start])
                    background_sums[row, column + 1] += share * (variance_along[end] - variance_along[start])
    return n_slow, n_rows


@njit(cache=True, nogil=True)
def _forget(slot, keys, n_rows):
    """Empty the slots that the rows occupy."""
    for row in range(n_rows):
        slot[keys[row, 0] & (len(slot) - 1)] = 0


@njit(cache=True, nogil=True)
def _ascending(keys, n_rows, size, n_operators):
    """Return the order of the rows by voxel and operator: a radix sort, in time linear in the rows."""
    largest = size * n_operators
    codes, order = np.empty(n_rows, np.int64), np.empty(n_rows, np.int64)
    other_codes, other_order = np.empty(n_rows, np.int64), np.empty(n_rows, np.int64)
    for row in range(n_rows):
        codes[row] = keys[row, 0] * n_operators + keys[row, 1]
        order[row] = row
    shift = 0
    digits = (1 << _SORT_BITS) - 1
    while largest >> shift > 0:
        starts = np.zeros(digits + 2, np.int64)
        for row in range(n_rows):
            starts[((codes[row] >> shift) & digits) + 1] += 1
        for digit in range(digits):
            starts[digit + 1] += starts[digit]
        for row in range(n_rows):
            digit = (codes[row] >> shift) & digits
            place = starts[digit]
            starts[digit] += 1
            other_codes[place] = codes[row]
            other_order[place] = order[row]
        codes, other_codes = other_codes, codes
        order, other_order = other_order, order
        shift += _SORT_BITS
    return order


@njit(cache=True, nogil=True)
def _fill_columns(
    order,
    keys,
    sums,
    voxel,
    operator,
    counts,
    exposure,
    pixels,
    fast,
    slow,
    bragg_counts,
    bragg_exposure,
    bragg_pixels,
):
    """Write the rows in `order` to the columns of a table."""
    for place in range(len(order)):
        row = order[place]
        voxel[place] = keys[row, 0]
        operator[place] = keys[row, 1]
        counts[place] = sums[row, COUNTS]
        exposure[place] = sums[row, EXPOSURE]
        pixels[place] = sums[row, PIXELS]
        # Bragg pixels have no place of their own in the table; rows of Bragg pixels only sit at 0.
        divisor = sums[row, PIXELS] if sums[row, PIXELS] > 0 else 1.0
        fast[place] = sums[row, FAST] / divisor
        slow[place] = sums[row, SLOW] / divisor
        bragg_counts[place] = sums[row, BRAGG_COUNTS]
        bragg_exposure[place] = sums[row, BRAGG_EXPOSURE]
        bragg_pixels[place] = sums[row, BRAGG_PIXELS]


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
        self._operators, self._cuts, self._laue = voxel_operators(grid.symmetry, grid.divisions)
        basis = grid.reciprocal_basis / np.array(grid.divisions, float)
        self._metric = basis.T @ basis
        self._slot = np.zeros(min(1 << (grid.size - 1).bit_length(), _MOST_SLOTS), np.int32)
        self._keys = np.empty((1 << 16, 3), np.int64)
        self._sums = _empty_rows(1 << 16, N_SUMS)
        self._background_sums = np.empty((0, N_BACKGROUND_SUMS))
        # Along each axis the first index at which every voxel is beyond the resolution limit.
        longest = np.linalg.norm(np.linalg.inv(basis), axis=1) / grid.d_min
        self._reach = np.floor(longest + 1e-6).astype(np.int64) + 1
        largest_key = int(np.prod(2 * self._reach + 1)) << _CLASS_BITS
        self._integer = np.int32 if largest_key <= _LARGEST_SHORT_KEY else np.int64
        self._remembered = np.empty((_REMEMBERED, 2), self._integer)

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
                is, and a variance from counts, n/e^2, is too large for one voxel by up to m but
                right for the average over the voxels that share.
            seconds: exposure time.
            gain, pedestal: photons = (value - pedestal) / gain.
            background, background_variance: (slow, fast) float32 photons, both or neither.
        """
        grid = self._grid
        settings = np.asarray(setting_matrix, float).reshape(-1, 3, 3)
        share = 1.0 / len(settings)
        has_background = background is not None
        planes = np.ascontiguousarray(np.moveaxis(q, -1, 0))
        to_index = (np.array(grid.divisions, float)[:, None] * np.linalg.inv(settings)).astype(np.float32)
        n_fast = values.shape[1]
        line, starts = np.empty(n_fast, self._integer), np.empty(n_fast + 1, np.int32)
        # A sum of integers is exact.
        along = np.zeros(n_fast + 1, np.int64 if values.dtype.kind in "iu" else float)
        response_along, background_along, variance_along = np.empty((3, n_fast + 1))
        self._remembered.fill(_SKIPPED)
        done = n_rows = 0
        while True:
            if has_background and len(self._background_sums) < len(self._sums):
                self._background_sums = _longer(self._background_sums, len(self._sums))
            done, n_rows = _add_lines(
                done,
                values,
                mask,
                planes,
                response,
                share,
                float(seconds) * share,
                float(gain) / share,
                float(pedestal),
                has_background,
                background if has_background else _NO_BACKGROUND,
                background_variance if has_background else _NO_BACKGROUND,
                to_index,
                self._reach,
                self._operators,
                self._cuts,
                self._laue,
                self._metric,
                *q2_limits(grid.d_min, grid.d_max),
                np.array(grid.index_min, np.int64),
                np.array(grid.dimensions, np.int64),
                self._slot,
                self._remembered,
                line,
                starts,
                along,
                response_along,
                background_along,
                variance_along,
                self._keys,
                self._sums,
                self._background_sums,
                n_rows,
            )
            if done == len(values):
                break
            n_more = max(2 * len(self._keys), len(self._keys) + n_fast * len(to_index))
            self._keys = np.concatenate([self._keys, np.empty((n_more - len(self._keys), 3), np.int64)])
            self._sums = _longer(self._sums, n_more)
        _forget(self._slot, self._keys, n_rows)
        return self._table(image, panel, n_rows, has_background)

    def _table(self, image: int, panel: int, n_rows: int, has_background: bool) -> SumsTable:
        order = _ascending(self._keys, n_rows, self._grid.size, len(self._operators))
        columns = {name: np.empty(n_rows, kind) for name, kind in COLUMN_TYPES.items() if name not in _BACKGROUNDS}
        columns["image"].fill(image)
        columns["panel"].fill(panel)
        filled = [values for name, values in columns.items() if name not in ("image", "panel")]
        _fill_columns(order, self._keys, self._sums, *filled)
        for name, number in _BACKGROUNDS.items():
            kind = COLUMN_TYPES[name]
            columns[name] = (
                self._background_sums[order, number].astype(kind) if has_background else np.zeros(n_rows, kind)
            )
        return SumsTable(**columns)


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
