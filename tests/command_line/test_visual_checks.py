"""The four tools of the visual diagnostics guide, run as its own command lines do."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest

pytest.importorskip("dials")

from diffuse_framework.adapters.images.masks import read_mask
from diffuse_framework.command_line.visual_checks import (
    check_diffuse_extraction,
    check_phase3_outputs,
    run_phase2_e2e_visual_check,
    run_phase3_e2e_visual_check,
)
from diffuse_framework.errors import DataError
from diffuse_framework.io.inputs import read_background

EXTRACTION = {
    "diffuse_pixel_overlay.png",
    "intensity_correction_summary.txt",
    "q_projection_qx_qy.png",
    "q_projection_qx_qz.png",
    "q_projection_qy_qz.png",
    "radial_q_distribution.png",
    "intensity_histogram.png",
    "intensity_heatmap_panel_0.png",
    "sigma_vs_intensity.png",
    "isigi_histogram.png",
    "extraction_diagnostics_summary.txt",
}
MAP = {
    "grid_summary.txt",
    "grid_visualization_conceptual.png",
    "voxel_occupancy_slice_L0.png",
    "voxel_occupancy_slice_K0.png",
    "voxel_occupancy_slice_H0.png",
    "voxel_occupancy_histogram.png",
    "scaling_params_b_i.png",
    "scaling_parameters_summary.txt",
    "merged_radial_average.png",
    "merged_intensity_histogram.png",
    "phase3_diagnostics_summary.txt",
    *(f"merged_{kind}_slice_{axis}0.png" for kind in ("intensity", "sigma", "isigi") for axis in "HKL"),
}


def names(folder):
    return {path.name for path in folder.iterdir()}


def refused(run, args, capsys) -> str:
    """Return the one line with which a tool refuses a command line."""
    with pytest.raises(SystemExit) as failure:
        run(args)
    assert failure.value.code == 1
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    return message


def extraction_args(results, simulated):
    stem = results / "images" / "sim_00002"
    return [
        "--raw-image",
        str(simulated / "sim_00002.cbf"),
        "--expt",
        str(results / "indexed.expt"),
        "--total-mask",
        f"{stem}_total_diffuse_mask.pickle",
        "--npz-file",
        f"{stem}_diffuse_data.npz",
    ]


def test_check_diffuse_extraction_basic(results, simulated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_diffuse_extraction.run(extraction_args(results, simulated))
    folder = tmp_path / "extraction_visual_check"
    assert names(folder) == EXTRACTION
    summary = (folder / "extraction_diagnostics_summary.txt").read_text()
    assert "[ok  ] Is there a Bragg peak in the diffuse selection?" in summary
    assert "[ok  ] Do pixels scatter as sqrt(counts)?" in summary
    assert "[ok  ] Do errors follow sigma ~ sqrt(I)?" in summary
    assert "0 lie outside it" in summary


def test_check_diffuse_extraction_full(results, simulated, tmp_path):
    total = read_mask(results / "images" / "sim_00002_total_diffuse_mask.pickle")
    np.save(tmp_path / "background.npy", np.full(total[0].shape, 0.1))
    np.savez(tmp_path / "background.npz", counts=np.full(total[0].shape, 0.1))
    for background in ("background.npy", "background.npz"):
        check_diffuse_extraction.run(
            [
                *extraction_args(results, simulated),
                "--bragg-mask",
                str(results / "images" / "sim_00002_total_diffuse_mask.pickle"),
                "--pixel-mask",
                str(results / "images" / "sim_00002_pixel_mask.pickle"),
                "--bg-map",
                str(tmp_path / background),
                "--output-dir",
                str(tmp_path / "my_diagnostics"),
                "--verbose",
            ]
        )
        assert names(tmp_path / "my_diagnostics") == EXTRACTION


def test_a_bragg_peak_in_the_selection_is_found(results, simulated, tmp_path):
    args = extraction_args(results, simulated)
    pixels = dict(np.load(args[7]))
    trusted = read_mask(results / "images" / "sim_00002_pixel_mask.pickle")[0]
    slow, fast = np.nonzero(trusted)
    n = len(slow)
    np.savez(
        tmp_path / "all.npz",
        q_vectors=np.resize(pixels["q_vectors"], (n, 3)),
        intensities=np.ones(n),
        sigmas=np.ones(n),
        original_panel_ids=np.zeros(n, int),
        original_fast_coords=fast,
        original_slow_coords=slow,
    )
    args[7] = str(tmp_path / "all.npz")
    check_diffuse_extraction.run([*args, "--output-dir", str(tmp_path / "out")])
    summary = (tmp_path / "out" / "extraction_diagnostics_summary.txt").read_text()
    assert "stand out and hold" in summary
    assert "[BAD ] Do the extracted pixels respect the mask?" in summary


def test_without_detector_coordinates_there_is_no_overlay(results, simulated, tmp_path):
    args = extraction_args(results, simulated)
    arrays = {k: v for k, v in np.load(args[7]).items() if not k.startswith("original_")}
    np.savez(tmp_path / "bare.npz", **arrays)
    args[7] = str(tmp_path / "bare.npz")
    check_diffuse_extraction.run([*args, "--output-dir", str(tmp_path / "out")])
    assert names(tmp_path / "out") == EXTRACTION - {
        "diffuse_pixel_overlay.png",
        "intensity_heatmap_panel_0.png",
    }


def test_a_background_is_no_pickle(tmp_path):
    """numpy's own unpickling can end the interpreter, and read memory that is not the array's."""
    (tmp_path / "b.pickle").write_bytes(pickle.dumps(np.ones((3, 4))))
    with pytest.raises(DataError, match="b.pickle is not a background map.*numpy.save"):
        read_background(tmp_path / "b.pickle")
    np.save(tmp_path / "b.npy", np.ones((3, 4)))
    assert read_background(tmp_path / "b.npy")[0].shape == (3, 4)
    whole = (tmp_path / "b.npy").read_bytes()
    for place in range(len(whole)):
        (tmp_path / "c.npy").write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert all(panel.ndim == 2 for panel in read_background(tmp_path / "c.npy"))
        except DataError:
            pass


def test_masks_are_read_without_running_them(results, simulated, tmp_path, capsys):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "broken_in"), "w"))

    (tmp_path / "hostile.pickle").write_bytes(pickle.dumps(Hostile()))
    args = extraction_args(results, simulated)
    for option in ("--pixel-mask", "--bragg-mask", "--bg-map"):
        assert "hostile.pickle" in refused(
            check_diffuse_extraction.run, [*args, option, str(tmp_path / "hostile.pickle")], capsys
        )
    assert not (tmp_path / "broken_in").exists()


def phase3_args(folder, output):
    return [
        "--grid-definition-file",
        str(folder / "global_voxel_grid_definition.json"),
        "--scaling-model-params-file",
        str(folder / "refined_scaling_model_params.json"),
        "--voxel-data-file",
        str(folder / "voxel_data_relative.npz"),
        "--output-dir",
        str(output),
    ]


def test_check_phase3_outputs_basic(results, tmp_path):
    check_phase3_outputs.run(phase3_args(results, tmp_path / "phase3_diagnostics"))
    assert names(tmp_path / "phase3_diagnostics") == MAP
    summary = (tmp_path / "phase3_diagnostics" / "phase3_diagnostics_summary.txt").read_text()
    for question in ("Is the multiplicity even", "Did scaling converge?", "Are Bragg peaks left in the map?"):
        assert question in summary


def test_check_phase3_outputs_full(results, tmp_path):
    (tmp_path / "experiments_list.txt").write_text(f"{results / 'indexed.expt'}\n")
    (tmp_path / "pixel_data_dirs.txt").write_text(f"{results / 'images'}\n")
    check_phase3_outputs.run(
        [
            *phase3_args(results, tmp_path / "out"),
            "--experiments-list-file",
            str(tmp_path / "experiments_list.txt"),
            "--corrected-pixel-data-dir",
            str(tmp_path / "pixel_data_dirs.txt"),
            "--max-plot-points",
            "25000",
            "--verbose",
        ]
    )
    assert names(tmp_path / "out") == MAP


def test_check_phase3_outputs_on_files_of_another_program(tmp_path):
    """Only the keys and arrays that the visual checks need, a smoother, and one voxel of known brightness."""
    n = np.arange(-2, 3)
    h, k, ell = (x.ravel() / 2 for x in np.meshgrid(n, n, n, indexing="ij"))
    q = np.stack([h / 10, k / 20, ell / 30], axis=1)
    intensity = np.full(len(h), 100.0)
    np.savez(
        tmp_path / "voxel_data_relative.npz",
        voxel_indices=np.arange(len(h)),
        H_center=h,
        K_center=k,
        L_center=ell,
        q_center_x=q[:, 0],
        q_center_y=q[:, 1],
        q_center_z=q[:, 2],
        q_magnitude_center=np.linalg.norm(q, axis=1),
        I_merged_relative=intensity,
        Sigma_merged_relative=np.full(len(h), 10.0),
        num_observations=np.full(len(h), 4),
    )
    bounds = {f"{axis}_{side}": sign for axis in "hkl" for side, sign in (("min", -1.0), ("max", 1.0))}
    crystal = {"unit_cell": [10, 20, 30, 90, 90, 90], "space_group": "P1"}
    (tmp_path / "global_voxel_grid_definition.json").write_text(
        json.dumps(
            {
                "crystal_avg_ref": crystal,
                "hkl_bounds": bounds,
                "ndiv_h": 2,
                "ndiv_k": 2,
                "ndiv_l": 2,
                "total_voxels": len(h),
            }
        )
    )
    (tmp_path / "refined_scaling_model_params.json").write_text(
        json.dumps(
            {
                "refined_parameters": {"0": {"multiplicative_scale": 0.9}, "1": {"multiplicative_scale": 1.1}},
                "refinement_statistics": {},
                "resolution_smoother": {"enabled": True, "control_points": [1.0, 1.1, 0.9]},
            }
        )
    )
    check_phase3_outputs.run(phase3_args(tmp_path, tmp_path / "out"))
    assert names(tmp_path / "out") == MAP | {"scaling_resolution_smoother.png"}
    summary = (tmp_path / "out" / "phase3_diagnostics_summary.txt").read_text()
    assert "min 4, max 4, mean 4.00" in summary and "mean 100, median 100" in summary


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda folder: (folder / "voxel_data_relative.npz").write_bytes(b"nothing"),
            "voxel_data_relative.npz",
        ),
        (
            lambda folder: (folder / "refined_scaling_model_params.json").write_text("{}"),
            "refined_parameters",
        ),
        (lambda folder: (folder / "global_voxel_grid_definition.json").write_text('{"a": 1}'), "ndiv_h"),
        (lambda folder: (folder / "global_voxel_grid_definition.json").unlink(), "No such file"),
    ],
)
def test_files_that_are_not_what_they_should_be(change, said, results, tmp_path, capsys):
    for name in (
        "global_voxel_grid_definition.json",
        "refined_scaling_model_params.json",
        "voxel_data_relative.npz",
    ):
        shutil.copy(results / name, tmp_path)
    change(tmp_path)
    assert said in refused(check_phase3_outputs.run, phase3_args(tmp_path, tmp_path / "out"), capsys)


PHASE2 = {
    "e2e_visual_check.log",
    "imported.expt",
    "strong.refl",
    "indexed_initial.expt",
    "indexed_initial.refl",
    "indexed_refined_detector.expt",
    "indexed_refined_detector.refl",
    "global_pixel_mask.pickle",
    "bragg_mask.pickle",
    "total_diffuse_mask.pickle",
    "diffuse_data.npz",
    "extraction_diagnostics",
}


def test_phase2_with_a_model(simulated, model, tmp_path):
    run_phase2_e2e_visual_check.run(
        [
            "--cbf-image",
            str(simulated / "sim_00001.cbf"),
            "--output-base-dir",
            str(tmp_path / "e2e_outputs"),
            "--pdb-path",
            str(model),
        ]
    )
    folder = tmp_path / "e2e_outputs" / "sim_00001"
    assert names(folder) >= PHASE2
    assert names(folder / "extraction_diagnostics") == EXTRACTION
    total, trusted, bragg = (
        read_mask(folder / f"{name}.pickle")[0] for name in ("total_diffuse_mask", "global_pixel_mask", "bragg_mask")
    )
    np.testing.assert_array_equal(total, trusted & ~bragg)
    assert bragg.any()


def test_phase2_with_everything(simulated, model, tmp_path):
    from dxtbx.model.experiment_list import ExperimentListFactory

    (tmp_path / "custom_params.phil").write_text("spotfinder.filter.min_spot_size = 2\n")
    run_phase2_e2e_visual_check.run(
        [
            "--cbf-image",
            str(simulated / "sim_00001.cbf"),
            "--output-base-dir",
            str(tmp_path / "e2e_outputs"),
            "--dials-phil-path",
            str(tmp_path / "custom_params.phil"),
            "--pdb-path",
            str(model),
            "--static-mask-config",
            '{"beamstop": {"type": "circle", "center_x": 250, "center_y": 300, "radius": 50},'
            ' "untrusted_rects": [{"min_x": 0, "max_x": 100, "min_y": 0, "max_y": 100}]}',
            "--bragg-mask-config",
            '{"border": 3}',
            "--extraction-config-json",
            '{"pixel_step": 2, "min_intensity": 10.0}',
            "--use-bragg-mask-option-b",
            "--no-save-pixel-coords",
            "--verbose",
        ]
    )
    folder = tmp_path / "e2e_outputs" / "sim_00001"
    assert names(folder) >= PHASE2
    assert set(np.load(folder / "diffuse_data.npz").files) >= {"q_vectors", "intensities", "sigmas"}
    assert not any(name.startswith("original_") for name in np.load(folder / "diffuse_data.npz").files)
    total = read_mask(folder / "total_diffuse_mask.pickle")[0]
    assert not total[:3].any() and not total[1::2].any() and not total[:100, :100].any()
    assert not total[280:320, 230:270].any() and total.any()
    assert len(ExperimentListFactory.from_json_file(str(folder / "indexed_refined_detector.expt"))) == 1
    parameters = (folder / "e2e_parameters.phil").read_text()
    assert "masker.plugins = trusted dynamic shoebox filter" in parameters


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--static-mask-config", '{"beamstopp": {}}', "'beamstopp'"),
        ("--static-mask-config", '{"beamstop": {"type": "star"}}', "'star'"),
        ("--static-mask-config", '{"beamstop": {"type": "circle", "center_x": 1}}', "center_y, radius"),
        ("--static-mask-config", '{"untrusted_rects": [{"min_x": 0, "maxx": 3}]}', "'maxx'"),
        ("--bragg-mask-config", '{"algorithm": "neural"}', "'neural'"),
        ("--extraction-config-json", '{"pixelstep": 2}', "'pixelstep'"),
        ("--extraction-config-json", '{"pixel_step": "two"}', "pixel_step must be a number"),
        ("--extraction-config-json", "{nonsense", "not JSON"),
        ("--extraction-config-json", "no_such_file.json", "no_such_file.json"),
        ("--dials-phil-path", "no_such.phil", "no_such.phil"),
        ("--pdb-path", "no_such.pdb", "no_such.pdb"),
    ],
)
def test_options_that_make_no_sense_are_refused(option, value, said, simulated, tmp_path, capsys):
    args = [
        "--cbf-image",
        str(simulated / "sim_00001.cbf"),
        "--output-base-dir",
        str(tmp_path),
        option,
        value,
    ]
    assert said in refused(run_phase2_e2e_visual_check.run, args, capsys)


def test_a_dials_parameter_that_no_program_has(simulated, tmp_path, capsys):
    (tmp_path / "custom.phil").write_text("spotfinder.no_such_thing = 2\n")
    args = ["--cbf-image", str(simulated / "sim_00001.cbf"), "--output-base-dir", str(tmp_path)]
    message = refused(
        run_phase2_e2e_visual_check.run, [*args, "--dials-phil-path", str(tmp_path / "custom.phil")], capsys
    )
    assert "spotfinder.no_such_thing" in message


def test_phase3_with_configuration(simulated, model, tmp_path):
    images = sorted(map(str, simulated.glob("*.cbf")))
    run_phase3_e2e_visual_check.run(
        [
            "--cbf-image-paths",
            *images,
            "--output-base-dir",
            str(tmp_path / "outputs"),
            "--pdb-path",
            str(model),
            "--extraction-config-json",
            '{"pixel_step": 2}',
            "--relative-scaling-config-json",
            '{"enable_res_smoother": false, "max_iterations": 50}',
            "--grid-config-json",
            '{"ndiv_h": 2, "ndiv_k": 2, "ndiv_l": 1}',
            "--save-intermediate-phase-outputs",
            "--verbose",
        ]
    )
    base = tmp_path / "outputs"
    outputs = base / "phase3_outputs"
    assert names(base) >= {
        "phase3_outputs",
        "intermediate_outputs_manifest.json",
        "e2e_phase3_visual_check.log",
    }
    assert names(outputs) >= {
        "global_voxel_grid_definition.json",
        "refined_scaling_model_params.json",
        "voxel_data_relative.npz",
        "diagnostics",
    }
    assert names(outputs / "diagnostics") == MAP
    manifest = json.loads((base / "intermediate_outputs_manifest.json").read_text())
    assert manifest["images_used"]
    for name in manifest["images_used"]:
        assert names(base / f"phase1_{name[:-4]}") >= {
            "indexed_refined_detector.expt",
            "indexed_refined_detector.refl",
            "global_pixel_mask.pickle",
            "bragg_mask.pickle",
            "total_diffuse_mask.pickle",
            "diffuse_data.npz",
        }


@pytest.mark.real_data
@pytest.mark.slow
def test_phase2_on_a_real_still(thaumatin_images, tmp_path):
    (image,) = thaumatin_images(5)
    (tmp_path / "thaumatin.pdb").write_text(
        "CRYST1   58.000   58.000  150.000  90.00  90.00  90.00 P 41 21 2     8\nEND\n"
    )
    run_phase2_e2e_visual_check.run(
        [
            "--cbf-image",
            image,
            "--output-base-dir",
            str(tmp_path),
            "--pdb-path",
            str(tmp_path / "thaumatin.pdb"),
            "--pixel-step",
            "3",
        ]
    )
    folder = tmp_path / "thau_3_2_0005" / "extraction_diagnostics"
    assert names(folder) == EXTRACTION
    # The direct beam's stop is not masked, and there is a hot pixel with 114000 photons.
    summary = (folder / "extraction_diagnostics_summary.txt").read_text()
    assert "[LOOK] Is the detector free of shadows and patches?" in summary
