"""Rows of sums as the fit of a scaling model reads them, and its loops over them.

With mu = e (F I + O) + background, the fit solves ``sum (d mu / d p) (n - mu) / v = 0`` for the
parameters p (quasi-likelihood; Wedderburn 1974, Biometrika 61, 439), where the intensity I of each
voxel is its weighted least-squares value at the current F and O. The variances v and the derivatives
follow from the model and from intensities J shrunk towards the mean of their resolution shell, never
from the voxel's own value alone. Then the matrix of the derivatives is the one of the errors, however few
the counts. What is left of a correlation between J and the counts is taken off: with f = e F, h = sum f^2/v,
t = 1 - f sum(f) / (v h) and k = dJ / d(counts of the voxel), the expectation of the left side is

    sum d f/d p k t - sum (d mu/d p) f / v (k t + C / h),  C = k (sum(f) sum(f^3/v^2) / h - h)

It is 0 where all counts are signal: there the equation is that of the Poisson likelihood.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from scipy import sparse

from diffuse_framework.algorithms.binning import shell_numbers, sum_by
from diffuse_framework.algorithms.scaling_model import (
    ABSORPTION,
    OFFSET,
    PANEL,
    RESOLUTION,
    SCALE,
    Extent,
    Layout,
    evaluate,
    line_value,
    padded,
    patch_value,
)
from diffuse_framework.algorithms.smoothers import weights_at
from diffuse_framework.errors import DataError
from diffuse_framework.model.voxels import SumsTable, VoxelSums

# Non-zero derivatives of a row: one of b and d, three of c and s, nine of a.
N_DERIVATIVES = 17

N_SHELLS = 50

_INTENSITIES, _RESIDUALS, _FORWARD, _BACKWARD = range(4)


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations, as far as scaling needs them; (n,) each.

    Attributes:
        image, voxel, panel: integers; voxels beyond the grid are Bragg reflections.
        fast, slow: pixels.
        counts, background: photons; for reflections their intensity and 0.
        exposure: s sr; for reflections what their intensity is proportional to.
        background_variance: of the background.
        variance: of a reflection's intensity; 0 for counts, whose variance is their expectation.
    """

    image: np.ndarray
    voxel: np.ndarray
    panel: np.ndarray
    fast: np.ndarray
    slow: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    background_variance: np.ndarray
    exposure: np.ndarray
    variance: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def select(self, rows: np.ndarray) -> Rows:
        """Return a selection of the rows."""
        return Rows(**{name: values[rows] for name, values in vars(self).items()})

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(values.nbytes for values in vars(self).values())


def concatenate_rows(pieces: list[Rows]) -> Rows:
    """Return the rows of all pieces."""
    return Rows(**{name: np.concatenate([getattr(p, name) for p in pieces]) for name in vars(pieces[0])})


def rows_of(table: SumsTable) -> Rows:
    """Return the rows of a table that have exposure."""
    seen = table.exposure > 0
    n_rows = int(np.count_nonzero(seen))
    use = slice(None) if n_rows == len(table) else seen
    return Rows(
        image=table.image[use],
        voxel=table.voxel[use],
        panel=table.panel[use],
        fast=table.fast[use],
        slow=table.slow[use],
        counts=table.counts[use],
        background=table.background[use],
        background_variance=table.background_variance[use],
        exposure=table.exposure[use],
        variance=np.zeros(n_rows, np.float32),
    )


@dataclass(frozen=True, eq=False)
class Survey:
    """What one reading of the sums tells before anything is fitted.

    Attributes:
        n_rows: rows with exposure.
        rows_per_voxel: (size of the grid,), at most 255.
        panels: (n_panels, 4) lowest and highest fast and slow, pixels.
        net_counts: (n_images,) photons above background.
        exposure: (n_images,).
    """

    n_rows: int
    rows_per_voxel: np.ndarray
    panels: np.ndarray
    net_counts: np.ndarray
    exposure: np.ndarray


