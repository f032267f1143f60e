"""The whole story on simulated stills of known orientation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.engine.processes import process_engine
from diffuse_framework.errors import DataError
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.pipeline.run import RunSettings
from diffuse_framework.simulate.compare import compare_merged, compare_scales
from diffuse_framework.simulate.experiment import Simulation, SimulationSettings, simulate
from diffuse_framework.simulate.images import ModuleSource
from support.runs import run_known

# The simulated crystal stands in a vacuum.
GRID = """
grid.hkl.divisions = 2 2 2
grid.hkl.d_min = 2.5
corrector.plugins = solid_angle polarization efficiency
"""
# Masks that no counting statistics and no blocks of pixels decide: what is measured of peaks depends on both.
HELD = (
    GRID
    + """
masker.bragg.radius = 6
masker.bragg.excitation_error = 0.004
masker.bragg.unpredicted = False
"""
)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(SimulationSettings(n_images=16, counts_per_pixel=0.5, seed=4))


@pytest.fixture(scope="module")
def outcome(simulation):
    return run_known(simulation.source, simulation.experiment, GRID)


@pytest.fixture(scope="module")
def held(simulation):
    return run_known(simulation.source, simulation.experiment, HELD)


def same(a: MergedMap, b: MergedMap) -> bool:
    return (a.voxel == b.voxel).all() and (a.intensity == b.intensity).all() and (a.variance == b.variance).all()


def test_the_map_agrees_with_the_truth(simulation, outcome):
    agreement = compare_merged(simulation.truth, outcome.map.merged)
    assert agreement.weighted_correlation > 0.95
    assert 0.8 < agreement.chi_squared < 1.3


def test_the_scales_are_recovered(simulation, outcome):
    names, scales = outcome.sums.image_names, outcome.scales
    assert compare_scales(simulation.truth, names, scales.per_image).relative_rms < 0.05
    truth = simulation.truth.scales / simulation.truth.scales.mean()
    z = (scales.per_image - truth) / scales.per_image_sigma
    assert np.sqrt(np.mean(z**2)) < 2


@pytest.mark.parametrize("level", [0.05, 0.5, 5.0])
def test_there_is_no_bias_at_any_count_rate(level):
    n_images = 40 if level < 0.1 else 12
    simulation = simulate(SimulationSettings(n_images=n_images, counts_per_pixel=level, seed=9))
    outcome = run_known(simulation.source, simulation.experiment, GRID)
    bias = compare_merged(simulation.truth, outcome.map.merged).bias
    photons = outcome.map.merged.counts.sum()
    assert abs(bias) < max(0.01, 4 / np.sqrt(photons))


def test_engines_and_stores_agree_to_the_bit(simulation, outcome, tmp_path):
    settings = RunSettings(folder=tmp_path)
    other = run_known(simulation.source, simulation.experiment, GRID, process_engine(2), settings)
    assert same(outcome.map.merged, other.map.merged)


@pytest.mark.parametrize("chunk_size", [1, 5, 100])
def test_chunks_change_nothing_but_rounding(simulation, outcome, chunk_size):
    settings = RunSettings(chunk_size=chunk_size)
    other = run_known(simulation.source, simulation.experiment, GRID, settings=settings).map.merged
    assert (outcome.map.merged.voxel == other.voxel).all()
    assert np.allclose(outcome.map.merged.intensity, other.intensity, rtol=1e-6)


def test_the_order_of_maskers_and_correctors_changes_nothing_but_rounding(simulation, outcome):
    other = run_known(
        simulation.source,
        simulation.experiment,
        GRID + "masker.plugins = bragg dynamic trusted\ncorrector.plugins = efficiency polarization solid_angle",
    ).map.merged
    assert (outcome.map.merged.voxel == other.voxel).all()
    assert np.allclose(outcome.map.merged.intensity, other.intensity, rtol=1e-5)


def test_the_order_of_images_changes_nothing_but_rounding(simulation, outcome):
    backwards = replace(simulation.experiment, images=simulation.experiment.images[::-1])
    other = run_known(simulation.source, backwards, GRID)
    assert np.allclose(outcome.scales.per_image, other.scales.per_image[::-1], rtol=1e-4)
    assert np.allclose(outcome.map.merged.intensity, other.map.merged.intensity, rtol=1e-4)


def test_doubled_exposure_and_counts_give_the_same_map(simulation, held):
    class Doubled:
        def __init__(self, source):
            self.source = source

        def __getattr__(self, name):
            return getattr(self.source, name)

        def read(self, index):
            frame = self.source.read(index)
            return replace(frame, counts=tuple(np.where(c > 0, 2 * c, c) for c in frame.counts))

    images = tuple(replace(image, exposure_s=2 * image.exposure_s) for image in simulation.experiment.images)
    doubled = replace(simulation.experiment, images=images)
    other = run_known(Doubled(simulation.source), doubled, HELD).map.merged
    assert np.allclose(held.map.merged.intensity, other.intensity, rtol=1e-4)


def test_indexing_by_any_equivalent_gives_the_same_map(simulation, outcome):
    operators = simulation.experiment.symmetry.operators
    proper = [operator for operator in operators if np.linalg.det(operator) > 0]
    images = tuple(
        replace(image, setting_matrix=image.setting_matrix @ proper[number % len(proper)])
        for number, image in enumerate(simulation.experiment.images)
    )
    other = run_known(simulation.source, replace(simulation.experiment, images=images), GRID).map.merged
    assert (outcome.map.merged.voxel == other.voxel).mean() == 1
    # A pixel on the border of two voxels may change sides with the last bit.
    assert np.corrcoef(outcome.map.merged.intensity, other.intensity)[0, 1] > 0.9999


def test_modules_as_panels_give_the_map_of_one_panel(simulation, held):
    modules = ModuleSource(simulation.source)
    geometry = modules.geometry(0)
    assert len(geometry.panels) > 1
    many = replace(simulation.experiment, geometries=(geometry,))
    other = run_known(modules, many, HELD).map.merged
    assert (held.map.merged.voxel == other.voxel).all()
    assert (held.map.merged.counts == other.counts).all()
    assert np.allclose(held.map.merged.intensity, other.intensity, rtol=1e-6)


def test_an_image_of_another_size_is_refused(simulation):
    class Cropped:
        def __init__(self, source):
            self.source = source

        def __getattr__(self, name):
            return getattr(self.source, name)

        def read(self, index):
            frame = self.source.read(index)
            return replace(frame, counts=tuple(c[:-1] for c in frame.counts))

    with pytest.raises(DataError, match=r"sim_00001\.cbf"):
        run_known(Cropped(simulation.source), simulation.experiment, GRID + "masker.plugins = trusted")
