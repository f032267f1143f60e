"""A known cell on spots of known orientation: found as it is, or refused; nothing is found where nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.indexing.known_cell import known_cell
from diffuse_framework.algorithms.indexing.lattices import IndexingLimits, find_lattices
from diffuse_framework.algorithms.indexing.refinement import RefinementLimits, refine
from diffuse_framework.algorithms.indexing.search import half_sphere
from diffuse_framework.model.lattice import cell_of_matrix
from support.stills import angle_deg, flat_geometry, random_setting, rays_at, spot_positions

CELLS = {
    "P1": (34.0, 41.0, 47.0, 83.0, 95.0, 102.0),
    "C2": (110.0, 42.0, 63.0, 90.0, 104.0, 90.0),
    "P212121": (34.0, 49.0, 65.0, 90.0, 90.0, 90.0),
    "P43212": (58.4, 58.4, 152.3, 90.0, 90.0, 90.0),
    "P3": (66.0, 66.0, 81.0, 90.0, 90.0, 120.0),
    "I23": (120.0, 120.0, 120.0, 90.0, 90.0, 90.0),
}
GEOMETRY = flat_geometry()
DEFAULT = IndexingLimits()


# Groups with all the symmetry of these lattices: indexed one by one, crystals may differ by any of it.
OF_LATTICES = {"P3": "P622", "I23": "I432"}


def cell_and_lattice(group: str):
    return known_cell(CELLS[group], symmetry_of(group))


def off_by(one, other, group: str) -> float:
    return angle_deg(one, other, known_cell(CELLS[group], symmetry_of(OF_LATTICES.get(group, group))))


def look_for(px, known, limits=DEFAULT, geometry=GEOMETRY):
    return find_lattices(rays_at(geometry, px), np.ones(len(px)), known, limits)


@pytest.mark.parametrize("group", CELLS)
def test_cells_obey_their_symmetry(group):
    known = cell_and_lattice(group)
    np.testing.assert_allclose(known.cell, CELLS[group], rtol=1e-6)
    assert len(known.strains) == {"P1": 6, "C2": 4, "P212121": 3, "P43212": 2, "P3": 2, "I23": 1}[group]
    per_cell = {"C2": 2, "I23": 2}.get(group, 1)
    np.testing.assert_allclose(np.linalg.det(known.primitive) * np.linalg.det(known.basis), 1 / per_cell)
    for strain in known.strains:
        a, b, c, *angles = cell_of_matrix((np.eye(3) + 0.01 * strain) @ known.basis)
        assert group not in ("P43212", "P3", "I23") or a == pytest.approx(b)
        assert group != "I23" or a == pytest.approx(c)
        assert group in ("P1", "C2") or angles == pytest.approx(CELLS[group][3:])


def test_a_cell_that_disagrees_with_its_symmetry_is_averaged():
    known = known_cell((58.0, 58.6, 150.0, 90.0, 90.2, 90.0), symmetry_of("P43212"))
    assert known.cell[0] == pytest.approx(known.cell[1])
    assert known.cell[3:] == pytest.approx((90, 90, 90))


def test_directions_are_as_far_apart_as_asked():
    units = half_sphere(0.1)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1)
    cosines = np.abs(units @ units.T) - 2 * np.eye(len(units))
    # To a neighbour it is between the side of a square of the same area and some more, save at the rim.
    nearest = np.arccos(np.clip(cosines.max(axis=1), -1, 1))
    assert 0.05 < np.median(nearest) < 0.15


@pytest.mark.parametrize("group", CELLS)
@pytest.mark.parametrize("cell_error", [0.0, 0.02])
def test_orientation_and_cell_are_found(group, cell_error):
    """With a third of false spots, and a cell that is wrong by two per cent in ways its symmetry allows."""
    rng = np.random.default_rng(11)
    true = cell_and_lattice(group)
    setting = random_setting(true, 5)
    _, px = spot_positions(setting, true, GEOMETRY, rng)
    false = rng.uniform(0, 1000, (len(px) // 3, 2))
    strain = cell_error * np.sign(true.strains[0, 0, 0] or 1) * true.strains[0] / np.abs(true.strains[0]).max()
    given = cell_of_matrix((np.eye(3) + strain) @ true.basis)
    lattices, reason = look_for(np.concatenate([px, false]), known_cell(given, symmetry_of(group)))
    assert not reason
    (lattice,) = lattices
    assert off_by(lattice.fit.setting_matrix, setting, group) < 0.05
    np.testing.assert_allclose(cell_of_matrix(lattice.fit.setting_matrix), CELLS[group], rtol=2e-3)
    assert lattice.explained[: len(px)].sum() > 0.9 * len(px)
    assert lattice.explained[len(px) :].sum() < 0.3 * len(false)
    assert lattice.log10_chance < -20


def test_the_shift_of_the_detector_is_told_from_a_rotation():
    rng = np.random.default_rng(12)
    known = cell_and_lattice("P43212")
    setting = random_setting(known, 6)
    _, px = spot_positions(setting, known, GEOMETRY, rng, n=400)
    off = flat_geometry(shift_px=(1.5, -1.0))
    rays = rays_at(off, px)
    fit = refine(rays, setting, known)
    assert angle_deg(fit.setting_matrix, setting, known) < 0.03
    # Back from where the panel was put: +x is along fast, +y against slow.
    np.testing.assert_allclose(fit.shift_mm @ rays.aside, np.array([-1.5, -1.0, 0]) * 0.172, atol=0.03)
    held = refine(rays, setting, known, RefinementLimits(shift_mm=1e-6))
    assert held.sigma_across > fit.sigma_across


def test_two_lattices_are_found_one_after_the_other():
    rng = np.random.default_rng(13)
    known = cell_and_lattice("P212121")
    settings = [random_setting(known, seed) for seed in (1, 2)]
    (_, first), (_, second) = (
        spot_positions(setting, known, GEOMETRY, rng, n) for setting, n in zip(settings, (90, 45), strict=True)
    )
    px = np.concatenate([second, first])
    lattices, _ = look_for(px, known, IndexingLimits(max_lattices=3))
    assert len(lattices) == 2
    for lattice, setting in zip(lattices, settings, strict=True):
        assert angle_deg(lattice.fit.setting_matrix, setting, known) < 0.1
    assert not (lattices[0].explained & lattices[1].explained).any()
    assert len(look_for(px, known)[0]) == 1


def test_of_a_split_crystal_the_larger_part_is_taken():
    """The mean of both orientations would explain neither."""
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(14)
    known = cell_and_lattice("P43212")
    large = random_setting(known, 3)
    small = Rotation.from_rotvec([0.013, 0, 0.005]).as_matrix() @ large
    px = np.concatenate([spot_positions(s, known, GEOMETRY, rng, n)[1] for s, n in ((large, 300), (small, 120))])
    (lattice, *_), _ = look_for(px, known)
    assert angle_deg(lattice.fit.setting_matrix, large, known) < 0.1


def test_too_few_spots_are_refused_with_their_number():
    rng = np.random.default_rng(15)
    known = cell_and_lattice("P212121")
    _, px = spot_positions(random_setting(known, 4), known, GEOMETRY, rng, n=14)
    assert look_for(px, known) == ((), "14 spots found, 15 needed")
    assert look_for(px[:0], known) == ((), "0 spots found, 15 needed")


def test_twenty_spots_are_enough():
    rng = np.random.default_rng(16)
    known = cell_and_lattice("P212121")
    setting = random_setting(known, 7)
    _, px = spot_positions(setting, known, GEOMETRY, rng, n=20)
    (lattice,), _ = look_for(px, known)
    assert angle_deg(lattice.fit.setting_matrix, setting, known) < 0.2


def turned_about_the_beam(px: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keep the resolution of each spot and nothing else."""
    away = px - 500
    angle = rng.uniform(0, 2 * np.pi, len(px))
    cosine, sine = np.cos(angle), np.sin(angle)
    return 500 + np.stack([cosine * away[:, 0] - sine * away[:, 1], sine * away[:, 0] + cosine * away[:, 1]], -1)


