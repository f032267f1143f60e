from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
from iotbx.phil import parse

from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.scaling.components import COMPONENTS
from diffuse_framework.algorithms.scaling.fit import data_sets_by_name, order_by_angle
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.command_line import merge, scale, stats
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.host.loader import load_registry
from diffuse_framework.io.sums_store import SumsWriter
from support.sums import known_sums


def make(text: str = "", name: str = "smooth"):
    factory = load_registry().find("scaler", name).factory
    return factory.from_params(parse(factory.phil).fetch(parse(text)).extract())


def test_parameters_reach_the_model_and_the_scaler_pickles():
    scaler = pickle.loads(pickle.dumps(make("scale.model=smooth\noffset { refine=True\norder_spacing=None }")))
    assert scaler.recipe.options.scale == "smooth"
    assert scaler.recipe.options.offset
    assert scaler.recipe.options.offset_order is None
    assert make("outliers.limit=None").recipe.outlier_limit is None


def test_the_usual_parameters_are_those_of_the_components():
    recipe = make().recipe
    assert recipe.options == ScalingOptions()
    # Empty: each component has the restraint that its kind names.
    assert recipe.restraints.differences == {}
    for kind in COMPONENTS:
        if kind.restraint:
            changed = make(f"{kind.name}.restraint={2 * kind.restraint}").recipe.restraints.differences
            assert changed == {kind.name: 2 * kind.restraint}


def test_images_are_sorted_into_data_sets_by_their_names():
    names = ("a/sweep1_0001.cbf", "a/sweep1_0002.cbf", "a/sweep2_0001.cbf", "x.nxs#0001", "x.nxs#0002")
    assert data_sets_by_name(names).tolist() == [0, 0, 1, 2, 2]


def test_the_order_by_angle_adds_up_turns():
    def turned(degrees):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag([0.01, 0.02, 0.03])

    angles = [0.0, 0.5, 1.0, 90.0]
    order = order_by_angle(np.zeros(4, int), np.array([turned(angle) for angle in angles]))
    np.testing.assert_allclose(order, angles, atol=1e-5)


def test_degrees_need_the_experiment():
    known = known_sums(ScalingOptions(), np.random.default_rng(0), n_images=3, rows_per_image=10)
    with pytest.raises(ConfigError, match="order=image"):
        make("order=angle").fit(known.sums, None)


@pytest.mark.parametrize("name", ["smooth", "dials_target"])
def test_what_can_not_be_scaled_says_which_parameter_to_change(name, monkeypatch):
    known = known_sums(ScalingOptions(), np.random.default_rng(0), n_images=3, rows_per_image=200)
    shared = make("resolution { refine=True\norder_spacing=None }", name)
    with pytest.raises(ConfigError, match=f"scaler.{name}.resolution.order_spacing"):
        shared.fit(known.sums, None)
    alone = known_sums(ScalingOptions(), np.random.default_rng(0), n_images=1, rows_per_image=200)
    with pytest.raises(DataError, match="observed twice.*grid.hkl.divisions"):
        make(name=name).fit(alone.sums, None)
    with pytest.raises(ConfigError, match=f"scaler.{name}.bragg.use"):
        make("bragg.use=True", name).fit(known.sums, None)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "w+b"))
    with pytest.raises(DataError, match="TMPDIR"):
        make("memory_mib=0", name).fit(known.sums, None)


def test_too_many_observations_for_dials_lead_to_the_other_scaler(monkeypatch):
    known = known_sums(ScalingOptions(), np.random.default_rng(0), n_images=3, rows_per_image=200)
    monkeypatch.setattr("diffuse_framework.adapters.scaling.dials_target.MAX_ROWS", 10)
    with pytest.raises(ConfigError, match="at most 10, not .*scaler.plugin=smooth"):
        make("outliers.limit=None", "dials_target").fit(known.sums, None)


def test_a_fit_that_stops_early_warns(caplog):
    known = known_sums(
        ScalingOptions(offset=True, offset_q=0.3), np.random.default_rng(0), n_images=6, rows_per_image=300
    )
    with caplog.at_level(logging.WARNING):
        make("max_cycles=1\noffset.refine=True").fit(known.sums, None)
    assert "did not converge" in caplog.text


def test_commands_scale_merge_and_judge_with_the_same_model(tmp_path):
    options = ScalingOptions(scale="smooth", offset=True, offset_q=0.2)
    known = known_sums(options, np.random.default_rng(0), n_images=20, rows_per_image=3000, exposure=10.0)
    writer = SumsWriter(tmp_path / "sums.h5", known.sums.grid, known.sums.image_names)
    for table in known.sums.tables():
        writer.append(table)
    writer.finish()
    sums = str(tmp_path / "sums.h5")
    scale.run([sums, "scaler.plugin=smooth", "scaler.smooth.scale.model=smooth", "scaler.smooth.offset.refine=True"])
    merge.run([sums, "statistics.half_maps=True"])
    stats.run([sums, "statistics.shells=5"])
    for name in (
        "voxel_data_relative.npz",
        "voxel_data_half_1.npz",
        "voxel_data_half_2.npz",
        "merging_statistics.json",
    ):
        assert (tmp_path / name).exists()
    merged = np.load(tmp_path / "voxel_data_relative.npz")
    truth = known.intensity[merged["voxel_indices"]]
    best = poisson_merge(known.sums, known.scales)
    highest = np.corrcoef(best.intensity, known.intensity[best.voxel])[0, 1]
    assert np.corrcoef(merged["I_merged_relative"], truth)[0, 1] > highest - 0.02
