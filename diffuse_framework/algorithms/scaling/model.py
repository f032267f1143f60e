"""The scaling model: what its parameters are, and what they make of an observation.

Expected counts of a row of sums (Meisburger, Case & Ando 2020, Nat. Commun. 11, 1271; Meisburger &
Ando 2024, Acta Cryst. D80), with e its exposure and I the intensity of its voxel:

    exposure * a d (b s I + c) + background

    b  scale of the image: one each, or smooth in the order of images
    c  offset, smooth in |q| and order: scattering that does not scale with the crystal
    d  one factor per detector panel
    a  absorption and sensitivity, smooth over each panel and in order
    s  smooth in |q| and order: decay with resolution

All parts are linear in their control points. Control points along the order of images are
contracted first: each distinct order is a *state*, and what a row needs are values of states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from scipy import sparse

from diffuse_framework.algorithms.scaling.smoothers import CONSTANT, Axis, axis_over, weight_matrix, weights_at
from diffuse_framework.errors import ConfigError

PARTS = ("scale", "offset", "panel", "absorption", "resolution")
SCALE, OFFSET, PANEL, ABSORPTION, RESOLUTION = range(5)

# Parameters of a part that changes nothing.
NULL = {"scale": 1.0, "offset": 0.0, "panel": 1.0, "absorption": 1.0, "resolution": 1.0}


@dataclass(frozen=True)
class ScalingOptions:
    """Which parts are refined, and how far apart their control points are.

    Attributes:
        scale: "per_image", "smooth" or "off".
        scale_order: spacing of control points in the order of images.
        offset, panel, absorption, resolution: whether the part is refined.
        offset_q, resolution_q: spacing of control points in |q|, 1/angstrom.
        offset_order, absorption_order, resolution_order: spacing in the order of images; None
            for a part that does not change with it.
        absorption_px: spacing on the detector in pixels.
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
class Extent:
    """The ranges that control points must span.

    Attributes:
        data_set: (n_images,) data set of each image, numbered from 0.
        order: (n_images,) where in its data set: image number, or degrees.
        q: lowest and highest |q|, 1/angstrom.
        panels: (n_panels, 4) lowest and highest fast, lowest and highest slow, pixels.
    """

    data_set: np.ndarray
    order: np.ndarray
    q: tuple[float, float]
    panels: np.ndarray

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.data_set)

    @property
    def n_data_sets(self) -> int:
        """Number of data sets."""
        return int(self.data_set.max()) + 1 if len(self.data_set) else 0


@dataclass(frozen=True, eq=False)
class Part:
    """One part of the model.

    Parameters are ordered node by node of the order axis, data set after data set, and within a
    node by |q| or position on the detector.

    Attributes:
        name: of `PARTS`.
        order: control points of each data set along the order of images.
        q: control points in |q|.
        panels: for each panel control points along fast and slow.
        order_weights: (n_states, n_nodes) from nodes of the order axes to states.
        state: (n_images,) the state of each image.
    """

    name: str
    order: tuple[Axis, ...]
    q: Axis
    panels: tuple[tuple[Axis, Axis], ...]
    order_weights: sparse.csr_matrix
    state: np.ndarray

    @property
    def width(self) -> int:
        """Parameters at each node of the order axis."""
        if self.panels:
            return sum(fast.n_values * slow.n_values for fast, slow in self.panels)
        return self.q.n_values

    @property
    def n_nodes(self) -> int:
        """Nodes along the order of images, of all data sets."""
        return self.order_weights.shape[1]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.n_nodes * self.width


class StateTables(NamedTuple):
    """What the loops need to find the states of a row; arrays only, for numba.

    Attributes:
        first: of each part, its position in the vector of states, -1 where it is not refined.
        states: (5, n_images) state of each image in each part.
        q_axes: (5, 2) start and spacing in |q|.
        q_values: (5,) control points in |q|.
        panel_axes: (n_panels, 4) start and spacing along fast and slow.
        panel_nodes: (n_panels, 3) first node, control points along fast and slow.
        n_nodes: nodes on all panels.
    """

    first: tuple[int, int, int, int, int]
    states: np.ndarray
    q_axes: np.ndarray
    q_values: np.ndarray
    panel_axes: np.ndarray
    panel_nodes: np.ndarray
    n_nodes: int


