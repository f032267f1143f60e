"""diffuse.compare, diffuse.subtract and diffuse.rebin as users type them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffuse_framework import api
from diffuse_framework.algorithms.comparison.alignment import operator_of, reindexed
from diffuse_framework.algorithms.comparison.grids import q_lengths
from diffuse_framework.algorithms.comparison.halos import Halo
from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.command_line import compare, export, rebin, report, subtract
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.io.maps.read import read_voxel_map
from diffuse_framework.io.maps.write import write_voxel_map
from diffuse_framework.io.scales import read_scales
from diffuse_framework.io.sums_store import StoredSums
from diffuse_framework.notebook import open_map
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from support.maps import all_voxels, drawn_map, true_map
from support.runs import known_steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Folders of two maps of one crystal, the second flipped, and of others that don't go with them."""
    folder = tmp_path_factory.mktemp("maps")
    grid, voxel = all_voxels(d_min=3.0)
    truth = true_map(grid, voxel)
    a = drawn_map(grid, voxel, truth, 1, exposure=0.3)
    b = reindexed(drawn_map(grid, voxel, truth, 2, exposure=0.2, scale=5.0), operator_of("k,h,-l"))
    other, numbers = all_voxels("P222", d_min=3.0)
    made = {
        "a": a,
        "b": b,
        "no_errors": replace(b, sigma=None, halves=None),
        "nan": replace(a, intensity=np.full(len(a), np.nan)),
        "larger": replace(b, grid=replace(grid, cell=(40.0, 40.0, 38.0, 90.0, 90.0, 90.0))),
        "other_laue": drawn_map(other, numbers, true_map(other, numbers), 1),
        "inner": a.select(np.linalg.norm(grid.q_of(voxel), axis=1) < 0.12),
        "outer": a.select(np.linalg.norm(grid.q_of(voxel), axis=1) > 0.15),
    }
    for name, one in made.items():
        (folder / name).mkdir()
        write_voxel_map(folder / name, one)
    return folder


def run(command, *args) -> None:
    command.run([str(arg) for arg in args])


def test_a_comparison_leaves_tables_json_and_a_page(folder, tmp_path):
    run(compare, folder / "a", folder / "b", f"output.directory={tmp_path}", "shells=5")
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert found["indexing"]["applied"] != "h,k,l"
    assert found["scaling"]["factor"][0] == pytest.approx(0.2, rel=0.02)
    assert found["overall"]["all"]["at_ceiling"]
    assert found["overall"]["all"]["chi_squared"] == pytest.approx(1, abs=0.06)
    assert len(found["shells"]["between"]) == 5
    text = (tmp_path / "comparison.txt").read_text()
    assert "B is indexed differently: it was re-indexed by" in text
    assert "Voxels in halos of nodes" in text
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("data:image/png;base64") == 5
    assert "They agree as well as noise allows" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_comparison_is_the_same_from_python(folder, tmp_path):
    run(compare, folder / "a", folder / "b", f"output.directory={tmp_path}", "output.page=False", "scale=None")
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert not (tmp_path / "comparison.html").exists()
    compared = api.compare(folder / "a", folder / "b", scale="none")
    assert json.loads(json.dumps(compared.overall["all"].to_plain())) == found["overall"]["all"]
    assert (compared.aligned.scaling.factor == 1).all()
    in_memory = api.compare(api.open_map(folder / "a"), folder / "b", scale="none")
    assert in_memory.overall["all"].cc == compared.overall["all"].cc
    assert api.compare(folder / "a", api.open_map(folder / "b"), samples=0).aligned.indexing.changed
    with pytest.raises(ConfigError, match="no option scaling; there are reindex"):
        api.compare(folder / "a", folder / "b", scaling="single")
    with pytest.raises(ConfigError, match="no hint cell"):
        api.open_map(folder / "a", cell=(1, 2, 3, 90, 90, 90))


