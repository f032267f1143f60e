"""The equation that the fit of a scaling model solves, and its loop over the observations.

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

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from scipy import sparse

from diffuse_framework.algorithms.scaling.model import (
    ABSORPTION,
    OFFSET,
    PANEL,
    RESOLUTION,
    SCALE,
    Layout,
    evaluate,
    line_value,
    padded,
    patch_value,
    patch_weights,
    q_weights,
)
from diffuse_framework.algorithms.scaling.observations import REFLECTION, Observations

# Non-zero derivatives of a row: one of b and d, three of c and s, nine of a.
N_DERIVATIVES = 17

_INTENSITIES, _RESIDUALS, _CURVATURE = range(3)

# What the loop keeps of each row of a voxel while it works on the voxel.
(_SIGNAL, _EXTRA, _WEIGHT, _NET, _BY_C, _B, _D, _A, _S, _CHANGE, _X0, _X1, _X2, _Y0, _Y1, _Y2) = range(16)
(_AT_B, _AT_C, _AT_D, _AT_S, _CORNER, _STRIDE) = range(6)

# Sums of a voxel.
(_WEIGHTED, _INFORMATION, _EXPOSURE, _OFFSET_COUNTS, _CUBES, _PHOTONS, _BACKGROUND) = range(7)


@njit(cache=True, error_model="numpy")
def _sweep(mode, first, rows, accepted, q, prior, slope, tables, states, vector, of_row, at_row, sums, out):
    """One pass over whole voxels; what it adds up where depends on `mode`.

    intensities: to `sums` (n_voxels, 7) what gives each voxel's least-squares intensity
    residuals:   the same; returns the weighted sum of squares; adds the left side of the equation to `out`
    curvature:   to `out` the product of the equation's matrix with `vector`, the intensities eliminated
    """
    has_b, has_c, has_s = tables.first[SCALE] >= 0, tables.first[OFFSET] >= 0, tables.first[RESOLUTION] >= 0
    has_d, has_a = tables.first[PANEL] >= 0, tables.first[ABSORPTION] >= 0
    of_image = tables.states
    total = 0.0
    corner = stride = 0
    x0 = x1 = x2 = y0 = y1 = y2 = 0.0
    for v in range(len(first) - 1):
        kc, c0, c1, c2 = q_weights(q[v], tables, OFFSET)
        ks, s0, s1, s2 = q_weights(q[v], tables, RESOLUTION)
        n = 0
        weighted = information = exposures = offsets = cubes = photons = background = projected = 0.0
        for row in range(first[v], first[v + 1]):
            if not accepted[row]:
                continue
            i, e = rows[row].image, float(rows[row].exposure)
            known = rows[row].operator == REFLECTION
            behind = float(rows[row].background)
            b = s = a = d = 1.0
            c = 0.0
            if has_b:
                at = tables.first[SCALE] + of_image[SCALE, i]
                at_row[n, _AT_B] = at
                b = states[at]
            if has_c and not known:
                at = tables.first[OFFSET] + of_image[OFFSET, i] + kc
                at_row[n, _AT_C] = at
                c = line_value(states, at, c0, c1, c2)
            if has_d:
                at = tables.first[PANEL] + rows[row].panel
                at_row[n, _AT_D] = at
                d = states[at]
            if has_a:
                corner, stride, x0, x1, x2, y0, y1, y2 = patch_weights(
                    rows[row].panel, rows[row].fast, rows[row].slow, i, tables
                )
                a = patch_value(states, corner, stride, x0, x1, x2, y0, y1, y2)
            if has_s:
                at = tables.first[RESOLUTION] + of_image[RESOLUTION, i] + ks
                at_row[n, _AT_S] = at
                s = line_value(states, at, s0, s1, s2)
            by_c = e * a * d
            signal, extra = by_c * b * s, by_c * c
            if known:
                weight = 1.0 / rows[row].background_variance
            else:
                bright = signal * prior[v]
                all_of_it = max(bright + extra + behind, 0.2 * bright + behind)
                weight = 1.0 / (all_of_it + rows[row].background_variance)
                exposures += signal
                offsets += extra
                cubes += weight * weight * signal * signal * signal
                photons += rows[row].counts
                background += behind
            net = rows[row].counts - behind - extra
            by_intensity = weight * signal
            weighted += by_intensity * net
            information += by_intensity * signal
            if mode == _INTENSITIES:
                continue
            of_row[n, _SIGNAL], of_row[n, _EXTRA], of_row[n, _WEIGHT], of_row[n, _NET] = signal, extra, weight, net
            of_row[n, _BY_C] = 0.0 if known else by_c
            of_row[n, _B], of_row[n, _D], of_row[n, _A], of_row[n, _S] = b, d, a, s
            if has_a:
                at_row[n, _CORNER], at_row[n, _STRIDE] = corner, stride
                of_row[n, _X0], of_row[n, _X1], of_row[n, _X2] = x0, x1, x2
                of_row[n, _Y0], of_row[n, _Y1], of_row[n, _Y2] = y0, y1, y2
            if mode == _CURVATURE:
                # Relative change of the signal, and change of the offset's counts.
                relative = t = 0.0
                if has_b:
                    relative += vector[at_row[n, _AT_B]] / b
                if has_d:
                    t += vector[at_row[n, _AT_D]] / d
                if has_a:
                    t += patch_value(vector, corner, stride, x0, x1, x2, y0, y1, y2) / a
                relative += t
                by_offset = t * extra
                if has_c and not known:
                    by_offset += by_c * line_value(vector, at_row[n, _AT_C], c0, c1, c2)
                if has_s:
                    relative += line_value(vector, at_row[n, _AT_S], s0, s1, s2) / s
                change = signal * prior[v] * relative + by_offset
                of_row[n, _CHANGE] = change
                projected += by_intensity * change
            n += 1
        if mode != _CURVATURE:
            sums[v, _WEIGHTED], sums[v, _INFORMATION], sums[v, _EXPOSURE] = weighted, information, exposures
            sums[v, _OFFSET_COUNTS], sums[v, _CUBES] = offsets, cubes
            sums[v, _PHOTONS], sums[v, _BACKGROUND] = photons, background
        if mode == _INTENSITIES or not information > 0:
            continue
        inverse = 1.0 / information
        intensity, projection = weighted * inverse, projected * inverse
        taken_up = slope[v] * (exposures * cubes * inverse * inverse - 1.0)
        for k in range(n):
            signal, extra, weight = of_row[k, _SIGNAL], of_row[k, _EXTRA], of_row[k, _WEIGHT]
            expected = signal * prior[v]
            if mode == _RESIDUALS:
                residual = of_row[k, _NET] - signal * intensity
                total += weight * residual * residual
                t = 1.0 - weight * signal * exposures * inverse
                u = weight * (residual + signal * (slope[v] * t + taken_up))
                by_signal = u * expected - slope[v] * t * signal
            else:
                u = weight * (of_row[k, _CHANGE] - signal * projection)
                by_signal = u * expected
            by_both = by_signal + u * extra
            if has_b:
                out[at_row[k, _AT_B]] += by_signal / of_row[k, _B]
            if has_c and of_row[k, _BY_C] != 0:
                at, by = at_row[k, _AT_C], u * of_row[k, _BY_C]
                out[at] += by * c0
                out[at + 1] += by * c1
                out[at + 2] += by * c2
            if has_d:
                out[at_row[k, _AT_D]] += by_both / of_row[k, _D]
            if has_a:
                by_both /= of_row[k, _A]
                x0, x1, x2 = of_row[k, _X0], of_row[k, _X1], of_row[k, _X2]
                for line in range(3):
                    by = by_both * of_row[k, _Y0 + line]
                    at = at_row[k, _CORNER] + line * at_row[k, _STRIDE]
                    out[at] += by * x0
                    out[at + 1] += by * x1
                    out[at + 2] += by * x2
            if has_s:
                at, by = at_row[k, _AT_S], by_signal / of_row[k, _S]
                out[at] += by * s0
                out[at + 1] += by * s1
                out[at + 2] += by * s2
    return total


@dataclass(frozen=True, eq=False)
class VoxelEstimates:
    """What a model makes of each voxel, (n_voxels,) each.

    Attributes:
        intensity: least-squares estimate.
        information: its inverse variance.
        exposure: scaled.
        offset: counts of the offset.
        photons, background: sums of counts and of their background; 0 for reflections.
    """

    intensity: np.ndarray
    information: np.ndarray
    exposure: np.ndarray
    offset: np.ndarray
    photons: np.ndarray
    background: np.ndarray


@dataclass(frozen=True, eq=False)
class Equation:
    """The equation of one layout for some observations.

    Attributes:
        observations: all of them.
        layout: of the model.
        prior: (n_voxels,) intensities from which weights and derivatives follow.
        slope: (n_voxels,) by how much each of them rises with the voxel's counts.
    """

    observations: Observations
    layout: Layout
    prior: np.ndarray
    slope: np.ndarray

    @classmethod
    def without_prior(cls, observations: Observations, layout: Layout) -> Equation:
        """Return one whose weights take all intensities as 1."""
        n_voxels = len(observations.voxel)
        return cls(observations, layout, np.ones(n_voxels), np.zeros(n_voxels))

    def of_sample(self, sample: Observations, voxels: np.ndarray) -> Equation:
        """Return the same for some of the voxels."""
        return replace(self, observations=sample, prior=self.prior[voxels], slope=self.slope[voxels])

    def _run(
        self, mode: int, parameters: np.ndarray, vector: np.ndarray | None = None
    ) -> tuple[float, VoxelEstimates, np.ndarray]:
        """Return the total, what is found of each voxel, and sums by parameter."""
        layout, observations = self.layout, self.observations
        states = padded(layout.expansion @ parameters, layout.tables)
        along = states if vector is None else padded(layout.expansion @ vector, layout.tables)
        most = int(np.diff(observations.first).max(initial=1))
        of_row, at_row = np.zeros((most, 16)), np.zeros((most, 6), np.int64)
        sums = np.zeros((7, len(observations.voxel)))
        out = np.zeros_like(states)
        total = 0.0
        for block in observations.blocks():
            of_block = np.zeros((len(block.q), 7))
            total += _sweep(
                mode,
                block.first,
                block.rows,
                block.accepted,
                block.q,
                self.prior[block.voxels],
                self.slope[block.voxels],
                layout.tables,
                states,
                along,
                of_row,
                at_row,
                of_block,
                out,
            )
            sums[:, block.voxels] = of_block.T
        information = sums[_INFORMATION]
        seen = VoxelEstimates(
            sums[_WEIGHTED] * _inverse(information),
            information,
            sums[_EXPOSURE],
            sums[_OFFSET_COUNTS],
            sums[_PHOTONS],
            sums[_BACKGROUND],
        )
        return total, seen, layout.expansion.T @ out[: layout.expansion.shape[0]]

    def intensities(self, parameters: np.ndarray) -> VoxelEstimates:
        """Return each voxel's least-squares intensity and what belongs to it."""
        return self._run(_INTENSITIES, parameters)[1]

    def residuals(self, parameters: np.ndarray) -> tuple[float, np.ndarray, VoxelEstimates]:
        """Return the weighted sum of squares, the left side of the equation (n_parameters,), and the intensities."""
        total, seen, gradient = self._run(_RESIDUALS, parameters)
        return total, gradient, seen

    def curvature(self, parameters: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Return the product with `vector` of the equation's matrix, the intensities eliminated."""
        return self._run(_CURVATURE, parameters, vector)[2]

    def matrix(self, parameters: np.ndarray, information: np.ndarray) -> np.ndarray:
        """Return the equation's matrix, dense (n_parameters, n_parameters), for few observations.

        Args:
            parameters: of the model.
            information: (n_voxels,) of the intensities.
        """
        whole, taken = self.parts_of_matrix(parameters, information)
        return whole.toarray() - _gram(taken)

    def parts_of_matrix(
        self, parameters: np.ndarray, information: np.ndarray
    ) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Return the matrix at fixed intensities, and one row per voxel whose square its intensity takes off that."""
        by_states, weight, signal = self._derivatives(parameters)
        expansion = self.layout.expansion
        inside = sparse.diags(np.sqrt(weight)) @ by_states
        # In states a row has few derivatives, in parameters many.
        whole = expansion.T @ (inside.T @ inside) @ expansion
        n_of_voxel = np.diff(self.observations.first)
        gather = sparse.csr_matrix(
            (weight * signal, np.arange(len(weight)), self.observations.first), (len(n_of_voxel), len(weight))
        )
        taken = sparse.diags(np.sqrt(_inverse(information))) @ (gather @ by_states) @ expansion
        return whole.tocsr(), taken.tocsr()

    def derivatives(self, parameters: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
        """Return derivatives of expected counts (n, n_parameters), weights and signals (n,), for few observations.

        The signal is the derivative by the intensity.
        """
        by_states, weight, signal = self._derivatives(parameters)
        return (by_states @ self.layout.expansion).tocsr(), weight, signal

    def offset_counts(self, parameters: np.ndarray) -> np.ndarray:
        """Return the counts of the offset that are expected in each row, (n,)."""
        counts = []
        for block in self.observations.blocks():
            rows = block.rows
            offset = evaluate(
                self.layout, parameters, rows["image"], rows["panel"], rows["fast"], rows["slow"], block.by_row(block.q)
            )[1]
            counts.append(np.where(rows["operator"] == REFLECTION, 0.0, offset * rows["exposure"]))
        return np.concatenate(counts)

    def _derivatives(self, parameters: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
        tables, n_states = self.layout.tables, self.layout.expansion.shape[0]
        states = padded(self.layout.expansion @ parameters, tables)
        n_rows = len(self.observations)
        index = np.zeros((n_rows, N_DERIVATIVES), np.int64)
        value = np.zeros((n_rows, N_DERIVATIVES))
        weight, signal = np.empty(n_rows), np.empty(n_rows)
        for block in self.observations.blocks():
            where = block.place
            _fill_derivatives(
                block.rows,
                block.by_row(block.q),
                block.by_row(self.prior[block.voxels]),
                tables,
                states,
                index[where],
                value[where],
                weight[where],
                signal[where],
            )
        # Where an axis has one control point the other two weights are 0 and belong to nothing.
        use = value != 0
        ends = np.concatenate([[0], np.cumsum(np.count_nonzero(use, axis=1))])
        return sparse.csr_matrix((value[use], index[use], ends), (n_rows, n_states)), weight, signal


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


@njit(cache=True, error_model="numpy")
def _fill_derivatives(rows, q, prior, tables, states, index, value, weight, signal_out):
    """Fill the derivatives of the expected counts of rows by states, and their weights."""
    first, of_image = tables.first, tables.states
    w_x, w_y = np.zeros(3), np.zeros(3)
    for row in range(len(rows)):
        i, e = rows[row].image, float(rows[row].exposure)
        known = rows[row].operator == REFLECTION
        has_c = first[OFFSET] >= 0 and not known
        b = s = a = d = 1.0
        c = 0.0
        at_c = at_s = corner = stride = 0
        kc, c0, c1, c2 = q_weights(q[row], tables, OFFSET)
        ks, s0, s1, s2 = q_weights(q[row], tables, RESOLUTION)
        if first[SCALE] >= 0:
            index[row, 0] = first[SCALE] + of_image[SCALE, i]
            b = states[index[row, 0]]
        if has_c:
            at_c = first[OFFSET] + of_image[OFFSET, i] + kc
            c = line_value(states, at_c, c0, c1, c2)
        if first[PANEL] >= 0:
            index[row, 1] = first[PANEL] + rows[row].panel
            d = states[index[row, 1]]
        if first[ABSORPTION] >= 0:
            corner, stride, w_x[0], w_x[1], w_x[2], w_y[0], w_y[1], w_y[2] = patch_weights(
                rows[row].panel, rows[row].fast, rows[row].slow, i, tables
            )
            a = patch_value(states, corner, stride, w_x[0], w_x[1], w_x[2], w_y[0], w_y[1], w_y[2])
        if first[RESOLUTION] >= 0:
            at_s = first[RESOLUTION] + of_image[RESOLUTION, i] + ks
            s = line_value(states, at_s, s0, s1, s2)
        by_c = e * a * d
        signal, extra = by_c * b * s, by_c * c
        expected, behind = signal * prior[row], float(rows[row].background)
        if known:
            weight[row] = 1.0 / rows[row].background_variance
        else:
            all_of_it = max(expected + extra + behind, 0.2 * expected + behind)
            weight[row] = 1.0 / (all_of_it + rows[row].background_variance)
        signal_out[row] = signal
        if first[SCALE] >= 0:
            value[row, 0] = expected / b
        if first[PANEL] >= 0:
            value[row, 1] = (expected + extra) / d
        for m in range(3):
            if has_c:
                index[row, 2 + m] = at_c + m
                value[row, 2 + m] = by_c * (c0 if m == 0 else c1 if m == 1 else c2)
            if first[RESOLUTION] >= 0:
                index[row, 5 + m] = at_s + m
                value[row, 5 + m] = expected / s * (s0 if m == 0 else s1 if m == 1 else s2)
            for n in range(3):
                if first[ABSORPTION] >= 0:
                    at = 8 + 3 * n + m
                    index[row, at] = corner + n * stride + m
                    value[row, at] = (expected + extra) * w_y[n] * w_x[m] / a
