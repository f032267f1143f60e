"""Sums on disk: a file that names its parts, and a folder of parts, each written whole by one worker.

    sums.h5         grid, image names, and a link to every table
    sums.parts/     HDF5 files of one or more tables, each named by what it was made from

A part is named by the key of its work. One that is there already is not made again, so that a run goes
on where another was cut off; what belongs to other parameters or images has other names.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np

from diffuse_framework.errors import DataError
from diffuse_framework.fingerprint import fingerprint
from diffuse_framework.io.atomic import make_folder, reason, require_space, writing
from diffuse_framework.io.grid_file import grid_from_numbers, grid_to_numbers
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.voxels import COLUMN_TYPES, COLUMNS, ROW_BYTES, SumsTable
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

FORMAT = "diffuse_framework sums 3"
_CHUNK_ROWS = 1 << 16
# Attribute with the CRC-32 of each column: a bit that the disk turned is no other value.
_CHECKSUMS = "crc32"
# Columns that hardly get smaller: to try takes longer than all else of them.
_LIKE_CHANCE = ("exposure", "fast", "slow", "background", "background_variance")
# Files that are folded into one: a file system is slow with hundreds of thousands of files.
FAN_IN = 64
# What h5py raises of a damaged file.
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError)


class Part(NamedTuple):
    """A table in a file of the folder of parts: its name there, the file, and its number of rows."""

    key: str
    file: str
    rows: int


class TableWork(Protocol):
    """Work that makes tables of sums, as `pipeline.chunk.ChunkWork` does."""

    def __call__(self, item: Any, /) -> SumsTable:
        """Return the sums of one item."""

    def key(self, item: Any, /) -> str:
        """Return a name for all that they depend on."""

    def is_complete(self, item: Any, /) -> bool:
        """Whether all else that the item leaves behind is there, so that its sums are enough."""


class SumsWriter:
    """Keeps sums in parts, and makes the file that names them when finished."""

    def __init__(self, path: Path, grid: VoxelGrid, image_names: tuple[str, ...], fan_in: int = FAN_IN) -> None:
        """Prepare to write the file `path`, and its parts beside it.

        Raises:
            DataError: nothing can be written there.
        """
        self._path = make_folder(Path(path).parent) / Path(path).name
        self._folder = parts_folder(self._path)
        self._grid, self._image_names, self._fan_in = grid, image_names, fan_in
        self._parts: list[Part] = []

    def collect(self, work: TableWork, chunks: list[Any], mapper: Mapper) -> None:
        """Have workers write the part of each chunk that is not there yet; fold many small files into few.

        Raises:
            DataError: a worker can't write, for example for want of space; finished parts stay.
        """
        keys = [work.key(chunk) for chunk in chunks]
        there = _parts_in(self._folder, set(keys))
        missing = [
            (key, chunk)
            for key, chunk in zip(keys, chunks, strict=True)
            if key not in there or not work.is_complete(chunk)
        ]
        if len(missing) < len(chunks):
            logger.info(
                "%d of %d chunks of images were accumulated by an earlier run: continuing from there",
                len(chunks) - len(missing),
                len(chunks),
            )
        elif there:
            logger.info("The sums of an earlier run are not used: they belong to other images, parameters or versions")
        made = mapper.map(_WritePart(work, self._folder), missing)
        found = {**there, **{part.key: part for part in made}}
        self._parts += self._folded([found[key] for key in keys], mapper)

    def _folded(self, parts: list[Part], mapper: Mapper) -> list[Part]:
        """Fold files by `fan_in`, level by level, until no more than that are left."""
        while len({part.file for part in parts}) > self._fan_in:
            files = list(dict.fromkeys(part.file for part in parts))
            groups = [tuple(files[start : start + self._fan_in]) for start in range(0, len(files), self._fan_in)]
            new_file: dict[str, str] = {}
            for group, name in zip(groups, mapper.map(_Fold(self._folder), groups), strict=True):
                new_file |= dict.fromkeys(group, name)
            parts = [part._replace(file=new_file[part.file]) for part in parts]
        return parts

    def append(self, table: SumsTable) -> None:
        """Write `table` as a part, named by what it holds.

        Raises:
            DataError: the disk is full, for example; nothing is left of the part.
        """
        key = fingerprint([getattr(table, name) for name in COLUMNS])
        self._parts.append(_write_part(self._folder, key, table))

    def finish(self) -> StoredSums:
        """Write the file that names the parts and open it for reading.

        Raises:
            DataError: it can't be written.
        """
        with writing(self._path) as temporary, _hdf5_errors(self._path), h5py.File(temporary, "w") as file:
            file.attrs["format"] = FORMAT
            # For a copy of this file that goes without its parts.
            file.attrs["parts"] = str(self._folder.absolute())
            file.attrs["grid"] = json.dumps(grid_to_numbers(self._grid))
            text = h5py.string_dtype()
            file["image_names"] = np.array(self._image_names, text)
            file["parts/key"] = np.array([part.key for part in self._parts], text)
            file["parts/file"] = np.array([part.file for part in self._parts], text)
            file["parts/rows"] = np.array([part.rows for part in self._parts], np.int64)
            for number, part in enumerate(self._parts):
                file[f"sums/{number:06d}"] = h5py.ExternalLink(f"{self._folder.name}/{part.file}", part.key)
        return StoredSums(self._path)


class StoredSums:
    """Sums read from disk, table by table."""

    def __init__(self, path: Path) -> None:
        """Open a file that `SumsWriter` finished.

        Raises:
            DataError: it isn't there, isn't one, or lacks a part.
        """
        self.path = Path(path)
        try:
            with h5py.File(self.path, "r") as file:
                if file.attrs.get("format") != FORMAT:
                    found = str(file.attrs.get("format", ""))
                    if found.startswith(FORMAT[:-1]):
                        raise DataError(
                            f"{path} holds {found}, written by another version; this one reads {FORMAT}: "
                            "run diffuse.process again"
                        )
                    raise DataError(f"{path} is not a file of sums ({FORMAT}); diffuse.process writes sums.h5")
                self.grid = grid_from_numbers(json.loads(file.attrs["grid"]))
                self.image_names = tuple(file["image_names"].asstr()[:])
                written = Path(file.attrs["parts"])
                columns = file["parts/key"].asstr()[:], file["parts/file"].asstr()[:], file["parts/rows"][:].tolist()
        except FileNotFoundError as error:
            raise DataError(f"there is no file {path}") from error
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"can't read {path}: it is no HDF5 file of sums, or is cut short ({error})") from error
        beside = parts_folder(self.path)
        self._folder = beside if beside.is_dir() or not written.is_dir() else written
        self._parts = [Part(*row) for row in zip(*columns, strict=True)]
        for name in {part.file for part in self._parts}:
            if name != Path(name).name or not (self._folder / name).is_file():
                raise DataError(f"{path} needs its part {name}, which is not in {self._folder}: keep them together")

    def tables(self) -> Iterator[SumsTable]:
        """Yield the tables in the order they were written; a column is read when it is first asked for.

        Raises:
            DataError: a part is damaged.
        """
        for part in self._parts:
            path = self._folder / part.file
            with _damage(path):
                file = h5py.File(path, "r")
            with file:
                with _damage(path):
                    group = file[part.key]
                    rows, checksums = _rows_and_checksums(group)
                if rows != part.rows:
                    raise DataError(f"{path} holds {rows} sums where {self.path} says {part.rows}")
                yield _StoredTable(path, part, group, checksums)

    @property
    def n_bytes(self) -> int:
        """Size on disk, parts included."""
        files = {self._folder / part.file for part in self._parts}
        return self.path.stat().st_size + sum(file.stat().st_size for file in files)

    def prune(self) -> None:
        """Remove files of the folder of parts that these sums don't need: those of earlier runs."""
        needed = {part.file for part in self._parts}
        for path in self._folder.glob("*.h5"):
            if path.name not in needed:
                path.unlink(missing_ok=True)


