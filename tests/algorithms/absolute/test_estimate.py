"""Absolute scales of crystals of atoms, whose total scattering obeys the sum rule."""

from __future__ import annotations

from dataclasses import replace

import gemmi
import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.adapters.tables.scattering import form_factors, scattering_of
from diffuse_framework.algorithms.absolute.composition import fill_cell
from diffuse_framework.algorithms.absolute.estimate import apply, disagreements, estimate
from diffuse_framework.algorithms.absolute.krogh_moe import krogh_moe, sum_rule_shares
from diffuse_framework.algorithms.absolute.profile import spherical_averages, usable_limit
from diffuse_framework.algorithms.absolute.theory import bonded_interference
from diffuse_framework.algorithms.symmetry import fold, orbit_sizes
from diffuse_framework.errors import DataError
from diffuse_framework.model.contents import CellContents
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.simulate.atoms import make_crystal, true_map
from diffuse_framework.simulate.crystals import random_rotations

# Electron units per relative unit: the true k.
K = 40.0
PROTEIN = {"C": 0.6, "N": 0.15, "O": 0.23, "S": 0.02}
CELLS = {
    "P1": (24.0, 26.0, 28.0, 80.0, 95.0, 100.0),
    "P222": (30.0, 34.0, 38.0, 90.0, 90.0, 90.0),
    "P422": (36.0, 36.0, 40.0, 90.0, 90.0, 90.0),
    "P321": (36.0, 36.0, 40.0, 90.0, 90.0, 120.0),
}


def crystal_of(space_group, seed=1, divisions=(2, 2, 2), d_min=1.2, **settings):
    """Return the contents, theory and true map of a crystal."""
    settings = {"density": 0.02, "closest": 3.0} | settings
    crystal = make_crystal(
        CELLS[space_group], symmetry_of(space_group), PROTEIN, form_factors, np.random.default_rng(seed), **settings
    )
    counts = crystal.counts()
    elements = {name: gemmi.Element(name) for name in counts}
    contents = fill_cell(
        counts,
        (),
        crystal.volume,
        1,
        {name: element.weight for name, element in elements.items()},
        {name: element.atomic_number for name, element in elements.items()},
        waters_per_volume=0,
    )
    theory = scattering_of(contents, 1.02 / d_min, 1.0)
    return contents, theory, true_map(crystal, theory, divisions, d_min)


def measured(truth: MergedMap, exposure: float, rng: np.random.Generator) -> MergedMap:
    """Return the map with Poisson noise, in units of K; `exposure` photons per relative unit and voxel."""
    diffuse, total = truth.intensity / K, truth.total_intensity / K
    peak = np.maximum(total - diffuse, 0)
    counts, peak_counts = rng.poisson(diffuse * exposure), rng.poisson(peak * exposure)
    return replace(
        truth,
        intensity=counts / exposure,
        variance=diffuse / exposure,
        total_intensity=(counts + peak_counts) / exposure,
        total_variance=total / exposure,
    )


@pytest.fixture(scope="module")
def orthorhombic():
    return crystal_of("P222")


@pytest.mark.parametrize("space_group", CELLS)
def test_the_sum_rule_holds_within_one_percent_for_any_cutoff(space_group):
    contents, theory, truth = crystal_of(space_group)
    profile = spherical_averages(replace(truth, total_intensity=truth.total_intensity / K))
    for cutoff in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8):
        cutoffs = cutoff - 0.009, cutoff + 0.001
        assert krogh_moe(profile, theory, cutoffs).scale == pytest.approx(K, rel=0.01)
        # Without the forward peak k would be off by more than that.
        assert sum_rule_shares(profile, theory, cutoffs).forward > 0.02


@pytest.mark.parametrize("space_group", ["P222", "P321"])
def test_methods_agree_within_their_uncertainties(space_group):
    contents, theory, truth = crystal_of(space_group, seed=7)
    report = estimate(measured(truth, 0.05, np.random.default_rng(2)), contents, theory)
    assert set(report.estimates) == {"krogh_moe", "norman", "wilson"}
    for found in report.estimates.values():
        assert abs(found.scale - K) < 3 * found.sigma
    assert report.estimates["krogh_moe"].sigma < 0.01 * K
    assert report.estimates["norman"].sigma < 0.01 * K
    assert report.estimates["wilson"].sigma < 0.7 * K
    # B of the atoms is 12, 18 or 25 square angstrom.
    assert report.estimates["wilson"].b_factor == pytest.approx(18.3, abs=5)
    assert not any("beyond" in sentence for sentence in disagreements(report))


def test_the_absolute_map_is_unbiased(orthorhombic):
    contents, theory, truth = orthorhombic
    found = measured(truth, 0.05, np.random.default_rng(3))
    final = apply(found, estimate(found, contents, theory), "krogh_moe")
    q = np.linalg.norm(truth.grid.q_of(truth.voxel), axis=1)
    coherent = truth.intensity - np.interp(q, theory.q, theory.incoherent)
    for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8)):
        shell = (q > low) & (q < high)
        # Of the total signal: a small difference from a subtracted term would be hard to see otherwise.
        error = (final.intensity - coherent)[shell].mean() / truth.intensity[shell].mean()
        assert abs(error) < 0.01
    bright = q > 0.2
    z = ((final.intensity - coherent) / np.sqrt(np.maximum(final.variance, 1e-9)))[bright]
    assert np.std(z) == pytest.approx(1, abs=0.05)
    assert final.scale_sigma > 0
    assert final.units.startswith("electron units")


