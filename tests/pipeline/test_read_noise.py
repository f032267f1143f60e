"""The whole story on images that are read with noise: no bias, and errors that know of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.errors import ConfigError
from diffuse_framework.simulate.compare import compare_merged
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from support.runs import run_known

GRID = """
grid.hkl.divisions = 2 2 2
grid.hkl.d_min = 2.5
corrector.plugins = solid_angle polarization efficiency
masker.plugins = trusted bragg
masker.bragg.radius = 6
masker.bragg.excitation_error = 0.004
masker.bragg.unpredicted = False
scaler.per_image.outliers.limit = None
"""


class Noisy:
    """Images of a counting detector as one that integrates charge would give them: (photons + noise) x 20 + 7."""

    def __init__(self, source, experiment, read_noise, lowest):
        self.source, self.read_noise = source, read_noise
        self.of_all = tuple(
            replace(
                geometry,
                panels=tuple(
                    replace(p, gain=20.0, pedestal=7.0, read_noise=read_noise, trusted_range=(lowest, 1e7))
                    for p in geometry.panels
                ),
            )
            for geometry in experiment.geometries
        )

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __getstate__(self):
        return self.__dict__

    def __setstate__(self, state):
        self.__dict__.update(state)

    def geometry(self, index):
        return self.of_all[0]

    def read(self, index):
        frame = self.source.read(index)
        rng = np.random.default_rng(index)
        noisy = (20 * (c + self.read_noise * rng.normal(size=c.shape)) + 7 for c in frame.counts)
        counts = tuple(np.where(c >= 0, n, -1e6) for c, n in zip(frame.counts, noisy, strict=True))
        return replace(frame, counts=counts)


@pytest.mark.parametrize("read_noise", [0.1, 1.0])
@pytest.mark.parametrize("level", [0.05, 0.5])
def test_read_noise_makes_no_bias_and_is_in_the_errors(level, read_noise):
    simulation = simulate(SimulationSettings(n_images=40 if level < 0.1 else 12, counts_per_pixel=level, seed=9))
    source = Noisy(simulation.source, simulation.experiment, read_noise, -1000.0)
    experiment = replace(simulation.experiment, geometries=source.of_all)
    counting = run_known(simulation.source, simulation.experiment, GRID).map.merged
    merged = run_known(source, experiment, GRID).map.merged
    assert (merged.variance > 0).all()
    pixels = merged.pixels.sum()
    # Of one set of photons: what noise adds to the mean is known.
    assert abs(merged.counts.sum() - counting.counts.sum()) < 4 * read_noise * np.sqrt(pixels)
    agreement = compare_merged(simulation.truth, merged)
    assert abs(agreement.bias) < 0.01 + 3 * read_noise / np.sqrt(pixels) / level
    assert agreement.chi_squared == pytest.approx(1, abs=0.1)


def test_noise_that_is_told_makes_no_default_mask_much_larger():
    """A core of twenty pixels is read with a noise of 4.5 photons: four standard deviations are not 4 photons."""
    simulation = simulate(SimulationSettings(n_images=8, counts_per_pixel=0.5, seed=9))
    source = Noisy(simulation.source, simulation.experiment, 1.0, -1000.0)
    experiment = replace(simulation.experiment, geometries=source.of_all)
    counting, merged = (
        run_known(one, images, "grid.hkl.divisions = 2 2 2\ngrid.hkl.d_min = 2.5").map.merged
        for one, images in ((simulation.source, simulation.experiment), (source, experiment))
    )
    assert abs(merged.pixels.sum() / counting.pixels.sum() - 1) < 0.1
    mean, of_counting = (one.counts.sum() / one.pixels.sum() for one in (merged, counting))
    assert abs(mean / of_counting - 1) < 0.03


def test_a_range_that_starts_at_zero_photons_is_refused():
    simulation = simulate(SimulationSettings(n_images=4, counts_per_pixel=0.3, seed=9))
    source = Noisy(simulation.source, simulation.experiment, 0.6, 7.0)
    with pytest.raises(ConfigError, match="below the trusted range.*detector.trusted_range=-"):
        run_known(source, replace(simulation.experiment, geometries=source.of_all), GRID)
