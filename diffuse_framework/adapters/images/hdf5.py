"""HDF5 files of images: their decompressors, the files they consist of, and a short way to their pixels."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numba import njit

from diffuse_framework.errors import ConfigError, DataError

try:
    # Importing it gives HDF5 the decompressors of EIGER files (bitshuffle, LZ4). Debian's DIALS has none. Its own
    # requirement h5py must not be installed for it, see setup.cfg.
    import hdf5plugin
except ImportError:
    hdf5plugin = None  # type: ignore[assignment]

_INSTALL = "pip install --no-deps hdf5plugin (or, in conda, conda install hdf5plugin) brings it"
# Decompressors by their registered number.
_FILTERS = {32004: "LZ4", 32008: "bitshuffle", 32001: "Blosc", 32015: "Zstandard", 32026: "Blosc2"}


def bitshuffle_lz4() -> dict[str, Any]:
    """Return keywords of h5py's `create_dataset` that compress as the file writers of EIGER detectors do.

    Raises:
        ConfigError: hdf5plugin is not there.
    """
    if hdf5plugin is None:
        raise ConfigError(f"images in HDF5 are compressed with hdf5plugin, which is not there: {_INSTALL}")
    return dict(hdf5plugin.Bitshuffle(cname="lz4"))


@dataclass(frozen=True)
class ImageRun:
    """A run of images in one data set of one file.

    Attributes:
        path, dataset: where they are.
        start: number of its first image in the series, from 0.
        first: number of that image in the data set.
        n_images: number of images.
    """

    path: str
    dataset: str
    start: int
    first: int
    n_images: int


@dataclass(frozen=True)
class Series:
    """The images of an HDF5 file, wherever their pixels are.

    Attributes:
        parts: in order.
        plain: whether each image is one frame of one data set, of the same integers.
        module: (slow, fast) of the first and of the last pixel but one of the only module, None for several.
        bits: what the file calls its bit depth, 0 where it does not.
        clips: whether counts too high for int32 become the highest, as HDF5 does it, rather than negative.
    """

    parts: tuple[ImageRun, ...]
    plain: bool
    module: tuple[tuple[int, int], tuple[int, int]] | None = None
    bits: int = 0
    clips: bool = False

    def part(self, index: int) -> ImageRun:
        """Return the part that image `index`, from 0, is in."""
        return self.parts[bisect_right([part.start for part in self.parts], index) - 1]

    def read(self, index: int) -> np.ndarray:
        """Return image `index`, from 0, of a plain series as int32 (slow, fast): marks of bad pixels are -1 and -2.

        Raises:
            OSError, KeyError: it can't be read.
        """
        part = self.part(index)
        # Opened for each image: a file that is open must not go through a fork, and opening takes a millisecond.
        with h5py.File(part.path, "r") as file:
            data = file[part.dataset]
            values = np.empty(data.shape[1:], data.dtype)
            data.read_direct(values, np.s_[part.first + index - part.start])
        assert self.module is not None
        (slow, fast), (slow_end, fast_end) = self.module
        values = np.ascontiguousarray(values[slow:slow_end, fast:fast_end])
        if self.clips and values.dtype == np.uint32:
            np.minimum(values, np.uint32(2**31 - 1), out=values)
        # The highest values of 32 bits then are -1 and -2.
        values = values.view(np.int32) if values.dtype.itemsize == 4 else values.astype(np.int32)
        if self.bits:
            # As dxtbx has it.
            _mark(values.reshape(-1), 2 ** min(self.bits, 31))
        return values


@njit(cache=True)
def _mark(values, top):
    for n in range(len(values)):
        value = values[n]
        values[n] = -1 if value == top - 1 else (-2 if value == top - 2 else value)


def is_hdf5(path: str) -> bool:
    """Whether a file is there and begins as HDF5 files do."""
    try:
        with open(path, "rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError:
        return False


def series_of(path: str, n_images: int = 0) -> Series | None:
    """Return the images of an HDF5 file of NeXus's kind; None for one of another kind.

    HDF5 itself takes pixels of a file that is not there, or can't be opened, for zeros.

    Args:
        path: of the file, a master perhaps.
        n_images: that must be there.

    Raises:
        DataError: files that it refers to, or decompressors, are not there.
    """
    with _opened(path, path) as file:
        data = _first(_first(file, "NXentry"), "NXdata")
        if data is None:
            return None
        parts, plain = _parts(path, data, n_images)
        detector = _first(_first(_first(file, "NXentry"), "NXinstrument"), "NXdetector")
        modules = [] if detector is None else _all(detector, "NXdetector_module")
        bits = 0 if detector is None or "bit_depth_readout" not in detector else int(detector["bit_depth_readout"][()])
        module = None
        if len(modules) == 1 and {"data_origin", "data_size"} <= set(modules[0]):
            origin, size = (np.array(modules[0][name]).astype(int) for name in ("data_origin", "data_size"))
            module = _pair(origin), _pair(origin + size)
        elif not modules and plain and parts:
            # Masters of the first file writers don't describe modules.
            with h5py.File(parts[0].path, "r") as inner:
                module = (0, 0), _pair(inner[parts[0].dataset].shape[1:])
    return Series(tuple(parts), plain and module is not None, module, bits)


def what_is_missing(path: str, n_images: int = sys.maxsize) -> str:
    """Return what `series_of` has to say against a file, "" where all that it names is there or it is no HDF5 file."""
    try:
        if is_hdf5(path):
            series_of(path, n_images)
    except DataError as error:
        return str(error)
    return ""


def _pair(numbers: Any) -> tuple[int, int]:
    slow, fast = numbers
    return int(slow), int(fast)


def _parts(path: str, data: Any, n_images: int) -> tuple[list[ImageRun], bool]:
    """Return the parts of a group NXdata, and whether they are plain."""
    signal = data.attrs.get("signal", "")
    signal = signal.decode() if isinstance(signal, bytes) else str(signal)
    parts: list[ImageRun] = []
    plain = True
    absent: DataError | None = None
    for name in [signal] if signal in data else sorted(data):
        link = data.get(name, getlink=True)
        try:
            if isinstance(link, h5py.ExternalLink):
                found, even = _images(path, _beside(path, link.filename), link.path)
            else:
                found, even = _images(path, path, f"{data.name}/{name}")
        except DataError as error:
            # The first file writers name files that they never wrote: those at the end are not missed.
            absent = absent or error
            continue
        if absent is not None and found:
            raise absent
        start = sum(part.n_images for part in parts)
        parts += [replace(part, start=start + part.start) for part in found]
        plain &= even
    if absent is not None and (not parts or sum(part.n_images for part in parts) < n_images):
        raise absent
    return parts, plain and len({_kind(part) for part in parts}) == 1 and _kind(parts[0])[1] in "iu"


def _kind(part: ImageRun) -> tuple:
    with h5py.File(part.path, "r") as file:
        data = file[part.dataset]
        return data.shape[1:], data.dtype.kind if data.dtype.itemsize <= 4 else "wide", data.dtype.itemsize


def _images(master: str, path: str, name: str) -> tuple[list[ImageRun], bool]:
    """Return where the images of a data set are; none where it holds something else."""
    with _opened(master, path) as file:
        try:
            data = file[name]
        except KeyError as error:
            raise DataError(f"{master}: there is no {name} in {path} ({error})") from error
        path, name = data.file.filename, data.name
        if not isinstance(data, h5py.Dataset) or data.ndim != 3:
            return [], True
        if data.is_virtual:
            return _sources(master, path, data)
        _require_filters(path, data)
        return [ImageRun(path, name, 0, 0, len(data))], True


def _sources(master: str, path: str, data: Any) -> tuple[list[ImageRun], bool]:
    """Return where the images of a virtual data set are."""
    parts: list[ImageRun] = []
    plain = True
    for source in data.virtual_sources():
        inner = path if source.file_name == "." else _beside(path, source.file_name)
        found, even = _images(master, inner, source.dset_name)
        low, high = (np.array(edge) for edge in source.vspace.get_select_bounds())
        first, last = np.zeros(3, int), high - low
        if source.src_space.get_select_type() != h5py.h5s.SEL_ALL:
            first, last = (np.array(edge) for edge in source.src_space.get_select_bounds())
        n_wanted, n_found = int(high[0] - low[0]) + 1, sum(part.n_images for part in found)
        if n_found < first[0] + n_wanted:
            raise DataError(
                f"{master}: {inner} holds {n_found} images, {first[0] + n_wanted} are wanted; is it still written?"
            )
        frames = np.array(data.shape[1:]) - 1
        plain &= even and all((edge[1:] == 0).all() for edge in (low, first))
        plain &= all((edge[1:] == frames).all() for edge in (high, last))
        for part in found:
            before = max(int(first[0]) - part.start, 0)
            n = min(part.n_images - before, int(first[0]) + n_wanted - part.start - before)
            if n > 0:
                start = int(low[0]) + part.start + before - int(first[0])
                parts.append(ImageRun(part.path, part.dataset, start, part.first + before, n))
    parts.sort(key=lambda part: part.start)
    ends = np.cumsum([0] + [part.n_images for part in parts])
    plain &= ends[-1] == len(data) and [part.start for part in parts] == ends[:-1].tolist()
    return parts, plain


def _require_filters(path: str, data: Any) -> None:
    properties = data.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            known = _FILTERS.get(code) or name.decode(errors="replace").split(";")[0]
            raise DataError(f"{path} is compressed with HDF5's filter {known} ({code}), which is not there: {_INSTALL}")


@contextmanager
def _opened(master: str, path: str) -> Iterator[Any]:
    """Open a file for reading.

    Raises:
        DataError: it is not there, or not whole.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        which = path if path == master else f"{master}: its file {path}"
        if not Path(path).exists():
            raise DataError(f"{which} is missing") from error
        raise DataError(f"{which} can't be read; it is cut short or damaged ({error})") from error
    with file:
        yield file


def _beside(path: str, name: str) -> str:
    """Return the path of a file that another one names."""
    return str(Path(path).absolute().parent / name)


def _all(group: Any, nx_class: str) -> list[Any]:
    found = []
    # A link that leads nowhere is no group.
    for member in (group.get(name) for name in group):
        if isinstance(member, h5py.Group):
            kind = member.attrs.get("NX_class", "")
            if (kind.decode() if isinstance(kind, bytes) else kind) == nx_class:
                found.append(member)
    return found


def _first(group: Any, nx_class: str) -> Any:
    return next(iter(_all(group, nx_class)), None) if group is not None else None
