"""The pages of the documentation run as they are."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffuse_framework import api
from diffuse_framework.adapters.images.sequences import SequenceSource
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing import automatic
from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.command_line import merge, scale
from diffuse_framework.errors import ConfigError, DataError, PluginError
from diffuse_framework.simulate.cbf import ImageWriter
from diffuse_framework.simulate.compare import compare_merged
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from diffuse_plugins.scaler_per_image import PerImageScaler
from support.runs import KnownOrientations

PAGE = Path(__file__).parents[2] / "docs" / "python_api.md"


@pytest.fixture(scope="module")
def simulation():
    return simulate(SimulationSettings(n_images=4, counts_per_pixel=1.0, seed=3))


def test_the_page_runs_from_image_files_to_the_map(simulation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    write = ImageWriter(simulation.source, tmp_path / "images", nullcontext)
    for number in range(len(simulation.source)):
        write(number)
    namespace: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    outcome = namespace["outcome"]
    assert len(outcome.experiment.images) >= 3
    assert (tmp_path / "results" / "voxel_data_relative.npz").exists()
    assert (namespace["merged"].intensity == outcome.map.merged.intensity).all()
    assert (namespace["unscaled"].scales.per_image == 1).all()
    assert len(blocks[0].splitlines()) <= 10


def test_a_plugin_object_takes_the_place_of_the_selected_one(simulation):
    indexer = KnownOrientations(simulation.experiment)
    steps = api.make_steps("grid.hkl.d_min = 3", indexer=indexer, correctors=[])
    assert steps.indexer is indexer and steps.correctors == () and steps.maskers and steps.validators
    steps = api.make_steps("grid.hkl.d_min = 3", indexer=indexer)
    outcome = api.run(simulation.source, steps)
    assert compare_merged(simulation.truth, outcome.map.merged).correlation > 0.7
    assert np.isclose(outcome.scales.per_image.mean(), 1)


@pytest.mark.parametrize(
    ("source", "crystals", "name"),
    [
        (object.__new__(DxtbxSource), False, "dials_ssx"),
        (object.__new__(SequenceSource), False, "dials_sequence"),
        (object.__new__(SequenceSource), True, "given"),
    ],
)
def test_the_indexer_that_was_not_named_follows_from_the_images(source, crystals, name, tmp_path, monkeypatch):
    monkeypatch.setattr(automatic, "all_have_crystals", lambda source: crystals)
    steps = api.make_steps("grid.hkl.d_min = 3\nindexer.dials_sequence.d_min = 2.5")
    asked = []

    def choose(chosen):
        asked.append(steps.indexer.choose(chosen))
        return asked[-1] if len(asked) == 1 else KnownOrientations("the experiment")

    assert automatic.AutomaticIndexer(choose).index(source, None, tmp_path, None) == "the experiment"
    assert [indexer.name for indexer in asked] == ["given", name]
    assert name != "dials_sequence" or asked[-1].d_min == 2.5
    assert api.make_steps("indexer.plugin = dials_ssx").indexer.name == "dials_ssx"


@pytest.mark.parametrize(
    ("parameters", "plugins", "error", "message"),
    [
        ("grid.hkl.dmin = 3", {}, ConfigError, "there is no parameter grid.hkl.dmin"),
        ("crystal.unit_cell = 1 2 3 90 90 90", {}, ConfigError, r"of diffuse.process and of no plugin: give run\(unit"),
        ("live = True", {}, ConfigError, "live is a parameter of diffuse.process and of no plugin: use the command"),
        ("grid.hkl.d_min = three", {}, ConfigError, "d_min"),
        ("grid {", {}, ConfigError, "no matching"),
        ("", {"scalers": None}, ConfigError, "there is no step scalers; there are indexer"),
        ("scaler.plugin = per_imge", {}, PluginError, "did you mean"),
        (
            "",
            {"scaler": "smooth"},
            ConfigError,
            r"is a name: give an object, or .* make_steps\('scaler.plugin = smooth'\)",
        ),
        ("", {"maskers": "trusted"}, ConfigError, "maskers='trusted': give a sequence of masker objects"),
        ("", {"maskers": ["trusted"]}, ConfigError, "'masker.plugins = trusted'"),
        ("", {"maskers": 3}, ConfigError, "maskers=3: give a sequence"),
        (
            "",
            {"scaler": KnownOrientations},
            ConfigError,
            "the scaler KnownOrientations is a class: give an object of it",
        ),
        ("", {"scaler": KnownOrientations(None)}, ConfigError, "is no scaler: it has no fit"),
    ],
)
def test_what_cannot_be_is_said(parameters, plugins, error, message):
    with pytest.raises(error, match=message):
        api.make_steps(parameters, **plugins)


def test_results_show_themselves_in_a_line(simulation):
    steps = api.make_steps("grid.hkl.d_min = 3", indexer=KnownOrientations(simulation.experiment), maskers=[])
    outcome = api.run(simulation.source, steps)
    for thing in (steps, outcome, outcome.experiment, outcome.map, outcome.map.merged, outcome.sums):
        assert len(repr(thing)) < 600, repr(thing)
    assert f"{len(outcome.experiment.images)} images" in repr(outcome)
    assert f"{len(outcome.map.merged.voxel)} of {outcome.map.merged.grid.n_voxels} voxels" in repr(outcome)


def test_no_images_is_said(tmp_path):
    with pytest.raises(DataError, match="no file matches"):
        api.open_images(tmp_path / "*.cbf")


def test_a_run_with_a_folder_is_that_of_the_command(simulation, tmp_path):
    steps = api.make_steps("grid.hkl.d_min = 3", indexer=KnownOrientations(simulation.experiment))
    kept = api.run(simulation.source, steps, folder=tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} >= {
        "sums.h5",
        "summary.json",
        "parameters.phil",
        "voxel_data_relative.npz",
        "refined_scaling_model_params.json",
    }
    again = api.run(simulation.source, steps, scales=tmp_path / "kept" / "refined_scaling_model_params.json")
    assert (again.map.intensity == kept.map.intensity).all()
    assert again.scaled_by == kept.scaled_by
    assert "merger.plugin = poisson" in (tmp_path / "kept" / "parameters.phil").read_text()


class LikePoisson:
    """Merges as the default does, under no name."""

    def merge(self, sums, scales):
        return poisson_merge(sums, scales)


def test_text_selects_the_last_steps_again_with_its_parameters(simulation, tmp_path):
    text = "grid.hkl.d_min = 3\nscaler.per_image.max_cycles = 7"
    steps = api.make_steps(text, indexer=KnownOrientations(simulation.experiment), maskers=[])
    api.run(simulation.source, steps, folder=tmp_path)
    assert "max_cycles = 7" in (tmp_path / "parameters.phil").read_text()
    scale.run([str(tmp_path / "sums.h5")])


@pytest.mark.parametrize(
    ("stage", "made_in_python", "command", "name"),
    [("scaler", PerImageScaler(max_cycles=8), scale, "per_image"), ("merger", LikePoisson(), merge, "poisson")],
)
def test_what_an_object_did_is_not_repeated_as_something_else(
    simulation, tmp_path, capsys, stage, made_in_python, command, name
):
    steps = api.make_steps("grid.hkl.d_min = 3", indexer=KnownOrientations(simulation.experiment), maskers=[])
    api.run(simulation.source, replace(steps, **{stage: made_in_python}), folder=tmp_path)
    with pytest.raises(SystemExit):
        command.run([str(tmp_path / "sums.h5")])
    assert f"the {stage} of this run was an object made in Python" in capsys.readouterr().err
    command.run([str(tmp_path / "sums.h5"), f"{stage}.plugin={name}"])
