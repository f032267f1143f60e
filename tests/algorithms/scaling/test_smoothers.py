from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuse_framework.algorithms.scaling.smoothers import CONSTANT, axis_over, second_differences, weight_matrix
from diffuse_framework.errors import ConfigError


@pytest.mark.parametrize("intervals", [2, 3, 4, 7, 20])
def test_one_dimension_is_that_of_dials(intervals):
    components = pytest.importorskip("dials.algorithms.scaling.model.components.smooth_scale_components")
    from dials.array_family import flex

    x = np.concatenate([np.linspace(0, 5, 10 * intervals + 1), np.random.default_rng(0).random(500) * 5])
    theirs = components.GaussianSmoother1D([0, 5], intervals)
    values = np.random.default_rng(1).random(theirs.num_values())
    expected, _, _ = theirs.multi_value_weight(flex.double(x), flex.double(values))
    np.testing.assert_allclose(weight_matrix(axis_over(0, 5, 5 / intervals), x) @ values, list(expected), atol=1e-12)


def test_three_dimensions_are_products_as_in_dials():
    components = pytest.importorskip("dials.algorithms.scaling.model.components.smooth_scale_components")
    from dials.array_family import flex

    rng = np.random.default_rng(2)
    theirs = components.GaussianSmoother3D([0, 5], 4, [0, 2], 2, [0, 9], 5)
    x, y, z = (rng.random(300) * length for length in (5, 2, 9))
    values = rng.random((7, 3, 6))
    expected, _, _ = theirs.multi_value_weight(*map(flex.double, (x, y, z)), flex.double(values.ravel()))
    axes = axis_over(0, 5, 5 / 4), axis_over(0, 2, 1), axis_over(0, 9, 9 / 5)
    along = [weight_matrix(axis, at).toarray() for axis, at in zip(axes, (x, y, z), strict=True)]
    np.testing.assert_allclose(np.einsum("ni,nj,nk,kji->n", *along, values), list(expected), atol=1e-12)


@given(st.floats(0.01, 100), st.floats(0.1, 100), st.floats(-10, 120))
def test_weights_sum_to_one_everywhere(spacing, length, x):
    matrix = weight_matrix(axis_over(0, length, max(spacing, length / 1000)), np.array([x]))
    assert np.isclose(matrix.sum(), 1)
    assert (matrix.data >= 0).all()


def test_a_straight_line_has_no_second_differences():
    assert np.allclose(second_differences(6) @ (3 + 2 * np.arange(6.0)), 0)
    assert second_differences(1).shape == (0, 1)


def test_without_a_spacing_a_function_is_constant():
    assert axis_over(0, 10, None) == CONSTANT
    with pytest.raises(ConfigError, match="above 0"):
        axis_over(0, 10, -1)
