from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms import binning
from diffuse_framework.algorithms.binning import VoxelAdder, add_by, shell_numbers
from diffuse_framework.algorithms.symmetry import asymmetric_box, fold
from diffuse_framework.model.conventions import BRAGG, DIFFUSE
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import reciprocal_basis
from diffuse_framework.model.voxels import COLUMNS


def grid_of(symbol: str, cell: tuple, divisions: tuple = (2, 2, 2), d_min: float = 3.0) -> VoxelGrid:
    symmetry = symmetry_of(symbol)
    count, low, high = asymmetric_box(symmetry, divisions, reciprocal_basis(cell), d_min)
    return VoxelGrid(cell, symmetry, divisions, tuple(low), tuple(high - low + 1), d_min, np.inf, count)


def random_panel(rng: np.random.Generator, shape: tuple[int, int]) -> dict:
    """Pixels scattered over reciprocal space, with masks, counts and responses."""
    return {
        "values": rng.poisson(3.0, shape).astype(np.int32),
        "mask": rng.integers(0, 3, shape).astype(np.uint8),
        "q": rng.uniform(-0.3, 0.3, (*shape, 3)).astype(np.float32),
        "response": rng.uniform(0.5, 1.5, shape).astype(np.float32),
    }


CELLS = {
    "P212121": (20.0, 25.0, 30.0, 90.0, 90.0, 90.0),
    "P41212": (20.0, 20.0, 30.0, 90.0, 90.0, 90.0),
    "P3121": (20.0, 20.0, 30.0, 90.0, 90.0, 120.0),
    "P21": (20.0, 25.0, 30.0, 90.0, 100.0, 90.0),
}


