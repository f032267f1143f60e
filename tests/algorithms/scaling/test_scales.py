"""A fitted model as plain values."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from diffuse_framework.algorithms.scaling.fit import Recipe, scale_smoothly
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.errors import DataError
from diffuse_framework.testing.fakes import orthorhombic_grid
from support.sums import SQUARE_PANEL, known_sums

TWO_PANELS = (*SQUARE_PANEL, (0.0, 1000.0, 0.0, 500.0))
MODELS = {
    "one scale per image": (ScalingOptions(), 1),
    "several data sets": (ScalingOptions(scale="smooth", offset=True, offset_q=0.15, offset_order=None), 2),
    "everything": (
        ScalingOptions(
            scale="smooth", offset=True, offset_q=0.2, panel=True, absorption=True, resolution=True, resolution_order=6
        ),
        1,
    ),
}


def fitted(name: str):
    options, n_data_sets = MODELS[name]
    known = known_sums(
        options, np.random.default_rng(1), n_images=12, rows_per_image=500, panels=TWO_PANELS, n_data_sets=n_data_sets
    )
    recipe = Recipe(options, outlier_limit=2.5, max_cycles=2)
    return known, scale_smoothly(known.sums, known.data_set, known.order, recipe)


def is_plain(value) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str | np.ndarray)


def as_json(value):
    """What a JSON file makes of it: lists for arrays, null for infinity."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [as_json(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def assert_same(ours: SmoothScales, theirs: SmoothScales) -> None:
    for name in ("parameters", "sigma", "common", "rejected"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    assert ours.error_model == theirs.error_model
    assert list(ours.layout.components) == list(theirs.layout.components)
    assert ours.layout.slices == theirs.layout.slices
    assert (ours.layout.expansion != theirs.layout.expansion).nnz == 0
    for a, b in zip(ours.layout.tables, theirs.layout.tables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("through", [lambda plain: plain, lambda plain: json.loads(json.dumps(as_json(plain)))])
@pytest.mark.parametrize("name", MODELS)
def test_scales_come_back_from_plain_values_bit_for_bit(name, through):
    known, scales = fitted(name)
    plain = scales.to_plain()
    assert is_plain(plain)
    assert len(scales.rejected)
    again = SmoothScales.from_plain(through(plain), known.sums.grid)
    assert_same(scales, again)
    assert as_json(again.statistics) == as_json(scales.statistics)
    for table in known.sums.pieces:
        for ask in ("factor", "offset", "keep"):
            assert getattr(again, ask)(table).tobytes() == getattr(scales, ask)(table).tobytes()


def test_outliers_are_forgotten_where_voxels_have_other_numbers():
    known, scales = fitted("one scale per image")
    again = SmoothScales.from_plain(scales.to_plain(), orthorhombic_grid(divisions=(3, 3, 3)))
    assert len(scales.rejected) > len(again.rejected) == 0
    assert (again.per_image == scales.per_image).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": [np.nan] * 12}, "not numbers"),
        ({"parameters": [1.0] * 11}, "11 parameters, not 12"),
        ({"layout": {}}, "lacks 'data_set'"),
        ({"parameters": ["a"]}, "can't be read"),
        ({"error_model": {"colour": 1}}, "can't be read"),
    ],
)
def test_plain_values_of_something_else_are_refused(change, message):
    known, scales = fitted("one scale per image")
    with pytest.raises(DataError, match=message):
        SmoothScales.from_plain(scales.to_plain() | change, known.sums.grid)


def test_a_component_of_a_later_version_is_refused():
    known, scales = fitted("one scale per image")
    plain = scales.to_plain()
    plain["layout"]["components"]["twist"] = plain["layout"]["components"].pop("scale")
    with pytest.raises(DataError, match="twist"):
        SmoothScales.from_plain(plain, known.sums.grid)


def test_files_that_call_components_parts_are_read():
    known, scales = fitted("everything")
    plain = scales.to_plain()
    plain["layout"]["parts"] = plain["layout"].pop("components")
    assert_same(scales, SmoothScales.from_plain(plain, known.sums.grid))


def test_nothing_of_it_changes_when_it_is_asked():
    known, scales = fitted("everything")
    before = {field.name: getattr(scales, field.name) for field in fields(scales)}
    scales.factor(known.sums.pieces[0])
    assert vars(scales) == before
    with pytest.raises(FrozenInstanceError):
        scales.parameters = None
