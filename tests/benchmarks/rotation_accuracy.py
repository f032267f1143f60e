"""Maps of simulated sweeps against the truth: narrow and wide images, sub-steps, crystals that slip.

Run with the project's Python; no images on disk, no DIALS. Options: number of degrees, counts per pixel.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from tabulate import tabulate

from diffuse_framework.algorithms.rotation import turn
from diffuse_framework.simulate.compare import compare_merged
from diffuse_framework.simulate.crystals import primitive_symmetry
from diffuse_framework.simulate.detector import header_beam, one_panel
from diffuse_framework.simulate.experiment import Simulation, SimulationSettings, simulate
from diffuse_framework.simulate.rotation import RotationSettings
from support.runs import run_known

CRYSTALS = {
    "P212121": (24.0, 27.0, 31.0, 90.0, 90.0, 90.0),
    "P321": (26.0, 26.0, 31.0, 90.0, 90.0, 120.0),
}
# Simulated photons pass no air.
PARAMETERS = """
masker.plugins = trusted bragg
masker.bragg.radius = 4
masker.bragg.excitation_error = 0.002
corrector.plugins = solid_angle polarization efficiency
"""


def sweep(group: str, degrees: float, width: float, counts: float, drift: float = 0.0) -> Simulation:
    """Return a sweep with the same photons per degree whatever the width of its images."""
    return simulate(
        SimulationSettings(
            n_images=round(degrees / width),
            counts_per_pixel=counts * width,
            cell=CRYSTALS[group],
            symmetry=primitive_symmetry(group),
            detector=one_panel((300, 280), 40.0, header_beam(1.0)),
            rotation=RotationSettings(width, drift_deg=drift),
            seed=7,
        )
    )


def static(simulation: Simulation) -> Simulation:
    """Return the simulation with the crystal of its middle image on all images."""
    images = simulation.experiment.images
    middle = images[len(images) // 2]
    fixed = tuple(
        replace(
            image,
            setting_matrix=turn(
                image.rotation.axis, np.radians([image.rotation.angle_deg - middle.rotation.angle_deg])
            )[0]
            @ middle.setting_matrix,
        )
        for image in images
    )
    return replace(simulation, experiment=replace(simulation.experiment, images=fixed))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--degrees", type=float, default=180.0)
    parser.add_argument("--counts", type=float, default=2.0, help="photons per pixel and degree")
    parser.add_argument("--slip", type=float, default=1.5, help="degrees over the sweep")
    options = parser.parse_args()
    rows = []
    for group in CRYSTALS:
        slipping = sweep(group, options.degrees, 1.0, options.counts, options.slip)
        cases = (
            ("1 degree", sweep(group, options.degrees, 1.0, options.counts), ""),
            ("1 degree, no sub-steps", sweep(group, options.degrees, 1.0, options.counts), "max_steps=1"),
            ("1 degree, steps of 1 voxel", sweep(group, options.degrees, 1.0, options.counts), "step=1"),
            ("0.25 degree", sweep(group, options.degrees, 0.25, options.counts), ""),
            (f"1 degree, slips {options.slip:g}, varying model", slipping, ""),
            (f"1 degree, slips {options.slip:g}, static model", static(slipping), ""),
        )
        for name, simulation, steps in cases:
            start = time.process_time()
            parameters = PARAMETERS + (f"accumulator.sums.{steps}" if steps else "")
            merged = run_known(simulation.source, simulation.experiment, parameters).map.merged
            found = compare_merged(simulation.truth, merged)
            rows.append(
                (
                    group,
                    name,
                    found.voxels,
                    f"{found.correlation:.4f}",
                    f"{found.anisotropic_correlation:.4f}",
                    f"{found.weighted_anisotropic_correlation:.4f}",
                    f"{found.bias:+.2%}",
                    f"{found.chi_squared:.2f}",
                    f"{time.process_time() - start:.0f}",
                )
            )
            print(rows[-1], flush=True)
    header = ("group", "images", "voxels", "CC", "anisotropic CC", "weighted", "bias", "chi^2", "CPU s")
    print(tabulate(rows, header, "simple", disable_numparse=True))


if __name__ == "__main__":
    main()