@dataclass(frozen=True, eq=False)
class Layout:
    """All parameters of a model in one vector, and how they become states.

    Attributes:
        extent: what the control points span.
        parts: those refined.
        slices: where each part's parameters are.
        expansion: (n_states, n_parameters) from parameters to values of states.
        tables: for the loops.
    """

    extent: Extent
    parts: dict[str, Part]
    slices: dict[str, slice]
    expansion: sparse.csr_matrix
    tables: StateTables

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.expansion.shape[1]

    @property
    def depends_on_q(self) -> bool:
        """Whether a part depends on |q|."""
        return not {"offset", "resolution"}.isdisjoint(self.parts)

    def null(self) -> np.ndarray:
        """Parameters of a model that changes nothing, (size,)."""
        result = np.zeros(self.size)
        for name, where in self.slices.items():
            result[where] = NULL[name]
        return result

    def multiplicative(self) -> np.ndarray:
        """True for parameters of factors, False for the offset, (size,)."""
        result = np.ones(self.size, bool)
        if "offset" in self.slices:
            result[self.slices["offset"]] = False
        return result

    def image_scales(self, parameters: np.ndarray) -> np.ndarray:
        """Return b of every image, (n_images,)."""
        if "scale" not in self.parts:
            return np.ones(self.extent.n_images)
        part = self.parts["scale"]
        return (part.order_weights @ parameters[self.slices["scale"]])[part.state]

    def at_images(self, name: str, parameters: np.ndarray) -> np.ndarray:
        """Return the control points of one part as they are at every image, (n_images, width)."""
        part = self.parts[name]
        at_nodes = parameters[self.slices[name]].reshape(part.n_nodes, part.width)
        return (part.order_weights @ at_nodes)[part.state]

    def crystal_at_offset(self, parameters: np.ndarray) -> np.ndarray:
        """Return b s of every image at the offset's control points, (n_images, n_q)."""
        result = np.repeat(self.image_scales(parameters)[:, None], self.parts["offset"].q.n_values, axis=1)
        if "resolution" in self.parts:
            along = weight_matrix(self.parts["resolution"].q, self.parts["offset"].q.positions)
            result *= (along @ self.at_images("resolution", parameters).T).T
        return result


def make_layout(options: ScalingOptions, extent: Extent) -> Layout:
    """Return the layout of the model that `options` ask for.

    Raises:
        ConfigError: nothing to refine, or a resolution smoother that is the same for all images.
    """
    q_low, q_high = extent.q
    parts: dict[str, Part] = {}
    if options.scale == "per_image":
        parts["scale"] = _per_image(extent)
    elif options.scale == "smooth":
        parts["scale"] = _smooth("scale", extent, options.scale_order)
    if options.offset:
        axis = axis_over(q_low, q_high, options.offset_q)
        parts["offset"] = _smooth("offset", extent, options.offset_order, axis)
    if options.panel and len(extent.panels) > 1:
        parts["panel"] = _shared("panel", extent, tuple((CONSTANT, CONSTANT) for _ in extent.panels))
    if options.absorption:
        panels = tuple(
            (
                axis_over(box[0], box[1], options.absorption_px),
                axis_over(box[2], box[3], options.absorption_px),
            )
            for box in extent.panels
        )
        if options.absorption_order is None:
            parts["absorption"] = _shared("absorption", extent, panels)
        else:
            parts["absorption"] = _smooth("absorption", extent, options.absorption_order, CONSTANT, panels)
    if options.resolution:
        axis = axis_over(q_low, q_high, options.resolution_q)
        parts["resolution"] = _smooth("resolution", extent, options.resolution_order, axis)
        if parts["resolution"].n_nodes < 2:
            raise ConfigError(
                "a resolution smoother that is the same for all images can't be told from the map itself; "
                "give scaler.smooth.resolution.order_spacing a value, or several data sets"
            )
    return assemble_layout(extent, parts)


