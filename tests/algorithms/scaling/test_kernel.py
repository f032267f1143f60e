"""The scaling equation and its derivatives, of every component there is and of those there could be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.algorithms.scaling import kernel
from diffuse_framework.algorithms.scaling.components import (
    COMPONENTS,
    CRYSTAL,
    DETECTOR,
    IMAGE,
    N_POINTS,
    OFFSET,
    PANEL,
    POSITION,
    ComponentKind,
    Q,
    order_axes,
    smooth_component,
)
from diffuse_framework.algorithms.scaling.equation import Equation
from diffuse_framework.algorithms.scaling.model import Layout, ScalingOptions, assemble_layout, evaluate
from diffuse_framework.algorithms.scaling.observations import REFLECTION, gather
from diffuse_framework.algorithms.scaling.restraints import Restraints, restraint_rows
from diffuse_framework.algorithms.scaling.smoothers import CONSTANT, axis_over
from support.sums import SQUARE_PANEL, known_sums

TWO_PANELS = (*SQUARE_PANEL, (0.0, 1000.0, 0.0, 500.0))
EVERYTHING = ScalingOptions(
    scale="smooth",
    offset=True,
    offset_q=0.15,
    panel=True,
    absorption=True,
    absorption_order=6.0,
    resolution=True,
    resolution_order=6.0,
)


@pytest.fixture(scope="module")
def known():
    return known_sums(EVERYTHING, np.random.default_rng(1), n_images=12, rows_per_image=300, panels=TWO_PANELS)


def equation_of(known, layout: Layout) -> Equation:
    observations, _ = gather(known.sums)
    prior = known.intensity[observations.voxel]
    return Equation(observations, layout, prior, 0 * prior)


def parameters_of(layout: Layout) -> np.ndarray:
    return layout.null() + np.random.default_rng(2).uniform(0.1, 0.5, layout.size)


def expected_counts(equation: Equation, parameters: np.ndarray) -> np.ndarray:
    """Of every row, by the values of the model alone."""
    (block,) = equation.observations.blocks()
    rows = block.rows
    places = rows["image"], rows["panel"], rows["fast"], rows["slow"], block.by_row(block.q)
    factor, offset = evaluate(equation.layout, parameters, *places)
    offset[rows["operator"] == REFLECTION] = 0
    return rows["exposure"] * (factor * block.by_row(equation.prior) + offset)


def assert_derivatives_are_differences(equation: Equation) -> None:
    layout, parameters = equation.layout, parameters_of(equation.layout)
    jacobian, weight, signal, offset = equation.derivatives(parameters)
    n_rows = len(equation.observations)
    numeric = np.empty((n_rows, layout.size))
    for number in range(layout.size):
        step = np.zeros(layout.size)
        step[number] = 1e-3
        # Every component is linear in its control points: the difference is the derivative but for rounding.
        up, down = (expected_counts(equation, parameters + sign * step) for sign in (1, -1))
        numeric[:, number] = (up - down) / 2e-3
    largest = np.abs(numeric).max()
    assert (np.abs(numeric).max(axis=0) > 0).all()
    np.testing.assert_allclose(jacobian.toarray(), numeric, atol=1e-9 * largest)
    by_row = np.repeat(equation.prior, np.diff(equation.observations.first))
    np.testing.assert_allclose(signal * by_row + offset, expected_counts(equation, parameters), rtol=1e-12)
    # The other loops are over the same derivatives: products with them, and with what they are weighted by.
    vector = np.random.default_rng(3).normal(size=layout.size)
    voxel = np.repeat(np.arange(len(equation.prior)), np.diff(equation.observations.first))
    change = jacobian @ vector
    top, bottom = (np.bincount(voxel, weight * signal * x) for x in (change, signal))
    product = jacobian.T @ (weight * (change - signal * (top / bottom)[voxel]))
    np.testing.assert_allclose(equation.curvature(parameters, vector), product, atol=1e-9 * np.abs(product).max())
    net = np.concatenate([piece["counts"] - piece["background"] for piece in equation.observations.pieces]) - offset
    residual = net - signal * (np.bincount(voxel, weight * signal * net) / bottom)[voxel]
    total, gradient, _ = equation.residuals(parameters)
    np.testing.assert_allclose(total, (weight * residual**2).sum(), rtol=1e-9)
    left = jacobian.T @ (weight * residual)
    np.testing.assert_allclose(gradient, left, atol=1e-9 * np.abs(left).max())


@pytest.mark.parametrize("kind", COMPONENTS, ids=lambda kind: kind.name)
def test_the_derivatives_of_each_component_are_those_of_its_values(known, kind):
    alone = {kind.name: known.scales.layout.components[kind.name]}
    assert_derivatives_are_differences(equation_of(known, assemble_layout(known.scales.layout.extent, alone)))


def test_the_derivatives_of_all_together_are_those_of_their_values(known):
    assert set(known.scales.layout.components) == {kind.name for kind in COMPONENTS}
    assert_derivatives_are_differences(equation_of(known, known.scales.layout))


@pytest.mark.parametrize("over", [IMAGE, Q, PANEL, POSITION])
@pytest.mark.parametrize("acts", [CRYSTAL, DETECTOR, OFFSET])
def test_another_component_is_one_more_entry(known, over, acts):
    extent = known.scales.layout.extent
    kind = ComponentKind("another", over, acts, 0.1)
    boxes = {PANEL: [(CONSTANT, CONSTANT)] * 2, POSITION: [(axis_over(0, 1000, 400), axis_over(0, 500, 200))] * 2}
    q = axis_over(*extent.q, 0.1) if over == Q else CONSTANT
    another = smooth_component(kind, extent, order_axes(extent, 4.0), q, tuple(boxes.get(over, ())))
    layout = assemble_layout(extent, known.scales.layout.components | {"another": another})
    assert_derivatives_are_differences(equation_of(known, layout))
    assert (layout.null()[layout.slices["another"]] == kind.null).all()
    alone = assemble_layout(extent, {"another": another})
    level = np.ones(another.width if acts == OFFSET else 1)
    assert restraint_rows(alone, Restraints(), level).shape[1] == alone.size


def test_nothing_is_added_to_a_bragg_reflection(known):
    equation = equation_of(known, known.scales.layout)
    (rows,) = equation.observations.pieces
    rows = rows.copy()
    rows["operator"][::2], rows["background_variance"] = REFLECTION, 1.0
    with_reflections = replace(equation, observations=replace(equation.observations, pieces=(rows,)))
    assert_derivatives_are_differences(with_reflections)
    offset = with_reflections.derivatives(parameters_of(equation.layout))[3]
    assert (offset[::2] == 0).all()
    assert (offset[1::2] != 0).all()


def test_a_row_is_what_its_components_make(known):
    layout, parameters = known.scales.layout, parameters_of(known.scales.layout)
    table = known.sums.pieces[4]
    q = np.full(len(table), 0.2)
    places = table.image, table.panel, table.fast, table.slow, q
    values = []
    for name, component in layout.components.items():
        alone = assemble_layout(layout.extent, {name: component})
        factor, offset = evaluate(alone, parameters[layout.slices[name]], *places)
        values.append(offset if component.kind.acts == OFFSET else factor)
    made = kernel.combined(np.stack(values, axis=1), layout.tables.acts)
    np.testing.assert_allclose(made, evaluate(layout, parameters, *places), rtol=1e-12)
    b, c, d, a, s = values
    np.testing.assert_allclose(made, (a * d * b * s, a * d * c), rtol=1e-12)


def test_every_component_has_its_options():
    names = set(ScalingOptions.__dataclass_fields__)
    assert {kind.name for kind in COMPONENTS} <= names
    assert {f"{kind.name}_q" for kind in COMPONENTS if kind.over == Q} <= names
    assert {f"{kind.name}_px" for kind in COMPONENTS if kind.over == POSITION} <= names
    assert set(N_POINTS) == {kind.over for kind in COMPONENTS}
    assert len({kind.name for kind in COMPONENTS}) == len(COMPONENTS)
