"""The equation that the fit of a scaling model solves, and its loops over the observations.

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
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy import sparse

from diffuse_framework.algorithms.scaling.kernel import (
    Located,
    StateTables,
    add_derivatives,
    change_along,
    list_derivatives,
    observe,
    room_for,
    turn_to_q,
)
from diffuse_framework.algorithms.scaling.model import Layout
from diffuse_framework.algorithms.scaling.observations import REFLECTION, Block, Observations

# Sums of a voxel.
(_WEIGHTED, _INFORMATION, _EXPOSURE, _OFFSET_COUNTS, _CUBES, _PHOTONS, _BACKGROUND) = range(7)
_N_SUMS = 7

# What is kept of the rows of a voxel: counts of the signal for an intensity of 1, those of the offset, the weight,
# counts without background and offset, exposure times D; and the change of the expected counts along a vector.
(_SIGNAL, _EXTRA, _WEIGHT, _NET, _DETECTED, _CHANGE) = range(6)
_N_KEPT = 6


class _Rows(NamedTuple):
    """Rows of whole voxels, as in `Block`, and (n_voxels,) what is expected of the voxels, as in `Equation`."""

    first: np.ndarray
    rows: np.ndarray
    accepted: np.ndarray
    q: np.ndarray
    prior: np.ndarray
    slope: np.ndarray


class _Model(NamedTuple):
    """Values of states, how a row finds its own, and memory for the rows of a voxel: (n_rows, 6) what is kept."""

    states: np.ndarray
    tables: StateTables
    located: Located
    kept: np.ndarray


@njit(cache=True, error_model="numpy", inline="always")
def _expect(rows, row, prior, model, k, remember):
    """Return counts of signal and offset of a row, its weight, its net counts, exposure times D, and if it is Bragg's.

    To a Bragg reflection nothing is added.
    """
    reflection = rows[row].operator == REFLECTION
    exposure, behind = float(rows[row].exposure), float(rows[row].background)
    crystal, detector, added = observe(
        k,
        remember,
        rows[row].image,
        rows[row].panel,
        rows[row].fast,
        rows[row].slow,
        model.states,
        model.tables,
        model.located,
    )
    detected = exposure * detector
    signal, extra = detected * crystal, 0.0 if reflection else detected * added
    if reflection:
        weight = 1.0 / rows[row].background_variance
    else:
        bright = signal * prior
        all_of_it = max(bright + extra + behind, 0.2 * bright + behind)
        weight = 1.0 / (all_of_it + rows[row].background_variance)
    return signal, extra, weight, rows[row].counts - behind - extra, detected, reflection


@njit(cache=True, error_model="numpy", inline="always")
def _with_row(sums, counts, behind, signal, extra, weight, net, reflection):
    """Return the sums of a voxel with one more row."""
    weighted, information, exposures, offsets, cubes, photons, background = sums
    by_intensity = weight * signal
    weighted += by_intensity * net
    information += by_intensity * signal
    if not reflection:
        exposures += signal
        offsets += extra
        cubes += weight * by_intensity * signal * signal
        photons += counts
        background += behind
    return weighted, information, exposures, offsets, cubes, photons, background


@njit(cache=True, error_model="numpy", inline="always")
def _keep(kept, k, signal, extra, weight, net, detected, reflection):
    kept[k, _SIGNAL], kept[k, _EXTRA], kept[k, _WEIGHT], kept[k, _NET] = signal, extra, weight, net
    kept[k, _DETECTED] = 0.0 if reflection else detected


_NOTHING = (0.0,) * _N_SUMS


@njit(cache=True, error_model="numpy", inline="always")
def _store(sums, v, of_voxel):
    for n in range(_N_SUMS):
        sums[v, n] = of_voxel[n]


@njit(cache=True, error_model="numpy")
def _intensities(data, model, sums):
    """Write to `sums` (n_voxels, 7) what gives each voxel's least-squares intensity."""
    for v in range(len(data.first) - 1):
        turn_to_q(data.q[v], model.tables, model.located)
        of_voxel = _NOTHING
        for row in range(data.first[v], data.first[v + 1]):
            if data.accepted[row]:
                signal, extra, weight, net, _, reflection = _expect(data.rows, row, data.prior[v], model, 0, False)
                counts, behind = data.rows[row].counts, data.rows[row].background
                of_voxel = _with_row(of_voxel, counts, behind, signal, extra, weight, net, reflection)
        _store(sums, v, of_voxel)