def assemble_layout(extent: Extent, parts: dict[str, Part]) -> Layout:
    """Return the layout of the given parts."""
    if not parts:
        raise ConfigError("the scaling model has nothing to refine; switch on at least one of its parts")
    slices, blocks, first, n_parameters, n_states = {}, [], [-1] * len(PARTS), 0, 0
    states = np.zeros((5, extent.n_images), np.int64)
    for number, name in enumerate(PARTS):
        if name not in parts:
            continue
        part = parts[name]
        slices[name] = slice(n_parameters, n_parameters + part.size)
        n_parameters += part.size
        block = sparse.kron(part.order_weights, sparse.identity(part.width), format="csr")
        blocks.append(block)
        first[number] = n_states
        n_states += block.shape[0]
        states[number] = part.state * part.width
    q_axes, q_values = np.ones((5, 2)), np.ones(5, np.int64)
    for number, name in enumerate(PARTS):
        if name in parts:
            axis = parts[name].q
            q_axes[number], q_values[number] = (axis.start, axis.spacing), axis.n_values
    n_panels = max(len(extent.panels), 1)
    panel_axes, panel_nodes, n_nodes = np.ones((n_panels, 4)), np.ones((n_panels, 3), np.int64), 0
    for number, (fast, slow) in enumerate(parts["absorption"].panels if "absorption" in parts else ()):
        panel_axes[number] = fast.start, fast.spacing, slow.start, slow.spacing
        panel_nodes[number] = n_nodes, fast.n_values, slow.n_values
        n_nodes += fast.n_values * slow.n_values
    scale, offset, panel, absorption, resolution = first
    where = (scale, offset, panel, absorption, resolution)
    tables = StateTables(where, states, q_axes, q_values, panel_axes, panel_nodes, n_nodes)
    return Layout(extent, parts, slices, sparse.block_diag(blocks, "csr"), tables)


def same_for_all(extent: Extent) -> Layout:
    """Return the layout of a model that has one scale, the same for all images."""
    return assemble_layout(extent, {"scale": _shared("scale", extent, ())})


def _per_image(extent: Extent) -> Part:
    weights = sparse.identity(extent.n_images, format="csr")
    return Part("scale", (), CONSTANT, (), weights, np.arange(extent.n_images))


def _shared(name: str, extent: Extent, panels: tuple[tuple[Axis, Axis], ...]) -> Part:
    """Return a part that is the same for all images of all data sets."""
    one = sparse.csr_matrix(np.ones((1, 1)))
    return Part(name, (CONSTANT,), CONSTANT, panels, one, np.zeros(extent.n_images, np.int64))


def _smooth(
    name: str,
    extent: Extent,
    spacing: float | None,
    q: Axis = CONSTANT,
    panels: tuple[tuple[Axis, Axis], ...] = (),
) -> Part:
    """Return a part with control points of its own in each data set."""
    axes = tuple(
        axis_over(order.min(), order.max(), spacing)
        for order in (extent.order[extent.data_set == n] for n in range(extent.n_data_sets))
    )
    return smooth_part(name, extent, axes, q, panels)


def smooth_part(
    name: str, extent: Extent, axes: tuple[Axis, ...], q: Axis, panels: tuple[tuple[Axis, Axis], ...]
) -> Part:
    """Return a part with the given control points along the order of each data set."""
    keys = np.stack([extent.data_set, extent.order], axis=1)
    distinct, state = np.unique(keys, axis=0, return_inverse=True)
    blocks = [weight_matrix(axis, distinct[distinct[:, 0] == n, 1]) for n, axis in enumerate(axes)]
    weights = sparse.block_diag(blocks, "csr")
    if all(axis.n_values == 1 for axis in axes):
        distinct_sets, state = np.unique(extent.data_set, return_inverse=True)
        weights = sparse.identity(len(distinct_sets), format="csr")
    return Part(name, axes, q, panels, weights, state.ravel())


@njit(cache=True, error_model="numpy", inline="always")
def line_value(states, first, w0, w1, w2):
    """Return the weighted mean of three control points."""
    return w0 * states[first] + w1 * states[first + 1] + w2 * states[first + 2]


@njit(cache=True, error_model="numpy", inline="always")
def patch_value(states, corner, stride, x0, x1, x2, y0, y1, y2):
    """Return the weighted mean of three by three control points."""
    return (
        y0 * line_value(states, corner, x0, x1, x2)
        + y1 * line_value(states, corner + stride, x0, x1, x2)
        + y2 * line_value(states, corner + 2 * stride, x0, x1, x2)
    )


@njit(cache=True, error_model="numpy", inline="always")
def q_weights(q, tables, part):
    """Return the first of three control points in |q| and their weights; of a part that is not refined, zeros."""
    if tables.first[part] < 0:
        return 0, 0.0, 0.0, 0.0
    return weights_at(q, tables.q_axes[part, 0], tables.q_axes[part, 1], tables.q_values[part])


