"""Ways of indexing a lattice, and folding sums again."""

from __future__ import annotations

import numpy as np
import pytest
from cctbx import crystal
from cctbx.sgtbx import lattice_symmetry
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.indexing.ambiguity import refold, reindexing_operators, triplet
from diffuse_framework.algorithms.symmetry import asymmetric_box
from diffuse_framework.errors import GeometryError
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import reciprocal_basis
from diffuse_framework.model.voxels import COLUMN_TYPES, SumsTable

TETRAGONAL, HEXAGONAL = (30.0, 30.0, 41.0, 90.0, 90.0, 90.0), (30.0, 30.0, 41.0, 90.0, 90.0, 120.0)
CUBIC, ORTHORHOMBIC = (30.0, 30.0, 30.0, 90.0, 90.0, 90.0), (30.0, 34.0, 41.0, 90.0, 90.0, 90.0)


@pytest.mark.parametrize(
    ("group", "cell"),
    [
        ("P4", TETRAGONAL),
        ("P41212", TETRAGONAL),
        ("I4", TETRAGONAL),
        ("P3", HEXAGONAL),
        ("P321", HEXAGONAL),
        ("P312", HEXAGONAL),
        ("P6", HEXAGONAL),
        ("P622", HEXAGONAL),
        ("R3", HEXAGONAL),
        ("P23", CUBIC),
        ("I213", CUBIC),
        ("P432", CUBIC),
        ("P212121", ORTHORHOMBIC),
        ("P21", (30.0, 34.0, 41.0, 90.0, 101.0, 90.0)),
        ("P21", (30.0, 34.0, 41.0, 90.0, 90.1, 90.0)),
        ("P1", (30.0, 34.0, 41.0, 83.0, 95.0, 101.0)),
        ("P212121", (30.0, 30.1, 41.0, 90.0, 90.0, 90.0)),
    ],
)
def test_there_are_as_many_ways_as_cctbx_says(group, cell):
    operators = reindexing_operators(symmetry_of(group), cell, tolerance_deg=0.5)
    primitive = crystal.symmetry(unit_cell=cell, space_group_symbol=group).niggli_cell()
    lattice = lattice_symmetry.group(primitive.unit_cell(), max_delta=0.5)
    laue = primitive.space_group().build_derived_laue_group()
    assert len(operators) == lattice.order_p() // (laue.order_p() // 2)
    assert (operators[0] == np.eye(3)).all()


def test_operators_read_as_indices():
    assert triplet(np.array([[0, 1, 0], [-1, -1, 0], [0, 0, -1]])) == "k,-h-k,-l"


def small_grid(group="P4", cell=TETRAGONAL, divisions=(2, 2, 3)) -> VoxelGrid:
    """A grid of a few thousand voxels."""
    symmetry = symmetry_of(group)
    count, low, high = asymmetric_box(symmetry, divisions, reciprocal_basis(cell), 4.0)
    size = tuple(int(n) for n in high - low + 1)
    return VoxelGrid(cell, symmetry, divisions, tuple(int(n) for n in low), size, 4.0, np.inf, count)


def random_sums(grid: VoxelGrid, seed: int) -> SumsTable:
    """Rows of pixels that could have been seen, folded as the adder does it."""
    from diffuse_framework.algorithms.symmetry import fold

    rng = np.random.default_rng(seed)
    index = rng.integers(-8, 9, (60, 3))
    folded, operator = fold(index, grid.symmetry, grid.divisions)
    place = folded - np.array(grid.index_min)
    inside = ((place >= 0) & (place < np.array(grid.dimensions))).all(axis=1)
    voxel = np.ravel_multi_index(tuple(place[inside].T), grid.dimensions)
    n = int(inside.sum())
    columns = {name: rng.integers(0, 9, n).astype(kind) for name, kind in COLUMN_TYPES.items()}
    table = SumsTable(**(columns | {"voxel": voxel, "operator": operator[inside].astype(np.uint8)}))
    return table.select(np.lexsort((table.operator, table.voxel, table.panel, table.image)))


def same_rows(first: SumsTable, second: SumsTable) -> None:
    """Check that two tables hold the same."""
    assert len(first) == len(second)
    for name in ("image", "voxel", "operator", "counts", "exposure", "pixels"):
        assert sorted(getattr(first, name)) == sorted(getattr(second, name)), name


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_folding_again_and_back_is_nothing(seed):
    grid = small_grid()
    table = random_sums(grid, seed)
    operator = reindexing_operators(grid.symmetry, grid.cell)[1]
    there = refold(table, np.broadcast_to(operator, (len(table), 3, 3)), grid)
    assert len(there) == len(table)
    back = np.rint(np.linalg.inv(operator)).astype(int)
    same_rows(refold(there, np.broadcast_to(back, (len(there), 3, 3)), grid), table)


@given(seed=st.integers(0, 10_000), number=st.integers(0, 7))
@settings(deadline=None, max_examples=30)
def test_the_crystals_own_symmetry_changes_no_voxel(seed, number):
    grid = small_grid()
    table = random_sums(grid, seed)
    operator = grid.symmetry.operators[number]
    moved = refold(table, np.broadcast_to(operator, (len(table), 3, 3)), grid)
    assert sorted(moved.voxel) == sorted(table.voxel)
    assert np.isclose(moved.counts.sum(), table.counts.sum())


def test_divisions_that_the_lattice_mixes_are_refused():
    grid = small_grid("P222", (30.0, 30.0, 41.0, 90.0, 90.0, 90.0), (2, 3, 3))
    operators = reindexing_operators(grid.symmetry, grid.cell)
    assert len(operators) == 2
    table = random_sums(grid, 0)
    with pytest.raises(GeometryError, match="give them equal divisions"):
        refold(table, np.broadcast_to(operators[1], (len(table), 3, 3)), grid)