@pytest.mark.parametrize("group", ["P1", "P43212", "I23"])
def test_no_lattice_passes_on_scrambled_or_random_spots_or_with_a_wrong_cell(group):
    known = cell_and_lattice(group)
    few = IndexingLimits(search=replace(IndexingLimits().search, max_directions=8000))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(15, 250))
        _, px = spot_positions(random_setting(known, seed), known, GEOMETRY, rng, n=n)
        wrong = np.array(CELLS[group])
        wrong[:3] *= 1 + rng.choice([-1, 1]) * rng.uniform(0.12, 0.25)
        other = known_cell(tuple(wrong), symmetry_of(group))
        for control, cell in (
            (turned_about_the_beam(px, rng), known),
            (rng.uniform(0, 1000, (n, 2)), known),
            (px, other),
        ):
            lattices, reason = look_for(control, cell, few)
            assert not lattices
            assert reason


def test_the_same_spots_give_the_same_lattice_to_the_bit():
    rng = np.random.default_rng(17)
    known = cell_and_lattice("P3")
    _, px = spot_positions(random_setting(known, 8), known, GEOMETRY, rng)
    one, other = (look_for(px, known)[0][0] for _ in range(2))
    assert (one.fit.setting_matrix == other.fit.setting_matrix).all()
    assert one.log10_chance == other.log10_chance
