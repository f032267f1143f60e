"""From images of a crystal of atoms to a map in electron units."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.adapters.tables.scattering import form_factors, scattering_of
from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.scaling.model import (
    ScalingOptions,
    evaluate,
)
from diffuse_framework.algorithms.scaling.smoothers import weight_matrix
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import PluginRecord
from diffuse_framework.io.plain import decoded
from diffuse_framework.io.results import final_model, write_results
from diffuse_framework.model.maps import AbsoluteMap, AbsoluteReport, Subtracted
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.pipeline.run import run
from diffuse_framework.pipeline.stored import StoredScaler
from diffuse_framework.simulate.atoms import true_map
from diffuse_framework.simulate.rotation import RotationSettings
from support.atoms import PHOTONS, SETTINGS, AtomImages, Tables
from support.runs import known_steps, run_known
from support.sums import known_sums

N_IMAGES = 40
TABLES = Tables(form_factors, scattering_of, symmetry_of("P222"))


@pytest.fixture(scope="module")
def images() -> AtomImages:
    return AtomImages(TABLES, N_IMAGES)


@pytest.fixture(scope="module")
def outcome(images):
    return run_known(images.source, images.experiment, images.parameters("krogh_moe"))


@pytest.fixture(scope="module")
def sweep():
    images = AtomImages(TABLES, 90, RotationSettings(1.0), exposure_s=0.5)
    return images, run_known(images.source, images.experiment, images.parameters("krogh_moe"))


@pytest.mark.slow
def test_a_turning_crystal_gives_the_scale_and_an_unbiased_map_too(sweep):
    images, outcome = sweep
    for method in ("krogh_moe", "norman"):
        assert outcome.map.report.estimates[method].scale * PHOTONS == pytest.approx(1, abs=0.01)
    found = outcome.map.report.estimates["krogh_moe"]
    assert np.allclose(found.scales[found.q > 0.5] * PHOTONS, 1, atol=0.012)
    assert_unbiased(images, outcome)


@pytest.mark.slow
def test_the_scale_is_found_within_one_percent(outcome):
    for method in ("krogh_moe", "norman"):
        assert outcome.map.report.estimates[method].scale * PHOTONS == pytest.approx(1, abs=0.01)
    found = outcome.map.report.estimates["krogh_moe"]
    # For cutoffs from 0.5 1/angstrom on.
    assert np.allclose(found.scales[found.q > 0.5] * PHOTONS, 1, atol=0.012)
    wilson = outcome.map.report.estimates["wilson"]
    assert abs(wilson.scale * PHOTONS - 1) < 3 * wilson.sigma * PHOTONS


@pytest.mark.slow
def test_the_map_is_unbiased(images, outcome):
    assert_unbiased(images, outcome)


def assert_unbiased(images, outcome):
    merged, theory = outcome.map.merged, images.theory
    q = np.linalg.norm(merged.grid.q_of(merged.voxel), axis=1)
    between = (merged.grid.index_of(merged.voxel) % 3 != 0).all(axis=1)
    truth = images.crystal.diffuse(q)
    for low, high in ((0.4, 0.5), (0.5, 0.6), (0.6, 0.7), (0.7, 0.8)):
        shell = (q > low) & (q < high) & between
        signal = truth[shell].mean() + np.interp(q[shell], theory.q, theory.incoherent).mean()
        assert abs(outcome.map.intensity[shell].mean() - truth[shell].mean()) < 0.015 * signal


@pytest.mark.slow
def test_files_hold_electron_units(images, outcome, tmp_path):
    final = outcome.map
    write_results(tmp_path, final, outcome.scales, outcome.sums.image_names, outcome.scaled_by)
    with np.load(tmp_path / "voxel_data_absolute.npz") as file:
        assert np.allclose(file["I_abs_diffuse"], final.intensity)
        assert np.allclose(file["Sigma_abs_diffuse"], np.sqrt(final.variance))
        again = final.scale * final.merged.intensity - file["I_incoherent_theoretical"]
        assert np.allclose(file["I_abs_diffuse"], again)
        assert float(file["Scale_Abs"]) == final.scale
    with np.load(tmp_path / "voxel_data_relative.npz") as file:
        assert np.allclose(file["I_merged_relative"], final.merged.intensity)
    assert (tmp_path / "voxel_data_absolute.nxs").exists()
    assert '"method": "krogh_moe"' in (tmp_path / "absolute_scale.json").read_text()


@pytest.mark.slow
def test_the_final_model_predicts_the_counts(images, outcome, tmp_path):

    final, sums = outcome.map, outcome.sums
    write_results(tmp_path, final, outcome.scales, sums.image_names, outcome.scaled_by)
    model = json.loads((tmp_path / "scaling_model_final.json").read_text())
    incoherent = model["incoherent"]
    expected = observed = 0.0
    at = np.full(final.merged.grid.size, -1)
    at[final.merged.voxel] = np.arange(len(final.merged))
    for table in sums.tables():
        rows = table.select(table.exposure > 0)
        q = np.linalg.norm(final.merged.grid.q_of(rows.voxel), axis=1)
        factor = np.array([model["refined_parameters"][n]["multiplicative_scale"] for n in sums.image_names])
        offset = factor[rows.image] * np.interp(q, incoherent["q"], incoherent["intensity"])
        intensity = final.intensity[at[rows.voxel]]
        expected += float((rows.exposure * (factor[rows.image] * intensity + offset)).sum())
        observed += float(rows.counts.sum())
    assert expected == pytest.approx(observed, rel=1e-4)


def test_the_final_model_of_a_smooth_scaler_predicts_the_counts(images):
    options = ScalingOptions(scale="smooth", offset=True, offset_q=0.15, absorption=True, resolution=True)
    known = known_sums(options, np.random.default_rng(3), n_images=40, rows_per_image=500, exposure=100.0)
    theory = images.theory
    merged = poisson_merge(known.sums, known.scales)
    report = AbsoluteReport(images.contents, theory, {}, {}, theory.q, theory.q, theory.q, theory.q, 1.0, 0.0, 0.0, 0.0)
    q_of = np.linalg.norm(known.sums.grid.q_of(np.arange(known.sums.grid.size)), axis=1)
    incoherent = np.interp(q_of, theory.q, theory.incoherent)
    k = 40.0
    # What images share in proportion to their scale belongs to the map.
    axis = known.scales.layout.components["offset"].q
    absolute = k * (known.intensity + weight_matrix(axis, q_of) @ known.scales.common) - incoherent
    subtracted = Subtracted(theory.q, theory.incoherent)
    intensity = k * merged.intensity - incoherent[merged.voxel]
    final = AbsoluteMap(merged, intensity, merged.variance, k, 0.1, "e", report, subtracted)
    smooth = PluginRecord("scaler", "smooth", 2, "diffuse_plugins")
    model = final_model(final, known.scales, known.sums.image_names, smooth)
    layout, parameters = known.scales.layout, decoded(model["model"]["values"])["parameters"]
    for number in (0, 17, 39):
        table = known.sums.pieces[number]
        q = q_of[table.voxel]
        own = model["refined_parameters"][known.sums.image_names[number]]
        b = own["multiplicative_scale"] * k
        detector = evaluate(layout, parameters, table.image, table.panel, table.fast, table.slow, q)[0] / b
        offset = weight_matrix(axis, q) @ np.asarray(own["relative_offset"])
        s = s_of(layout, parameters, table.image, q)
        crystal = own["multiplicative_scale"] * s * (absolute[table.voxel] + incoherent[table.voxel])
        expected = table.exposure * detector / s * (crystal + offset)
        assert (expected.sum() - table.counts.sum()) / np.sqrt(table.counts.sum()) == pytest.approx(0, abs=4)


def s_of(layout, parameters, image, q):
    """The resolution part alone."""
    part = layout.components["resolution"]
    along = weight_matrix(part.q, q).toarray()
    return (along * layout.at_images("resolution", parameters)[image]).sum(axis=1)


@pytest.mark.slow
def test_a_finer_map_reuses_the_scales(images, outcome, tmp_path):
    write_results(tmp_path, outcome.map, outcome.scales, outcome.sums.image_names, outcome.scaled_by)
    path = tmp_path / "refined_scaling_model_params.json"

    finer = SETTINGS.replace("3 3 3", "4 4 4")
    scaler = StoredScaler.of_file(path, load_registry())
    other = run(images.source, replace(known_steps(images.experiment, finer), scaler=scaler), SerialEngine())
    assert np.allclose(other.scales.per_image, outcome.scales.per_image, rtol=1e-12)
    assert other.map.merged.grid.divisions == (4, 4, 4)


@pytest.mark.parametrize("method", ["krogh_moe", "norman", "wilson"])
def test_each_method_uses_its_own_scale(images, method):
    scaler = known_steps(images.experiment, images.parameters(method)).absolute_scaler
    truth = true_map(images.crystal, images.theory, (3, 3, 3), 1.25)
    final = scaler.scale(truth, None, images.experiment)
    assert final.report.method == method
    assert final.scale == final.report.estimates[method].scale


def test_sums_alone_need_a_wavelength(images):
    truth = true_map(images.crystal, images.theory, (2, 2, 2), 1.5)
    scaler = known_steps(images.experiment, images.parameters("norman")).absolute_scaler
    with pytest.raises(ConfigError, match="wavelength"):
        scaler.scale(truth, None, None)
    for extra in ({"wavelength": "1.0"}, {"breit_dirac": "False"}):
        scaler = known_steps(images.experiment, images.parameters("norman", **extra)).absolute_scaler
        assert scaler.scale(truth, None, None).scale == pytest.approx(1, rel=0.05)


def test_contents_are_needed(images):
    scaler = known_steps(images.experiment, "absolute_scaler.plugin = norman").absolute_scaler
    truth = true_map(images.crystal, images.theory, (2, 2, 2), 1.5)
    with pytest.raises(ConfigError, match=r"absolute_scaler.norman.contents.*diffuse.merge"):
        scaler.scale(truth, None, images.experiment)


def test_files_and_ranges_are_checked_before_any_image_is_read(images):
    with pytest.raises(DataError, match="nosuch.fasta"):
        known_steps(
            images.experiment,
            "absolute_scaler.plugin = norman\nabsolute_scaler.norman.contents.sequence = nosuch.fasta",
        )
    with pytest.raises(ConfigError, match="range"):
        known_steps(images.experiment, images.parameters("krogh_moe", range="0.8 0.5"))


def test_spots_need_images(images):
    text = images.parameters("wilson", intensities="spots")
    scaler = known_steps(images.experiment, text).absolute_scaler
    truth = true_map(images.crystal, images.theory, (2, 2, 2), 1.5)
    scales = ImageScales(np.ones(N_IMAGES), np.zeros(N_IMAGES))
    with pytest.raises(DataError, match="intensities=map"):
        scaler.scale(truth, scales, None)
    # These images come without integrated reflections.
    with pytest.raises(DataError, match="intensity and partiality"):
        scaler.scale(truth, scales, images.experiment)
