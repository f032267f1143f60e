"""diffuse.process from the command line, on simulated images that DIALS indexes."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.command_line import merge, process, scale, stats
from diffuse_framework.io.results import read_map_npz
from diffuse_framework.io.sums_store import StoredSums

GRID = ("grid.hkl.divisions=1,1,1", "grid.hkl.d_min=2.5")


def run(command, *args) -> None:
    command.run([str(arg) for arg in args])


def test_a_run_leaves_what_it_promises(processed):
    names = {path.name for path in processed.iterdir()}
    assert names == {
        "diffuse.process.log",
        "global_voxel_grid_definition.json",
        "images",
        "indexed.expt",
        "indexed.refl",
        "indexing.parts",
        "parameters.phil",
        "refined_scaling_model_params.json",
        "sums.h5",
        "sums.parts",
        "summary.json",
        "voxel_data_relative.npz",
        "voxel_data_relative.nxs",
    }


def test_the_map_has_the_arrays_of_the_visual_checks(processed):
    arrays = read_map_npz(processed / "voxel_data_relative.npz")
    wanted = (
        "voxel_indices H_center K_center L_center q_center_x q_center_y q_center_z q_magnitude_center "
        "I_merged_relative Sigma_merged_relative num_observations"
    )
    assert set(wanted.split()) <= set(arrays)
    assert len({len(values) for values in arrays.values()}) == 1
    q = np.stack([arrays[f"q_center_{axis}"] for axis in "xyz"], axis=1)
    assert np.allclose(np.linalg.norm(q, axis=1), arrays["q_magnitude_center"])
    hkl = np.stack([arrays[f"{axis}_center"] for axis in "HKL"], axis=1)
    assert (hkl >= 0).all(), "the asymmetric unit of mmm is the first octant"
    # |q| = 1/d without 2 pi
    cell = json.loads((processed / "global_voxel_grid_definition.json").read_text())["crystal_avg_ref"]["unit_cell"]
    assert np.allclose(arrays["q_magnitude_center"], np.linalg.norm(hkl / np.array(cell[:3]), axis=1), rtol=1e-3)


def test_the_json_files_have_the_keys_of_the_visual_checks(processed):
    grid = json.loads((processed / "global_voxel_grid_definition.json").read_text())
    assert {"crystal_avg_ref", "hkl_bounds", "ndiv_h", "ndiv_k", "ndiv_l", "total_voxels"} <= set(grid)
    scales = json.loads((processed / "refined_scaling_model_params.json").read_text())
    assert {"refined_parameters", "refinement_statistics", "resolution_smoother"} <= set(scales)
    summary = json.loads((processed / "summary.json").read_text())
    assert summary["images"]["given"] == 6
    assert summary["images"]["used"] + summary["images"]["rejected"] == 6
    assert summary["images"]["used"] <= summary["images"]["indexed"] <= 6
    assert {part["name"] for part in summary["parts"]} >= {"indexing", "accumulation", "scaling", "merging"}


def test_nexus_opens_on_the_map(processed):
    arrays = read_map_npz(processed / "voxel_data_relative.npz")
    with h5py.File(processed / "voxel_data_relative.nxs") as file:
        entry = file[file.attrs["default"]]
        data = entry[entry.attrs["default"]]
        assert (entry.attrs["NX_class"], data.attrs["NX_class"]) == ("NXentry", "NXdata")
        signal = data[data.attrs["signal"]]
        axes = [data[name] for name in data.attrs["axes"]]
        assert signal.shape == tuple(len(axis) for axis in axes)
        seen = np.argwhere(np.isfinite(signal[()]))
        assert len(seen) == len(arrays["voxel_indices"])
        where = tuple(np.searchsorted(axis[()], arrays[f"{n}_center"]) for axis, n in zip(axes, "HKL", strict=True))
        assert np.allclose(signal[()][where], arrays["I_merged_relative"], rtol=1e-6)


def test_masks_and_pixels_of_each_image(processed):
    used = StoredSums(processed / "sums.h5").image_names
    pixels = sorted((processed / "images").glob("*_diffuse_data.npz"))
    assert len(pixels) == len(used)
    with np.load(pixels[0]) as file:
        n = len(file["intensities"])
        assert file["q_vectors"].shape == (n, 3) and len(file["sigmas"]) == n
        assert len(file["original_panel_ids"]) == len(file["original_slow_coords"]) == n
        from diffuse_framework.adapters.images.masks import read_mask

        mask = read_mask(str(pixels[0]).replace("diffuse_data.npz", "total_diffuse_mask.pickle"))
        assert mask[0].sum() == n
        assert mask[0][file["original_slow_coords"], file["original_fast_coords"]].all()


def test_scaling_and_merging_again_from_the_sums_give_the_same_map(processed, tmp_path):
    for name in ("sums.h5",):
        (tmp_path / name).write_bytes((processed / name).read_bytes())
    run(scale, tmp_path / "sums.h5")
    run(merge, tmp_path / "sums.h5")
    first = read_map_npz(processed / "voxel_data_relative.npz")
    again = read_map_npz(tmp_path / "voxel_data_relative.npz")
    for name in first:
        assert (first[name] == again[name]).all(), name


def test_what_was_indexed_can_be_given_again(processed, tmp_path):
    indexed = processed / "indexed.expt"
    assert len(ExperimentListFactory.from_json_file(indexed, check_format=False))
    run(process, indexed, processed / "indexed.refl", *GRID, f"output.directory={tmp_path / 'again'}", "mp.nproc=1")
    first = read_map_npz(processed / "voxel_data_relative.npz")
    again = read_map_npz(tmp_path / "again" / "voxel_data_relative.npz")
    assert (first["voxel_indices"] == again["voxel_indices"]).mean() == 1
    assert np.allclose(first["I_merged_relative"], again["I_merged_relative"], rtol=1e-3)


def test_a_truncated_image_is_rejected_and_the_run_goes_on(stills, tmp_path):
    for number in (1, 2, 3):
        whole = (stills / f"sim_{number:05d}.cbf").read_bytes()
        (tmp_path / f"sim_{number:05d}.cbf").write_bytes(whole[: len(whole) // 2] if number == 2 else whole)
    out = tmp_path / "out"
    run(
        process,
        *sorted(tmp_path.glob("*.cbf")),
        "crystal.unit_cell=34,39,45,90,90,90",
        "mp.nproc=1",
        "crystal.space_group=P212121",
        *GRID,
        f"output.directory={out}",
    )
    rejected = json.loads((out / "summary.json").read_text())["images"]["rejected_images"]
    assert [(image["name"], image["stage"]) for image in rejected] == [("sim_00002.cbf", "reading")]
    assert "cut short" in rejected[0]["reason"]


def test_help_and_configuration(capsys):
    for option, word in (("-h", "usage: diffuse.process"), ("-c", "per_image"), ("-ca2", ".type")):
        with pytest.raises(SystemExit) as stop:
            process.run([option])
        assert stop.value.code in (0, None)
        assert word in capsys.readouterr().out
    process.run([])
    assert "usage" in capsys.readouterr().out


def test_the_parameters_that_are_left_make_the_same_run_again(stills, processed, tmp_path):
    images = sorted(stills.glob("*.cbf"))
    run(process, *images, processed / "parameters.phil", f"output.directory={tmp_path}", "output.pixels=False")
    first, again = (read_map_npz(folder / "voxel_data_relative.npz") for folder in (processed, tmp_path))
    assert all((first[name] == again[name]).all() for name in first)


def test_merging_and_statistics_again_go_by_the_plugins_of_the_run(results, tmp_path):
    folder = tmp_path / "inverse"
    run(
        process,
        results / "indexed.expt",
        results / "indexed.refl",
        "merger.plugin=inverse_variance",
        f"output.directory={folder}",
        "mp.nproc=1",
    )
    first = read_map_npz(folder / "voxel_data_relative.npz")
    run(merge, folder / "sums.h5", f"output.directory={tmp_path / 'again'}")
    again = read_map_npz(tmp_path / "again" / "voxel_data_relative.npz")
    assert (again["I_merged_relative"] == first["I_merged_relative"]).all()
    # Both mergers give nearly the same here: what they were is in the files.
    for typed, merger in ((), "inverse_variance"), (("merger.plugin=poisson",), "poisson"):
        run(stats, folder / "sums.h5", *typed)
        assert json.loads((folder / "merging_statistics.json").read_text())["merger"] == merger
