"""What every masker keeps to, whatever it looks for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iotbx.phil import parse
from scipy.spatial.transform import Rotation

from diffuse_framework.algorithms.geometry import pixel_q
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.model.experiment import BraggSpots, Experiment, Image
from diffuse_framework.model.mask import PixelMask, all_diffuse, combine
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame
from diffuse_framework.testing.fakes import geometry, orthorhombic_symmetry
from diffuse_plugins.masker_bragg import BraggMasker
from diffuse_plugins.masker_dynamic import DynamicMasker
from diffuse_plugins.masker_filter import FilterMasker
from diffuse_plugins.masker_reciprocal import ReciprocalMasker
from diffuse_plugins.masker_shoebox import ShoeboxMasker
from diffuse_plugins.masker_trusted import TrustedMasker

MASKERS = {
    TrustedMasker: "border=2\nd_max=30\nuntrusted.circle=20,20,4\nice_rings.filter=True",
    DynamicMasker: "min_images=3",
    BraggMasker: "radius=3",
    ShoeboxMasker: "grow=1",
    ReciprocalMasker: "radii=0.2,0.1,0.3",
    FilterMasker: "pixel_step=2\nmin_intensity=0\nmax_intensity=5e6",
}
every_masker = pytest.mark.parametrize("masker", MASKERS, ids=lambda masker: masker.name)
N_IMAGES = 6


def make(masker, text: str = ""):
    return masker.from_params(parse(masker.phil).fetch(parse(text)).extract())


class Source:
    """A few images in memory."""

    def __init__(self, frames: list[Frame], model) -> None:
        self._frames, self._geometry = frames, model
        self.names = tuple(frame.name for frame in frames)

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, index: int) -> Frame:
        return self._frames[index]

    def geometry(self, index: int):
        return self._geometry

    def exposure_s(self, index: int) -> float:
        return 0.5


def data_set(seed: int, kind: str = "i4") -> tuple[Source, Experiment, PixelTable]:
    rng = np.random.default_rng(seed)
    model = geometry(2, distance_mm=20.0)
    frames, images = [], []
    for number in range(N_IMAGES):
        counts = tuple(rng.poisson(rng.uniform(0, 30), panel.shape).astype(kind) for panel in model.panels)
        for panel in counts:
            panel[:, 10:12] = -1
            panel[5, 5] = 0
            panel[30, 30] = 3000
        frames.append(Frame(f"{number}.cbf", counts))
        setting = Rotation.random(random_state=seed + number).as_matrix() @ np.diag([0.05, 0.04, 0.03])
        foreground = np.stack([rng.integers(0, n, 40) for n in (2, 60, 50)], -1).astype(np.int32)
        px = foreground[:, :0:-1] + 0.5
        number_of = np.arange(len(px))
        spots = BraggSpots(
            np.ones((40, 3), np.int32), number_of, number_of, number_of, foreground[:, 0], px, px, foreground
        )
        images.append(Image(f"{number}.cbf", number, 0, 0.5, setting, 0.2, spots))
    q = tuple(pixel_q(p, model.beam) for p in model.panels)
    response = tuple(rng.uniform(1e-6, 2e-6, p.shape).astype(np.float32) for p in model.panels)
    experiment = Experiment((model,), orthorhombic_symmetry(), tuple(images))
    return Source(frames, model), experiment, PixelTable(q, response)


def arrays(data) -> list[np.ndarray]:
    """Every array of a data set, for comparing."""
    source, experiment, pixels = data
    found = [panel for index in range(len(source)) for panel in source.read(index).counts]
    found += [image.setting_matrix for image in experiment.images]
    found += [image.spots.foreground for image in experiment.images]
    return found + list(pixels.q) + list(pixels.response)


def masks_of(masker, data, index: int = 1) -> list[PixelMask]:
    source, experiment, pixels = data
    model, image = experiment.geometries[0], experiment.images[index]
    masks = [masker.static_mask(model, pixels), masker.image_mask(source.read(index), image, model, pixels)]
    return [mask for mask in masks if mask is not None]


def prepared(masker, data, text: str = ""):
    return make(masker, text).prepare(data[0], data[1], SerialEngine())


def same(a: PixelMask, b: PixelMask) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.panels, b.panels, strict=True))


@every_masker
def test_defaults_parse_and_help_is_written(masker):
    make(masker)
    for definition in parse(masker.phil).all_definitions():
        assert definition.object.help, definition.path
        assert definition.object.type is not None, definition.path


@every_masker
@pytest.mark.parametrize("text", ["", None])
def test_masks_have_the_three_classes_and_the_shape_of_the_panels(masker, text):
    data = data_set(1)
    prepared_masker = prepared(masker, data, MASKERS[masker] if text is None else text)
    for mask in masks_of(prepared_masker, data):
        for panel, classes in zip(data[1].geometries[0].panels, mask.panels, strict=True):
            assert classes.dtype == np.uint8 and classes.shape == panel.shape
            assert classes.max() <= 2


@every_masker
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(["i4", "i2", "f4", "f8"]))
def test_input_is_left_alone_and_the_pickled_masker_says_the_same(masker, seed, kind):
    data = data_set(seed, kind)
    before = [array.copy() for array in arrays(data)]
    here = prepared(masker, data, MASKERS[masker])
    masks = masks_of(here, data)
    again = masks_of(pickle.loads(pickle.dumps(here)), data)
    assert all(np.array_equal(x, y) for x, y in zip(before, arrays(data), strict=True))
    assert len(masks) == len(again) and all(same(x, y) for x, y in zip(masks, again, strict=True))


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), order=st.permutations(list(MASKERS)))
def test_the_order_of_maskers_is_irrelevant_and_none_brings_back_a_pixel(seed, order):
    data = data_set(seed)
    masks = {masker: masks_of(prepared(masker, data, MASKERS[masker]), data) for masker in MASKERS}
    everything = all_diffuse(data[1].geometries[0])
    one = combine([everything, *(mask for masker in MASKERS for mask in masks[masker])])
    other = combine([everything, *(mask for masker in order for mask in masks[masker])])
    assert same(one, other)
    for mask in (mask for masker in MASKERS for mask in masks[masker]):
        for combined, alone in zip(one.panels, mask.panels, strict=True):
            assert (combined <= alone).all()


@pytest.mark.parametrize("masker", [BraggMasker, ShoeboxMasker, ReciprocalMasker], ids=lambda m: m.name)
def test_bragg_pixels_go_to_the_second_channel(masker):
    data = data_set(3)
    masks = masks_of(prepared(masker, data, MASKERS[masker]), data)
    assert sum(mask.count(np.uint8(1)) for mask in masks) > 0
    assert sum(mask.count(np.uint8(0)) for mask in masks) == 0
