"""Mask files of DIALS: a pickled tuple of ``flex.bool``, one per panel, True where a pixel is used.

A pickle is a program. Reading here runs none of it: only the handful of instructions and
names that a mask needs are admitted, and plain Python objects stand in for the flex arrays.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from dxtbx import flumpy

from diffuse_framework.adapters.images.experiments import writing_whole
from diffuse_framework.errors import DataError
from diffuse_framework.model.conventions import BRAGG
from diffuse_framework.model.mask import PixelMask

_FLEX = "scitbx_array_family_flex_ext"

# What the pickles of tuples and lists of flex.bool consist of, in any protocol.
_INSTRUCTIONS = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL REDUCE BUILD NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 LIST EMPTY_LIST APPEND APPENDS".split()
)


def read_mask(path: str | Path) -> tuple[np.ndarray, ...]:
    """Return the masks of a DIALS mask file, one (slow, fast) boolean array per panel, True: use.

    Raises:
        DataError: the file can't be read, is no mask, or holds anything but masks.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"can't read the mask file {path}: {error.strerror or error}") from error
    try:
        content = _unpickle(data)
        panels = content if isinstance(content, tuple | list) else (content,)
        masks = tuple(_array(panel) for panel in panels)
    # What a damaged or hostile pickle can end in: all of these, from the unpickler or from the
    # stand-ins below.
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        EOFError,
        OverflowError,
        MemoryError,
    ) as error:
        raise DataError(
            f"{path} is not a DIALS mask file (a pickled tuple of flex.bool, as dials.generate_mask writes it): {error}"
        ) from error
    if not masks:
        raise DataError(f"the mask file {path} holds no panel")
    return masks


def write_mask(path: str | Path, masks: tuple[np.ndarray, ...]) -> None:
    """Write masks, one (slow, fast) boolean array per panel, True: use, as DIALS reads them.

    The file appears whole or not at all.

    Raises:
        DataError: the file can't be written.
    """
    flex_masks = tuple(flumpy.from_numpy(np.ascontiguousarray(mask, bool)) for mask in masks)
    with writing_whole(Path(path)) as temporary, temporary.open("wb") as file:
        pickle.dump(flex_masks, file, pickle.HIGHEST_PROTOCOL)


def write_pixel_mask(path: str | Path, mask: PixelMask) -> None:
    """Write a mask for DIALS in which Bragg pixels are used and untrusted ones are not.

    Raises:
        DataError: the file can't be written.
    """
    write_mask(path, tuple(panel >= BRAGG for panel in mask.panels))


def _unpickle(data: bytes) -> Any:
    """Unpickle masks, flex arrays as `_FlexBool`.

    Raises:
        pickle.UnpicklingError: an instruction or a name that no mask needs.
    """
    n_instructions = 0
    for instruction, argument, _ in pickletools.genops(data):
        n_instructions += 1
        if instruction.name not in _INSTRUCTIONS:
            raise pickle.UnpicklingError(f"it holds the instruction {instruction.name}")
        # The unpickler sets memory aside for the largest number, however few are used.
        if instruction.name.endswith("PUT") and int(argument or 0) > n_instructions:
            raise pickle.UnpicklingError(f"it numbers an object {argument}")
    return _MaskUnpickler(io.BytesIO(data), encoding="latin1").load()


class _MaskUnpickler(pickle.Unpickler):
    """Finds stand-ins for three names and nothing else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

        # Made for each file: a pickle may set attributes of what it is given.
        class Grid(_Grid):
            pass

        class FlexBool(_FlexBool):
            pass

        self._names = {
            (_FLEX, "bool"): FlexBool,
            (_FLEX, "grid"): Grid,
            ("_codecs", "encode"): lambda text, encoding: str(text).encode("latin1"),
        }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


class _Grid:
    """Stands in for ``flex.grid``."""

    def __init__(self, origin: Any = (), last: Any = (), open_range: Any = True) -> None:
        self.origin = origin
        self.shape = last

    def __setstate__(self, state: Any) -> None:
        self.focus = state


class _FlexBool:
    """Stands in for ``flex.bool``."""

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _array(panel: Any) -> np.ndarray:
    """Return the (slow, fast) boolean array of one unpickled panel.

    A flex.bool's state is its grid and text: the number of elements, then "1" or "0" for each.
    The number is written to base 256: a byte that counts the bytes it takes, itself included,
    and the digits, lowest first (scitbx/serialization/base_256.h).

    Raises:
        ValueError: not a flex.bool of two dimensions.
    """
    if not isinstance(panel, _FlexBool):
        raise ValueError(f"it holds a {type(panel).__name__} where a flex.bool should be")
    grid, text = panel.state
    data = text.encode("latin1") if isinstance(text, str) else text
    if not isinstance(data, bytes):
        raise ValueError(f"it holds a {type(data).__name__} where the pixels should be")
    shape = tuple(int(n) for n in grid.shape)
    if len(shape) != 2 or any(n <= 0 for n in shape) or any(grid.origin):
        raise ValueError(f"it holds an array of shape {shape} where a panel should be")
    length = data[0]
    size = int.from_bytes(data[1:length], "little")
    elements = np.frombuffer(data, np.uint8, offset=length)
    if not (1 <= length <= 9 and size == math.prod(shape) == len(elements)):
        raise ValueError(f"it holds {len(elements)} pixels where {shape[0]} x {shape[1]} should be")
    if not ((elements == ord("0")) | (elements == ord("1"))).all():
        raise ValueError("it holds characters other than 0 and 1")
    return (elements == ord("1")).reshape(shape)
