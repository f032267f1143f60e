"""What is known of a scaling model without data: how smooth it is, and directions that no data determine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from diffuse_framework.algorithms.scaling.components import (
    AT_NODES,
    AT_PLACES,
    DETECTOR,
    OF_PANELS,
    OFFSET,
    OVER_IMAGES,
    PANEL,
    Component,
)
from diffuse_framework.algorithms.scaling.model import Layout
from diffuse_framework.algorithms.scaling.smoothers import second_differences

# How tightly degenerate directions are held, relative to parameters of about 1.
_PINNED = 1e-3


@dataclass(frozen=True)
class Restraints:
    """How much neighbouring control points may differ.

    Attributes:
        differences: by the name of a component, its `ComponentKind.restraint` where that is not to be the usual.
        spread: expected deviation of a factor's parameters from 1.
        offset_spread: expected size of the offset's, relative to the mean intensity.
    """

    differences: Mapping[str, float] = field(default_factory=dict)
    spread: float = 10.0
    offset_spread: float = 1.0

    def expected(self, component: Component, level: np.ndarray) -> np.ndarray:
        """Return the expected deviation of a component's parameters from null, (size,); `level` is that of offsets."""
        if component.kind.acts == OFFSET:
            return self.offset_spread * np.tile(level, component.n_nodes)
        return np.full(component.size, self.spread)


def restraint_matrix(layout: Layout, restraints: Restraints, level: np.ndarray) -> sparse.csr_matrix:
    """Return the information (n, n) that restraints and pins add about parameters' deviation from null."""
    rows = restraint_rows(layout, restraints, level)
    return (rows.T @ rows).tocsr()


def restraint_rows(layout: Layout, restraints: Restraints, level: np.ndarray) -> sparse.csr_matrix:
    """Return restraints and pins as rows (m, n).

    Each row times the parameters' deviation from null is a normal deviate.

    Args:
        layout: of the parameters.
        restraints: their strengths.
        level: (n_q,) mean intensity at the offset's control points.
    """
    blocks = []
    for component in layout.components.values():
        kind = component.kind
        unit = np.tile(1 / level, component.n_nodes) if kind.acts == OFFSET else np.ones(component.size)
        rows = [sparse.diags(1 / restraints.expected(component, level))]
        strength = restraints.differences.get(kind.name, kind.restraint)
        if strength is not None:
            rows += [differences @ sparse.diags(unit / strength) for differences in _differences(component)]
        blocks.append(sparse.vstack([*rows, *(pins / _PINNED for pins in _pins(layout, component))]))
    return sparse.block_diag(blocks, "csr")


def _differences(component: Component) -> list[sparse.csr_matrix]:
    """Second differences of a component along each of its axes."""
    result = []
    if component.order:
        along = sparse.block_diag([second_differences(axis.n_values) for axis in component.order])
        if along.shape[0]:
            result.append(sparse.kron(along, sparse.identity(component.width)))
    across = [second_differences(component.q.n_values)] if not component.panels else []
    if component.panels:
        along_fast = [
            sparse.kron(sparse.identity(y.n_values), second_differences(x.n_values)) for x, y in component.panels
        ]
        along_slow = [
            sparse.kron(second_differences(y.n_values), sparse.identity(x.n_values)) for x, y in component.panels
        ]
        across = [sparse.block_diag(along_fast), sparse.block_diag(along_slow)]
    for matrix in across:
        if matrix.shape[0]:
            result.append(sparse.kron(sparse.identity(component.n_nodes), matrix))
    return result


def _pins(layout: Layout, component: Component) -> list[sparse.csr_matrix]:
    """Means of a component's parameters that are held, as its kind says."""
    n_nodes, width = component.n_nodes, component.width
    of_nodes = np.full((1, n_nodes), 1 / n_nodes)
    result = []
    for pin_of in component.kind.pins:
        if pin_of == OVER_IMAGES:
            share = np.bincount(component.state, minlength=component.order_weights.shape[0]) / len(component.state)
            result.append(sparse.csr_matrix(share[None, :] @ component.order_weights))
        elif pin_of == AT_NODES:
            result.append(sparse.kron(sparse.identity(n_nodes), np.full((1, width), 1 / width)))
        elif pin_of == AT_PLACES:
            result.append(sparse.kron(of_nodes, sparse.identity(width)))
        elif pin_of == OF_PANELS and any(other.kind.over == PANEL for other in layout.components.values()):
            sizes = [x.n_values * y.n_values for x, y in component.panels]
            each = sparse.block_diag([np.full((1, size), 1 / size) for size in sizes])
            result.append(sparse.kron(of_nodes, each))
    return result


def pin(layout: Layout, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters with degenerate directions pinned, and the offset's common part.

    The mean of b over images and the means of d and a over their control points become 1; the common
    part g makes ``c - b s g`` 0 at its lowest over the images, at each control point in |q|.
    """
    result = parameters.copy()
    total = 1.0
    for name, component in layout.components.items():
        if component.kind.acts == DETECTOR:
            mean = result[layout.slices[name]].mean()
            result[layout.slices[name]] /= mean
            total *= mean
    for name, component in layout.components.items():
        if component.kind.acts == OFFSET:
            result[layout.slices[name]] *= total
        elif OVER_IMAGES in component.kind.pins:
            result[layout.slices[name]] /= layout.at_images(name, result).mean()
    if "offset" not in layout.components:
        return result, np.zeros(1)
    return result, (layout.at_images("offset", result) / layout.crystal_at_offset(result)).min(axis=0)
