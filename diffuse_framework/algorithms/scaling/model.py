"""The scaling model: its components together, their parameters in one vector, and what they make of an observation.

All components are linear in their control points. Control points along the order of images are
contracted first: each distinct order is a *state*, and what a row needs are values of states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from diffuse_framework.algorithms.scaling.components import (
    COMPONENTS,
    CRYSTAL,
    DETECTOR,
    IMAGE,
    KINDS,
    N_POINTS,
    OFFSET,
    PANEL,
    POSITION,
    Component,
    ComponentKind,
    Extent,
    Q,
    order_axes,
    per_image_component,
    shared_component,
    smooth_component,
)
from diffuse_framework.algorithms.scaling.failures import SameForAllImagesError
from diffuse_framework.algorithms.scaling.kernel import StateTables, at_rows, padded
from diffuse_framework.algorithms.scaling.smoothers import CONSTANT, Axis, axis_over, weight_matrix
from diffuse_framework.errors import ConfigError


@dataclass(frozen=True)
class ScalingOptions:
    """Which components are refined, and how far apart their control points are.

    Fields are named for the component: ``<name>`` whether it is refined, ``<name>_order`` the spacing of its control
    points in the order of images (None for one that does not change with it), and where it varies over them
    ``<name>_q`` in |q|, 1/angstrom, and ``<name>_px`` on the detector, pixels.

    Attributes:
        scale: "per_image", "smooth" or "off".
        offset, panel, absorption, resolution: whether it is refined.
        scale_order, offset_order, absorption_order, resolution_order: spacing in the order of images.
        offset_q, resolution_q: spacing in |q|.
        absorption_px: spacing on the detector.
    """

    scale: str = "per_image"
    scale_order: float = 5.0
    offset: bool = False
    offset_q: float = 0.05
    offset_order: float | None = 10.0
    panel: bool = False
    absorption: bool = False
    absorption_px: float = 500.0
    absorption_order: float | None = None
    resolution: bool = False
    resolution_q: float = 0.1
    resolution_order: float | None = 20.0


@dataclass(frozen=True, eq=False)
class Layout:
    """All parameters of a model in one vector, and how they become states.

    Attributes:
        extent: what the control points span.
        components: those refined.
        slices: where each component's parameters are.
        expansion: (n_states, n_parameters) from parameters to values of states.
        tables: for the loops.
    """

    extent: Extent
    components: dict[str, Component]
    slices: dict[str, slice]
    expansion: sparse.csr_matrix
    tables: StateTables

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.expansion.shape[1]

    @property
    def depends_on_q(self) -> bool:
        """Whether a component depends on |q|."""
        return any(component.kind.over == Q for component in self.components.values())

    @property
    def has_offset(self) -> bool:
        """Whether a component is added."""
        return any(component.kind.acts == OFFSET for component in self.components.values())

    @property
    def n_derivatives(self) -> int:
        """Values of states that a row depends on, at most."""
        return sum(N_POINTS[component.kind.over] for component in self.components.values())

    def states(self, parameters: np.ndarray) -> np.ndarray:
        """Return values of states, (n_states + some zeros,), as the loops want them."""
        return padded(self.expansion @ parameters, self.tables)

    def null(self) -> np.ndarray:
        """Parameters of a model that changes nothing, (size,)."""
        result = np.zeros(self.size)
        for name, where in self.slices.items():
            result[where] = self.components[name].kind.null
        return result

    def multiplicative(self) -> np.ndarray:
        """True for parameters of factors, False for those that are added, (size,)."""
        result = np.ones(self.size, bool)
        for name, where in self.slices.items():
            result[where] = self.components[name].kind.acts != OFFSET
        return result

    def image_scales(self, parameters: np.ndarray) -> np.ndarray:
        """Return b of every image, (n_images,)."""
        if "scale" not in self.components:
            return np.ones(self.extent.n_images)
        return self.at_images("scale", parameters)[:, 0]

    def at_images(self, name: str, parameters: np.ndarray) -> np.ndarray:
        """Return the control points of one component as they are at every image, (n_images, width)."""
        component = self.components[name]
        at_nodes = parameters[self.slices[name]].reshape(component.n_nodes, component.width)
        return (component.order_weights @ at_nodes)[component.state]

    def crystal_at_offset(self, parameters: np.ndarray) -> np.ndarray:
        """Return what acts on the crystal, b s, of every image at the offset's control points, (n_images, n_q)."""
        axis = self.components["offset"].q
        result = np.ones((self.extent.n_images, axis.n_values))
        for name, component in self.components.items():
            if component.kind.acts == CRYSTAL:
                result *= (weight_matrix(component.q, axis.positions) @ self.at_images(name, parameters).T).T
        return result


def make_layout(options: ScalingOptions, extent: Extent) -> Layout:
    """Return the layout of the model that `options` ask for.

    Raises:
        ConfigError: nothing to refine.
        SameForAllImagesError: a resolution smoother that is the same for all images.
    """
    wanted = {kind.name: _component(kind, options, extent) for kind in COMPONENTS}
    components = {name: component for name, component in wanted.items() if component is not None}
    for name, component in components.items():
        if component.kind.acts == CRYSTAL and component.kind.over != IMAGE and component.n_nodes < 2:
            raise SameForAllImagesError(
                f"a {name} smoother that is the same for all images can't be told from the map itself", name
            )
    return assemble_layout(extent, components)