def test_total_counting_uncertainty_is_that_of_repeated_measurements(orthorhombic):
    contents, theory, truth = orthorhombic
    rng = np.random.default_rng(4)
    reports = [estimate(measured(truth, 0.002, rng), contents, theory) for _ in range(12)]
    for method in ("krogh_moe", "norman"):
        scales = [report.estimates[method].scale for report in reports]
        stated = np.mean([report.estimates[method].sigma_counting for report in reports])
        assert 0.5 < np.std(scales, ddof=1) / stated < 1.6


def test_lost_voxels_do_not_matter(orthorhombic):
    contents, theory, truth = orthorhombic
    rng = np.random.default_rng(5)
    whole = estimate(truth, contents, theory).estimates["krogh_moe"].scale
    index = truth.grid.index_of(truth.voxel)
    lattice = (index % 2 == 0).all(axis=1)
    # A third of what lies between peaks, and two thirds of the peaks.
    keep = np.where(lattice, rng.random(len(truth)) > 0.66, rng.random(len(truth)) > 0.33)
    report = estimate(rows(truth, keep), contents, theory, min_completeness=0.3)
    assert report.estimates["krogh_moe"].scale == pytest.approx(whole, rel=0.015)


@pytest.mark.parametrize("n_images", [1, 4])
def test_a_sparse_map_of_stills_has_a_scale_with_the_error_that_follows(orthorhombic, n_images):
    contents, theory, truth = orthorhombic
    rng = np.random.default_rng(6)
    axes = np.stack(np.meshgrid(*[(1, -1)] * 3), -1).reshape(-1, 3)
    q = truth.grid.q_of(truth.voxel)
    z = []
    for _ in range(8):
        # Nearly one orientation: spheres of a wavelength of 1 A that hardly differ, folded by mmm.
        beams = random_rotations(1, rng)[0][2] + rng.normal(0, 0.02, (n_images, 3))
        beams /= np.linalg.norm(beams, axis=1, keepdims=True)
        seen = [np.abs(np.linalg.norm(q * axis + beam, axis=1) - 1) < 0.006 for beam in beams for axis in axes]
        report = estimate(rows(truth, np.any(seen, axis=0)), contents, theory)
        assert 0.03 < np.median(report.completeness) < 0.3
        assert report.limit > 0.8
        for method in ("krogh_moe", "norman"):
            found = report.estimates[method]
            assert 0.0005 < found.sigma_sampling < 0.02
            z.append((found.scale - 1) / found.sigma)
    assert np.abs(z).max() < 3
    # Asked for half of the voxels, no shell has enough.
    with pytest.raises(DataError, match="no shell of the map is more than 50% complete"):
        estimate(rows(truth, seen[0]), contents, theory, min_completeness=0.5)
    assert estimate(truth, contents, theory).estimates["krogh_moe"].sigma_sampling < 1e-4


def test_voxels_wholly_inside_peaks_count(orthorhombic):
    contents, theory, truth = orthorhombic
    lattice = (truth.grid.index_of(truth.voxel) % 2 == 0).all(axis=1)
    hidden = replace(
        rows(truth, ~lattice),
        bragg_voxel=truth.voxel[lattice],
        bragg_intensity=truth.total_intensity[lattice],
        bragg_variance=truth.total_variance[lattice],
    )
    before, after = (estimate(one, contents, theory).estimates for one in (truth, hidden))
    assert after["krogh_moe"].scale == pytest.approx(before["krogh_moe"].scale, rel=1e-9)
    assert after["wilson"].scale == pytest.approx(before["wilson"].scale, rel=0.01)
    lost = estimate(rows(truth, ~lattice), contents, theory).estimates["krogh_moe"].scale
    assert lost > 1.1 * before["krogh_moe"].scale


def test_the_beamstop_hides_little_and_says_how_much(orthorhombic):
    contents, theory, truth = orthorhombic
    q = np.linalg.norm(truth.grid.q_of(truth.voxel), axis=1)
    report = estimate(rows(truth, q > 1 / 15), contents, theory)
    assert report.estimates["krogh_moe"].scale == pytest.approx(1, rel=0.01)
    assert 0 < report.beamstop_share < 0.02
    assert report.filled_share == 0


def test_a_hole_in_the_middle_is_interpolated(orthorhombic):
    contents, theory, truth = orthorhombic
    q = np.linalg.norm(truth.grid.q_of(truth.voxel), axis=1)
    report = estimate(rows(truth, (q < 0.44) | (q > 0.46)), contents, theory)
    assert report.estimates["krogh_moe"].scale == pytest.approx(1, rel=0.01)
    assert 0.01 < report.filled_share < 0.05


