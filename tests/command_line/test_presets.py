"""Every preset makes a map of simulated stills, and gives way to what is typed beside it."""

from __future__ import annotations

import json

import pytest

from diffuse_framework.command_line import process
from diffuse_framework.config.presets import preset_names, preset_path, with_presets
from diffuse_framework.errors import ConfigError


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_makes_a_map(name, stills, tmp_path):
    # Indexed input, so that a run is short; the parameters of indexers are read all the same.
    arguments = [stills / "truth.expt", stills / "truth.refl", f"preset={name}", f"output.directory={tmp_path / 'out'}"]
    process.run([str(argument) for argument in (*arguments, "grid.hkl.d_min=3", "mp.nproc=1")])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["images"]["used"] == 6
    log = (tmp_path / "out" / "diffuse.process.log").read_text()
    assert "d_min = 3" in log


def test_what_is_typed_overrides_a_preset(stills, tmp_path):
    before = ["grid.hkl.divisions=1,1,2", "preset=fine_map"]
    files = [str(stills / "truth.expt"), str(stills / "truth.refl")]
    process.run([*before, *files, f"output.directory={tmp_path}", "grid.hkl.d_min=4", "mp.nproc=1"])
    grid = json.loads((tmp_path / "global_voxel_grid_definition.json").read_text())
    assert (grid["ndiv_h"], grid["ndiv_k"], grid["ndiv_l"]) == (1, 1, 2)


def test_a_preset_that_there_is_not_is_said():
    with pytest.raises(ConfigError, match="no preset 'weke'; did you mean 'weak'"):
        with_presets(["preset=weke"])


def test_every_preset_says_what_it_is_for():
    for name in preset_names():
        assert preset_path(name).read_text().startswith("# ")
