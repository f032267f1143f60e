"""Mask files of DIALS: a pickled tuple of ``flex.bool``, one per panel, True where a pixel is used.

A pickle is a program. Reading here runs none of it: only the handful of instructions and
names that a mask needs are admitted, and plain Python objects stand in for the flex arrays. DIALS's maps of
gain, pedestal and distortion, ``flex.double``, are read likewise where an .expt file names them.
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
from numba import njit

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
    masks = _panels(data, path)
    if any(mask.dtype != bool for mask in masks):
        raise DataError(f"{path} is not a DIALS mask file: it holds numbers where True and False should be")
    if not masks:
        raise DataError(f"the mask file {path} holds no panel")
    return masks


def flex_panels(data: bytes, path: str | Path) -> tuple[Any, ...]:
    """Return the ``flex.bool`` or ``flex.double`` of each panel that a pickle of DIALS holds.

    Args:
        data: content of the file.
        path: its name, for messages.

    Raises:
        DataError: it holds anything else.
    """
    return tuple(flumpy.from_numpy(panel) for panel in _panels(data, path))


def _panels(data: bytes, path: str | Path) -> tuple[np.ndarray, ...]:
    """Return the arrays of a pickle.

    Raises:
        DataError: it holds anything else.
    """
    try:
        content = _unpickle(data)
        panels = content if isinstance(content, tuple | list) else (content,)
        return tuple(_array(panel) for panel in panels)
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
    """Unpickle masks and maps, flex arrays as `_Flex`.

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
    """Finds stand-ins for four names and nothing else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

        # Made for each file: a pickle may set attributes of what it is given.
        class Grid(_Grid):
            pass

        class FlexBool(_Flex):
            pass

        class FlexDouble(_Flex):
            of_numbers = True

        self._names = {
            (_FLEX, "bool"): FlexBool,
            (_FLEX, "double"): FlexDouble,
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


class _Flex:
    """Stands in for ``flex.bool`` and ``flex.double``."""

    of_numbers = False

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _array(panel: Any) -> np.ndarray:
    """Return the (slow, fast) array of one unpickled panel, boolean or double.

    A flex.bool's state is its grid and text: the number of elements, then "1" or "0" for each.
    The number is written to base 256: a byte that counts the bytes it takes, itself included,
    and the digits, lowest first (scitbx/serialization/base_256.h).

    Raises:
        ValueError: not a flex array of two dimensions.
    """
    if not isinstance(panel, _Flex):
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
    if panel.of_numbers:
        # A number takes a byte at least.
        if not (1 <= length <= 9 and size == math.prod(shape) <= len(elements)):
            raise ValueError(f"it holds {size} numbers where {shape[0]} x {shape[1]} should be")
        values = np.zeros(size)
        if _numbers(elements, values) != len(elements) or not np.isfinite(values).all():
            raise ValueError("its numbers are damaged")
        return values.reshape(shape)
    if not (1 <= length <= 9 and size == math.prod(shape) == len(elements)):
        raise ValueError(f"it holds {len(elements)} pixels where {shape[0]} x {shape[1]} should be")
    if not ((elements == ord("0")) | (elements == ord("1"))).all():
        raise ValueError("it holds characters other than 0 and 1")
    return (elements == ord("1")).reshape(shape)


@njit(cache=True)
def _numbers(data, values):
    """Fill in the numbers that scitbx wrote; return how many bytes they took, -1 where there are too few.

    Each is its mantissa, digits to base 256 after the point, and the exponent to base 2 as an integer, digits lowest
    first. Before both stands a byte with the number of bytes, itself included, and 128 more for a minus sign; no
    digits make that byte 0, and a mantissa of 0 has no exponent.
    """
    place = 0
    for n in range(len(values)):
        if place >= len(data):
            return -1
        head = data[place]
        length = max(head & 127, 1)
        if place + length > len(data):
            return -1
        mantissa, digit = 0.0, 1.0
        for k in range(place + 1, place + length):
            digit /= 256.0
            mantissa += data[k] * digit
        place += length
        if head == 0:
            values[n] = 0.0
            continue
        sign = -1.0 if head & 128 else 1.0
        if place >= len(data):
            return -1
        head = data[place]
        length = max(head & 127, 1)
        if length > 4 or place + length > len(data):
            return -1
        exponent, weight = 0, 1
        for k in range(place + 1, place + length):
            exponent += data[k] * weight
            weight *= 256
        place += length
        if head & 128:
            exponent = -exponent
        values[n] = sign * mantissa * 2.0**exponent
    return place
