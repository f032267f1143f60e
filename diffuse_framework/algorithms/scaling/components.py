"""The components of the scaling model, as data.

Expected counts of a row of sums (Meisburger, Case & Ando 2020, Nat. Commun. 11, 1271; Meisburger &
Ando 2024, Acta Cryst. D80), with e its exposure and I the intensity of its voxel:

    exposure * a d (b s I + c) + background

    b  scale of the image: one each, or smooth in the order of images
    c  offset, smooth in |q| and order: scattering that does not scale with the crystal
    d  one factor per detector panel
    a  absorption and sensitivity, smooth over each panel and in order
    s  smooth in |q| and order: decay with resolution

What each of them varies over, what it acts on and how it is restrained stands in `COMPONENTS`; how they make up
the expected counts stands in `kernel`, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from diffuse_framework.algorithms.scaling.smoothers import CONSTANT, Axis, axis_over, weight_matrix

# What a component varies over, beside the order of images.
IMAGE, Q, PANEL, POSITION = range(4)

# Values of states that make up the value at a row, by what a component varies over.
N_POINTS = {IMAGE: 1, Q: 3, PANEL: 1, POSITION: 9}

# What a component acts on: a factor of what the crystal scatters, a factor of all that is detected, or an addition.
CRYSTAL, DETECTOR, OFFSET = range(3)

# Means of control points that are held, for else another component could take up the difference.
OVER_IMAGES, AT_NODES, AT_PLACES, OF_PANELS = "over images", "at nodes", "at places", "of panels"


@dataclass(frozen=True)
class ComponentKind:
    """What a component of the model is, whatever its control points.

    Attributes:
        name: in parameters and files.
        over: `IMAGE`, `Q`, `PANEL` or `POSITION`: what it varies over, beside the order of images.
        acts: `CRYSTAL`, `DETECTOR` or `OFFSET`.
        restraint: expected root mean square of second differences along an axis of control points, of an offset
            relative to the mean intensity there; None for one without neighbours.
        pins: means that are held at `null`: over all images; at each node of the order over all places (|q|, panels
            or positions); at each place over all nodes; of each panel, where another component has a factor
            for each panel.
    """

    name: str
    over: int
    acts: int
    restraint: float | None
    pins: tuple[str, ...] = ()

    @property
    def null(self) -> float:
        """The value that changes nothing."""
        return 0.0 if self.acts == OFFSET else 1.0


COMPONENTS = (
    ComponentKind("scale", IMAGE, CRYSTAL, 0.1, (OVER_IMAGES,)),
    ComponentKind("offset", Q, OFFSET, 0.1),
    ComponentKind("panel", PANEL, DETECTOR, None, (AT_NODES,)),
    ComponentKind("absorption", POSITION, DETECTOR, 0.05, (AT_NODES, OF_PANELS)),
    ComponentKind("resolution", Q, CRYSTAL, 0.05, (AT_NODES, AT_PLACES)),
)
"""All that a model may have, in the order of their parameters."""

KINDS = {kind.name: kind for kind in COMPONENTS}


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
class Component:
    """One component of a model, with its smoothers.

    Parameters are ordered node by node of the order axis, data set after data set, and within a
    node by |q| or position on the detector.

    Attributes:
        kind: one of `COMPONENTS`.
        order: control points of each data set along the order of images; empty for a value of each image.
        q: control points in |q|.
        panels: for each panel control points along fast and slow.
        order_weights: (n_states, n_nodes) from nodes of the order axes to states.
        state: (n_images,) the state of each image.
    """

    kind: ComponentKind
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


Panels = tuple[tuple[Axis, Axis], ...]


def per_image_component(kind: ComponentKind, extent: Extent) -> Component:
    """Return a component with a value for each image."""
    weights = sparse.identity(extent.n_images, format="csr")
    return Component(kind, (), CONSTANT, (), weights, np.arange(extent.n_images))


def shared_component(kind: ComponentKind, extent: Extent, q: Axis = CONSTANT, panels: Panels = ()) -> Component:
    """Return a component that is the same for all images of all data sets."""
    one = sparse.csr_matrix(np.ones((1, 1)))
    return Component(kind, (CONSTANT,), q, panels, one, np.zeros(extent.n_images, np.int64))


def order_axes(extent: Extent, spacing: float | None) -> tuple[Axis, ...]:
    """Return control points `spacing` apart along the order of the images of each data set."""
    orders = (extent.order[extent.data_set == n] for n in range(extent.n_data_sets))
    return tuple(axis_over(order.min(), order.max(), spacing) for order in orders)


def smooth_component(
    kind: ComponentKind, extent: Extent, order: tuple[Axis, ...], q: Axis = CONSTANT, panels: Panels = ()
) -> Component:
    """Return a component with the given control points along the order of each data set."""
    keys = np.stack([extent.data_set, extent.order], axis=1)
    distinct, state = np.unique(keys, axis=0, return_inverse=True)
    blocks = [weight_matrix(axis, distinct[distinct[:, 0] == n, 1]) for n, axis in enumerate(order)]
    weights = sparse.block_diag(blocks, "csr")
    if all(axis.n_values == 1 for axis in order):
        distinct_sets, state = np.unique(extent.data_set, return_inverse=True)
        weights = sparse.identity(len(distinct_sets), format="csr")
    return Component(kind, order, q, panels, weights, state.ravel())