def test_incomplete_shells_end_the_range(orthorhombic):
    contents, theory, truth = orthorhombic
    q = np.linalg.norm(truth.grid.q_of(truth.voxel), axis=1)
    # The corners of a detector see some directions only.
    seen = (q < 0.65) | (truth.grid.hkl_of(truth.voxel)[:, 0] > 15)
    assert usable_limit(spherical_averages(rows(truth, seen))) == pytest.approx(0.65, abs=0.02)
    with pytest.raises(DataError, match="more than 50% complete"):
        estimate(rows(truth, np.arange(len(truth)) % 9 == 0), contents, theory, min_completeness=0.5)
    # A sample may be small, but not that small.
    with pytest.raises(DataError, match="more than 3% complete"):
        estimate(rows(truth, np.arange(len(truth)) % 61 == 0), contents, theory)


def test_wrong_contents_make_the_methods_disagree(orthorhombic):
    contents, theory, truth = orthorhombic
    # Twice the atoms: half of them order nothing.
    wrong = replace(theory, coherent=2 * theory.coherent, incoherent=2 * theory.incoherent)
    assert any("beyond" in sentence for sentence in disagreements(estimate(truth, contents, wrong)))


def test_a_map_without_peaks_has_no_wilson_scale(orthorhombic):
    contents, theory, truth = orthorhombic
    flat = replace(truth, total_intensity=truth.intensity)
    report = estimate(flat, contents, theory)
    assert "Bragg channel" in report.failures["wilson"]
    with pytest.raises(DataError, match="finds no scale"):
        apply(flat, report, "wilson")


def test_ranges_are_kept_to(orthorhombic):
    contents, theory, truth = orthorhombic
    report = estimate(truth, contents, theory, {"norman": (0.5, 0.6)})
    assert report.estimates["norman"].q.min() >= 0.5
    assert report.estimates["norman"].q.max() <= 0.61


def test_orbits_count_the_voxels_of_reciprocal_space():
    symmetry = symmetry_of("P422")
    axis = np.arange(-4, 5)
    index = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    folded, _ = fold(index, symmetry, (2, 2, 2))
    representatives, times = np.unique(folded, axis=0, return_counts=True)
    assert (orbit_sizes(representatives, symmetry, (2, 2, 2)) == times).all()


def rows(truth: MergedMap, keep: np.ndarray) -> MergedMap:
    """Return the map with some of its voxels."""
    columns = (
        "voxel",
        "intensity",
        "variance",
        "multiplicity",
        "pixels",
        "counts",
        "total_intensity",
        "total_variance",
    )
    return replace(truth, **{name: getattr(truth, name)[keep] for name in columns})


def test_bonded_atoms_need_their_interference():
    # Water molecules far apart, each O with two H at 0.957 angstrom and 104.5 degrees, nearly at rest.
    cell, rng = (24.0, 26.0, 28.0, 90.0, 90.0, 90.0), np.random.default_rng(8)
    oxygen = make_crystal(
        cell, symmetry_of("P1"), {"O": 1.0}, form_factors, rng, density=0.008, closest=4.0, b_factors=(3.0,)
    )
    arms = 0.957 * np.array([[1, 0, 0], [np.cos(np.radians(104.5)), np.sin(np.radians(104.5)), 0]])
    turned = np.einsum("nij,aj->nai", random_rotations(len(oxygen.position), rng), arms)
    hydrogen = oxygen.position[:, None] + turned / np.array(cell[:3])
    q = oxygen.table[0]
    molecules = replace(
        oxygen,
        elements=("H", "O"),
        element=np.repeat([1, 0], [len(turned), 2 * len(turned)]),
        position=np.concatenate([oxygen.position, hydrogen.reshape(-1, 3)]),
        b_factor=np.full(3 * len(turned), 3.0),
        table=(q, form_factors(("H", "O"), q)),
    )
    n = float(len(turned))
    contents = CellContents(
        ("H", "O"), np.zeros(2), np.array([2 * n, n]), np.array([1, 8]), oxygen.volume, 1, 1.0, 1.0, 1.0, "water"
    )
    scales = {}
    for bonded in (False, True):
        theory = scattering_of(contents, 1.0, 1.0, bonded=bonded)
        scales[bonded] = estimate(true_map(molecules, theory, (1, 1, 1), 1.1), contents, theory).estimates
    assert scales[False]["krogh_moe"].scale < 0.96
    assert scales[True]["krogh_moe"].scale == pytest.approx(1, abs=0.012)


def test_no_interference_at_large_q_and_every_pair_at_zero():
    contents, theory, _ = crystal_of("P222")
    q = np.array([0.0, 20.0])
    found = bonded_interference(contents, q, np.full((4, 2), 6.0))
    heavy = contents.ordered.sum()
    # 2.36 neighbours within 2.7 angstrom, counted from both sides.
    assert found[0] == pytest.approx(2 * 2.36 * heavy * 36, rel=1e-6)
    assert abs(found[1]) < 0.02 * found[0]