def test_a_difference_is_a_map_that_is_shown_exported_and_compared(folder, tmp_path, capsys):
    run(subtract, folder / "a", folder / "b", f"output.directory={tmp_path}")
    assert "A - B: root mean square" in capsys.readouterr().out
    apart = read_voxel_map(tmp_path)
    assert np.mean((apart.intensity / apart.sigma) ** 2) == pytest.approx(1, abs=0.06)
    assert apart.halves is not None
    run(report, tmp_path)
    assert "Slices through the map" in (tmp_path / "report.html").read_text()
    run(export, tmp_path / "voxel_data_relative.npz", "formats=ccp4+mtz")
    assert (tmp_path / "voxel_data_relative.ccp4").is_file()
    run(compare, tmp_path, folder / "a", f"output.directory={tmp_path}/again", "output.page=False")
    assert "DiffuseMap" in open_map(tmp_path)._repr_html_()
    same = api.subtract(folder / "a", folder / "b")
    np.testing.assert_allclose(same.intensity, apart.intensity, rtol=1e-6)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """The folder of a run on simulated images with three divisions, on an absolute scale of its own."""
    folder = tmp_path_factory.mktemp("run")
    simulation = simulate(SimulationSettings(n_images=4, counts_per_pixel=1.0, seed=3))
    steps = known_steps(simulation.experiment, "grid.hkl.d_min = 3.0")
    api.run(simulation.source, steps, folder=folder)
    return folder


def test_a_run_is_rebinned_from_its_sums(run_folder, tmp_path):
    sums = StoredSums(run_folder / "sums.h5")
    scales = read_scales(run_folder / "refined_scaling_model_params.json", sums.image_names, sums.grid, load_registry())
    run(rebin, run_folder, "divisions=3,3,3", f"output.directory={tmp_path}")
    new, merged = read_voxel_map(tmp_path), poisson_merge(sums, scales)
    # The run has three divisions: nothing is averaged, and all comes back.
    assert np.array_equal(new.voxel, merged.voxel)
    np.testing.assert_allclose(new.intensity, merged.intensity, rtol=1e-6)
    np.testing.assert_allclose(new.sigma**2, merged.variance, rtol=1e-6)
    assert new.halves is not None
    coarse = api.rebin(run_folder, (1, 1, 1), "exclude")
    of_map = api.rebin(run_folder / "voxel_data_relative.npz", (1, 1, 1), "exclude")
    assert np.array_equal(coarse.voxel, of_map.voxel)
    assert np.corrcoef(coarse.intensity, of_map.intensity)[0, 1] > 0.98
    run(report, tmp_path)


def test_what_another_merger_made_is_rebinned_as_a_map_or_refused(run_folder, tmp_path, capsys):
    """Sums are rebinned as `poisson` merges: whatever another merger did must not be lost without a word."""
    there = tmp_path / "run"
    shutil.copytree(run_folder, there)
    (there / "parameters.phil").write_text("merger.plugin = inverse_variance\n")
    run(rebin, there, "divisions=1,1,1", f"output.directory={tmp_path / 'new'}")
    assert "the map was merged by inverse_variance" in capsys.readouterr().out
    same = api.rebin(run_folder / "voxel_data_relative.npz", (1, 1, 1))
    np.testing.assert_allclose(read_voxel_map(tmp_path / "new").intensity, same.intensity, rtol=1e-6)
    np.testing.assert_allclose(api.rebin(there, (1, 1, 1)).intensity, same.intensity, rtol=1e-6)
    with pytest.raises(SystemExit):
        run(rebin, there, "divisions=1,1,1", "input.source=sums", f"output.directory={tmp_path / 'new'}")
    assert "input.source=map takes the map" in capsys.readouterr().err