def survey(sums: VoxelSums) -> Survey:
    """Read all sums once.

    Raises:
        DataError: there are none.
    """
    per_voxel = np.zeros(sums.grid.size, np.uint8)
    bounds: dict[int, np.ndarray] = {}
    net, exposure = np.zeros(len(sums.image_names)), np.zeros(len(sums.image_names))
    n_rows = 0
    for table in sums.tables():
        rows = rows_of(table)
        n_rows += len(rows)
        counted = np.bincount(rows.voxel, minlength=len(per_voxel)) if len(rows) else 0
        np.minimum(per_voxel + counted, 255, out=per_voxel, casting="unsafe")
        net += sum_by(rows.image, rows.counts.astype(float) - rows.background, len(net))
        exposure += sum_by(rows.image, rows.exposure, len(net))
        for panel in np.unique(rows.panel):
            on = rows.panel == panel
            fast, slow = rows.fast[on], rows.slow[on]
            box = np.array([fast.min(), fast.max(), slow.min(), slow.max()], float)
            old = bounds.get(int(panel), box)
            bounds[int(panel)] = np.where([True, False] * 2, np.minimum(old, box), np.maximum(old, box))
    if not n_rows:
        raise DataError("the sums hold no observation; nothing can be scaled")
    panels = np.array([bounds.get(panel, np.zeros(4)) for panel in range(max(bounds) + 1)])
    return Survey(n_rows, per_voxel, panels, net, exposure)


