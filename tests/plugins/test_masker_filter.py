from __future__ import annotations

import numpy as np
import pytest
from iotbx.phil import parse

from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame
from diffuse_framework.testing.fakes import geometry
from diffuse_plugins.masker_filter import FilterMasker


def make(text: str = "") -> FilterMasker:
    return FilterMasker.from_params(parse(FilterMasker.phil).fetch(parse(text)).extract())


MODEL = geometry()
IMAGE = Image("a.cbf", 0, 0, 0.5, np.eye(3))


def table(response: float = 0.25) -> PixelTable:
    return PixelTable((), (np.full((60, 50), response, np.float32),))


def test_by_default_nothing_is_removed():
    assert make().static_mask(MODEL, table()) is None
    assert make().image_mask(None, IMAGE, MODEL, table()) is None


def test_the_step_leaves_every_nth_pixel_in_both_directions():
    mask = make("pixel_step=3").static_mask(MODEL, table()).panels[0]
    assert (mask[::3, ::3] == 2).all()
    assert mask.sum() == 2 * 20 * 17


def test_limits_are_on_the_corrected_intensity():
    counts = np.tile(np.arange(50, dtype=np.int32), (60, 1))
    # 50 counts are 50 / (0.25 sr x 0.5 s) photons per second and steradian.
    both = make("min_intensity=80\nmax_intensity=160")
    mask = both.image_mask(Frame("a", (counts,)), IMAGE, MODEL, table())
    assert np.flatnonzero(mask.panels[0][0] == 2).tolist() == list(range(10, 21))
    only_low = make("min_intensity=80").image_mask(Frame("a", (counts,)), IMAGE, MODEL, table())
    assert np.flatnonzero(only_low.panels[0][0] == 2).tolist() == list(range(10, 50))


def test_empty_limits_are_refused():
    with pytest.raises(ConfigError, match="min_intensity=5 .*max_intensity=5"):
        make("min_intensity=5\nmax_intensity=5")


def test_the_help_warns_of_bias():
    helps = {d.path: d.object.help for d in parse(FilterMasker.phil).all_definitions()}
    assert "bias" in helps["min_intensity"]
