"""The full scaling model against known ones.

Tolerances are standard errors from counting, which the fit computes; that they are right is itself tested.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.scaling.equation import Equation
from diffuse_framework.algorithms.scaling.failures import NoSpaceError
from diffuse_framework.algorithms.scaling.fit import Recipe, scale_smoothly
from diffuse_framework.algorithms.scaling.gauss_newton import Preconditioner, fit_model
from diffuse_framework.algorithms.scaling.model import (
    ScalingOptions,
    layout_from_numbers,
    layout_to_numbers,
)
from diffuse_framework.algorithms.scaling.observations import gather
from diffuse_framework.algorithms.scaling.restraints import Restraints, restraint_matrix
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.voxels import SumsInMemory
from support.sums import SQUARE_PANEL, KnownSums, known_sums

TWO_PANELS = (*SQUARE_PANEL, (0.0, 1000.0, 0.0, 500.0))

ALONE = {
    "b, one per image": ScalingOptions(),
    "b, smooth": ScalingOptions(scale="smooth"),
    "c": ScalingOptions(scale="off", offset=True, offset_q=0.15),
    "b and c": ScalingOptions(offset=True, offset_q=0.15),
    "d": ScalingOptions(scale="off", panel=True),
    "a, fixed": ScalingOptions(scale="off", absorption=True),
    "a, changing": ScalingOptions(scale="off", absorption=True, absorption_order=15.0),
    "s": ScalingOptions(scale="off", resolution=True),
}
TOGETHER = ScalingOptions(
    scale="smooth",
    offset=True,
    offset_q=0.15,
    panel=True,
    absorption=True,
    absorption_order=15.0,
    resolution=True,
)


def scaled(known: KnownSums, options: ScalingOptions, **changes) -> SmoothScales:
    return scale_smoothly(known.sums, known.data_set, known.order, Recipe(options, **changes))


def differences_in_sigma(known: KnownSums, scales: SmoothScales) -> dict[str, float]:
    """Root mean square of (fitted - true) / sigma by part; for c of its changes over the images."""
    result = {}
    for name, where in known.scales.layout.slices.items():
        difference = scales.parameters[where] - known.scales.parameters[where]
        sigma = scales.sigma[where]
        if name == "offset":
            ours, theirs = (s.offsets_at_images() / s.per_image[:, None] for s in (scales, known.scales))
            difference = (ours - ours.mean(axis=0) - theirs + theirs.mean(axis=0)).ravel()
            sigma = sigma.mean()
        result[name] = float(np.sqrt(np.mean((difference / sigma) ** 2)))
    return result


@pytest.mark.parametrize("name", ALONE)
def test_each_part_alone_is_recovered_within_twice_the_counting_error(name):
    options = ALONE[name]
    panels = TWO_PANELS if options.panel else SQUARE_PANEL
    known = known_sums(options, np.random.default_rng(5), n_images=40, panels=panels)
    scales = scaled(known, options)
    assert scales.statistics["converged"]
    assert all(value < 2 for value in differences_in_sigma(known, scales).values())
    assert_map_is_as_good_as_with_the_true_scales(known, scales)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, 6])
def test_all_parts_together_are_recovered_within_twice_the_counting_error(seed):
    known = known_sums(TOGETHER, np.random.default_rng(seed), n_images=40, rows_per_image=4000, panels=TWO_PANELS)
    scales = scaled(known, TOGETHER)
    assert scales.statistics["converged"]
    assert all(value < 2 for value in differences_in_sigma(known, scales).values())
    assert_map_is_as_good_as_with_the_true_scales(known, scales)


@pytest.mark.slow
def test_steps_that_overshoot_are_shortened_until_they_converge():
    # Without that, steps of this fit grow from cycle to cycle: its weights follow the model.
    known = known_sums(TOGETHER, np.random.default_rng(9), n_images=40, rows_per_image=4000, panels=TWO_PANELS)
    assert scaled(known, TOGETHER).statistics["converged"]


def assert_map_is_as_good_as_with_the_true_scales(known: KnownSums, scales: SmoothScales) -> None:
    ours, best = poisson_merge(known.sums, scales), poisson_merge(known.sums, known.scales)
    truth = known.intensity[best.voxel]
    correlation, highest = (np.corrcoef(m.intensity, truth)[0, 1] for m in (ours, best))
    assert correlation > highest - 0.005


def test_several_data_sets_have_control_points_of_their_own():
    options = ScalingOptions(scale="smooth", offset=True, offset_q=0.15, offset_order=None)
    known = known_sums(options, np.random.default_rng(8), n_images=40, n_data_sets=3)
    scales = scaled(known, options)
    assert scales.layout.extent.n_data_sets == 3
    assert scales.layout.components["offset"].n_nodes == 3
    assert all(value < 2 for value in differences_in_sigma(known, scales).values())


@pytest.mark.parametrize("level", [0.1, 1.0, 10.0])
def test_scales_are_unbiased_at_every_level_and_their_errors_are_right(level):
    options = ScalingOptions(offset=False)
    z, ratio = [], []
    for seed in range(4):
        known = known_sums(options, np.random.default_rng(seed), n_images=30, rows_per_image=3000, exposure=level)
        scales = scaled(known, options, outlier_limit=None)
        z.append((scales.per_image - known.scales.per_image) / scales.per_image_sigma)
        merged = poisson_merge(known.sums, scales)
        ratio.append(np.average(merged.intensity, weights=1 / merged.variance) / np.mean(known.intensity[merged.voxel]))
    # 120 deviates, each set of 30 bound by its mean.
    assert 0.8 < np.sqrt(np.mean(np.square(z))) < 1.2
    # b spreads over a factor of 2: a slope of the error with b would show a bias that mean 1 hides.
    slope = np.polyfit(np.tile(known.scales.per_image, 4), np.concatenate(z), 1)[0]
    assert abs(slope) < 4 / np.sqrt(120) / known.scales.per_image.std()


def test_the_pins_hold():
    known = known_sums(TOGETHER, np.random.default_rng(9), n_images=30, panels=TWO_PANELS)
    scales = scaled(known, TOGETHER, max_cycles=8)
    layout, parameters = scales.layout, scales.parameters
    assert np.isclose(scales.per_image.mean(), 1)
    for name in ("panel", "absorption"):
        assert np.isclose(parameters[layout.slices[name]].mean(), 1)
    offsets = scales.offsets_at_images()
    assert np.allclose(offsets.min(axis=0), 0, atol=1e-12)
    assert (offsets >= -1e-12).all()


def equation_of(known: KnownSums, memory_mib: float = 1024.0) -> Equation:
    observations, _ = gather(known.sums, memory_mib)
    prior = known.intensity[observations.voxel]
    return Equation(observations, known.scales.layout, prior, 0 * prior)


def test_the_equation_turns_as_its_matrix_says():
    known = known_sums(
        TOGETHER, np.random.default_rng(3), n_images=12, rows_per_image=800, panels=TWO_PANELS, exposure=1e8
    )
    equation, parameters = equation_of(known), known.scales.parameters
    vector = np.random.default_rng(1).normal(size=len(parameters))

    def left_side(at):
        return equation.residuals(at)[1]

    numeric = -(left_side(parameters + 1e-5 * vector) - left_side(parameters - 1e-5 * vector)) / 2e-5
    expected = equation.curvature(parameters, vector)
    np.testing.assert_allclose(numeric, expected, atol=2e-3 * np.abs(expected).max())


def test_products_with_the_matrix_agree_with_the_matrix_of_all_voxels():
    known = known_sums(TOGETHER, np.random.default_rng(3), n_images=12, rows_per_image=800, panels=TWO_PANELS)
    equation, parameters = equation_of(known), known.scales.parameters
    matrix = equation.matrix(parameters, equation.intensities(parameters).information)
    vector = np.random.default_rng(0).normal(size=len(parameters))
    np.testing.assert_allclose(equation.curvature(parameters, vector), matrix @ vector, rtol=1e-8, atol=1e-8)
    assert np.linalg.eigvalsh(matrix).min() > -1e-6 * np.abs(matrix).max()


def test_rows_in_a_file_and_in_memory_give_the_same(monkeypatch):
    known = known_sums(ALONE["b and c"], np.random.default_rng(3), n_images=10, rows_per_image=500)
    parameters = known.scales.parameters
    kept = equation_of(known)
    # Small blocks and pieces, so that there are several of each.
    monkeypatch.setattr("diffuse_framework.algorithms.scaling.observations._BLOCK_ROWS", 300)
    monkeypatch.setattr("diffuse_framework.algorithms.scaling.observations._LEAST_ROWS", 1000)
    filed = equation_of(known, memory_mib=0.0)
    assert len(kept.observations.pieces) == 1 < len(filed.observations.pieces)
    assert isinstance(filed.observations.pieces[0].base, np.memmap)
    assert len(list(filed.observations.blocks())) > len(filed.observations.pieces)
    assert (kept.observations.pieces[0] == np.concatenate(filed.observations.pieces)).all()
    ours, theirs = (equation.residuals(parameters) for equation in (kept, filed))
    assert np.isclose(ours[0], theirs[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-9, atol=1e-9 * np.abs(ours[1]).max())


def test_a_full_disk_is_said_in_one_line(monkeypatch):
    known = known_sums(ALONE["b, smooth"], np.random.default_rng(3), n_images=4, rows_per_image=500)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "w+b"))
    with pytest.raises(NoSpaceError, match="can't be written to /some/folder"):
        gather(known.sums, memory_mib=0.0, folder="/some/folder")


def test_rows_that_do_not_fit_lie_in_the_folder_that_is_handed_in(monkeypatch, tmp_path):
    known = known_sums(ALONE["b, smooth"], np.random.default_rng(3), n_images=4, rows_per_image=500)
    opened, original = [], tempfile.TemporaryFile
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **how: opened.append(how["dir"]) or original(**how))
    gather(known.sums, memory_mib=0.0, folder=str(tmp_path))
    assert set(opened) == {str(tmp_path)}


def test_many_parameters_are_fitted_without_a_dense_matrix(monkeypatch):
    options = ALONE["b and c"]
    known = known_sums(options, np.random.default_rng(4), n_images=40)
    dense = scaled(known, options)
    monkeypatch.setattr("diffuse_framework.algorithms.scaling.gauss_newton.DENSE_PARAMETERS", 10)
    sparse = scaled(known, options)
    assert sparse.statistics["converged"]
    assert np.abs((dense.per_image - sparse.per_image) / dense.per_image_sigma).max() < 0.1


def test_a_fit_with_too_few_cycles_says_so_and_keeps_what_it_has():
    options = ALONE["b and c"]
    known = known_sums(options, np.random.default_rng(4), n_images=20, rows_per_image=500)
    scales = scaled(known, options, max_cycles=1)
    assert not scales.statistics["converged"]
    assert scales.statistics["reason"] == "reached the largest number of cycles"
    assert np.isfinite(scales.parameters).all()
    assert (scales.per_image > 0).all()


@pytest.mark.parametrize("seed", [1, 3, 4, 8, 9])
@pytest.mark.parametrize("n_peaks", [20, 200])
def test_peaks_that_a_mask_missed_do_not_spoil_offsets_and_scales(n_peaks, seed):
    options = ScalingOptions(offset=True, offset_q=0.15, offset_order=10.0)
    rng = np.random.default_rng(seed)
    known = known_sums(options, rng, n_images=20, rows_per_image=3000, exposure=3.0)
    table = known.sums.pieces[3]
    rows = rng.choice(len(table), n_peaks, replace=False)
    counts = table.counts.copy()
    counts[rows] += 1000.0
    pieces = (*known.sums.pieces[:3], replace(table, counts=counts), *known.sums.pieces[4:])
    spoilt = replace(known, sums=replace(known.sums, pieces=pieces))
    scales = scaled(spoilt, options)
    assert scales.statistics["converged"]
    # Of two observations that disagree nothing says which is the peak: then neither counts for the scales.
    missed = table.voxel[rows[scales.keep(pieces[3])[rows]]]
    seen = np.bincount(np.concatenate([piece.voxel for piece in pieces]))
    assert (seen[missed] < 3).all()
    assert scales.statistics["outliers"]["disputed_voxels"] == np.count_nonzero(seen[missed] == 2)
    assert n_peaks - len(missed) <= scales.statistics["outliers"]["rejected"] < n_peaks + 5
    assert np.abs(scales.per_image / known.scales.per_image - 1).max() < 0.08
    assert scales.error_model.inflation == pytest.approx(1, abs=0.05)


def test_no_step_makes_a_factor_negative():
    options = ScalingOptions(scale="per_image", offset=True, offset_q=0.15)
    known = known_sums(options, np.random.default_rng(1), n_images=8, rows_per_image=400)
    tables = list(known.sums.pieces)
    # An image of background alone: its scale would be 0, or below.
    empty = np.random.default_rng(2).poisson(1.0, len(tables[5])).astype(np.float32)
    tables[5] = replace(tables[5], counts=empty)
    scales = scaled(replace(known, sums=replace(known.sums, pieces=tuple(tables))), options)
    assert (scales.per_image > 0).all()
    assert all((scales.factor(table) > 0).all() for table in tables)


def test_data_sets_without_overlap_are_named():
    options = ScalingOptions(scale="smooth")
    known = known_sums(options, np.random.default_rng(4), n_images=10, rows_per_image=300, n_data_sets=2)
    half = known.sums.grid.size // 2
    tables = tuple(
        table.select((table.voxel < half) == (known.data_set[number] == 0))
        for number, table in enumerate(known.sums.pieces)
    )
    apart = SumsInMemory(known.sums.grid, known.sums.image_names, tables)
    with pytest.raises(DataError, match="data set 2"):
        scale_smoothly(apart, known.data_set, known.order, Recipe(options))


def test_a_resolution_smoother_that_all_images_share_is_refused():
    options = ScalingOptions(resolution=True, resolution_order=None)
    with pytest.raises(ConfigError, match="can't be told from the map"):
        known_sums(options, np.random.default_rng(4), n_images=3, rows_per_image=10)


def test_control_points_without_data_are_reported():
    options = ScalingOptions(scale="smooth", absorption=True, absorption_px=200.0)
    known = known_sums(options, np.random.default_rng(4), n_images=20)
    corner = tuple(t.select((t.fast < 300) | (t.slow > 990)) for t in known.sums.pieces)
    fit = scale_smoothly(
        SumsInMemory(known.sums.grid, known.sums.image_names, corner),
        known.data_set,
        known.order,
        Recipe(options, restraints=Restraints({"absorption": 1e3}, spread=1.0)),
    )
    assert fit.statistics["undetermined"]["absorption"] > 0


def test_a_singular_matrix_has_a_message():
    options = ALONE["b and c"]
    known = known_sums(options, np.random.default_rng(4), n_images=10, rows_per_image=300)
    equation, parameters = equation_of(known), known.scales.parameters
    information = equation.intensities(parameters).information
    none = restraint_matrix(equation.layout, Restraints(), np.ones(equation.layout.components["offset"].width)) * -1e9
    with pytest.raises(DataError, match="singular"):
        Preconditioner(equation, information, 1.0, parameters, none)


def test_the_layout_survives_its_numbers():
    known = known_sums(TOGETHER, np.random.default_rng(4), n_images=9, rows_per_image=50, panels=TWO_PANELS)
    again = layout_from_numbers(layout_to_numbers(known.scales.layout))
    assert (again.expansion != known.scales.layout.expansion).nnz == 0
    table = known.sums.pieces[3]
    copy = replace(known.scales, layout=again)
    assert (copy.factor(table) == known.scales.factor(table)).all()
    assert (copy.offset(table) == known.scales.offset(table)).all()


def test_nothing_seen_twice_can_not_be_scaled():
    known = known_sums(ScalingOptions(scale="smooth"), np.random.default_rng(4), n_images=1, rows_per_image=50)
    with pytest.raises(DataError, match="observed twice"):
        fit_model(gather(known.sums)[0], known.scales.layout, Restraints())