@settings(deadline=None, max_examples=20)
@given(symbol=st.sampled_from(sorted(CELLS)), seed=st.integers(0, 10**6), with_background=st.booleans())
def test_sums_are_those_of_plain_numpy(symbol, seed, with_background):
    rng = np.random.default_rng(seed)
    grid = grid_of(symbol, CELLS[symbol])
    panel = random_panel(rng, (37, 29))
    background = rng.uniform(0, 1, (37, 29)).astype(np.float32) if with_background else None
    matrix = Rotation.random(random_state=seed).as_matrix() @ grid.reciprocal_basis
    q = panel["q"].reshape(-1, 3).astype(float)
    place = q @ np.linalg.inv(matrix).T * grid.divisions
    index = np.floor(place + 0.5).astype(int)
    # In single precision a pixel on the border of two voxels may be in either.
    panel["mask"][(abs(abs(place - index) - 0.5) < 1e-4).any(axis=1).reshape(37, 29)] = 0
    table = VoxelAdder(grid).add(
        4,
        2,
        **panel,
        setting_matrix=matrix,
        seconds=0.5,
        gain=2.0,
        pedestal=1.0,
        background=background,
        background_variance=background,
    )

    centre = np.linalg.norm(index / np.array(grid.divisions) @ grid.reciprocal_basis.T, axis=1)
    folded, operator = fold(index, grid.symmetry, grid.divisions)
    inside = centre <= (1 + 1e-10) / grid.d_min
    photons = (panel["values"].ravel() - 1.0) / 2.0
    weight = panel["response"].ravel() * 0.5
    mask = panel["mask"].ravel()
    expected: dict[tuple, np.ndarray] = {}
    for n in np.flatnonzero(inside & (mask > 0)):
        i, j, k = folded[n] - grid.index_min
        voxel = (i * grid.dimensions[1] + j) * grid.dimensions[2] + k
        row = expected.setdefault((voxel, operator[n]), np.zeros(7))
        column = 0 if mask[n] == DIFFUSE else 4
        row[column : column + 3] += photons[n], weight[n], 1
        if with_background and mask[n] == DIFFUSE:
            row[3] += background.ravel()[n]

    assert (table.image == 4).all() and (table.panel == 2).all()
    keys = list(zip(table.voxel.tolist(), table.operator.tolist(), strict=True))
    assert keys == sorted(expected)
    found = np.stack(
        [
            table.counts,
            table.exposure,
            table.pixels,
            table.background,
            table.bragg_counts,
            table.bragg_exposure,
            table.bragg_pixels,
        ],
        axis=1,
    )
    assert np.allclose(found, [expected[key] for key in keys], rtol=1e-6)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_bragg_pixels_only_change_channels(seed):
    rng = np.random.default_rng(seed)
    grid = grid_of("P212121", CELLS["P212121"])
    panel = random_panel(rng, (31, 17))
    adder = VoxelAdder(grid)
    some = adder.add(0, 0, **panel, setting_matrix=grid.reciprocal_basis, seconds=1.0)
    panel["mask"] = np.where(panel["mask"] == BRAGG, DIFFUSE, panel["mask"])
    none = adder.add(0, 0, **panel, setting_matrix=grid.reciprocal_basis, seconds=1.0)
    assert np.isclose(some.counts.sum() + some.bragg_counts.sum(), none.counts.sum())
    assert np.isclose(some.exposure.sum() + some.bragg_exposure.sum(), none.exposure.sum())
    assert none.bragg_counts.sum() == 0


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), n_parts=st.integers(1, 6))
def test_squares_of_shares_are_those_of_the_parts_that_fall_into_one_voxel(seed, n_parts):
    rng = np.random.default_rng(seed)
    grid = grid_of("P1", (20.0, 25.0, 30.0, 90.0, 95.0, 100.0))
    panel = random_panel(rng, (13, 19))
    angles = np.linspace(0, 0.1 * rng.random(), n_parts)
    turns = [np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]) for a in angles]
    settings = np.array([turn @ grid.reciprocal_basis for turn in turns])
    adder = VoxelAdder(grid)
    whole = adder.add(0, 0, **panel, setting_matrix=settings, seconds=1.0)
    # Pixel by pixel, a part at a time: the parts of one pixel in one voxel add before they are squared.
    found = np.zeros(grid.size)
    for slow, fast in np.argwhere(panel["mask"] == DIFFUSE):
        alone = np.zeros_like(panel["mask"])
        alone[slow, fast] = DIFFUSE
        one = adder.add(0, 0, **(panel | {"mask": alone}), setting_matrix=settings, seconds=1.0)
        for operator in np.unique(one.operator):
            here = one.operator == operator
            np.add.at(found, one.voxel[here], one.pixels[here].astype(float) ** 2)
    assert np.allclose(np.bincount(whole.voxel, whole.share_squares, grid.size), found, atol=1e-5)


def test_many_rows_and_a_second_image_reuse_the_scratch_memory():
    rng = np.random.default_rng(3)
    # So many voxels that nearly every pixel has its own, more than the first allocation holds.
    grid = grid_of("P1", (60.0, 70.0, 80.0, 90.0, 95.0, 100.0), (3, 3, 3), d_min=2.0)
    panel = random_panel(rng, (500, 400))
    adder = VoxelAdder(grid)
    first = adder.add(0, 0, **panel, setting_matrix=grid.reciprocal_basis, seconds=1.0)
    again = adder.add(0, 0, **panel, setting_matrix=grid.reciprocal_basis, seconds=1.0)
    assert len(first) > 1 << 16
    for name in COLUMNS:
        assert (getattr(first, name) == getattr(again, name)).all()


@pytest.mark.parametrize(("limit", "value"), [("_LARGEST_SHORT_KEY", 0), ("_MOST_SLOTS", 1), ("_MOST_SLOTS", 64)])
def test_grids_too_large_for_short_keys_or_a_slot_a_voxel_get_the_same_sums(monkeypatch, limit, value):
    grid = grid_of("P21", CELLS["P21"])
    arguments = random_panel(np.random.default_rng(4), (60, 50)) | {"setting_matrix": grid.reciprocal_basis}
    small = VoxelAdder(grid).add(0, 0, **arguments, seconds=1.0)
    monkeypatch.setattr(binning, limit, value)
    adder = VoxelAdder(grid)
    assert len(small) > 100
    for _ in range(2):
        large = adder.add(0, 0, **arguments, seconds=1.0)
        for name in COLUMNS:
            assert (getattr(small, name) == getattr(large, name)).all()


