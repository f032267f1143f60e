"""Mask files: what we write DIALS reads, what DIALS writes we read, and nothing in a file runs."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.format.image import ImageBool
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuse_framework.adapters.images.masks import read_mask, write_mask, write_pixel_mask
from diffuse_framework.errors import DataError
from diffuse_framework.model.mask import PixelMask

SHAPES = [(5, 7), (1, 300), (256, 1), (255, 257)]


def random_masks(seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return tuple(rng.random(shape) < 0.7 for shape in SHAPES)


def same(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_written_mask_is_read_back_and_opens_in_dials(tmp_path):
    masks = random_masks()
    write_mask(tmp_path / "pixels.mask", masks)
    assert same(read_mask(tmp_path / "pixels.mask"), masks)
    # As dials.apply_mask and the image viewer open it.
    with open(tmp_path / "pixels.mask", "rb") as file:
        theirs = pickle.load(file, encoding="bytes")
    assert same(tuple(flumpy.to_numpy(panel) for panel in theirs), masks)
    assert ImageBool(theirs).n_tiles() == len(SHAPES)
    assert [path.name for path in tmp_path.iterdir()] == ["pixels.mask"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("collect", [tuple, list])
def test_masks_of_dials_are_read_in_any_protocol(tmp_path, protocol, collect):
    masks = random_masks(1)
    theirs = collect(flumpy.from_numpy(mask.copy()) for mask in masks)
    (tmp_path / "m.pickle").write_bytes(pickle.dumps(theirs, protocol))
    assert same(read_mask(tmp_path / "m.pickle"), masks)


def test_a_single_panel_may_come_without_a_tuple(tmp_path):
    (tmp_path / "m.mask").write_bytes(pickle.dumps(flex.bool(flex.grid(3, 4), True)))
    assert read_mask(tmp_path / "m.mask")[0].shape == (3, 4)


def test_bragg_pixels_stay_usable_for_dials(tmp_path):
    write_pixel_mask(tmp_path / "m.mask", PixelMask((np.array([[0, 1, 2]], np.uint8),)))
    assert read_mask(tmp_path / "m.mask")[0].tolist() == [[False, True, True]]


class Runs:
    """Unpickling it calls `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile() -> dict[str, bytes]:
    flag = "touched"
    masks = (flex.bool(flex.grid(3, 4), True),)
    good = pickle.dumps(masks, 0)
    return {
        "system": pickle.dumps(Runs(os.system, f"touch {flag}"), 0),
        "eval": pickle.dumps((masks[0], Runs(eval, f"open('{flag}', 'w')")), 4),
        "codecs of another kind": pickle.dumps(Runs(bytearray.fromhex, "00"), 2),
        "other flex": pickle.dumps((flex.double(3),), 2),
        "instance": f"(S'touch {flag}'\nios\nsystem\n.".encode(),
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"\x80\x02Pabc\n.",
        "memo bomb": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
        "byte array bomb": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
        "size as bytes": pickle.dumps(5, 2),
        "truncated": good[: len(good) // 2],
        "no end": good[:-1],
        "empty": b"",
        "text": b"this is no mask",
        "number": pickle.dumps(3),
        "empty tuple": pickle.dumps(()),
        "nested": pickle.dumps((masks,)),
        "one dimension": pickle.dumps((flex.bool(5, True),)),
        "numpy": pickle.dumps((np.ones((3, 4), bool),)),
        "fewer pixels": good.replace(b"111111111111", b"11111111111"),
        "wrong size": good.replace(b"\x02\x0c", b"\x02\x0b").replace(b"\\u000c", b"\\u000b"),
        "other characters": good.replace(b"111111111111", b"111111211111"),
        "the grid for a mask": pickle.dumps((flex.grid(3, 4),), 2),
        "state of a class": b"cscitbx_array_family_flex_ext\nbool\n(Nd.",
        "attributes": b"\x80\x02cscitbx_array_family_flex_ext\nbool\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
        "no state": b"\x80\x02cscitbx_array_family_flex_ext\nbool\n)R\x85.",
        "state of a number": b"\x80\x02cscitbx_array_family_flex_ext\nbool\n)RK\x07b\x85.",
    }


@pytest.mark.parametrize("name", sorted(hostile()))
def test_anything_else_is_refused_and_does_not_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.mask").write_bytes(hostile()[name])
    with pytest.raises(DataError, match="m.mask"):
        read_mask(tmp_path / "m.mask")
    assert not (tmp_path / "touched").exists()


@settings(deadline=None)
@given(position=st.integers(0, 400), byte=st.integers(0, 255), protocol=st.sampled_from([0, 2, 4]))
def test_a_damaged_file_ends_in_a_mask_or_in_our_error(tmp_path_factory, position, byte, protocol):
    rng = np.random.default_rng(0)
    theirs = tuple(flumpy.from_numpy(rng.random((9, 11)) < 0.5) for _ in range(2))
    data = bytearray(pickle.dumps(theirs, protocol))
    data[position % len(data)] = byte
    path = tmp_path_factory.mktemp("damaged") / "m.mask"
    path.write_bytes(bytes(data))
    try:
        masks = read_mask(path)
    except DataError:
        return
    assert all(mask.dtype == bool and mask.ndim == 2 for mask in masks)


def test_one_file_can_not_change_how_the_next_is_read(tmp_path):
    poison = b"\x80\x02c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__X\x01\x00\x00\x00as\x86b."
    (tmp_path / "poison.mask").write_bytes(poison)
    with pytest.raises(DataError):
        read_mask(tmp_path / "poison.mask")
    write_mask(tmp_path / "good.mask", random_masks(2))
    assert same(read_mask(tmp_path / "good.mask"), random_masks(2))


def test_files_that_are_not_there_or_can_not_be_written_are_named(tmp_path):
    with pytest.raises(DataError, match="absent.mask"):
        read_mask(tmp_path / "absent.mask")
    with pytest.raises(DataError, match="no_folder"):
        write_mask(tmp_path / "no_folder" / "m.mask", random_masks())
