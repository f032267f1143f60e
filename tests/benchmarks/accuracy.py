"""How near the map of simulated stills comes to the truth, at three count rates.

    .venv/bin/python tests/benchmarks/accuracy.py [--images 40]

Orientations are known, so that only masking, correcting, accumulation, scaling and merging are
judged. The bias is that of the merged mean against what the same run gives without noise and
without Bragg peaks: what is left is the estimator's own.
"""

from __future__ import annotations

import argparse

import numpy as np

from diffuse_framework.simulate.compare import compare_merged, compare_scales
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from support.runs import run_known

PARAMETERS = """
grid.hkl.divisions = 2 2 2
grid.hkl.d_min = 2.2
masker.plugins = trusted bragg
corrector.plugins = solid_angle polarization efficiency
merger.plugin = %s
"""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40)
    n_images = parser.parse_args().images
    print("counts/pixel  merger             CC     CC aniso  chi2   bias %   its error %  scales rms %  worst %")
    for level in (0.05, 0.5, 5.0):
        simulation = simulate(SimulationSettings(n_images=n_images, counts_per_pixel=level, seed=1))
        for merger in ("poisson", "inverse_variance"):
            measured, expected = (
                run_known(source, simulation.experiment, PARAMETERS % merger)
                for source in (simulation.source, simulation.source.diffuse_only())
            )
            merged, exact = measured.map.merged, expected.map.merged
            agreement = compare_merged(simulation.truth, merged)
            scales = compare_scales(simulation.truth, measured.sums.image_names, measured.scales.per_image)
            weights = exact.pixels[np.isin(exact.voxel, merged.voxel)].astype(float)
            wanted = exact.intensity[np.isin(exact.voxel, merged.voxel)]
            bias = np.average(merged.intensity, weights=weights) / np.average(wanted, weights=weights) - 1
            print(
                f"{level:12.2f}  {merger:16s} {agreement.weighted_correlation:6.4f}  "
                f"{agreement.weighted_anisotropic_correlation:6.4f}  {agreement.chi_squared:5.3f}  {100 * bias:+7.3f}  "
                f"{100 / np.sqrt(merged.counts.sum()):9.3f}  {100 * scales.relative_rms:11.2f}  "
                f"{100 * scales.largest:9.2f}"
            )


if __name__ == "__main__":
    main()