@dataclass(eq=False)
class RowSource:
    """Rows of voxels seen more than once, read piece by piece; kept where they fit into memory.

    Attributes:
        sums: where they come from.
        surveyed: of the sums.
        memory_mib: most that may be kept; beyond it rows are read again in every pass.
        extra: rows that are not in the sums: Bragg reflections.
        rejected: for each table of the sums the numbers of its outlying rows.
    """

    sums: VoxelSums
    surveyed: Survey
    memory_mib: float = 2048.0
    extra: Rows | None = None
    rejected: dict[int, np.ndarray] = field(default_factory=dict)
    _kept: list[Rows] | None = None

    def pieces(self) -> Iterator[Rows]:
        """Yield all rows, in the same pieces every time."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Rows] | None = []
        size = 0
        for number, table in enumerate(self.sums.tables()):
            use = (table.exposure > 0) & (self.surveyed.rows_per_voxel[table.voxel] > 1)
            use[self.rejected.get(number, np.zeros(0, np.int64))] = False
            piece = rows_of(table if use.all() else table.select(use))
            if kept is not None:
                size += piece.nbytes
                kept = None if size > self.memory_mib * 2**20 else [*kept, piece]
            if len(piece):
                yield piece
        if self.extra is not None:
            yield self.extra
            if kept is not None:
                kept.append(self.extra)
        self._kept = kept

    def without(self, rejected: dict[int, np.ndarray]) -> RowSource:
        """Return a source that leaves out the rows numbered by table."""
        return RowSource(self.sums, self.surveyed, self.memory_mib, self.extra, rejected)

    @property
    def n_extra(self) -> int:
        """Voxel numbers beyond the grid that extra rows use."""
        return 0 if self.extra is None else int(self.extra.voxel.max()) + 1 - self.sums.grid.size


@njit(cache=True)
def _sweep(
    mode, image, voxel, panel, fast, slow, counts, background, background_variance, exposure, variance,
    q, tables, states, weight_states, same, prior, slope, vector, intensity, exposures, information,
    taken_up, projection,    sums, out,
):  # fmt: skip
    """One pass of the fit over a piece; what it adds up where depends on `mode`.

    intensities: to `sums` what gives each voxel's least-squares intensity, and its scaled exposure and
                 counts of the offset
    residuals:   returns the weighted sum of squares, adds the left side of the equation to `out`
    forward:     derivative of each row along `vector`, projected on its voxel
    backward:    the same less its projection, back on states
    """
    first_b, first_c = tables.first[SCALE], tables.first[OFFSET]
    first_d, first_a, first_s = tables.first[PANEL], tables.first[ABSORPTION], tables.first[RESOLUTION]
    q_axes, q_values, nodes, axes = tables.q_axes, tables.q_values, tables.panel_nodes, tables.panel_axes
    of_image = tables.states
    total = 0.0
    at_b = at_c = at_d = at_s = corner = stride = 0
    c0 = c1 = c2 = s0 = s1 = s2 = x0 = x1 = x2 = y0 = y1 = y2 = 0.0
    for row in range(len(image)):
        i, v, p = image[row], voxel[row], panel[row]
        e, known = np.float64(exposure[row]), variance[row] > 0
        has_c = first_c >= 0 and not known
        b = s = a = d = 1.0
        wb = ws = wa = wd = 1.0
        c = wc = 0.0
        if first_b >= 0:
            at_b = first_b + of_image[SCALE, i]
            b, wb = states[at_b], weight_states[at_b]
        if has_c:
            k, c0, c1, c2 = weights_at(q[v], q_axes[OFFSET, 0], q_axes[OFFSET, 1], q_values[OFFSET])
            at_c = first_c + of_image[OFFSET, i] + k
            c = line_value(states, at_c, c0, c1, c2)
            wc = c if same else line_value(weight_states, at_c, c0, c1, c2)
        if first_d >= 0:
            at_d = first_d + p
            d, wd = states[at_d], weight_states[at_d]
        if first_a >= 0:
            stride = nodes[p, 1]
            x, x0, x1, x2 = weights_at(fast[row], axes[p, 0], axes[p, 1], stride)
            y, y0, y1, y2 = weights_at(slow[row], axes[p, 2], axes[p, 3], nodes[p, 2])
            corner = first_a + of_image[ABSORPTION, i] + nodes[p, 0] + y * stride + x
            a = patch_value(states, corner, stride, x0, x1, x2, y0, y1, y2)
            wa = a if same else patch_value(weight_states, corner, stride, x0, x1, x2, y0, y1, y2)
        if first_s >= 0:
            k, s0, s1, s2 = weights_at(
                q[v], q_axes[RESOLUTION, 0], q_axes[RESOLUTION, 1], q_values[RESOLUTION]
            )
            at_s = first_s + of_image[RESOLUTION, i] + k
            s = line_value(states, at_s, s0, s1, s2)
            ws = s if same else line_value(weight_states, at_s, s0, s1, s2)
        ad = a * d
        signal = e * b * s * ad
        extra = e * c * ad
        if known:
            weight = 1.0 / variance[row]
        else:
            bright = e * wb * ws * wa * wd * prior[v]
            dim = 0.2 * bright + background[row]
            weight = 1.0 / (max(bright + e * wc * wa * wd + background[row], dim) + background_variance[row])
        if mode == _INTENSITIES:
            sums[v, 0] += weight * signal * (counts[row] - background[row] - extra)
            sums[v, 1] += weight * signal * signal
            if not known:
                sums[v, 2] += signal
                sums[v, 3] += extra
                sums[v, 4] += weight * weight * signal * signal * signal
            continue
        expected = signal * prior[v]
        u_signal = 0.0
        if mode == _RESIDUALS:
            residual = counts[row] - background[row] - extra - signal * intensity[v]
            total += weight * residual * residual
            t = 1 - weight * signal * exposures[v] / information[v] if information[v] > 0 else 0.0
            u = weight * (residual + signal * (slope[v] * t + taken_up[v]))
            u_signal = slope[v] * t
        else:
            # Relative change of the signal, and change of the offset's counts.
            relative = t = 0.0
            if first_b >= 0:
                relative += vector[at_b] / b
            if first_d >= 0:
                t += vector[at_d] / d
            if first_a >= 0:
                t += patch_value(vector, corner, stride, x0, x1, x2, y0, y1, y2) / a
            relative += t
            by_offset = t * extra
            if has_c:
                by_offset += e * ad * line_value(vector, at_c, c0, c1, c2)
            if first_s >= 0:
                relative += line_value(vector, at_s, s0, s1, s2) / s
            change = expected * relative + by_offset
            if mode == _FORWARD:
                sums[v, 0] += weight * signal * change
                continue
            u = weight * (change - signal * projection[v])
        by_signal = u * expected - u_signal * signal
        by_both = by_signal + u * extra
        if first_b >= 0:
            out[at_b] += by_signal / b
        if has_c:
            by_c = u * e * ad
            out[at_c] += by_c * c0
            out[at_c + 1] += by_c * c1
            out[at_c + 2] += by_c * c2
        if first_d >= 0:
            out[at_d] += by_both / d
        if first_a >= 0:
            by_both /= a
            for n in range(3):
                w = by_both * (y0 if n == 0 else y1 if n == 1 else y2)
                at = corner + n * stride
                out[at] += w * x0
                out[at + 1] += w * x1
                out[at + 2] += w * x2
        if first_s >= 0:
            by_signal /= s
            out[at_s] += by_signal * s0
            out[at_s + 1] += by_signal * s1
            out[at_s + 2] += by_signal * s2
    return total


@dataclass(frozen=True, eq=False)
class VoxelEstimates:
    """What a model makes of each voxel, (n_voxels,) each.

    Attributes:
        intensity: least-squares estimate.
        information: its inverse variance.
        exposure: scaled.
        offset: counts of the offset.
        cubes: sum of cubes of scaled exposures over squares of variances.
    """

    intensity: np.ndarray
    information: np.ndarray
    exposure: np.ndarray
    offset: np.ndarray
    cubes: np.ndarray


@dataclass(eq=False)
class Sweeps:
    """The passes of the fit of one layout over all rows.

    Attributes:
        source: the rows.
        layout: of the model.
        q: |q| of every voxel of the grid, then of the reflections.
        prior: intensities from which weights and derivatives follow, one for each.
        slope: by how much each of them rises with the voxel's counts.
        weight_parameters: the model from which they follow.
    """

    source: RowSource
    layout: Layout
    q: np.ndarray
    prior: np.ndarray
    slope: np.ndarray
    weight_parameters: np.ndarray

    def _run(
        self,
        mode: int,
        parameters: np.ndarray,
        estimates: VoxelEstimates | None = None,
        vector: np.ndarray | None = None,
        projection: np.ndarray | None = None,
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the total, sums by voxel (n, 5) or (n, 1), and sums by parameter."""
        columns = {_INTENSITIES: 5, _FORWARD: 1}.get(mode, 0)
        sums = np.zeros((len(self.q) if columns else 1, max(columns, 1)))
        layout, nothing = self.layout, np.zeros(1)
        states = padded(layout.expansion @ parameters, layout.tables)
        same = parameters is self.weight_parameters
        weight_states = states if same else padded(layout.expansion @ self.weight_parameters, layout.tables)
        along = states if vector is None else padded(layout.expansion @ vector, layout.tables)
        seen = VoxelEstimates(*[nothing] * 5) if estimates is None else estimates
        taken_up = nothing if estimates is None else self._taken_up(estimates)
        projection = nothing if projection is None else projection
        out = np.zeros_like(states)
        total = 0.0
        for rows in self.source.pieces():
            total += _sweep(
                mode, rows.image, rows.voxel, rows.panel, rows.fast, rows.slow, rows.counts, rows.background,
                rows.background_variance, rows.exposure, rows.variance,
                self.q, layout.tables, states, weight_states, same, self.prior, self.slope, along,
                seen.intensity, seen.exposure, seen.information, taken_up, projection, sums, out,
            )  # fmt: skip
        return total, sums, layout.expansion.T @ out[: layout.expansion.shape[0]]

    def intensities(self, parameters: np.ndarray) -> VoxelEstimates:
        """Return each voxel's least-squares intensity and what belongs to it."""
        _, sums, _ = self._run(_INTENSITIES, parameters)
        weighted, information, exposure, offset, cubes = (np.ascontiguousarray(column) for column in sums.T)
        return VoxelEstimates(weighted * _inverse(information), information, exposure, offset, cubes)

    def _taken_up(self, seen: VoxelEstimates) -> np.ndarray:
        """Return C / h of each voxel, of the correction for correlated intensities."""
        inverse = _inverse(seen.information)
        return self.slope * (seen.exposure * seen.cubes * inverse**2 - (seen.information > 0))

    def residuals(self, parameters: np.ndarray, estimates: VoxelEstimates) -> tuple[float, np.ndarray]:
        """Return the weighted sum of squares, and the left side of the equation (n_parameters,)."""
        total, _, gradient = self._run(_RESIDUALS, parameters, estimates)
        return total, gradient

    def curvature(self, parameters: np.ndarray, estimates: VoxelEstimates, vector: np.ndarray) -> np.ndarray:
        """Return the product with `vector` of the equation's matrix, the intensities eliminated."""
        _, projected, _ = self._run(_FORWARD, parameters, None, vector)
        projection = projected[:, 0] * _inverse(estimates.information)
        return self._run(_BACKWARD, parameters, None, vector, projection)[2]

    def sample_matrix(self, sample: Rows, parameters: np.ndarray, estimates: VoxelEstimates) -> np.ndarray:
        """Return the equation's matrix for some whole voxels, dense (n_parameters, n_parameters)."""
        jacobian, weight, signal = self.derivatives(sample, parameters)
        inside = sparse.diags(np.sqrt(weight)) @ jacobian
        return _gram(inside.tocsr()) - _gram(self.projected(sample, estimates, jacobian, weight * signal))

    def projected(
        self, sample: Rows, estimates: VoxelEstimates, jacobian: sparse.csr_matrix, weighted: np.ndarray
    ) -> sparse.csr_matrix:
        """Return for each voxel of whole ones the part of the derivatives that its intensity takes up."""
        voxels, local = np.unique(sample.voxel, return_inverse=True)
        shape = (len(voxels), len(sample))
        gather = sparse.csr_matrix((weighted, (local.ravel(), np.arange(len(sample)))), shape)
        return (sparse.diags(np.sqrt(_inverse(estimates.information[voxels]))) @ gather @ jacobian).tocsr()

    def offset_counts(self, rows: Rows, parameters: np.ndarray) -> np.ndarray:
        """Return the counts of the offset that are expected in rows, (n,)."""
        at = self.q[rows.voxel]
        _, offset = evaluate(self.layout, parameters, rows.image, rows.panel, rows.fast, rows.slow, at)
        return np.where(rows.variance == 0, offset * rows.exposure, 0.0)

    def derivatives(
        self, rows: Rows, parameters: np.ndarray
    ) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
        """Return derivatives of expected counts (n, n_parameters), weights and signals (n,).

        The signal is the derivative by the intensity.
        """
        tables, n_states = self.layout.tables, self.layout.expansion.shape[0]
        states = padded(self.layout.expansion @ parameters, tables)
        weight_states = padded(self.layout.expansion @ self.weight_parameters, tables)
        index = np.zeros((len(rows), N_DERIVATIVES), np.int64)
        value = np.zeros((len(rows), N_DERIVATIVES))
        weight, signal = np.empty(len(rows)), np.empty(len(rows))
        _derivatives(
            rows.image, rows.voxel, rows.panel, rows.fast, rows.slow, rows.background,
            rows.background_variance, rows.exposure, rows.variance, self.q, tables, states, weight_states,
            self.prior, index, value, weight, signal,
        )  # fmt: skip
        row = np.repeat(np.arange(len(rows)), N_DERIVATIVES)
        # Where an axis has one control point the other two weights are 0 and belong to nothing.
        column = np.where(value == 0, 0, index).ravel()
        by_states = sparse.csr_matrix((value.ravel(), (row, column)), (len(rows), n_states))
        by_states.eliminate_zeros()
        return (by_states @ self.layout.expansion).tocsr(), weight, signal