@njit(cache=True, error_model="numpy")
def _residuals(data, model, sums, out):
    """Do as `_intensities`; add the left side of the equation to `out`; return the weighted sum of squares."""
    tables, located, kept = model.tables, model.located, model.kept
    total = 0.0
    for v in range(len(data.first) - 1):
        turn_to_q(data.q[v], tables, located)
        prior, slope = data.prior[v], data.slope[v]
        of_voxel = _NOTHING
        n = 0
        for row in range(data.first[v], data.first[v + 1]):
            if data.accepted[row]:
                signal, extra, weight, net, detected, reflection = _expect(data.rows, row, prior, model, n, True)
                counts, behind = data.rows[row].counts, data.rows[row].background
                of_voxel = _with_row(of_voxel, counts, behind, signal, extra, weight, net, reflection)
                _keep(kept, n, signal, extra, weight, net, detected, reflection)
                n += 1
        _store(sums, v, of_voxel)
        weighted, information, exposures, _, cubes, _, _ = of_voxel
        if not information > 0:
            continue
        inverse = 1.0 / information
        intensity = weighted * inverse
        taken_up = slope * (exposures * cubes * inverse * inverse - 1.0)
        for k in range(n):
            signal, extra, weight, detected = kept[k, _SIGNAL], kept[k, _EXTRA], kept[k, _WEIGHT], kept[k, _DETECTED]
            residual = kept[k, _NET] - signal * intensity
            total += weight * residual * residual
            t = 1.0 - weight * signal * exposures * inverse
            u = weight * (residual + signal * (slope * t + taken_up))
            add_derivatives(out, k, u * prior - slope * t, u, signal, extra, detected, tables, located)
    return total


@njit(cache=True, error_model="numpy")
def _curvature(data, model, vector, out):
    """Add to `out` the product of the equation's matrix with `vector`, the intensities eliminated."""
    tables, located, kept = model.tables, model.located, model.kept
    for v in range(len(data.first) - 1):
        turn_to_q(data.q[v], tables, located)
        prior = data.prior[v]
        n = 0
        information = projected = 0.0
        for row in range(data.first[v], data.first[v + 1]):
            if data.accepted[row]:
                signal, extra, weight, net, detected, reflection = _expect(data.rows, row, prior, model, n, True)
                _keep(kept, n, signal, extra, weight, net, detected, reflection)
                detected = kept[n, _DETECTED]
                change = change_along(vector, n, prior, 1.0, signal, extra, detected, tables, located)
                kept[n, _CHANGE] = change
                information += weight * signal * signal
                projected += weight * signal * change
                n += 1
        if not information > 0:
            continue
        projection = projected / information
        for k in range(n):
            signal, extra, detected = kept[k, _SIGNAL], kept[k, _EXTRA], kept[k, _DETECTED]
            u = kept[k, _WEIGHT] * (kept[k, _CHANGE] - signal * projection)
            add_derivatives(out, k, u * prior, u, signal, extra, detected, tables, located)