@given(
    q=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=50),
    n_shells=st.integers(1, 20),
)
def test_every_q_falls_into_its_shell(q, n_shells):
    q = np.array(q)
    shells, edges = shell_numbers(q, n_shells)
    assert (shells >= 0).all() and (shells < n_shells).all()
    assert (q >= edges[shells] - 1e-12).all() and (q <= edges[shells + 1] + 1e-12).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["u2", "i4", "u4", "f4", "f8"]))
def test_smooth_images_sum_like_their_single_pixels(seed, kind):
    """Runs of pixels that share a voxel add up to what the pixels add one by one, whatever the type of the values."""
    rng = np.random.default_rng(seed)
    grid = grid_of("P41212", CELLS["P41212"])
    slow, fast = np.mgrid[:23, :41]
    q = np.stack([0.004 * fast, 0.003 * slow, 0.002 * (fast + slow)], -1).astype(np.float32)
    panel = {
        "values": rng.poisson(3.0, (23, 41)).astype(kind),
        "mask": rng.choice(np.array([0, 1, 2, 2, 2], np.uint8), (23, 41)),
        "q": q,
        "response": rng.uniform(0.5, 1.5, (23, 41)).astype(np.float32),
    }
    # What is not trusted may hold anything.
    panel["values"][panel["mask"] == 0] = np.nan if kind[0] == "f" else np.iinfo(kind).max
    adder = VoxelAdder(grid)
    arguments = {"setting_matrix": grid.reciprocal_basis, "seconds": 0.5, "gain": 2.0, "pedestal": 1.0}
    whole = adder.add(0, 0, **panel, **arguments)
    assert len(whole) < 200
    totals = dict.fromkeys(zip(whole.voxel.tolist(), whole.operator.tolist(), strict=True), 0)
    totals = {key: np.zeros(5) for key in totals}
    for pixel in np.argwhere(panel["mask"]):
        only = {name: values[pixel[0] : pixel[0] + 1, pixel[1] : pixel[1] + 1] for name, values in panel.items()}
        for row in range(len(one := adder.add(0, 0, **only, **arguments))):
            totals[one.voxel[row], one.operator[row]] += [
                one.counts[row],
                one.exposure[row],
                one.pixels[row],
                one.bragg_counts[row],
                one.bragg_pixels[row],
            ]
    found = np.stack([whole.counts, whole.exposure, whole.pixels, whole.bragg_counts, whole.bragg_pixels], -1)
    assert np.allclose(found, list(totals.values()), rtol=1e-5, atol=1e-6)


def test_mean_positions_are_those_of_the_pixels_centres():
    grid = grid_of("P212121", CELLS["P212121"])
    mask = np.zeros((4, 9), np.uint8)
    mask[1, 2:7] = mask[2, 3] = DIFFUSE
    table = VoxelAdder(grid).add(
        0,
        0,
        np.ones((4, 9), np.int32),
        mask,
        np.full((4, 9, 3), 0.06, np.float32),
        np.ones((4, 9), np.float32),
        setting_matrix=grid.reciprocal_basis,
        seconds=1.0,
    )
    assert np.isclose(table.fast[0], (2.5 + 3.5 + 4.5 + 5.5 + 6.5 + 3.5) / 6)
    assert np.isclose(table.slow[0], (5 * 1.5 + 2.5) / 6)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 40))
def test_sums_by_index_are_those_of_numpy(seed, size):
    rng = np.random.default_rng(seed)
    index, values, totals = rng.integers(0, size, 100), rng.normal(size=100), np.zeros(size)
    add_by(index, values, totals)
    assert np.allclose(totals, np.bincount(index, values, size))
    with pytest.raises(IndexError):
        add_by(np.array([size]), np.ones(1), totals)
