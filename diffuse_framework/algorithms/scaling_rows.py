"""Rows of sums as the fit of a scaling model reads them, and its loops over them.

The fit minimises ``sum w (n - mu)^2`` with mu = e (F I + O) + background, where the intensity I of
each voxel is eliminated: it is the weighted least-squares value at the current F and O. The weights
w = 1/variance are those expected from the model and from intensities shrunk towards the mean of
their resolution shell, never from the row's own counts, so that dim data are not biased.

Along a change of F the sum of squares curves with I^2. The estimate's square is on average larger than
that by the variance 1/h of the estimate, h = sum w (e F)^2: where photons are few, most of the
Gauss-Newton matrix is noise, steps come out short and uncertainties too small. Therefore 1/h is taken
off wherever the square of an intensity enters the matrix.
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
    use = table.exposure > 0
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
        variance=np.zeros(int(use.sum()), np.float32),
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
    memory_mib: float = 1024.0
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
            piece = rows_of(table.select(use))
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
    q, tables, states, weight_states, same, prior, vector, by_voxel, sums, out,
):  # fmt: skip
    """One pass of the fit over a piece; what it adds up where depends on `mode`.

    intensities: to `sums` what gives each voxel's least-squares intensity, and its scaled exposure and
                 counts of the offset
    residuals:   returns the weighted sum of squares, adds its gradient by states to `out`
    forward:     derivative of each row along `vector`, projected on its voxel; and the same of what
                 is proportional to the intensity, at unit intensity
    backward:    the same less its projections, back on states

    Columns of `by_voxel`: intensity, the two projections, variance of the intensity.
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
            k, s0, s1, s2 = weights_at(q[v], q_axes[RESOLUTION, 0], q_axes[RESOLUTION, 1], q_values[RESOLUTION])
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
            continue
        expected = signal * by_voxel[v, 0]
        u_2 = 0.0
        if mode == _RESIDUALS:
            residual = counts[row] - background[row] - extra - expected
            total += weight * residual * residual
            u = weight * residual
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
                sums[v, 1] += weight * signal * signal * relative
                continue
            u = weight * (change - signal * by_voxel[v, 1])
            u_2 = by_voxel[v, 3] * weight * signal * (relative - by_voxel[v, 2])
        by_signal = u * expected - u_2 * signal
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
    """

    intensity: np.ndarray
    information: np.ndarray
    exposure: np.ndarray
    offset: np.ndarray

    def table(self) -> np.ndarray:
        """Return a new array (n_voxels, 4) whose first column is the intensity; the loops fill the rest."""
        result = np.zeros((len(self.intensity), 4))
        result[:, 0] = self.intensity
        return result


@dataclass(eq=False)
class Sweeps:
    """The passes of the fit of one layout over all rows.

    Attributes:
        source: the rows.
        layout: of the model.
        q: |q| of every voxel of the grid, then of the reflections.
        prior: intensities from which the weights follow, one for each.
        weight_parameters: the model from which they follow.
    """

    source: RowSource
    layout: Layout
    q: np.ndarray
    prior: np.ndarray
    weight_parameters: np.ndarray

    def _run(
        self, mode: int, parameters: np.ndarray, by_voxel: np.ndarray | None = None, vector: np.ndarray | None = None
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the total, sums by voxel (n, 4) or (n, 2), and sums by parameter."""
        columns = {_INTENSITIES: 4, _FORWARD: 2}.get(mode, 0)
        sums = np.zeros((len(self.q) if columns else 1, max(columns, 1)))
        layout = self.layout
        states = padded(layout.expansion @ parameters, layout.tables)
        same = parameters is self.weight_parameters
        weight_states = states if same else padded(layout.expansion @ self.weight_parameters, layout.tables)
        along = padded(layout.expansion @ (np.zeros_like(parameters) if vector is None else vector), layout.tables)
        by_voxel = np.zeros((1, 4)) if by_voxel is None else by_voxel
        out = np.zeros_like(states)
        total = 0.0
        for rows in self.source.pieces():
            total += _sweep(
                mode, rows.image, rows.voxel, rows.panel, rows.fast, rows.slow, rows.counts, rows.background,
                rows.background_variance, rows.exposure, rows.variance,
                self.q, layout.tables, states, weight_states, same, self.prior, along, by_voxel, sums, out,
            )  # fmt: skip
        return total, sums, layout.expansion.T @ out[: layout.expansion.shape[0]]

    def intensities(self, parameters: np.ndarray) -> VoxelEstimates:
        """Return each voxel's least-squares intensity and what belongs to it."""
        _, sums, _ = self._run(_INTENSITIES, parameters)
        weighted, information, exposure, offset = sums.T
        return VoxelEstimates(weighted * _inverse(information), information, exposure, offset)

    def residuals(self, parameters: np.ndarray, estimates: VoxelEstimates) -> tuple[float, np.ndarray]:
        """Return the weighted sum of squares, and minus half its gradient by parameters."""
        total, _, gradient = self._run(_RESIDUALS, parameters, estimates.table())
        return total, gradient

    def curvature(self, parameters: np.ndarray, estimates: VoxelEstimates, vector: np.ndarray) -> np.ndarray:
        """Return the matrix of second derivatives, with the intensities eliminated, times `vector`."""
        table = estimates.table()
        _, projected, _ = self._run(_FORWARD, parameters, table, vector)
        table[:, 3] = _inverse(estimates.information)
        table[:, 1:3] = projected * table[:, 3:]
        return self._run(_BACKWARD, parameters, table, vector)[2]

    def sample_matrices(
        self, sample: Rows, parameters: np.ndarray, estimates: VoxelEstimates
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return two dense matrices (n_parameters, n_parameters) of some whole voxels.

        The second derivatives, and what noise in the intensities adds to the variance of the
        gradient.
        """
        jacobian, by_signal, weight, signal = self.derivatives(sample, parameters, estimates.intensity)
        noise = _inverse(estimates.information)
        voxels, local = np.unique(sample.voxel, return_inverse=True)
        shape = (len(voxels), len(sample))
        gather = sparse.csr_matrix((weight * signal, (local.ravel(), np.arange(len(sample)))), shape)

        def projected_out(
            derivatives: sparse.csr_matrix, row_weight: np.ndarray, of_voxel: np.ndarray
        ) -> np.ndarray:
            inside = sparse.diags(np.sqrt(of_voxel * noise[voxels])) @ (gather @ derivatives)
            return _gram(sparse.diags(np.sqrt(row_weight)) @ derivatives) - _gram(inside.tocsr())

        gauss_newton = projected_out(jacobian, weight, np.ones(len(voxels)))
        excess = projected_out(by_signal, weight * noise[sample.voxel], noise[voxels])
        return gauss_newton - excess, excess

    def derivatives(
        self, rows: Rows, parameters: np.ndarray, intensity: np.ndarray
    ) -> tuple[sparse.csr_matrix, sparse.csr_matrix, np.ndarray, np.ndarray]:
        """Return derivatives of rows by the parameters, (n, n_parameters) each, weights and signals, (n,) each.

        The derivatives are those of the expected counts, and of the signal: the expected counts of
        unit intensity without offset.
        """
        tables = self.layout.tables
        states = padded(self.layout.expansion @ parameters, tables)
        weight_states = padded(self.layout.expansion @ self.weight_parameters, tables)
        index = np.zeros((len(rows), N_DERIVATIVES), np.int64)
        value, value_2 = np.zeros((2, len(rows), N_DERIVATIVES))
        weight, signal = np.empty(len(rows)), np.empty(len(rows))
        _derivatives(
            rows.image, rows.voxel, rows.panel, rows.fast, rows.slow, rows.background, rows.background_variance,
            rows.exposure, rows.variance, self.q, self.layout.tables, states, weight_states, self.prior, intensity,
            index, value, value_2, weight, signal,
        )  # fmt: skip
        row = np.repeat(np.arange(len(rows)), N_DERIVATIVES)
        shape = (len(rows), len(states))
        result = []
        for values in (value, value_2):
            by_states = sparse.csr_matrix((values.ravel(), (row, index.ravel())), shape)
            by_states.eliminate_zeros()
            result.append((by_states[:, : self.layout.expansion.shape[0]] @ self.layout.expansion).tocsr())
        return result[0], result[1], weight, signal


def _inverse(information: np.ndarray) -> np.ndarray:
    """Return 1/information, 0 where there is none."""
    return np.divide(1.0, information, out=np.zeros_like(information), where=information > 0)


def _gram(matrix: sparse.csr_matrix) -> np.ndarray:
    """Return the dense ``matrix.T @ matrix``; dense blocks beat sparse products unless rows are very sparse."""
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
    q, tables, states, weight_states, prior, intensity, index, value, value_2, weight, signal_out,
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
            k, w_c[0], w_c[1], w_c[2] = weights_at(q[v], q_axes[OFFSET, 0], q_axes[OFFSET, 1], q_values[OFFSET])
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
        expected = signal * intensity[v]
        if known:
            weight[row] = 1.0 / variance[row]
        else:
            bright = e * wb * ws * wa * wd * prior[v]
            dim = 0.2 * bright + background[row]
            all_of_it = max(bright + e * wc * wa * wd + background[row], dim)
            weight[row] = 1.0 / (all_of_it + background_variance[row])
        signal_out[row] = signal
        if first[SCALE] >= 0:
            value[row, 0], value_2[row, 0] = expected / b, signal / b
        if first[PANEL] >= 0:
            value[row, 1], value_2[row, 1] = (expected + extra) / d, signal / d
        for m in range(3):
            if has_c:
                index[row, 2 + m] = at_c + m
                value[row, 2 + m] = e * ad * w_c[m]
            if first[RESOLUTION] >= 0:
                index[row, 5 + m] = at_s + m
                value[row, 5 + m], value_2[row, 5 + m] = expected * w_s[m] / s, signal * w_s[m] / s
            for n in range(3):
                if first[ABSORPTION] >= 0:
                    at, w = 8 + 3 * n + m, w_y[n] * w_x[m]
                    index[row, at] = corner + n * stride + m
                    value[row, at], value_2[row, at] = (expected + extra) * w / a, signal * w / a


def shrunk_intensities(
    q: np.ndarray, net_counts: np.ndarray, exposure: np.ndarray, background: np.ndarray
) -> np.ndarray:
    """Return an intensity above 0 for each voxel (n,), for weights only.

    Between the mean of the resolution shell and the voxel's own value, as its precision and the
    true spread within the shell warrant (the posterior mean of a Gamma prior whose mean and
    variance are the shell's, by the method of moments). Where a shell is uniform within
    its errors all of it gets one value, so that weights do not follow the noise.

    Args:
        q: |q|, 1/angstrom.
        net_counts, exposure: photons above background, and scaled exposure.
        background: expected photons of background and offset.
    """
    result = np.zeros(len(q))
    seen = exposure > 0
    if not seen.any():
        return result
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
    own = np.maximum(net, 0)
    result[seen] = (shape[shells] + own) / (shape[shells] / mean[shells] + exposed)
    return result


def extent_of(surveyed: Survey, q: np.ndarray, data_set: np.ndarray, order: np.ndarray) -> Extent:
    """Return what the control points must span, from a survey and |q| of the grid's voxels."""
    seen = q[surveyed.rows_per_voxel > 0]
    return Extent(data_set, order, (float(seen.min()), float(seen.max())), surveyed.panels)