def _inverse(information: np.ndarray) -> np.ndarray:
    """Return 1/information, 0 where there is none."""
    return np.divide(1.0, information, out=np.zeros_like(information), where=information > 0)


def _gram(matrix: sparse.csr_matrix) -> np.ndarray:
    """Return the dense ``matrix.T @ matrix``: by dense blocks unless rows are very sparse."""
    n_rows, n_columns = matrix.shape
    if n_columns**2 > 200 * (matrix.nnz / max(n_rows, 1)) ** 2:
        return (matrix.T @ matrix).toarray()
    result = np.zeros((n_columns, n_columns))
    step = max(1, (1 << 22) // n_columns)
    for start in range(0, n_rows, step):
        block = matrix[start : start + step].toarray()
        result += block.T @ block
    return result


@njit(cache=True)
def _derivatives(
    image, voxel, panel, fast, slow, background, background_variance, exposure, variance,
    q, tables, states, weight_states, prior, index, value, weight, signal_out,
):  # fmt: skip
    """Fill the derivatives of the expected counts of rows by states, and their weights."""
    first, of_image = tables.first, tables.states
    q_axes, q_values, nodes, axes = tables.q_axes, tables.q_values, tables.panel_nodes, tables.panel_axes
    w_c, w_s, w_x, w_y = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    for row in range(len(image)):
        i, v, p = image[row], voxel[row], panel[row]
        e, known = np.float64(exposure[row]), variance[row] > 0
        has_c = first[OFFSET] >= 0 and not known
        b = s = a = d = 1.0
        wb = ws = wa = wd = 1.0
        c = wc = 0.0
        at_c = at_s = corner = stride = 0
        if first[SCALE] >= 0:
            index[row, 0] = first[SCALE] + of_image[SCALE, i]
            b, wb = states[index[row, 0]], weight_states[index[row, 0]]
        if has_c:
            k, w_c[0], w_c[1], w_c[2] = weights_at(
                q[v], q_axes[OFFSET, 0], q_axes[OFFSET, 1], q_values[OFFSET]
            )
            at_c = first[OFFSET] + of_image[OFFSET, i] + k
            c = line_value(states, at_c, w_c[0], w_c[1], w_c[2])
            wc = line_value(weight_states, at_c, w_c[0], w_c[1], w_c[2])
        if first[PANEL] >= 0:
            index[row, 1] = first[PANEL] + p
            d, wd = states[index[row, 1]], weight_states[index[row, 1]]
        if first[ABSORPTION] >= 0:
            stride = nodes[p, 1]
            x, w_x[0], w_x[1], w_x[2] = weights_at(fast[row], axes[p, 0], axes[p, 1], stride)
            y, w_y[0], w_y[1], w_y[2] = weights_at(slow[row], axes[p, 2], axes[p, 3], nodes[p, 2])
            corner = first[ABSORPTION] + of_image[ABSORPTION, i] + nodes[p, 0] + y * stride + x
            a = patch_value(states, corner, stride, w_x[0], w_x[1], w_x[2], w_y[0], w_y[1], w_y[2])
            wa = patch_value(weight_states, corner, stride, w_x[0], w_x[1], w_x[2], w_y[0], w_y[1], w_y[2])
        if first[RESOLUTION] >= 0:
            k, w_s[0], w_s[1], w_s[2] = weights_at(
                q[v], q_axes[RESOLUTION, 0], q_axes[RESOLUTION, 1], q_values[RESOLUTION]
            )
            at_s = first[RESOLUTION] + of_image[RESOLUTION, i] + k
            s = line_value(states, at_s, w_s[0], w_s[1], w_s[2])
            ws = line_value(weight_states, at_s, w_s[0], w_s[1], w_s[2])
        ad = a * d
        signal = e * b * s * ad
        extra = e * c * ad
        expected = signal * prior[v]
        if known:
            weight[row] = 1.0 / variance[row]
        else:
            bright = e * wb * ws * wa * wd * prior[v]
            dim = 0.2 * bright + background[row]
            all_of_it = max(bright + e * wc * wa * wd + background[row], dim)
            weight[row] = 1.0 / (all_of_it + background_variance[row])
        signal_out[row] = signal
        if first[SCALE] >= 0:
            value[row, 0] = expected / b
        if first[PANEL] >= 0:
            value[row, 1] = (expected + extra) / d
        for m in range(3):
            if has_c:
                index[row, 2 + m] = at_c + m
                value[row, 2 + m] = e * ad * w_c[m]
            if first[RESOLUTION] >= 0:
                index[row, 5 + m] = at_s + m
                value[row, 5 + m] = expected * w_s[m] / s
            for n in range(3):
                if first[ABSORPTION] >= 0:
                    at, w = 8 + 3 * n + m, w_y[n] * w_x[m]
                    index[row, at] = corner + n * stride + m
                    value[row, at] = (expected + extra) * w / a


def shrunk_intensities(
    q: np.ndarray, net_counts: np.ndarray, exposure: np.ndarray, background: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return an intensity above 0 for each voxel (n,), and by how much it rises with the voxel's counts (n,).

    Between the mean of the resolution shell and the voxel's own value, as its precision and the
    true spread within the shell warrant (the posterior mean of a Gamma prior whose mean and
    variance are the shell's, by the method of moments). Where a shell is uniform within
    its errors all of it gets one value, so that weights do not follow the noise.

    Args:
        q: |q|, 1/angstrom.
        net_counts, exposure: photons above background, and scaled exposure.
        background: expected photons of background and offset.
    """
    result, slope = np.zeros((2, len(q)))
    seen = exposure > 0
    if not seen.any():
        return result, slope
    shells, _ = shell_numbers(q[seen], N_SHELLS)
    net, exposed, behind = net_counts[seen], exposure[seen], background[seen]

    def per_shell(values: np.ndarray) -> np.ndarray:
        return sum_by(shells, values, N_SHELLS)

    overall = max(net.sum() / exposed.sum(), 1e-6 * np.abs(net).sum() / exposed.sum(), 1e-30)
    all_exposed = per_shell(exposed)
    mean = np.divide(per_shell(net), all_exposed, out=np.full(N_SHELLS, overall), where=all_exposed > 0)
    mean = np.maximum(mean, 1e-2 * overall)
    # Weighted by exposure, the variance of net/exposure about the mean is spread + noise.
    deviation = net / exposed - mean[shells]
    squares = per_shell(exposed * deviation**2)
    noise = per_shell(mean[shells] + np.maximum(behind, 0) / exposed)
    spread = np.divide(squares - noise, all_exposed, out=np.zeros(N_SHELLS), where=all_exposed > 0)
    shape = mean**2 / np.maximum(spread, 1e-4 * mean**2)
    shape, mean = shape[shells], mean[shells]
    rising = net > -0.9 * shape
    slope[seen] = rising / (shape / mean + exposed)
    result[seen] = np.where(rising, shape + net, 0.1 * shape) / (shape / mean + exposed)
    return result, slope


def extent_of(surveyed: Survey, q: np.ndarray, data_set: np.ndarray, order: np.ndarray) -> Extent:
    """Return what the control points must span, from a survey and |q| of the grid's voxels."""
    seen = q[surveyed.rows_per_voxel > 0]
    return Extent(data_set, order, (float(seen.min()), float(seen.max())), surveyed.panels)
