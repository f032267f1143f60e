"""The loop that every pixel takes: lines of pixels are added to rows of voxels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_framework.algorithms.symmetry import fold_one, q_squared

# Columns of the array of sums in which the loop works: one cache line of 64 bytes a row.
(COUNTS, EXPOSURE, PIXELS, FAST, SLOW, BRAGG_COUNTS, BRAGG_EXPOSURE, BRAGG_PIXELS) = range(8)
N_SUMS = 8
# Columns of a second array, used where there is a background.
(BACKGROUND, BACKGROUND_VARIANCE, BRAGG_BACKGROUND, BRAGG_BACKGROUND_VARIANCE) = range(4)
N_BACKGROUND_SUMS = 4

# A key is the number of an unfolded voxel, in the box of all that may be met, and in two bits a class of pixels:
# in an integer of four bytes where it fits, which takes half the time.
CLASS_BITS = 2
SKIPPED = -1

# Voxels of the lines just read, and their rows: the next line mostly crosses the same ones. A power of two,
# well above the number of voxels on a line and small enough for a processor's second cache.
REMEMBERED = 1 << 14
_GOLDEN = 0x9E3779B9
_SORT_BITS = 11


class Pixels(NamedTuple):
    """One panel of an image, (slow, fast) each but q, (3, slow, fast); arguments of `VoxelAdder.add`."""

    values: np.ndarray
    mask: np.ndarray
    q: np.ndarray
    response: np.ndarray
    has_background: bool
    background: np.ndarray
    background_variance: np.ndarray


class Turn(NamedTuple):
    """How pixels are shared by the voxels that they go through while the crystal turns.

    Attributes:
        share: of every sum that each of them gets.
        seconds, gain: exposure time, and counts of a photon, for such a share.
        pedestal: of a value.
        to_index: (n_parts, 3, 3) from q to voxel indices.
    """

    share: float
    seconds: float
    gain: float
    pedestal: float
    to_index: np.ndarray


class Box(NamedTuple):
    """The voxels of a grid.

    Attributes:
        reach: (3,) along each axis the first index at which every voxel is beyond the resolution limit.
        operators, cuts, laue: of `voxel_operators`.
        metric: (3, 3) from an index to |q| squared, between limits q2_min and q2_max.
        index_min, dimensions: (3,) of the grid.
    """

    reach: np.ndarray
    operators: np.ndarray
    cuts: np.ndarray
    laue: int
    metric: np.ndarray
    q2_min: float
    q2_max: float
    index_min: np.ndarray
    dimensions: np.ndarray


class Line(NamedTuple):
    """Memory for one line of pixels.

    Attributes:
        remembered: voxels met lately, and their rows.
        keys, starts: of each pixel; where runs of one key start.
        values, response, background, variance: (n_fast + 1,) sums along the line.
        before, held: (n_fast,) the keys of the part before, and twice the number of parts less one for which a pixel
            has had its key.
        squares: (n_fast + 1,) sums of `held` along the line.
    """

    remembered: np.ndarray
    keys: np.ndarray
    starts: np.ndarray
    values: np.ndarray
    response: np.ndarray
    background: np.ndarray
    variance: np.ndarray
    before: np.ndarray
    held: np.ndarray
    squares: np.ndarray


class Rows(NamedTuple):
    """The rows filled so far.

    Attributes:
        slot: the newest row, plus one, of the voxels that share it.
        keys: (n, 3) voxel, operator, and the row before in the same slot.
        sums, background_sums: (n, ...) what is summed.
        share_squares: (n,) of diffuse pixels; used where a pixel has several parts.
    """

    slot: np.ndarray
    keys: np.ndarray
    sums: np.ndarray
    background_sums: np.ndarray
    share_squares: np.ndarray


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
        line[fast] = integer((voxel << CLASS_BITS) | kind) if kind != 0 else integer(SKIPPED)


@njit(cache=True, nogil=True)
def _row_of(unfolded, box, slot, keys, n_rows):
    """Return the row of a voxel, -1 where it is not on the grid, and the number of rows filled.

    A slot holds the newest row, plus one, of the voxels that share it: of one voxel, unless the grid has more
    voxels than there are slots. Rows of a slot are chained by ``keys[:, 2]``.
    """
    reach, operators, cuts, laue, metric, q2_min, q2_max, index_min, dimensions = box
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
def _shares_along(line, first, before, held, squares):
    """Write to `squares` what the shares of the pixels before each add up to, squared, in units of a part's square.

    The k-th part in one voxel adds 2 k - 1: those of all its m parts together are m squared.
    """
    total = 0
    for fast in range(len(line)):
        held[fast] = held[fast] + 2 if not first and line[fast] == before[fast] else 1
        before[fast] = line[fast]
    for fast in range(len(line)):
        total += held[fast]
        squares[fast + 1] = total


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
def add_lines(first, pixels, turn, box, scratch, rows, n_rows):
    """Add lines of pixels from number `first` on; return the line to go on with and the rows filled.

    It stops early where `rows` may not have room for a line. Each line is added once for every
    part of the rotation, while it is at hand. Neighbouring pixels mostly share a voxel: what such a run adds
    is the difference of two sums along the line, and a voxel is folded and looked up only where it is
    not among those met lately. Of every sum the part `share` is added; `seconds` and `gain` hold it already.
    """
    values, mask, q, response, has_background, background, background_variance = pixels
    share, seconds, gain, pedestal, to_index = turn
    remembered, line, starts, along, response_along, background_along, variance_along, before, held, squares = scratch
    slot, keys, sums, background_sums, share_squares = rows
    turns = len(to_index) > 1
    n_slow, n_fast = values.shape
    for slow in range(first, n_slow):
        if n_rows + n_fast * len(to_index) > len(keys):
            return slow, n_rows
        _sums_along(mask[slow], values[slow], response[slow], along, response_along)
        if has_background:
            _sums_along(mask[slow], background[slow], background_variance[slow], background_along, variance_along)
        for part_number in range(len(to_index)):
            _keys_of_line(mask[slow], q[0, slow], q[1, slow], q[2, slow], to_index[part_number], box.reach, line)
            n_runs = _runs_of_line(line, starts)
            if turns:
                _shares_along(line, part_number == 0, before, held, squares)
            for run in range(n_runs):
                start, end = starts[run], starts[run + 1]
                key = line[start]
                if key == SKIPPED:
                    continue
                unfolded = key >> CLASS_BITS
                place = ((unfolded * _GOLDEN) >> 16) & (REMEMBERED - 1)
                if remembered[place, 0] == unfolded:
                    row = remembered[place, 1]
                else:
                    n_before = n_rows
                    row, n_rows = _row_of(np.int64(unfolded), box, slot, keys, n_rows)
                    if n_rows > n_before:
                        sums[row, :] = 0.0
                        if turns:
                            share_squares[row] = 0.0
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
                diffuse = key & ((1 << CLASS_BITS) - 1) == 2
                if diffuse:
                    sums[row, COUNTS] += photons
                    sums[row, EXPOSURE] += exposure
                    sums[row, PIXELS] += part
                    # Of centres of pixels: the mean of start + 0.5 ... end - 0.5.
                    sums[row, FAST] += part * (0.5 * (start + end))
                    sums[row, SLOW] += part * (slow + 0.5)
                    if turns:
                        share_squares[row] += share * share * (squares[end] - squares[start])
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
def forget(slot, keys, n_rows):
    """Empty the slots that the rows occupy."""
    for row in range(n_rows):
        slot[keys[row, 0] & (len(slot) - 1)] = 0


@njit(cache=True, nogil=True)
def ascending(keys, n_rows, size, n_operators):
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
def fill_columns(
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
