from __future__ import annotations

import json

import numpy as np
import pytest

from diffuse_framework.algorithms.scaling.fit import Recipe, scale_smoothly
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.errors import DataError
from diffuse_framework.io.results import read_scales, write_scales
from diffuse_framework.model.scales import ErrorModel, ImageScales
from diffuse_framework.testing.fakes import orthorhombic_grid
from support.sums import known_sums

OPTIONS = ScalingOptions(scale="smooth", offset=True, offset_q=0.2, absorption=True, resolution=True)


@pytest.fixture(scope="module")
def fitted():
    known = known_sums(OPTIONS, np.random.default_rng(1), n_images=12, rows_per_image=1000)
    return known, scale_smoothly(known.sums, known.data_set, known.order, Recipe(OPTIONS, outlier_limit=3.0))


def test_a_model_comes_back_as_it_was(fitted, tmp_path):
    known, scales = fitted
    names = known.sums.image_names
    write_scales(tmp_path / "scales.json", scales, names)
    again = read_scales(tmp_path / "scales.json", names, known.sums.grid)
    assert isinstance(again, SmoothScales)
    assert len(again.rejected) == len(scales.rejected) > 0
    assert again.error_model == scales.error_model
    for table in known.sums.pieces:
        np.testing.assert_array_equal(again.factor(table), scales.factor(table))
        np.testing.assert_array_equal(again.offset(table), scales.offset(table))
        np.testing.assert_array_equal(again.keep(table), scales.keep(table))


def test_the_file_has_the_keys_of_the_guide(fitted, tmp_path):
    known, scales = fitted
    write_scales(tmp_path / "scales.json", scales, known.sums.image_names)
    content = json.loads((tmp_path / "scales.json").read_text())
    assert set(content) >= {"refined_parameters", "refinement_statistics", "resolution_smoother"}
    assert content["resolution_smoother"]["enabled"]
    assert len(content["resolution_smoother"]["control_points"]) == scales.layout.components["resolution"].width
    first = content["refined_parameters"][known.sums.image_names[0]]
    assert np.isclose(first["multiplicative_scale"], scales.per_image[0])
    assert np.isclose(first["additive_offset"], scales.offsets_at_images()[0].mean())


def test_scales_of_images_alone_keep_their_error_model(fitted, tmp_path):
    grid = fitted[0].sums.grid
    write_scales(
        tmp_path / "s.json",
        ImageScales(np.array([0.5, 1.5]), np.ones(2), {}, ErrorModel(2.0, 0.1)),
        ("a", "b"),
    )
    again = read_scales(tmp_path / "s.json", ("a", "b"), grid)
    assert again.error_model == ErrorModel(2.0, 0.1)


def test_a_model_of_other_images_is_refused(fitted, tmp_path):
    known, scales = fitted
    write_scales(tmp_path / "s.json", scales, known.sums.image_names)
    with pytest.raises(DataError, match="other images"):
        read_scales(tmp_path / "s.json", known.sums.image_names[:5], known.sums.grid)


def test_on_another_grid_the_model_is_the_same_and_its_outliers_are_forgotten(fitted, tmp_path):
    known, scales = fitted
    names = known.sums.image_names
    write_scales(tmp_path / "s.json", scales, names)
    finer = orthorhombic_grid(divisions=(3, 3, 3))
    again = read_scales(tmp_path / "s.json", names, finer)
    assert len(again.rejected) == 0
    assert (again.per_image == scales.per_image).all()
