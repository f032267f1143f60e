"""Sweeps from the command line: simulated, and real ones whose files do not say what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.adapters.images.models import ImageModels
from diffuse_framework.adapters.images.sequences import orientations
from diffuse_framework.adapters.images.single_image import crystal_rotations, read_image
from diffuse_framework.algorithms.binning import shell_numbers, sum_by
from diffuse_framework.algorithms.rotation import misorientation_deg, turn
from diffuse_framework.command_line.process import execute, run
from diffuse_framework.command_line.simulate import run as simulate
from diffuse_framework.command_line.visual_checks import run_phase3_e2e_visual_check
from diffuse_framework.command_line.visual_checks.phase_files import places_in_file
from diffuse_framework.io.sums_store import StoredSums
from diffuse_framework.simulate.compare import compare_map
from diffuse_framework.simulate.truth import load

SMALL = [
    "detector.model=100K",
    "detector.distance=50",
    "crystal.unit_cell=24,27,31,90,90,90",
    "counts_per_pixel=4",
    "rotation.width=1",
    "mp.nproc=1",
]


@pytest.fixture(scope="module")
def two_sweeps(tmp_path_factory):
    """Two crystals of different scales, ten images each, that slip a little."""
    folder = tmp_path_factory.mktemp("sweeps")
    simulate(
        [
            *SMALL,
            "images=10",
            "rotation.sweeps=2",
            "rotation.drift=0.2",
            "rotation.scale_spread=0.5",
            "rotation.start=20",
            "background_rate=2",
            "background_images=True",
            f"output.directory={folder}",
        ]
    )
    return folder


def agreement(folder, truth):
    """How a map is like the truth."""
    with np.load(folder / "voxel_data_relative.npz") as file:
        hkl = np.stack([file[f"{axis}_center"] for axis in "HKL"], -1)
        return compare_map(
            truth,
            hkl,
            file["I_merged_relative"],
            file["Sigma_merged_relative"],
            weights=file["num_pixels"].astype(float),
        )


def test_given_sweeps_make_the_true_map(two_sweeps, tmp_path):
    files = [str(two_sweeps / "truth.expt"), str(two_sweeps / "truth.refl")]
    run(
        [
            *files,
            f"output.directory={tmp_path}/plain",
            "mp.method=serial",
            "masker.bragg.radius=4",
            "masker.bragg.excitation_error=0.002",
        ]
    )
    truth = load(two_sweeps / "truth.h5")
    plain = agreement(tmp_path / "plain", truth)
    assert plain.weighted_anisotropic_correlation > 0.75
    summary = json.loads((tmp_path / "plain/summary.json").read_text())
    assert summary["images"]["used"] == 20
    text = (tmp_path / "plain/diffuse.process.log").read_text()
    assert "a rotation: 1 degrees an image, from 20 to 30 degrees" in text
    # What it leaves behind is read again, slips included.
    again = ExperimentListFactory.from_json_file(str(tmp_path / "plain/indexed.expt"), check_format=False)
    found = np.concatenate([orientations(experiment)[0] for experiment in again])
    # Scan points are halfway between the middles of images.
    assert np.allclose(found, truth.setting_matrices, atol=1e-6)

    empty = f"{two_sweeps}/background/*.cbf"
    run(
        [
            *files,
            f"output.directory={tmp_path}/without",
            "mp.method=serial",
            "masker.bragg.radius=4",
            "masker.bragg.excitation_error=0.002",
            "corrector.plugins=solid_angle polarization efficiency air background",
            f"corrector.background.series.images={empty}",
        ]
    )
    without = agreement(tmp_path / "without", truth)
    # 0.2 photons a pixel of background in 4 of the crystal.
    assert plain.bias > 0.03
    assert abs(without.bias) < 0.03 < plain.bias


def test_a_sweep_that_turns_the_wrong_way_is_refused_and_why(two_sweeps, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(
            [
                str(two_sweeps / "truth.expt"),
                "geometry.goniometer.invert_rotation_axis=True",
                f"output.directory={tmp_path}",
                "mp.method=serial",
            ]
        )
    assert "set geometry.goniometer.invert_rotation_axis=True" in (tmp_path / "diffuse.process.log").read_text()


def test_each_image_of_a_sweep_gets_models_of_its_own(two_sweeps, tmp_path):
    files = [str(two_sweeps / "truth.expt"), str(two_sweeps / "truth.refl")]
    finished = execute([*files, f"output.directory={tmp_path}/out", "mp.method=serial", "grid.hkl.d_min=4"])
    models = ImageModels(tmp_path / "out/indexed.expt", tmp_path / "out/indexed.refl")
    places = list(places_in_file(finished))
    assert [(number, frame) for _, number, frame in places] == [(n // 10, n % 10) for n in range(20)]
    n_reflections = []
    for image, number, frame in places:
        folder = tmp_path / image.name
        folder.mkdir()
        models.save(number, frame, folder)
        (one,) = ExperimentListFactory.from_json_file(str(folder / "indexed_refined_detector.expt"), check_format=False)
        assert [Path(path).name for path in one.imageset.paths()] == [image.name]
        # Scan points are halfway between the middles of images, as above.
        np.testing.assert_allclose(orientations(one)[0][0], image.setting_matrix, atol=1e-6)
        (rotation,) = crystal_rotations(folder / "indexed_refined_detector.expt")
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
        table = flex.reflection_table.from_file(str(folder / "indexed_refined_detector.refl"))
        assert set(table["id"]) <= {0}
        n_reflections.append(len(table))
        # Of several sweeps in one file the image's own is taken.
        _, geometry, _ = read_image(two_sweeps / image.name, tmp_path / "out/indexed.expt")
        assert len(geometry.panels) == 1
    assert min(n_reflections) > 0
    assert sum(n_reflections) == len(flex.reflection_table.from_file(str(tmp_path / "out/indexed.refl")))


@pytest.mark.slow
def test_the_visual_check_takes_a_sweep(two_sweeps, tmp_path):
    images = [str(two_sweeps / f"sim_1_{n:05d}.cbf") for n in range(1, 11)]
    (tmp_path / "model.pdb").write_text("CRYST1   24.000   27.000   31.000  90.00  90.00  90.00 P 21 21 21    4\nEND\n")
    (tmp_path / "dials.phil").write_text("indexing.method = fft3d\nrefinement.parameterisation.scan_varying = False\n")
    base = tmp_path / "out"
    run_phase3_e2e_visual_check.run(
        [
            "--cbf-image-paths",
            *images,
            "--output-base-dir",
            str(base),
            "--pdb-path",
            str(tmp_path / "model.pdb"),
            "--dials-phil-path",
            str(tmp_path / "dials.phil"),
            "--use-bragg-mask-option-b",
            "--save-intermediate-phase-outputs",
        ]
    )
    log = (base / "e2e_phase3_visual_check.log").read_text()
    assert "Indexer: dials_sequence" in log and "crystal the same on all images" in log
    for number in range(1, 11):
        found = {path.name for path in (base / f"phase1_sim_1_{number:05d}").iterdir()}
        assert found >= {"indexed_refined_detector.expt", "total_diffuse_mask.pickle", "diffuse_data.npz"}
    assert (base / "phase3_outputs/diagnostics/phase3_diagnostics_summary.txt").is_file()


@pytest.mark.slow
def test_dials_sequence_finds_the_true_orientations(tmp_path):
    simulate([*SMALL, "images=20", f"output.directory={tmp_path}/sim"])
    images = sorted(map(str, (tmp_path / "sim").glob("*.cbf")))
    run(
        [
            *images,
            "crystal.unit_cell=24,27,31,90,90,90",
            "crystal.space_group=P212121",
            f"output.directory={tmp_path}/out",
            "mp.method=serial",
            "indexer.dials_sequence.nproc=1",
        ]
    )
    text = (tmp_path / "out/diffuse.process.log").read_text()
    assert "Indexer: dials_sequence, for the images are rotations" in text
    assert "Integration failed" not in text
    integrated = flex.reflection_table.from_file(str(tmp_path / "out/indexed.refl"))
    assert (flumpy.to_numpy(integrated["intensity.sum.value"]) > 0).sum() > 100
    assert "shoebox" not in integrated
    truth = load(tmp_path / "sim/truth.h5")
    (experiment,) = ExperimentListFactory.from_json_file(str(tmp_path / "out/indexed.expt"), check_format=False)
    found, _ = orientations(experiment)
    for true, setting in zip(truth.setting_matrices, found, strict=True):
        ways = [setting @ op for op in truth.intensity.symmetry.operators if np.linalg.det(op) > 0]
        # The detector is refined too: both may turn together by a little.
        assert min(misorientation_deg(true, way) for way in ways) < 0.3
    assert experiment.crystal.get_unit_cell().parameters()[:3] == pytest.approx((24, 27, 31), rel=2e-3)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["images"]["used"] == 20


@pytest.mark.slow
def test_two_wedges_of_one_crystal_are_indexed_together(tmp_path):
    simulate([*SMALL, "images=15", f"output.directory={tmp_path}/sim"])
    for number in [*range(1, 8), *range(9, 16)]:
        name = f"{'first' if number < 8 else 'second'}_{number:05d}.cbf"
        shutil.copy(tmp_path / f"sim/sim_{number:05d}.cbf", tmp_path / name)
    run(
        [
            *map(str, sorted(tmp_path.glob("*.cbf"))),
            "crystal.unit_cell=24,27,31,90,90,90",
            "crystal.space_group=P212121",
            f"output.directory={tmp_path}/out",
            "mp.method=serial",
            "indexer.dials_sequence.nproc=1",
            "indexer.dials_sequence.joint=True",
        ]
    )
    found = ExperimentListFactory.from_json_file(str(tmp_path / "out/indexed.expt"), check_format=False)
    assert len(found) == 2 and len(found.detectors()) == 1
    first, second = (orientations(experiment)[0] for experiment in found)
    back = turn(np.array([1.0, 0, 0]), np.radians([-8.0]))[0]
    # Both crystals vary, each over its own wedge, from one common model: the same indexing, nearly one orientation.
    assert misorientation_deg(first[0], back @ second[0]) < 0.5
    text = (tmp_path / "out/diffuse.process.log").read_text()
    assert "14 of 14 images are used" in text and "Integration failed" not in text


@pytest.mark.real_data
def test_staphylococcal_nuclease(snase, tmp_path):
    images, models = snase
    told = [
        *images,
        f"input.reference_geometry={models}",
        f"indexer.given.crystals={models}",
        "geometry.scan.oscillation=-0.5,1",
        "geometry.beam.polarization_fraction=0.93",
        "geometry.detector.panel.trusted_range=250,60000",
        "grid.hkl.d_min=2.5",
        "masker.bragg.excitation_error=0.002",
        "scaler.per_image.max_cycles=20",
        "mp.method=serial",
    ]
    run([*told, f"output.directory={tmp_path}/right"])
    summary = json.loads((tmp_path / "right/summary.json").read_text())
    assert summary["images"]["used"] == 10
    assert summary["unit_cell"]["space_group"] == "P4"
    # The mirror of 4/m relates both sides of the detector, which agree between 4 and 2.5 angstrom where left and
    # right are where they should be. Of the tilt up and down it says little, see docs/rotation.md.
    assert mates(tmp_path / "right/sums.h5", 4.0) > 0.9
    with pytest.raises(SystemExit):
        run([*told, "geometry.goniometer.invert_rotation_axis=True", f"output.directory={tmp_path}/wrong"])
    text = (tmp_path / "wrong/diffuse.process.log").read_text()
    assert "if the crystal turned the other way" in text


def mates(path, d_max: float) -> float:
    """Correlation of two halves of the operators of the Laue group, without the mean of each shell."""
    sums = StoredSums(path)
    counts, exposure = np.zeros((2, sums.grid.size)), np.zeros((2, sums.grid.size))
    for table in sums.tables():
        for half in (0, 1):
            rows = table.operator % 2 == half
            counts[half] += sum_by(table.voxel[rows], table.counts[rows], sums.grid.size)
            exposure[half] += sum_by(table.voxel[rows], table.exposure[rows], sums.grid.size)
    voxel = np.flatnonzero((exposure > 0).all(axis=0))
    q = np.linalg.norm(sums.grid.q_of(voxel), axis=1)
    voxel, q = voxel[q > 1 / d_max], q[q > 1 / d_max]
    intensity = counts[:, voxel] / exposure[:, voxel]
    shell, _ = shell_numbers(q, 100)
    n = np.maximum(np.bincount(shell, minlength=100), 1)
    rest = [values - (sum_by(shell, values, 100) / n)[shell] for values in intensity]
    return float(np.corrcoef(*rest)[0, 1])