@njit(cache=True, error_model="numpy")
def _derivatives(data, model, index, value, kept):
    """Write the derivatives of expected counts by states, and to `kept` (n_rows, 6) what is known of each row."""
    tables, located = model.tables, model.located
    for v in range(len(data.first) - 1):
        turn_to_q(data.q[v], tables, located)
        for row in range(data.first[v], data.first[v + 1]):
            signal, extra, weight, net, detected, reflection = _expect(data.rows, row, data.prior[v], model, 0, True)
            _keep(kept, row, signal, extra, weight, net, detected, reflection)
            detected = kept[row, _DETECTED]
            list_derivatives(index[row], value[row], 0, data.prior[v], 1.0, signal, extra, detected, tables, located)


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

    def _data(self, block: Block) -> _Rows:
        voxels = block.voxels
        return _Rows(block.first, block.rows, block.accepted, block.q, self.prior[voxels], self.slope[voxels])

    def _model(self, parameters: np.ndarray, n_rows: int) -> _Model:
        """Return the model at `parameters`, with memory for so many rows."""
        tables = self.layout.tables
        return _Model(self.layout.states(parameters), tables, room_for(n_rows, tables), np.zeros((n_rows, _N_KEPT)))

    @property
    def _most_rows(self) -> int:
        """Of a voxel."""
        return int(np.diff(self.observations.first).max(initial=1))

    def _by_parameter(self, by_state: np.ndarray) -> np.ndarray:
        return self.layout.expansion.T @ by_state[: self.layout.expansion.shape[0]]

    def intensities(self, parameters: np.ndarray) -> VoxelEstimates:
        """Return each voxel's least-squares intensity and what belongs to it."""
        model, sums = self._model(parameters, 1), np.zeros((len(self.observations.voxel), _N_SUMS))
        for block in self.observations.blocks():
            _intensities(self._data(block), model, sums[block.voxels])
        return _estimates(sums)

    def residuals(self, parameters: np.ndarray) -> tuple[float, np.ndarray, VoxelEstimates]:
        """Return the weighted sum of squares, the left side of the equation (n_parameters,), and the intensities."""
        model, sums = self._model(parameters, self._most_rows), np.zeros((len(self.observations.voxel), _N_SUMS))
        total, out = 0.0, np.zeros_like(model.states)
        for block in self.observations.blocks():
            total += _residuals(self._data(block), model, sums[block.voxels], out)
        return total, self._by_parameter(out), _estimates(sums)

    def curvature(self, parameters: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Return the product with `vector` of the equation's matrix, the intensities eliminated."""
        model, along = self._model(parameters, self._most_rows), self.layout.states(vector)
        out = np.zeros_like(model.states)
        for block in self.observations.blocks():
            _curvature(self._data(block), model, along, out)
        return self._by_parameter(out)

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
        by_states, kept = self._derivatives(parameters)
        weight, signal = kept[:, _WEIGHT], kept[:, _SIGNAL]
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

    def derivatives(self, parameters: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray, np.ndarray]:
        """Return derivatives of expected counts (n, n_parameters), weights, signals and offsets (n,), for few rows.

        The signal is the derivative by the intensity; signal and offset are counts.
        """
        by_states, kept = self._derivatives(parameters)
        return (by_states @ self.layout.expansion).tocsr(), kept[:, _WEIGHT], kept[:, _SIGNAL], kept[:, _EXTRA]

    def _derivatives(self, parameters: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Return derivatives of expected counts by states (n, n_states), and what is kept of the rows, (n, 6)."""
        n_rows, model = len(self.observations), self._model(parameters, 1)
        index = np.zeros((n_rows, self.layout.n_derivatives), np.int64)
        value, kept = np.zeros(index.shape), np.zeros((n_rows, _N_KEPT))
        for block in self.observations.blocks():
            where = block.place
            _derivatives(self._data(block), model, index[where], value[where], kept[where])
        # Where an axis has one control point the other two weights are 0 and belong to nothing.
        use = value != 0
        ends = np.concatenate([[0], np.cumsum(np.count_nonzero(use, axis=1))])
        shape = (n_rows, self.layout.expansion.shape[0])
        return sparse.csr_matrix((value[use], index[use], ends), shape), kept


def _estimates(sums: np.ndarray) -> VoxelEstimates:
    """Return what `sums` (n_voxels, 7) make."""
    weighted, information, exposure, offset, _, photons, background = (column.copy() for column in sums.T)
    return VoxelEstimates(weighted * _inverse(information), information, exposure, offset, photons, background)


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