def _component(kind: ComponentKind, options: ScalingOptions, extent: Extent) -> Component | None:
    """Return what `options` ask for, None where they ask for none."""
    model, spacing = getattr(options, kind.name), getattr(options, f"{kind.name}_order", None)
    if model in (False, "off") or (kind.over == PANEL and len(extent.panels) < 2):
        return None
    if model == "per_image":
        return per_image_component(kind, extent)
    q, panels = CONSTANT, tuple((CONSTANT, CONSTANT) for _ in extent.panels if kind.over == PANEL)
    if kind.over == Q:
        q = axis_over(*extent.q, getattr(options, f"{kind.name}_q"))
    if kind.over == POSITION:
        px = getattr(options, f"{kind.name}_px")
        panels = tuple((axis_over(box[0], box[1], px), axis_over(box[2], box[3], px)) for box in extent.panels)
    if kind.acts == DETECTOR and spacing is None:
        return shared_component(kind, extent, q, panels)
    return smooth_component(kind, extent, order_axes(extent, spacing), q, panels)


def assemble_layout(extent: Extent, components: dict[str, Component]) -> Layout:
    """Return the layout of the given components, by name, in this order."""
    if not components:
        raise ConfigError("the scaling model has nothing to refine; switch on at least one of its components")
    slices, blocks, first, n_parameters, n_states = {}, [], [], 0, 0
    for name, component in components.items():
        slices[name] = slice(n_parameters, n_parameters + component.size)
        n_parameters += component.size
        blocks.append(sparse.kron(component.order_weights, sparse.identity(component.width), format="csr"))
        first.append(n_states)
        n_states += blocks[-1].shape[0]
    tables = _tables(extent, list(components.values()), first)
    return Layout(extent, components, slices, sparse.block_diag(blocks, "csr"), tables)


def _tables(extent: Extent, components: list[Component], first: list[int]) -> StateTables:
    n_panels = max(len(extent.panels), 1)
    panel_axes = np.ones((len(components), n_panels, 4))
    panel_nodes = np.ones((len(components), n_panels, 3), np.int64)
    for number, component in enumerate(components):
        n_nodes = 0
        for panel, (fast, slow) in enumerate(component.panels):
            panel_axes[number, panel] = fast.start, fast.spacing, slow.start, slow.spacing
            panel_nodes[number, panel] = n_nodes, fast.n_values, slow.n_values
            n_nodes += fast.n_values * slow.n_values
    return StateTables(
        np.array([component.kind.over for component in components], np.int64),
        np.array([component.kind.acts for component in components], np.int64),
        np.stack(
            [start + component.state * component.width for start, component in zip(first, components, strict=True)],
            axis=1,
        ).astype(np.int64),
        np.array([(component.q.start, component.q.spacing) for component in components], float),
        np.array([component.q.n_values for component in components], np.int64),
        panel_axes,
        panel_nodes,
    )


def same_for_all(extent: Extent) -> Layout:
    """Return the layout of a model that has one scale, the same for all images."""
    return assemble_layout(extent, {"scale": shared_component(KINDS["scale"], extent)})


def evaluate(
    layout: Layout,
    parameters: np.ndarray,
    image: np.ndarray,
    panel: np.ndarray,
    fast: np.ndarray,
    slow: np.ndarray,
    q: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return factor and offset of rows, each (n,).

    Args:
        layout, parameters: the model.
        image, panel: (n,) integers.
        fast, slow: (n,) pixels.
        q: (n,) |q| of the rows' voxels, 1/angstrom; fastest where rows of a voxel follow each other.
    """
    return at_rows(layout.states(parameters), layout.tables, image, panel, fast, slow, q)


def layout_to_numbers(layout: Layout) -> dict[str, Any]:
    """Return the layout as plain numbers, for files."""
    extent = layout.extent
    return {
        "data_set": extent.data_set.tolist(),
        "order": extent.order.tolist(),
        "q_range": list(extent.q),
        "panel_ranges": extent.panels.tolist(),
        "components": {
            name: {
                "order_axes": [_axis_numbers(axis) for axis in component.order],
                "q_axis": _axis_numbers(component.q),
                "panel_axes": [[_axis_numbers(fast), _axis_numbers(slow)] for fast, slow in component.panels],
            }
            for name, component in layout.components.items()
        },
    }


def layout_from_numbers(numbers: dict[str, Any]) -> Layout:
    """Return the layout of `layout_to_numbers`.

    Raises:
        KeyError: something is missing.
        ValueError: a component that this version does not know.
    """
    extent = Extent(
        np.array(numbers["data_set"], np.int64),
        np.array(numbers["order"], float),
        tuple(numbers["q_range"]),
        np.array(numbers["panel_ranges"], float).reshape(-1, 4),
    )
    components = {}
    # Files of earlier versions have them as parts.
    stored = numbers["parts" if "parts" in numbers else "components"]
    for name in sorted(stored, key=list(KINDS).index):
        kind, plain = KINDS[name], stored[name]
        q = Axis(*plain["q_axis"])
        axes = tuple(Axis(*axis) for axis in plain["order_axes"])
        panels = tuple((Axis(*fast), Axis(*slow)) for fast, slow in plain["panel_axes"])
        if not axes:
            components[name] = per_image_component(kind, extent)
        elif axes == (CONSTANT,) and (kind.acts == DETECTOR or extent.n_data_sets > 1):
            components[name] = shared_component(kind, extent, q, panels)
        else:
            components[name] = smooth_component(kind, extent, axes, q, panels)
    return assemble_layout(extent, components)


def _axis_numbers(axis: Axis) -> list[float]:
    return [float(axis.start), float(axis.spacing), int(axis.n_values)]