class _StoredTable(SumsTable):
    """A table whose columns are read from its file as they are asked for: few steps need all of them."""

    _path: Path
    _part: Part
    _group: h5py.Group
    _checksums: tuple[int, ...]

    def __init__(self, path: Path, part: Part, group: h5py.Group, checksums: tuple[int, ...]) -> None:
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_part", part)
        object.__setattr__(self, "_group", group)
        object.__setattr__(self, "_checksums", checksums)

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in COLUMNS:
            raise AttributeError(name)
        with _damage(self._path):
            if self._group:
                column = _column(self._group, name, self._part.rows, self._checksums)
            else:
                # Its file was closed when the next table was asked for.
                with h5py.File(self._path, "r") as file:
                    column = _column(file[self._part.key], name, self._part.rows, self._checksums)
        object.__setattr__(self, name, column)
        return column

    def __len__(self) -> int:
        return self._part.rows

    def __reduce__(self) -> tuple[Any, ...]:
        return SumsTable, tuple(getattr(self, name) for name in COLUMNS)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # dataclasses.replace makes a plain table of it.
        return SumsTable


def _rows_and_checksums(group: h5py.Group) -> tuple[int, tuple[int, ...]]:
    """Return how many rows a table has, and the checksum of each column: of the first versions none."""
    return int(group.attrs["rows"]), tuple(int(value) for value in group.attrs.get(_CHECKSUMS, ()))


