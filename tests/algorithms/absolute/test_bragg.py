"""Bragg intensities against the truth of a simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.algorithms.absolute.bragg import MergedBragg, merge_spots, with_spots
from diffuse_framework.algorithms.absolute.profile import RadialProfile
from diffuse_framework.algorithms.scaling.bragg_reference import bragg_reference
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import no_spots
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from diffuse_framework.simulate.intensity import BraggParameters
from diffuse_framework.simulate.rotation import RotationSettings
from diffuse_framework.testing.fakes import orthorhombic_grid


@pytest.fixture(scope="module")
def simulation():
    # Peaks whose width is their mosaic spread, as the merging supposes.
    bragg = BraggParameters(mosaicity_deg=0.2, width=1e-6)
    return simulate(SimulationSettings(n_images=30, bragg=bragg, seed=3))


def test_merged_strengths_are_proportional_to_the_true_ones(simulation):
    truth = simulation.truth
    merged = merge_spots(simulation.experiment, truth.scales)
    q = np.linalg.norm(merged.hkl @ truth.intensity.basis.T, axis=1)
    true = truth.intensity.strength(merged.hkl) * np.exp(-0.5 * truth.bragg.b_factor * q**2)
    # Each image has its own scale, partiality and polarisation; the simulation has no 1/|q|.
    assert np.corrcoef(merged.strength / q, true)[0, 1] > 0.999
    ratio = merged.strength / q / true
    assert np.std(ratio) / np.mean(ratio) < 0.02
    assert merged.multiplicity.max() > 1


def test_without_the_scales_they_are_not(simulation):
    truth = simulation.truth
    merged = merge_spots(simulation.experiment, np.ones_like(truth.scales))
    q = np.linalg.norm(merged.hkl @ truth.intensity.basis.T, axis=1)
    true = truth.intensity.strength(merged.hkl) * np.exp(-0.5 * truth.bragg.b_factor * q**2)
    ratio = merged.strength / q / true
    assert np.std(ratio) / np.mean(ratio) > 0.1


def test_images_without_integrated_reflections_are_refused(simulation):
    images = tuple(replace(image, spots=no_spots()) for image in simulation.experiment.images)
    with pytest.raises(DataError, match="no image has reflections"):
        merge_spots(replace(simulation.experiment, images=images), simulation.truth.scales)


def test_spots_take_the_scale_of_the_map():
    grid = orthorhombic_grid(divisions=(1, 1, 1))
    hkl = grid.index_of(np.arange(grid.size))
    hkl = hkl[(hkl != 0).any(axis=1)]
    odd = hkl.sum(axis=1) % 2 == 1
    q = np.linalg.norm(hkl @ grid.reciprocal_basis.T, axis=1)
    seen = ~odd & (q < 0.5)
    spots = MergedBragg(hkl[seen], np.full(seen.sum(), 7.0), np.ones(seen.sum()), np.ones(seen.sum(), int))
    edges = np.linspace(0, 0.5, 11)
    flat = np.full(10, 30.0)
    profile = RadialProfile(edges, flat, flat, flat * 0, flat, flat, np.ones(10), np.ones(10, int), np.ones(10, int))
    found = with_spots(profile, grid, spots, lambda index: index.sum(axis=1) % 2 == 1)
    # Half of the reflections are extinct and count as 0: means are those of the map all the same.
    assert np.allclose(found.bragg[4:], 30, rtol=0.1)
    assert (found.lattice_points[4:] > seen.sum() / 50).all()


@pytest.fixture(scope="module")
def sweep():
    bragg = BraggParameters(mosaicity_deg=0.2, width=1e-6)
    return simulate(
        SimulationSettings(n_images=120, bragg=bragg, rotation=RotationSettings(1.0), scale_spread=0.0, seed=3)
    )


def spread_of_ratio(sweep, strength, hkl):
    truth = sweep.truth
    q = np.linalg.norm(hkl @ truth.intensity.basis.T, axis=1)
    true = truth.intensity.strength(hkl) * np.exp(-0.5 * truth.bragg.b_factor * q**2) * q
    ratio = strength / true
    return np.std(ratio) / np.mean(ratio)


def test_reflections_of_a_rotation_are_corrected_for_how_long_they_reflect(sweep):
    truth = sweep.truth
    merged = merge_spots(sweep.experiment, truth.scales)
    # The simulated rocking curve is as wide in 1/angstrom as |q| times the mosaic spread.
    assert len(merged.hkl) > 500
    assert spread_of_ratio(sweep, merged.strength, merged.hkl) < 0.03


def test_symmetry_equivalents_of_a_rotation_agree(sweep):
    grid = orthorhombic_grid(divisions=(1, 1, 1))
    grid = replace(grid, cell=sweep.truth.intensity.cell, symmetry=sweep.experiment.symmetry)
    rows, first, *_ = bragg_reference(sweep.experiment, grid, 0.2, 0.0)
    strength = rows["counts"] / rows["exposure"]
    number = np.repeat(np.arange(len(first) - 1), np.diff(first))
    mean = np.bincount(number, rows["counts"]) / np.bincount(number, rows["exposure"])
    # Without Lorentz's factor equivalents differ several times.
    assert np.std(strength / mean[number]) < 0.05
    assert np.ptp(rows["exposure"]) > 3 * np.median(rows["exposure"])
