"""The scaling equation of one observation and its derivatives: loops inline them, and they stand nowhere else.

Per unit of exposure a row is expected to have ``D (C I + A)`` counts, with I the intensity of its voxel, C the product
of the components that act on the crystal's scattering, D of those that act on all that is detected, and A the sum of
those that are added. Each is a mean of values of states: of one, of three in |q|, or of three by three on a panel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from diffuse_framework.algorithms.scaling.components import CRYSTAL, DETECTOR, OFFSET, PANEL, POSITION, Q
from diffuse_framework.algorithms.scaling.smoothers import weights_at


class StateTables(NamedTuple):
    """What the loops need to find the states of a row, of the components that are refined; arrays only, for numba.

    Attributes:
        over, acts: (n_components,) as in `ComponentKind`.
        first: (n_images, n_components) where in the vector of states those of an image begin.
        q_axes: (n_components, 2) start and spacing in |q|.
        q_values: (n_components,) control points in |q|.
        panel_axes: (n_components, n_panels, 4) start and spacing along fast and slow.
        panel_nodes: (n_components, n_panels, 3) first node, control points along fast and slow.
    """

    over: np.ndarray
    acts: np.ndarray
    first: np.ndarray
    q_axes: np.ndarray
    q_values: np.ndarray
    panel_axes: np.ndarray
    panel_nodes: np.ndarray


class Located(NamedTuple):
    """Where the components of some rows have their states, their values there, and what follows for the rows.

    Attributes:
        at, stride: (n_rows, n_components) first state; distance of the lines of three by three.
        x, y: (n_rows, n_components, 3) weights on a panel.
        q_at: (n_components,) first control point in |q|, of all rows of one voxel.
        q_weights: (n_components, 3) and their weights.
        value: (n_rows, n_components) of the components.
    """

    at: np.ndarray
    stride: np.ndarray
    x: np.ndarray
    y: np.ndarray
    q_at: np.ndarray
    q_weights: np.ndarray
    value: np.ndarray


def room_for(n_rows: int, tables: StateTables) -> Located:
    """Return memory for so many rows at a time."""
    each = (n_rows, len(tables.over))
    return Located(
        np.zeros(each, np.int64),
        np.zeros(each, np.int64),
        np.zeros((*each, 3)),
        np.zeros((*each, 3)),
        np.zeros(each[1], np.int64),
        np.zeros((each[1], 3)),
        np.zeros(each),
    )


def padded(states: np.ndarray, tables: StateTables) -> np.ndarray:
    """Return states followed by zeros, so that three by three may be read where there are fewer."""
    return np.concatenate([states, np.zeros(3 + 3 * int(tables.panel_nodes[:, :, 1].max(initial=1)))])


@njit(cache=True, error_model="numpy", inline="always")
def include(acts, value, crystal, detector, added):
    """Return C, D and A with one more component, which has this value and acts as it does."""
    if acts == CRYSTAL:
        return crystal * value, detector, added
    if acts == DETECTOR:
        return crystal, detector * value, added
    return crystal, detector, added + value


@njit(cache=True, error_model="numpy", inline="always")
def derivatives(acts, value, factor, offset, detector):
    """Return derivatives of the factor D C and the offset D A by the value of one component."""
    if acts == OFFSET:
        return 0.0, detector
    inverse = 1.0 / value
    return factor * inverse, offset * inverse if acts == DETECTOR else 0.0


@njit(cache=True, error_model="numpy", inline="always")
def turn_to_q(q, tables, located):
    """Find the control points in |q| of the rows that follow."""
    for m in range(len(tables.over)):
        if tables.over[m] == Q:
            first, w0, w1, w2 = weights_at(q, tables.q_axes[m, 0], tables.q_axes[m, 1], tables.q_values[m])
            located.q_at[m] = first
            located.q_weights[m, 0] = w0
            located.q_weights[m, 1] = w1
            located.q_weights[m, 2] = w2


@njit(cache=True, error_model="numpy", inline="always")
def observe(k, remember, image, panel, fast, slow, states, tables, located):
    """Return C, D and A of a row; where told to remember it, leave what its components are in row `k` of `located`."""
    crystal = detector = 1.0
    added = 0.0
    for m in range(len(tables.over)):
        at = tables.first[image, m]
        over = tables.over[m]
        if over == Q:
            at += located.q_at[m]
            value = _three(states, at, located.q_weights[m, 0], located.q_weights[m, 1], located.q_weights[m, 2])
        elif over == POSITION:
            axes, stride = tables.panel_axes, tables.panel_nodes[m, panel, 1]
            x, x0, x1, x2 = weights_at(fast, axes[m, panel, 0], axes[m, panel, 1], stride)
            y, y0, y1, y2 = weights_at(slow, axes[m, panel, 2], axes[m, panel, 3], tables.panel_nodes[m, panel, 2])
            at += tables.panel_nodes[m, panel, 0] + y * stride + x
            value = _nine(states, at, stride, x0, x1, x2, y0, y1, y2)
            if remember:
                located.stride[k, m] = stride
                located.x[k, m, 0] = x0
                located.x[k, m, 1] = x1
                located.x[k, m, 2] = x2
                located.y[k, m, 0] = y0
                located.y[k, m, 1] = y1
                located.y[k, m, 2] = y2
        else:
            if over == PANEL:
                at += panel
            value = states[at]
        if remember:
            located.at[k, m] = at
            located.value[k, m] = value
        crystal, detector, added = include(tables.acts[m], value, crystal, detector, added)
    return crystal, detector, added


@njit(cache=True, error_model="numpy", inline="always")
def _three(values, at, w0, w1, w2):
    return w0 * values[at] + w1 * values[at + 1] + w2 * values[at + 2]


@njit(cache=True, error_model="numpy", inline="always")
def _nine(values, at, stride, x0, x1, x2, y0, y1, y2):
    return (
        y0 * _three(values, at, x0, x1, x2)
        + y1 * _three(values, at + stride, x0, x1, x2)
        + y2 * _three(values, at + 2 * stride, x0, x1, x2)
    )


@njit(cache=True, error_model="numpy", inline="always")
def change_along(vector, k, of_factor, of_offset, factor, offset, detector, tables, located):
    """Return by how much ``of_factor F + of_offset O`` changes at row `k` where states change by `vector`."""
    change = 0.0
    for m in range(len(tables.over)):
        at, value = located.at[k, m], located.value[k, m]
        by_factor, by_offset = derivatives(tables.acts[m], value, factor, offset, detector)
        over = tables.over[m]
        if over == Q:
            along = _three(vector, at, located.q_weights[m, 0], located.q_weights[m, 1], located.q_weights[m, 2])
        elif over == POSITION:
            x0, x1, x2 = located.x[k, m, 0], located.x[k, m, 1], located.x[k, m, 2]
            y0, y1, y2 = located.y[k, m, 0], located.y[k, m, 1], located.y[k, m, 2]
            along = _nine(vector, at, located.stride[k, m], x0, x1, x2, y0, y1, y2)
        else:
            along = vector[at]
        change += (of_factor * by_factor + of_offset * by_offset) * along
    return change


@njit(cache=True, error_model="numpy", inline="always")
def add_derivatives(out, k, of_factor, of_offset, factor, offset, detector, tables, located):
    """Add the derivatives of ``of_factor F + of_offset O`` at row `k` by values of states to `out`."""
    for m in range(len(tables.over)):
        at, value = located.at[k, m], located.value[k, m]
        by_factor, by_offset = derivatives(tables.acts[m], value, factor, offset, detector)
        amount = of_factor * by_factor + of_offset * by_offset
        over = tables.over[m]
        if over == Q:
            out[at] += amount * located.q_weights[m, 0]
            out[at + 1] += amount * located.q_weights[m, 1]
            out[at + 2] += amount * located.q_weights[m, 2]
        elif over == POSITION:
            x0, x1, x2 = located.x[k, m, 0], located.x[k, m, 1], located.x[k, m, 2]
            for line in range(3):
                by = amount * located.y[k, m, line]
                out[at] += by * x0
                out[at + 1] += by * x1
                out[at + 2] += by * x2
                at += located.stride[k, m]
        else:
            out[at] += amount


@njit(cache=True, error_model="numpy", inline="always")
def list_derivatives(index, out, k, of_factor, of_offset, factor, offset, detector, tables, located):
    """Write states and derivatives of ``of_factor F + of_offset O`` by them to `index` and `out` (n_derivatives,)."""
    column = 0
    for m in range(len(tables.over)):
        at, value = located.at[k, m], located.value[k, m]
        by_factor, by_offset = derivatives(tables.acts[m], value, factor, offset, detector)
        amount = of_factor * by_factor + of_offset * by_offset
        over = tables.over[m]
        if over == Q:
            for n in range(3):
                index[column], out[column] = at + n, amount * located.q_weights[m, n]
                column += 1
        elif over == POSITION:
            for line in range(3):
                for n in range(3):
                    index[column], out[column] = at + n, amount * located.y[k, m, line] * located.x[k, m, n]
                    column += 1
                at += located.stride[k, m]
        else:
            index[column], out[column] = at, amount
            column += 1


@njit(cache=True, error_model="numpy")
def _at_rows(image, panel, fast, slow, q, states, tables, located, factor, offset):
    last_q = np.nan
    for row in range(len(image)):
        if q[row] != last_q:
            last_q = q[row]
            turn_to_q(last_q, tables, located)
        crystal, detector, added = observe(
            0, False, image[row], panel[row], fast[row], slow[row], states, tables, located
        )
        factor[row] = detector * crystal
        offset[row] = detector * added


def at_rows(
    states: np.ndarray,
    tables: StateTables,
    image: np.ndarray,
    panel: np.ndarray,
    fast: np.ndarray,
    slow: np.ndarray,
    q: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return factor and offset of rows, (n,) each, from values of states, `padded`."""
    factor, offset = np.empty(len(image)), np.empty(len(image))
    _at_rows(image, panel, fast, slow, q, states, tables, room_for(1, tables), factor, offset)
    return factor, offset


@njit(cache=True, error_model="numpy")
def _combined(values, acts, factor, offset):
    for row in range(len(values)):
        crystal = detector = 1.0
        added = 0.0
        for m in range(len(acts)):
            crystal, detector, added = include(acts[m], values[row, m], crystal, detector, added)
        factor[row] = detector * crystal
        offset[row] = detector * added


def combined(values: np.ndarray, acts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return factor and offset of rows, (n,) each, from the values of their components (n, n_components)."""
    factor, offset = np.empty(len(values)), np.empty(len(values))
    _combined(values, np.asarray(acts, np.int64), factor, offset)
    return factor, offset
