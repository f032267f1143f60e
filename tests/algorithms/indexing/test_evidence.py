"""Which re-indexings are beyond doubt."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.indexing.ambiguity import Choice, choose_operators, reindexing_operators
from diffuse_framework.algorithms.symmetry import asymmetric_box, fold
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import reciprocal_basis
from diffuse_framework.model.voxels import COLUMN_TYPES, SumsTable

CELLS = {"P4": (30.0, 30.0, 41.0, 90.0, 90.0, 90.0), "P3": (30.0, 30.0, 41.0, 90.0, 90.0, 120.0)}


def grid_of(group: str) -> VoxelGrid:
    """A grid of some thousand voxels."""
    symmetry, divisions = symmetry_of(group), (2, 2, 2)
    count, low, high = asymmetric_box(symmetry, divisions, reciprocal_basis(CELLS[group]), 3.0)
    size = tuple(int(n) for n in high - low + 1)
    return VoxelGrid(CELLS[group], symmetry, divisions, tuple(int(n) for n in low), size, 3.0, np.inf, count)


def photons_of(crystal: int, way: np.ndarray, grid: VoxelGrid, intensity, photons: float, rng) -> SumsTable:
    """Sums of one crystal that sees a third of reciprocal space, its indices changed by `way`."""
    true = np.unique(rng.integers(-20, 21, (20_000, 3)), axis=0)
    # Voxels of a plane or two, as on a still.
    true = true[np.abs(true @ rng.normal(size=3)) < 5]
    voxel, _, inside = folded(true, grid)
    true, expected = true[inside], photons * intensity[voxel[inside]]
    voxel, operator, inside = folded(true @ way.T, grid)
    n = int(inside.sum())
    columns = {name: np.zeros(n, kind) for name, kind in COLUMN_TYPES.items()} | {
        "image": np.full(n, crystal),
        "voxel": voxel[inside],
        "operator": operator[inside],
        "counts": rng.poisson(expected[inside]).astype(float),
        "exposure": np.full(n, photons),
        "pixels": np.ones(n),
    }
    table = SumsTable(**{name: values.astype(COLUMN_TYPES[name]) for name, values in columns.items()})
    return table.select(np.lexsort((table.operator, table.voxel, table.panel, table.image)))


def folded(index: np.ndarray, grid: VoxelGrid):
    """Voxels, operators, and which indices are inside the grid."""
    found, operator = fold(index, grid.symmetry, grid.divisions)
    place = found - np.array(grid.index_min)
    inside = ((place >= 0) & (place < np.array(grid.dimensions))).all(axis=1)
    voxel = np.ravel_multi_index(tuple(np.where(inside[:, None], place, 0).T), grid.dimensions)
    return voxel, operator, inside


def choice_for(ways, photons: float, contrast: float, seed: int, group: str = "P4") -> Choice:
    """What is chosen for crystals indexed in these ways."""
    grid, rng = grid_of(group), np.random.default_rng(seed)
    operators = reindexing_operators(grid.symmetry, grid.cell)
    intensity = np.exp(contrast * rng.normal(size=grid.size))
    tables = [photons_of(n, operators[way], grid, intensity, photons, rng) for n, way in enumerate(ways)]
    return choose_operators(tables, np.arange(len(ways)), grid, operators, np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_crystals", [2, 16])
def test_noise_turns_no_crystal(n_crystals, seed):
    choice = choice_for([0] * n_crystals, 0.02, 0.3, seed)
    assert not choice.chosen.any()


@pytest.mark.parametrize("seed", range(6))
def test_without_a_signal_nothing_is_certain_however_many_photons(seed):
    assert not choice_for([0] * 6, 3.0, 0.0, seed).certain.any()


@pytest.mark.parametrize("group", ["P4", "P3"])
@pytest.mark.parametrize("seed", range(2))
def test_bright_crystals_are_brought_to_one_indexing(group, seed):
    n_ways = {"P4": 2, "P3": 4}[group]
    ways = np.arange(3 * n_ways) % n_ways
    choice = choice_for(ways, 1.0, 0.5, seed, group)
    assert choice.certain.all()
    grid = grid_of(group)
    laue = grid.symmetry.operators.astype(int)
    # All crystals end in the same coset of the Laue group.
    final = [choice.operators[chosen] @ choice.operators[way] for chosen, way in zip(choice.chosen, ways, strict=True)]
    for first, second in pairwise(final):
        assert any(np.array_equal(own @ first, second) for own in laue)


def test_a_certain_crystal_is_turned_and_a_dim_one_is_not():
    grid, rng = grid_of("P4"), np.random.default_rng(1)
    operators = reindexing_operators(grid.symmetry, grid.cell)
    intensity = np.exp(0.5 * rng.normal(size=grid.size))
    ways, photons = [0, 1, 0, 1, 0], [1.0, 1.0, 1.0, 0.002, 1.0]
    tables = [
        photons_of(n, operators[way], grid, intensity, level, rng)
        for n, (way, level) in enumerate(zip(ways, photons, strict=True))
    ]
    choice = choose_operators(tables, np.arange(5), grid, operators, np.random.default_rng(0))
    assert choice.chosen.tolist() == [0, 1, 0, 0, 0]
    assert choice.certain.tolist() == [True, True, True, False, True]