def _column(group: h5py.Group, name: str, rows: int, checksums: tuple[int, ...]) -> np.ndarray:
    """Return a column of a table, compared with what was written.

    Raises:
        OSError: it is another.
    """
    # By the low-level interface: of many small tables the other one costs more than reading does.
    dataset = h5py.h5d.open(group.id, name.encode())
    # Of a column of zeros nothing was written.
    written = dataset.get_storage_size() > 0
    column = (np.empty if written else np.zeros)(dataset.shape, dataset.dtype)
    if written:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, column)
    if checksums:
        fits = column.dtype == COLUMN_TYPES[name] and column.shape == (rows,) and len(checksums) == len(COLUMNS)
        if not fits or checksum(column) != checksums[COLUMNS.index(name)]:
            raise OSError(f"the checksum of its column {name!r} does not fit")
    return column


def checksum(column: np.ndarray) -> int:
    """Return the CRC-32 of the bytes of an array."""
    return zlib.crc32(np.ascontiguousarray(column).view(np.uint8).data)


def parts_folder(path: Path) -> Path:
    """Return the folder of parts that belongs to a file of sums."""
    return Path(path).with_suffix(".parts")


def _parts_in(folder: Path, wanted: Collection[str] = ()) -> dict[str, Part]:
    """Return all tables in the files of a folder by key; those that can't be read are left out.

    Those that are `wanted` are read and compared with their checksums.
    """
    found = {}
    for path in sorted(folder.glob("*.h5")):
        try:
            with h5py.File(path, "r") as file:
                for key in file:
                    try:
                        found[key] = _whole_part(path.name, key, file[key], key in wanted)
                    except _DAMAGE as error:
                        logger.warning("%s in %s is damaged and will be made again (%s)", key, path, error)
        except _DAMAGE as error:
            logger.warning("%s is damaged and will be made again (%s)", path, error)
    return found


def _whole_part(file: str, key: str, group: h5py.Group, check: bool) -> Part:
    """Return what names a table; its columns are compared with their checksums where that is asked for."""
    rows, checksums = _rows_and_checksums(group)
    if check:
        for name in COLUMNS:
            _column(group, name, rows, checksums)
    return Part(key, file, rows)


class _WritePart:
    """Work that writes its table and returns what names it."""

    def __init__(self, work: Callable[[Any], SumsTable], folder: Path) -> None:
        self._work, self._folder = work, folder

    def __call__(self, named: tuple[str, Any]) -> Part:
        key, item = named
        return _write_part(self._folder, key, self._work(item))


class _Fold:
    """Work that copies the tables of several files, as they are, into one, and removes the several."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, names: tuple[str, ...]) -> str:
        sources = [self._folder / name for name in names]
        path = self._folder / f"fold-{fingerprint(names)}.h5"
        require_space(path, sum(source.stat().st_size for source in sources))
        with writing(path) as temporary, _hdf5_errors(path), h5py.File(temporary, "w") as target:
            for source in sources:
                with h5py.File(source, "r") as file:
                    for key in file:
                        file.copy(key, target)
        for source in sources:
            source.unlink(missing_ok=True)
        return path.name


def _write_part(folder: Path, key: str, table: SumsTable) -> Part:
    require_space(folder, len(table) * ROW_BYTES)
    path = make_folder(folder) / f"{key}.h5"
    compressed = {"chunks": (min(len(table), _CHUNK_ROWS),), "compression": "lzf", "shuffle": True}
    with writing(path) as temporary, _hdf5_errors(path), h5py.File(temporary, "w") as file:
        group = file.create_group(key)
        group.attrs["rows"] = len(table)
        columns = [np.asarray(getattr(table, name), COLUMN_TYPES[name]) for name in COLUMNS]
        group.attrs[_CHECKSUMS] = np.array([checksum(column) for column in columns], np.uint32)
        for name, values in zip(COLUMNS, columns, strict=True):
            storage = compressed if len(table) and name not in _LIKE_CHANCE else {}
            dataset = group.create_dataset(name, (len(table),), COLUMN_TYPES[name], fillvalue=0, **storage)
            # Of a column of zeros nothing is written: one without background or Bragg channel costs nothing.
            if values.any():
                dataset[:] = values
    return Part(key, path.name, len(table))


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what h5py raises of a damaged part into our error."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"can't read {path}: it is cut short or damaged ({error}); remove it and run diffuse.process again, which "
            "makes it anew"
        ) from error


@contextmanager
def _hdf5_errors(path: Path) -> Iterator[None]:
    """Turn what HDF5 raises where it can't write into our error."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        wrapped = error if isinstance(error, OSError) else OSError(None, str(error))
        raise DataError(f"can't write {path}: {reason(wrapped)}") from error
