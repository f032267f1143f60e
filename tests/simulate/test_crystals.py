"""Cells, symmetry and orientations of simulated crystals."""

from __future__ import annotations

import numpy as np
import pytest

from diffuse_framework.errors import ConfigError
from diffuse_framework.simulate.crystals import (
    PRIMITIVE_GROUPS,
    primitive_symmetry,
    random_rotations,
    refuse_impossible_cell,
)


@pytest.mark.parametrize("space_group", PRIMITIVE_GROUPS)
def test_symmetry_is_that_of_cctbx(space_group):
    pytest.importorskip("cctbx")
    from diffuse_framework.adapters.models.symmetry import symmetry_of

    ours, theirs = primitive_symmetry(space_group), symmetry_of(space_group)
    assert ours.laue_group == theirs.laue_group
    assert {o.tobytes() for o in ours.operators} == {o.tobytes() for o in theirs.operators}
    multiple = theirs.asu_matrix[0, 0]
    assert multiple > 0
    np.testing.assert_array_equal(theirs.asu_matrix, multiple * ours.asu_matrix)


def test_unknown_space_group_is_refused():
    with pytest.raises(ConfigError, match="C2"):
        primitive_symmetry("C2")


@pytest.mark.parametrize(
    ("space_group", "cell"),
    [
        ("P4", (30, 31, 40, 90, 90, 90)),
        ("P3", (30, 30, 40, 90, 90, 90)),
        ("P121", (30, 31, 40, 95, 90, 90)),
        ("P1", (30, 31, 40, 150, 150, 150)),
        ("P1", (0, 31, 40, 90, 90, 90)),
    ],
)
def test_cell_that_symmetry_forbids_is_refused(space_group, cell):
    with pytest.raises(ConfigError, match="unit_cell"):
        refuse_impossible_cell(cell, primitive_symmetry(space_group))


def test_rotations_are_rotations_without_preference():
    rotations = random_rotations(4000, np.random.default_rng(1))
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (4000, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    # Each element has mean 0 and mean square 1/3 over all rotations.
    np.testing.assert_allclose(rotations.mean(0), 0, atol=5 * np.sqrt(1 / 3 / 4000))
    np.testing.assert_allclose((rotations**2).mean(0), 1 / 3, atol=5 * np.sqrt(4 / 45 / 4000))