def test_sums_are_rebinned_on_the_absolute_scale_of_the_run(run_folder, tmp_path):
    there = tmp_path / "run"
    shutil.copytree(run_folder, there)
    relative = read_voxel_map(there)
    q = q_lengths(relative.grid, relative.voxel)
    np.savez(
        there / "voxel_data_absolute.npz",
        voxel_indices=relative.voxel,
        q_magnitude_center=q,
        I_abs_diffuse=3 * relative.intensity - 10 * q,
        I_incoherent_theoretical=10 * q,
        Scale_Abs=3.0,
        Scale_Abs_sigma=0.1,
    )
    old, new = api.rebin(run_folder, (1, 1, 1)), api.rebin(there, (1, 1, 1))
    assert new.units == "electron units per unit cell"
    shift = 3 * old.intensity - new.intensity
    np.testing.assert_allclose(shift, 10 * q_lengths(new.grid, new.voxel), atol=0.01)
    np.testing.assert_allclose(new.sigma, 3 * old.sigma, rtol=1e-6)


def test_a_map_is_rebinned_without_nodes(folder, tmp_path, capsys):
    run(rebin, folder / "a", "divisions=1,1,1", "halo.voxels=exclude", f"output.directory={tmp_path}")
    assert "Rebinning the map" in capsys.readouterr().out
    new = read_voxel_map(tmp_path)
    assert new.grid.divisions == (1, 1, 1)
    same = api.rebin(folder / "a", (1, 1, 1), "exclude")
    np.testing.assert_allclose(new.intensity, same.intensity, rtol=1e-6)
    whole = api.rebin(api.open_map(folder / "a"), (1, 1, 1), around=Halo("ellipsoid", (0.5, 0.5, 0.5)))
    assert not np.allclose(whole.intensity[: len(new)], new.intensity)
    written = api.write_map(whole, tmp_path / "written")
    assert written.is_file()


def test_an_absolute_run_stays_absolute(folder, tmp_path):
    absolute = replace(read_voxel_map(folder / "a"), units="electron units per unit cell")
    write_voxel_map(tmp_path, absolute)
    run(rebin, tmp_path, "divisions=1,1,1", f"output.directory={tmp_path}/new")
    assert (tmp_path / "new" / "voxel_data_absolute.npz").is_file()
    run(report, tmp_path / "new")


@pytest.mark.parametrize(
    ("command", "names", "settings", "message"),
    [
        (compare, "a larger", [], "unit cells differ by 33.3 %"),
        (compare, "a other_laue", [], "Laue group 4/m"),
        (compare, "inner outer", [], "no voxels in common"),
        (compare, "a nan", [], "no finite intensity"),
        (compare, "a", [], "two maps are needed"),
        (compare, "a b no_errors", [], "one map too many"),
        (compare, "a nothing", [], "there is no file or folder"),
        (compare, "a b", ["reindex=k,h"], "no operator on indices"),
        (compare, "a b", ["reindex=auto"], "no operator on indices|no automatic value"),
        (compare, "a b", ["d_min=4", "d_max=3"], "d_min=4 must be below d_max=3"),
        (compare, "a b", ["halo.size=0.7,0,0"], "0.5"),
        (compare, "a b", ["output.log=../x.log"], "plain name"),
        (subtract, "no_errors no_errors", [], "has errors"),
        (rebin, "a", [], "give divisions="),
        (rebin, "", ["divisions=1,1,1"], "no map"),
        (rebin, "a", ["divisions=3,3,3"], "would be finer"),
        (rebin, "a", ["divisions=1,2,1"], "mixes the axes"),
        (rebin, "a", ["divisions=1,1,1", "input.source=sums"], "needed to rebin sums"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(folder, tmp_path, capsys, command, names, settings, message):
    args = [folder / name for name in names.split()]
    with pytest.raises(SystemExit) as caught:
        run(command, *args, *settings, f"output.directory={tmp_path}")
    assert caught.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert re.search(message, said[0])


def test_maps_without_errors_are_compared_and_it_is_said(folder, tmp_path, capsys):
    run(compare, folder / "no_errors", folder / "no_errors", f"output.directory={tmp_path}", "output.page=False")
    said = capsys.readouterr().out
    assert "A has no errors" in said
    assert json.loads((tmp_path / "comparison.json").read_text())["overall"]["all"]["chi_squared"] is None


@pytest.mark.parametrize("command", [compare, subtract, rebin])
def test_help_without_arguments(command, capsys):
    command.run([])
    assert "Examples" in capsys.readouterr().out
