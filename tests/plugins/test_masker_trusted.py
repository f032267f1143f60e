from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from dials.util.masking import generate_mask, phil_scope
from dxtbx import flumpy
from dxtbx.model import BeamFactory, DetectorFactory, ParallaxCorrectedPxMmStrategy
from iotbx.phil import parse

from diffuse_framework.adapters.images.masks import write_mask
from diffuse_framework.adapters.models.geometry import geometry_of
from diffuse_framework.algorithms.geometry import pixel_q
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame
from diffuse_framework.testing.fakes import geometry, orthorhombic_symmetry
from diffuse_plugins.masker_trusted import TrustedMasker


def make(text: str) -> TrustedMasker:
    return TrustedMasker.from_params(parse(TrustedMasker.phil).fetch(parse(text)).extract())


def table(model) -> PixelTable:
    q = tuple(pixel_q(p, model.beam) for p in model.panels)
    return PixelTable(q, tuple(np.ones(p.shape, np.float32) for p in model.panels))


def used(text: str, model=None) -> tuple[np.ndarray, ...]:
    model = model or geometry(2)
    mask = make(text).static_mask(model, table(model))
    return tuple(panel == 2 for panel in mask.panels)


REGIONS = """
border = 2
d_min = 1.6
d_max = 20
resolution_range = 3.85,3.95
resolution_range = 2.4 2.2
ice_rings.filter = True
ice_rings.d_min = 1.2
untrusted.circle = 100,120,15
untrusted { panel = 0
  rectangle = 10,20,30,60
}
untrusted.polygon = 30,200,90,150,120,300,20,260
untrusted.pixel = 33,77
"""


def test_the_same_text_means_the_same_pixels_as_in_dials_generate_mask():
    beam = BeamFactory.simple(1.0)
    detector = DetectorFactory.simple(
        "PAD",
        60.0,
        (20.0, 30.0),
        "+x",
        "-y",
        (0.172, 0.172),
        (300, 350),
        (-1, 10000),
        [],
        ParallaxCorrectedPxMmStrategy(3.9, 0.45),
    )
    detector[0].set_thickness(0.45)
    detector[0].set_mu(3.9)
    imageset = SimpleNamespace(get_detector=lambda: detector, get_beam=lambda: beam)
    theirs = flumpy.to_numpy(generate_mask(imageset, phil_scope.fetch(parse(REGIONS)).extract())[0])
    ours = used(REGIONS, geometry_of(beam, detector))[0]
    # q is kept in single precision: a pixel right at a limit may fall on either side.
    assert (ours != theirs).sum() <= 3
    assert 0.2 < (~ours).mean() < 0.8


def test_nothing_asked_for_is_no_static_mask():
    model = geometry()
    assert make("").static_mask(model, table(model)) is None
    # PHIL extracts one empty scope where a multiple scope was not given.
    assert make("untrusted { panel = None\n}\nbeamstop { circle = None\n}").regions == ()


def test_a_panel_may_be_left_out_whole():
    first, second = used("untrusted.panel = 1")
    assert first.all() and not second.any()


def test_shapes_fall_on_the_panel_they_name():
    on_second = "beamstop { panel = 1\n rectangle = 3,6,4,9\n circle = 30,30,2\n}\n"
    first, second = used(on_second + "beamstop.circle = 10,20,1")
    expected = np.ones((60, 50), bool)
    expected[4:9, 3:6] = False
    expected[29:32, 29:32] = False
    assert np.array_equal(second, expected)
    assert np.argwhere(~first).tolist() == [[20, 10]]


def test_a_shape_may_reach_off_its_panel():
    assert (~used("beamstop.circle = 0,0,5")[0]).sum() == 22
    assert (~used("untrusted.rectangle = -5,2,-5,3")[0]).sum() == 6


def test_values_out_of_the_trusted_range_are_untrusted_in_every_image():
    model = geometry()
    counts = np.full((60, 50), 5.0)
    counts[0, :4] = [np.nan, -1.0, 1e6, 1e6 + 1]
    mask = make("").image_mask(Frame("a", (counts,)), None, model, table(model)).panels[0]
    assert mask[0, :5].tolist() == [0, 0, 2, 0, 2]
    assert (mask[1:] == 2).all()


def test_a_mask_file_is_used(tmp_path):
    rng = np.random.default_rng(0)
    masks = tuple(rng.random((60, 50)) < 0.5 for _ in range(2))
    write_mask(tmp_path / "my pixels.mask", masks)
    found = used(f"mask.file = '{tmp_path}/my pixels.mask'")
    assert all(np.array_equal(x, y) for x, y in zip(found, masks, strict=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("d_min = 3\nd_max = 2", "d_min=3 .*d_max=2"),
        ("d_min = 2\nd_max = 2", "d_min=2"),
        ("resolution_range = 3,3", "resolution_range=3,3"),
        ("resolution_range = -1,3", "resolution_range=-1,3"),
        ("untrusted.circle = 3,3,0", "circle=3,3,0.*radius"),
        ("beamstop.rectangle = 5,5,1,9", "beamstop.rectangle=5,5,1,9"),
        ("untrusted.polygon = 1,2,3,4,5", "polygon=1,2,3,4,5.*corners"),
        ("untrusted.polygon = 1,2,3,4", "three corners"),
    ],
)
def test_what_can_not_be_meant_is_refused_at_once(text, words):
    with pytest.raises(ConfigError, match=words):
        make(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("untrusted.panel = 2", "untrusted.panel=2.*2 panels"),
        ("beamstop { panel = 7\n circle = 1,1,3\n}", "panel 7.*2 panels"),
        ("untrusted.rectangle = 50,60,0,10", "rectangle=50,60,0,10.*50 .fast. x 60 .slow."),
        ("untrusted.circle = 500,500,10", "circle=500,500,10"),
        ("untrusted.polygon = 100,100,120,100,110,130", "polygon=100,100"),
        ("untrusted.pixel = 60,1", "pixel=60,1"),
        ("border = 25", "border=25"),
    ],
)
def test_what_does_not_fit_the_detector_is_refused_before_the_first_image(text, words):
    model = geometry(2)
    with pytest.raises(ConfigError, match=words):
        make(text).prepare(None, Experiment((model,), orthorhombic_symmetry(), ()), None)


def test_a_mask_file_that_does_not_fit_is_named(tmp_path):
    experiment = Experiment((geometry(2),), orthorhombic_symmetry(), ())
    write_mask(tmp_path / "a.mask", (np.ones((60, 50), bool),))
    with pytest.raises(DataError, match="a.mask has 1 panel of 50 x 60 .* has 2 panels of 50 x 60"):
        make(f"mask.file = {tmp_path}/a.mask").prepare(None, experiment, None)
    write_mask(tmp_path / "b.mask", (np.ones((50, 60), bool),) * 2)
    with pytest.raises(DataError, match="2 panels of 60 x 50"):
        make(f"mask.file = {tmp_path}/b.mask").prepare(None, experiment, None)
    with pytest.raises(DataError, match="nowhere.mask"):
        make(f"mask.file = {tmp_path}/nowhere.mask").prepare(None, experiment, None)
