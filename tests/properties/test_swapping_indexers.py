"""Whichever indexer found the orientations of stills, the map is the same within its errors."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from diffuse_framework import api
from diffuse_framework.simulate.cbf import ImageWriter
from diffuse_framework.simulate.compare import compare_merged
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from support.runs import KnownOrientations

# Masks that do not depend on counts, so that only the orientations differ.
PARAMETERS = """
grid.hkl.d_min = 3
grid.hkl.divisions = 3 3 3
masker.bragg.radius = 5
masker.bragg.excitation_error = 0.0015
masker.plugins = trusted bragg
validator.images.min_bright = 0
"""


@pytest.fixture(scope="module")
def simulation():
    return simulate(SimulationSettings(n_images=4, counts_per_pixel=1.0, seed=5))


@pytest.fixture(scope="module")
def maps(simulation, tmp_path_factory):
    """The map by each indexer of stills, and by the orientations of the simulation."""
    folder = tmp_path_factory.mktemp("images")
    write = ImageWriter(simulation.source, folder, nullcontext)
    for number in range(len(simulation.source)):
        write(number)
    source = api.open_images(sorted(folder.glob("*.cbf")))
    cell = (34.0, 39.0, 45.0, 90.0, 90.0, 90.0)
    found = {}
    for name in ("fast_stills", "dials_ssx"):
        own = f"indexer.plugin = {name}\nindexer.{name}.integrate = False"
        steps = api.make_steps(f"{PARAMETERS}\n{own}")
        found[name] = api.run(source, steps, cell, "P212121").map.merged
    steps = api.make_steps(PARAMETERS, indexer=KnownOrientations(simulation.experiment))
    found["truth"] = api.run(simulation.source, steps).map.merged
    return found


@pytest.mark.parametrize("name", ["dials_ssx", "truth"])
def test_another_indexer_gives_the_same_map_within_its_errors(name, maps):
    one, other = maps["fast_stills"], maps[name]
    # The grids have the mean cell of each, and their extent follows from it: voxels are known by their indices.
    codes = [merged.grid.index_of(merged.voxel) @ np.array([1 << 40, 1 << 20, 1]) for merged in (one, other)]
    common, here, there = np.intersect1d(*codes, return_indices=True)
    assert len(common) > 0.9 * max(map(len, codes))
    difference = one.intensity[here] - other.intensity[there]
    # The same photons on both sides: the errors of one map are more than the difference may be.
    pull = difference / np.sqrt(np.maximum(one.variance[here], other.variance[there]))
    assert np.median(np.abs(pull)) < 0.6745
    assert np.corrcoef(one.intensity[here], other.intensity[there])[0, 1] > 0.9


def test_the_map_is_as_near_to_the_truth_as_with_the_true_orientations(maps, simulation):
    agreement = {name: compare_merged(simulation.truth, merged).correlation for name, merged in maps.items()}
    assert agreement["fast_stills"] > agreement["truth"] - 0.02
    assert agreement["fast_stills"] > agreement["dials_ssx"] - 0.02
