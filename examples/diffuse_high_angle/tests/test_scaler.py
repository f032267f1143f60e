from __future__ import annotations

import numpy as np
import pytest
from diffuse_high_angle.scaler import HighAngleScaler

from diffuse_framework.errors import DataError
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.testing.conformance import conformance_tests
from diffuse_framework.testing.fakes import orthorhombic_grid

test_contract = conformance_tests("absolute_scaler", HighAngleScaler, "atoms = 500\nd_max = 1000")


def flat_map(level: float) -> MergedMap:
    grid = orthorhombic_grid()
    voxel = np.arange(1, 400)
    intensity, ones = np.full(len(voxel), level), np.ones(len(voxel))
    return MergedMap(grid, voxel, intensity, 0.01 * ones, ones, ones, ones, 1.25 * intensity, 0.02 * ones)


def test_the_mean_at_high_angle_is_what_was_given():
    final = HighAngleScaler(atoms=500.0, incoherent=50.0, d_max=1000.0).scale(flat_map(4.0), None, None)
    assert final.scale == pytest.approx(100)
    assert final.intensity == pytest.approx(350)
    assert final.report["voxels"] == 399
    assert final.subtracted_at(final.merged.voxel) == pytest.approx(50)


def test_a_map_that_does_not_reach_there_is_refused():
    with pytest.raises(DataError, match="d_max"):
        HighAngleScaler(d_max=0.1).scale(flat_map(4.0), None, None)
