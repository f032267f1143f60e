"""What absolute scalers say where there is no scale: which parameters to look at, in full."""

from __future__ import annotations

import numpy as np
import pytest
from iotbx.phil import parse

from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.services.electron_units import PHIL, RANGE_PHIL, AbsoluteSettings
from diffuse_framework.testing.fakes import orthorhombic_grid

TEXT = PHIL + RANGE_PHIL.format(what="Range", default="all")
CELL = "contents.formula = C90H140N23O27S1\nwavelength = 1"


def settings(text: str, method: str = "wilson") -> AbsoluteSettings:
    return AbsoluteSettings.from_params(parse(TEXT).fetch(parse(text)).extract(), method)


def flat_map(share: int = 1) -> MergedMap:
    """A map without Bragg peaks that holds one in `share` voxels."""
    grid = orthorhombic_grid()
    voxel = np.arange(grid.size)
    index = grid.index_of(voxel)
    voxel = voxel[(fold(index, grid.symmetry, grid.divisions)[0] == index).all(axis=1)]
    voxel = voxel[np.linalg.norm(grid.q_of(voxel), axis=1) <= 1 / grid.d_min][::share]
    ones = np.ones(len(voxel))
    whole = np.ones(len(voxel), int)
    return MergedMap(grid, voxel, ones, 0.01 * ones, whole, whole, ones, ones, 0.01 * ones)


def test_a_method_that_finds_no_scale_names_its_range():
    with pytest.raises(DataError, match="finds no scale.*three shells.*absolute_scaler.wilson.range"):
        settings(CELL).scale(flat_map(), None, "wilson")


def test_a_map_with_too_few_voxels_names_the_completeness():
    with pytest.raises(DataError, match="complete.*absolute_scaler.wilson.min_completeness=None"):
        settings(CELL).scale(flat_map(9), None, "wilson")


def test_a_cell_without_contents_and_a_range_upside_down_are_named():
    with pytest.raises(ConfigError, match="absolute_scaler.norman.contents: name one of"):
        settings("", "norman").scale(flat_map(), None, "norman")
    with pytest.raises(ConfigError, match=r"absolute_scaler.norman.range: the lower limit 0.5 must be below 0.3"):
        settings("range = 0.5 0.3", "norman")
