"""Crystals indexed in different ways: the map before and after they are brought to one, against the truth.

    .venv/bin/python tests/benchmarks/indexing_ambiguity.py

Simulated P4 and P3 crystals, whose lattices have more symmetry than they have; orientations are known, and
every crystal but the first is indexed again in one of the ways that geometry can't tell apart. No images on
disk. The last column is how many crystals are, in the end, in the indexing of the truth or, all together, in
one other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tabulate import tabulate

from diffuse_framework.algorithms.indexing.ambiguity import crystal_numbers, reindexed_image, reindexing_operators
from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.simulate.compare import compare_merged
from diffuse_framework.simulate.crystals import primitive_symmetry
from diffuse_framework.simulate.detector import header_beam, one_panel
from diffuse_framework.simulate.experiment import Simulation, SimulationSettings, simulate
from diffuse_framework.simulate.rotation import RotationSettings
from support.runs import run_known

PARAMETERS = """
masker.plugins = trusted bragg
masker.bragg.radius = 4
masker.bragg.excitation_error = 0.002
scaler.per_image.max_cycles = 30
"""
CELLS = {"P4": (24.0, 24.0, 31.0, 90.0, 90.0, 90.0), "P3": (26.0, 26.0, 31.0, 90.0, 90.0, 120.0)}
CASES = (
    ("P4, 2 sweeps of 15 degrees", "P4", RotationSettings(1.0, sweeps=2, scale_spread=0.3), 15),
    ("P4, 4 sweeps of 15 degrees", "P4", RotationSettings(1.0, sweeps=4, scale_spread=0.3), 15),
    ("P3, 4 sweeps of 15 degrees", "P3", RotationSettings(1.0, sweeps=4, scale_spread=0.3), 15),
    ("P4, 40 stills", "P4", None, 40),
)


def wrongly_indexed(simulation: Simulation, operators: np.ndarray) -> Experiment:
    """Return the experiment with the ways of indexing handed out in turn."""
    crystals = crystal_numbers(simulation.experiment)
    images = tuple(
        reindexed_image(image, operators[crystal % len(operators)])
        for image, crystal in zip(simulation.experiment.images, crystals, strict=True)
    )
    return replace(simulation.experiment, images=images)


def main() -> None:
    """Print a table."""
    rows = []
    for name, group, rotation, n_images in CASES:
        simulation = simulate(
            SimulationSettings(
                n_images=n_images,
                counts_per_pixel=2.0,
                cell=CELLS[group],
                symmetry=primitive_symmetry(group),
                detector=one_panel((300, 280), 40.0, header_beam(1.0)),
                rotation=rotation,
                seed=7,
            )
        )
        symmetry = simulation.truth.intensity.symmetry
        operators = reindexing_operators(symmetry, CELLS[group])
        mixed = wrongly_indexed(simulation, operators)
        found = []
        for experiment, reindexer in (
            (simulation.experiment, "as_indexed"),
            (mixed, "as_indexed"),
            (mixed, "diffuse"),
        ):
            parameters = f"{PARAMETERS}reindexer.plugin = {reindexer}"
            outcome = run_known(simulation.source, experiment, parameters)
            found.append(best_way(simulation, outcome.map.merged, operators))
        crystals = crystal_numbers(simulation.experiment)
        numbers = [
            number_of(image.setting_matrix, true.setting_matrix, operators, symmetry.operators)
            for image, true in zip(outcome.experiment.images, simulation.experiment.images, strict=True)
        ]
        of_crystal = dict(zip(crystals, numbers, strict=True))
        together = np.bincount(list(of_crystal.values())).max()
        rows.append((name, len(operators), *(f"{cc:.3f}" for cc in found), f"{together} of {len(of_crystal)}"))
        print(rows[-1], flush=True)
    header = ("crystals", "ways", "right", "mixed", "brought to one", "agree")
    print(tabulate(rows, header, "simple", disable_numparse=True))


def best_way(simulation: Simulation, merged, operators: np.ndarray) -> float:
    """Correlation of the anisotropic part with the truth, in the one indexing of all that fits it best."""
    truth, found = simulation.truth, []
    for operator in operators:
        # A map in another indexing is compared with the truth in that indexing.
        crystal = truth.intensity
        lattice, _ = fold(crystal.lattice_hkl @ operator.T, crystal.symmetry, (1, 1, 1))
        other = replace(truth, intensity=replace(crystal, lattice_hkl=lattice.astype(np.int32)))
        found.append(compare_merged(other, merged).weighted_anisotropic_correlation)
    return max(found)


def number_of(setting: np.ndarray, true: np.ndarray, operators: np.ndarray, laue: np.ndarray) -> int:
    """Number of the way in which an image is indexed, with respect to the truth."""
    for number, operator in enumerate(operators):
        ways = (true @ np.linalg.inv(own @ operator) for own in laue)
        if any(np.allclose(setting, way, atol=1e-6) for way in ways):
            return number
    raise ValueError("an image in no way of indexing")


if __name__ == "__main__":
    main()
