from __future__ import annotations

import numpy as np
import pytest

from diffuse_framework.algorithms.scaling.fit import Recipe, scale_smoothly
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.errors import DataError
from support.sums import SQUARE_PANEL, known_sums

pytest.importorskip("dials")

from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.adapters.scaling.dials_target import fit_with_dials
from diffuse_framework.adapters.scaling.model import (
    DiffuseScalingModel,
    image_models,
    write_scaled_experiments,
)

ALL = ScalingOptions(
    scale="smooth",
    offset=True,
    offset_q=0.15,
    panel=True,
    absorption=True,
    absorption_order=6.0,
    resolution=True,
    resolution_order=6.0,
)
TWO_PANELS = (*SQUARE_PANEL, (0.0, 1000.0, 0.0, 500.0))


def test_what_dials_components_make_of_an_image_is_what_we_do():
    known = known_sums(ALL, np.random.default_rng(1), n_images=12, rows_per_image=200, panels=TWO_PANELS)
    models = image_models(known.scales)
    for image in (0, 5, 11):
        table = known.sums.pieces[image]
        q = np.linalg.norm(known.sums.grid.q_of(table.voxel), axis=1)
        place = q, table.panel, table.fast, table.slow
        np.testing.assert_allclose(models[image].factor(*place), known.scales.factor(table), rtol=1e-9)
        np.testing.assert_allclose(models[image].offset(*place), known.scales.offset(table), rtol=1e-9, atol=1e-9)


def test_experiments_carry_the_models_and_dials_loads_them(tmp_path):
    known = known_sums(ALL, np.random.default_rng(1), n_images=3, rows_per_image=50, panels=TWO_PANELS)
    ExperimentList([Experiment(identifier=str(n)) for n in range(3)]).as_json(str(tmp_path / "indexed.expt"))
    write_scaled_experiments(tmp_path / "indexed.expt", tmp_path / "scaled.expt", known.scales)
    loaded = ExperimentListFactory.from_json_file(str(tmp_path / "scaled.expt"), check_format=False)
    for experiment, model in zip(loaded, image_models(known.scales), strict=True):
        assert isinstance(experiment.scaling_model, DiffuseScalingModel)
        assert experiment.scaling_model.to_dict() == model.to_dict()
        assert "Scaling model" in str(experiment.scaling_model)


def test_another_number_of_experiments_is_refused(tmp_path):
    known = known_sums(ALL, np.random.default_rng(1), n_images=3, rows_per_image=50, panels=TWO_PANELS)
    ExperimentList([Experiment(identifier="0")]).as_json(str(tmp_path / "indexed.expt"))
    with pytest.raises(DataError, match="holds 1 experiments, the scales are of 3"):
        write_scaled_experiments(tmp_path / "indexed.expt", tmp_path / "scaled.expt", known.scales)


@pytest.mark.parametrize(
    "options",
    [
        ScalingOptions(),
        ScalingOptions(scale="smooth", absorption=True, absorption_order=6.0),
        ScalingOptions(scale="smooth", offset=True, offset_q=0.3),
    ],
    ids=["scale", "scale and absorption", "scale and offset"],
)
def test_dials_finds_the_same_answer(options):
    known = known_sums(options, np.random.default_rng(2), n_images=12, rows_per_image=600, exposure=100.0)
    ours, theirs = (
        scale_smoothly(known.sums, known.data_set, known.order, Recipe(options, outlier_limit=None, tolerance=1e-3), *f)
        for f in ((), (fit_with_dials,))
    )
    assert ours.statistics["converged"]
    assert theirs.statistics["converged"]
    difference = (ours.parameters - theirs.parameters) / ours.sigma
    # DIALS follows the sum of squares; ours takes the noise in the intensities off its derivatives.
    assert np.abs(difference).max() < 0.3
    np.testing.assert_allclose(ours.sigma, theirs.sigma, rtol=0.05)
