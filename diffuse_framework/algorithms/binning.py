"""Adding pixels to voxels: the loop that every pixel takes."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_framework.algorithms.symmetry import fold_one, q2_limits, voxel_operators
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.voxels import COLUMN_TYPES, SumsTable

# Columns of the array of sums in which the loop works.
(COUNTS, BACKGROUND, BACKGROUND_VARIANCE, EXPOSURE, PIXELS, FAST, SLOW) = range(7)
(BRAGG_COUNTS, BRAGG_BACKGROUND, BRAGG_BACKGROUND_VARIANCE, BRAGG_EXPOSURE, BRAGG_PIXELS) = range(7, 12)
N_SUMS = 12
_ADDED = {
    "counts": COUNTS,
    "background": BACKGROUND,
    "background_variance": BACKGROUND_VARIANCE,
    "exposure": EXPOSURE,
    "pixels": PIXELS,
    "bragg_counts": BRAGG_COUNTS,
    "bragg_background": BRAGG_BACKGROUND,
    "bragg_background_variance": BRAGG_BACKGROUND_VARIANCE,
    "bragg_exposure": BRAGG_EXPOSURE,
    "bragg_pixels": BRAGG_PIXELS,
}

_NO_BACKGROUND = np.zeros((1, 1), np.float32)


@njit(cache=True)
def _add_pixels(
    first, values, mask, q, response, share, seconds, gain, pedestal,
    has_background, background, background_variance,
    to_index, operators, cuts, laue, metric, q2_min, q2_max, index_min, dimensions,
    slot, keys, sums, n_rows,
):  # fmt: skip
    """Add pixels from number `first` on; return the pixel to go on with and the rows filled.

    It stops early when `keys` and `sums` are full. ``slot[voxel]`` is the newest row of a
    voxel, plus one; rows of one voxel but different operators are chained by ``keys[:, 2]``.
    Neighbouring pixels mostly share a voxel: only where the voxel changes is it folded and
    looked up. Of every sum the part `share` is added; `seconds` and `gain` hold it already.
    """
    n_fast = values.shape[1]
    last_i = last_j = last_k = np.int64(-(1 << 40))
    row = -1
    for pixel in range(first, values.size):
        slow = pixel // n_fast
        fast = pixel - slow * n_fast
        kind = mask[slow, fast]
        if kind == 0:
            continue
        x, y, z = q[slow, fast, 0], q[slow, fast, 1], q[slow, fast, 2]
        i = np.int64(np.floor(to_index[0, 0] * x + to_index[0, 1] * y + to_index[0, 2] * z + 0.5))
        j = np.int64(np.floor(to_index[1, 0] * x + to_index[1, 1] * y + to_index[1, 2] * z + 0.5))
        k = np.int64(np.floor(to_index[2, 0] * x + to_index[2, 1] * y + to_index[2, 2] * z + 0.5))
        if i != last_i or j != last_j or k != last_k:
            if n_rows == len(keys):
                return pixel, n_rows
            last_i, last_j, last_k = i, j, k
            row = -1
            q2 = (
                metric[0, 0] * i * i + metric[1, 1] * j * j + metric[2, 2] * k * k
                + 2 * (metric[0, 1] * i * j + metric[0, 2] * i * k + metric[1, 2] * j * k)
            )  # fmt: skip
            if q2 >= q2_min and q2 <= q2_max:
                m, i, j, k = fold_one(i, j, k, operators, cuts, laue)
                i -= index_min[0]
                j -= index_min[1]
                k -= index_min[2]
                if 0 <= i < dimensions[0] and 0 <= j < dimensions[1] and 0 <= k < dimensions[2]:
                    voxel = (i * dimensions[1] + j) * dimensions[2] + k
                    row = int(slot[voxel]) - 1
                    while row >= 0 and keys[row, 1] != m:
                        row = keys[row, 2]
                    if row < 0:
                        row = n_rows
                        n_rows += 1
                        keys[row, 0] = voxel
                        keys[row, 1] = m
                        keys[row, 2] = int(slot[voxel]) - 1
                        sums[row, :] = 0.0
                        slot[voxel] = row + 1
        if row < 0:
            continue
        photons = (values[slow, fast] - pedestal) / gain
        weight = response[slow, fast] * seconds
        if kind == 2:
            sums[row, COUNTS] += photons
            sums[row, EXPOSURE] += weight
            sums[row, PIXELS] += share
            sums[row, FAST] += share * (fast + 0.5)
            sums[row, SLOW] += share * (slow + 0.5)
            if has_background:
                sums[row, BACKGROUND] += share * background[slow, fast]
                sums[row, BACKGROUND_VARIANCE] += share * background_variance[slow, fast]
        else:
            sums[row, BRAGG_COUNTS] += photons
            sums[row, BRAGG_EXPOSURE] += weight
            sums[row, BRAGG_PIXELS] += share
            if has_background:
                sums[row, BRAGG_BACKGROUND] += share * background[slow, fast]
                sums[row, BRAGG_BACKGROUND_VARIANCE] += share * background_variance[slow, fast]
    return values.size, n_rows


@njit(cache=True)
def _forget(slot, keys, n_rows):
    """Empty the slots that the rows occupy."""
    for row in range(n_rows):
        slot[keys[row, 0]] = 0


class VoxelAdder:
    """Adds the pixels of one panel after another to the voxels of one grid.

    Its scratch memory (4 bytes per voxel of the box, and the rows of one panel) is kept from
    image to image.
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
        self._slot = np.zeros(grid.size, np.int32)
        self._keys = np.empty((1 << 16, 3), np.int64)
        self._sums = np.empty((1 << 16, N_SUMS))

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
            values: (slow, fast) raw values, integer or floating.
            mask: (slow, fast) uint8 classes of `model.conventions`.
            q: (slow, fast, 3) float32 scattering vectors, 1/angstrom.
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
        n_rows = 0
        for setting in settings:
            to_index = np.array(grid.divisions, float)[:, None] * np.linalg.inv(setting)
            pixel = 0
            while True:
                pixel, n_rows = _add_pixels(
                    pixel, values, mask, q, response,
                    share, float(seconds) * share, float(gain) / share, float(pedestal),
                    has_background,
                    background if has_background else _NO_BACKGROUND,
                    background_variance if has_background else _NO_BACKGROUND,
                    to_index, self._operators, self._cuts, self._laue,
                    self._metric, *q2_limits(grid.d_min, grid.d_max),
                    np.array(grid.index_min, np.int64), np.array(grid.dimensions, np.int64),
                    self._slot, self._keys, self._sums, n_rows,
                )  # fmt: skip
                if pixel == values.size:
                    break
                self._keys = np.concatenate([self._keys, np.empty_like(self._keys)])
                self._sums = np.concatenate([self._sums, np.empty_like(self._sums)])
        _forget(self._slot, self._keys, n_rows)
        return self._table(image, panel, self._keys[:n_rows], self._sums[:n_rows])

    @staticmethod
    def _table(image: int, panel: int, keys: np.ndarray, sums: np.ndarray) -> SumsTable:
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        keys, sums = keys[order], sums[order]
        n_rows = len(order)
        columns = {
            "image": np.full(n_rows, image),
            "voxel": keys[:, 0],
            "operator": keys[:, 1],
            "panel": np.full(n_rows, panel),
        }
        columns |= {name: sums[:, number] for name, number in _ADDED.items()}
        # Bragg pixels have no place of their own in the table; rows of Bragg pixels only sit at 0.
        pixels = np.where(sums[:, PIXELS] > 0, sums[:, PIXELS], 1)
        columns["fast"] = sums[:, FAST] / pixels
        columns["slow"] = sums[:, SLOW] / pixels
        return SumsTable(**{name: values.astype(COLUMN_TYPES[name]) for name, values in columns.items()})


def sum_by(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Return sums (size,) of `values` (n,) over equal `index` (n,)."""
    return np.bincount(index, weights=values, minlength=size)


def shell_numbers(q: np.ndarray, n_shells: int) -> tuple[np.ndarray, np.ndarray]:
    """Assign |q| (n,) to shells of equal volume in reciprocal space.

    Returns:
        Shell number (n,) and shell edges (n_shells + 1,) in 1/angstrom.
    """
    largest = float(q.max()) if len(q) else 1.0
    edges = np.cbrt(np.linspace(0, largest**3, n_shells + 1))
    return np.clip(np.searchsorted(edges, q, side="right") - 1, 0, n_shells - 1), edges
