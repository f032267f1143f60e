from __future__ import annotations

import numpy as np
import pytest
from cctbx import sgtbx, uctbx
from hypothesis import assume, given
from hypothesis import strategies as st

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.symmetry import LAUE_CLASSES, asymmetric_box, fold
from diffuse_framework.errors import GeometryError
from diffuse_framework.model.lattice import reciprocal_basis

# One group of each Laue class, and settings whose asymmetric unit cctbx transforms.
GROUPS = (
    "P1",
    "P21",
    "P212121",
    "P41",
    "P41212",
    "P31",
    "P3112",
    "P3121",
    "P61",
    "P6122",
    "P213",
    "P432",
    "R3:R",
    "P1121",
    "A112",
    "R32:H",
    "I4122",
)


def operators_in(symbol: str) -> int:
    return sgtbx.space_group_info(symbol).group().build_derived_laue_group().order_p()


def test_every_space_group_folds_into_the_asymmetric_unit_of_cctbx():
    rng = np.random.default_rng(1)
    index = rng.integers(-5, 6, (100, 3))
    seen = set()
    for symbols in sgtbx.space_group_symbol_iterator():
        info = sgtbx.space_group_info(group=sgtbx.space_group(symbols))
        symmetry = symmetry_of(info.group())
        seen.add(symmetry.laue_group)
        folded, operator = fold(index, symmetry, (1, 1, 1))
        assert (operator >= 0).all(), info
        asu = sgtbx.reciprocal_space_asu(info.type())
        assert all(asu.is_inside(tuple(map(int, hkl))) for hkl in folded), info
    assert seen == set(LAUE_CLASSES)


@given(
    symbol=st.sampled_from(GROUPS),
    index=st.tuples(*[st.integers(-30, 30)] * 3),
    divisions=st.integers(1, 5),
)
def test_folding_is_idempotent_and_the_same_for_all_equivalents(symbol, index, divisions):
    symmetry = symmetry_of(symbol)
    equivalents = symmetry.operators @ np.array(index)
    folded, operator = fold(equivalents, symmetry, (divisions,) * 3)
    assert (folded == folded[0]).all()
    again, identity = fold(folded[:1], symmetry, (divisions,) * 3)
    assert (again == folded[:1]).all() and identity[0] == 0
    # The operator that is reported is the one that leads there.
    reached = np.einsum("nab,nb->na", symmetry.operators[operator], equivalents)
    assert (reached == folded).all()


@pytest.mark.parametrize("symbol", GROUPS)
def test_operators_are_the_laue_group(symbol):
    symmetry = symmetry_of(symbol)
    assert len(symmetry.operators) == operators_in(symbol)
    assert (symmetry.operators[0] == np.eye(3)).all()
    assert any((operator == -np.eye(3)).all() for operator in symmetry.operators)


@pytest.mark.parametrize(("symbol", "divisions", "axes"), [("P41", (2, 3, 2), "h and k"), ("P213", (2, 2, 3), "l")])
def test_divisions_that_symmetry_mixes_must_be_equal(symbol, divisions, axes):
    with pytest.raises(GeometryError, match=axes):
        fold(np.zeros((1, 3), int), symmetry_of(symbol), divisions)


@pytest.mark.parametrize("symbol", ["P41212", "P212121", "P3121", "P213"])
def test_box_counts_what_cctbx_counts(symbol):
    info = sgtbx.space_group_info(symbol)
    cell = info.any_compatible_unit_cell(30000)
    basis = reciprocal_basis(cell.parameters())
    count, low, high = asymmetric_box(symmetry_of(symbol), (1, 1, 1), basis, d_min=3.0)
    from cctbx import crystal, miller

    laue = info.group().build_derived_laue_group()
    everything = miller.build_set(crystal.symmetry(unit_cell=cell, space_group=laue), anomalous_flag=False, d_min=3.0)
    # The set of cctbx leaves out (0, 0, 0), which is a voxel like any other.
    assert count == everything.size() + 1
    indices = np.array(everything.indices())
    assert (low <= indices.min(axis=0)).all() and (high >= indices.max(axis=0)).all()


@given(
    symbol=st.sampled_from(GROUPS),
    divisions=st.integers(1, 3),
    d_min=st.floats(2.5, 6.0),
    d_max=st.one_of(st.just(np.inf), st.floats(7.0, 12.0)),
    lengths=st.tuples(*[st.floats(8.0, 15.0)] * 3),
    angle=st.floats(75.0, 105.0),
)
def test_box_holds_what_folds_to_itself_within_the_limits(symbol, divisions, d_min, d_max, lengths, angle):
    group = sgtbx.space_group_info(symbol).group()
    cell = group.average_unit_cell(uctbx.unit_cell((*lengths, angle, angle, angle))).parameters()
    symmetry, basis = symmetry_of(symbol), reciprocal_basis(cell) / divisions
    reach = np.floor(np.linalg.norm(np.linalg.inv(basis), axis=1) / d_min).astype(int) + 1
    index = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, 3)
    d = 1 / np.maximum(np.linalg.norm(index @ basis.T, axis=1), 1e-12)
    # Voxels right on a limit may be counted or not.
    assume(not any(np.isclose(d, limit, rtol=1e-7).any() for limit in (d_min, d_max) if np.isfinite(limit)))
    folded, operator = fold(index, symmetry, (divisions,) * 3)
    inside = index[(operator == 0) & (folded == index).all(axis=1) & (d >= d_min) & (d <= d_max)]
    if not len(inside):
        return
    count, low, high = asymmetric_box(symmetry, (divisions,) * 3, reciprocal_basis(cell), d_min, d_max)
    assert count == len(inside)
    assert (low == inside.min(axis=0)).all() and (high == inside.max(axis=0)).all()


def test_reciprocal_basis_is_that_of_cctbx():
    cell = (31.0, 42.0, 53.0, 81.0, 95.0, 104.0)
    expected = np.array(uctbx.unit_cell(cell).fractionalization_matrix()).reshape(3, 3).T
    basis = reciprocal_basis(cell)
    assert np.allclose(basis.T @ basis, expected.T @ expected, atol=1e-15)
