"""Plain values survive JSON as they were."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from diffuse_framework.errors import DataError
from diffuse_framework.io.plain import decoded, encoded
from diffuse_framework.testing.checks.common import first_difference

NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
TYPES = st.sampled_from([np.dtype(name) for name in ("f8", "f4", "i8", "u2", "?")])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = arrays.arrays(TYPES, SHAPES)
VALUES = st.recursive(
    NUMBERS | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(value=VALUES)
def test_every_plain_value_comes_back_as_it_was(value):
    again = decoded(json.loads(json.dumps(encoded(value, "it"), allow_nan=False)))
    assert first_difference(again, value) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2}]}, r"it\['a'\]\[1\] is a set"),
        ({3: "x"}, "it has the key 3"),
        (np.array(["a"]), "it is an array of <U1"),
        (np.array([None]), "it is an array of object"),
        ([b"bytes"], r"it\[0\] is a bytes"),
        (lambda: 1, "it is a function"),
    ],
)
def test_anything_else_is_named_with_its_place(value, message):
    with pytest.raises(DataError, match=message):
        encoded(value, "it")