@njit(cache=True, error_model="numpy", inline="always")
def patch_weights(panel, fast, slow, image, tables):
    """Return corner and stride of three by three control points on a panel, and their weights along both axes."""
    axes, stride = tables.panel_axes, tables.panel_nodes[panel, 1]
    x, x0, x1, x2 = weights_at(fast, axes[panel, 0], axes[panel, 1], stride)
    y, y0, y1, y2 = weights_at(slow, axes[panel, 2], axes[panel, 3], tables.panel_nodes[panel, 2])
    corner = tables.first[ABSORPTION] + tables.states[ABSORPTION, image] + tables.panel_nodes[panel, 0] + y * stride + x
    return corner, stride, x0, x1, x2, y0, y1, y2


def padded(states: np.ndarray, tables: StateTables) -> np.ndarray:
    """Return states followed by zeros, so that three by three may be read where there are fewer."""
    return np.concatenate([states, np.zeros(3 + 3 * int(tables.panel_nodes[:, 1].max()))])


@njit(cache=True, error_model="numpy")
def _rows(image, panel, fast, slow, q, states, tables, factor, offset):
    has_b, has_c, has_s = tables.first[SCALE] >= 0, tables.first[OFFSET] >= 0, tables.first[RESOLUTION] >= 0
    has_d, has_a = tables.first[PANEL] >= 0, tables.first[ABSORPTION] >= 0
    last_q = np.nan
    kc = ks = 0
    c0 = c1 = c2 = s0 = s1 = s2 = 0.0
    for row in range(len(image)):
        i = image[row]
        b = s = a = d = 1.0
        c = 0.0
        if (has_c or has_s) and q[row] != last_q:
            last_q = q[row]
            kc, c0, c1, c2 = q_weights(last_q, tables, OFFSET)
            ks, s0, s1, s2 = q_weights(last_q, tables, RESOLUTION)
        if has_b:
            b = states[tables.first[SCALE] + tables.states[SCALE, i]]
        if has_c:
            c = line_value(states, tables.first[OFFSET] + tables.states[OFFSET, i] + kc, c0, c1, c2)
        if has_d:
            d = states[tables.first[PANEL] + panel[row]]
        if has_a:
            corner, stride, x0, x1, x2, y0, y1, y2 = patch_weights(panel[row], fast[row], slow[row], i, tables)
            a = patch_value(states, corner, stride, x0, x1, x2, y0, y1, y2)
        if has_s:
            s = line_value(states, tables.first[RESOLUTION] + tables.states[RESOLUTION, i] + ks, s0, s1, s2)
        factor[row] = b * s * a * d
        offset[row] = c * a * d


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
    factor, offset = np.empty(len(image)), np.empty(len(image))
    states = padded(layout.expansion @ parameters, layout.tables)
    _rows(image, panel, fast, slow, q, states, layout.tables, factor, offset)
    return factor, offset


def layout_to_numbers(layout: Layout) -> dict[str, Any]:
    """Return the layout as plain numbers, for files."""
    extent = layout.extent
    return {
        "data_set": extent.data_set.tolist(),
        "order": extent.order.tolist(),
        "q_range": list(extent.q),
        "panel_ranges": extent.panels.tolist(),
        "parts": {
            name: {
                "order_axes": [_axis_numbers(axis) for axis in part.order],
                "q_axis": _axis_numbers(part.q),
                "panel_axes": [[_axis_numbers(fast), _axis_numbers(slow)] for fast, slow in part.panels],
            }
            for name, part in layout.parts.items()
        },
    }


def layout_from_numbers(numbers: dict[str, Any]) -> Layout:
    """Return the layout of `layout_to_numbers`.

    Raises:
        KeyError: something is missing.
    """
    extent = Extent(
        np.array(numbers["data_set"], np.int64),
        np.array(numbers["order"], float),
        tuple(numbers["q_range"]),
        np.array(numbers["panel_ranges"], float).reshape(-1, 4),
    )
    parts = {}
    for name, part in numbers["parts"].items():
        axes = tuple(Axis(*axis) for axis in part["order_axes"])
        panels = tuple((Axis(*fast), Axis(*slow)) for fast, slow in part["panel_axes"])
        if not axes:
            parts[name] = _per_image(extent)
        elif len(axes) == 1 and axes[0] == CONSTANT and name in ("panel", "absorption"):
            parts[name] = _shared(name, extent, panels)
        else:
            parts[name] = smooth_part(name, extent, axes, Axis(*part["q_axis"]), panels)
    return assemble_layout(extent, parts)


def _axis_numbers(axis: Axis) -> list[float]:
    return [float(axis.start), float(axis.spacing), int(axis.n_values)]
