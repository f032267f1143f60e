"""Sums on disk: one HDF5 file, written and read table by table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from diffuse_framework.errors import DataError
from diffuse_framework.io.grid_file import grid_from_numbers, grid_to_numbers
from diffuse_framework.io.whole import reason, require_space, writing
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.voxels import COLUMN_TYPES, COLUMNS, SumsTable

FORMAT = "diffuse_framework sums 1"
_CHUNK_ROWS = 1 << 16
_ROW_BYTES = sum(kind.itemsize for kind in COLUMN_TYPES.values())
# Chunks whose values are all zero are never written: a data set without background or Bragg
# channel pays nothing for their columns.
_STORAGE = {"chunks": (_CHUNK_ROWS,), "compression": "lzf", "shuffle": True, "fillvalue": 0}


class SumsWriter:
    """Appends tables to a file that appears under its name when finished."""

    def __init__(self, path: Path, grid: VoxelGrid, image_names: tuple[str, ...]) -> None:
        """Start the file.

        Raises:
            DataError: it can't be written.
        """
        self._path = path
        self._n_rows = 0
        self._bounds = [0]
        self._whole = writing(path)
        self._temporary = self._whole.__enter__()
        try:
            self._file = h5py.File(self._temporary, "w")
            self._file.attrs["format"] = FORMAT
            self._file.attrs["grid"] = json.dumps(grid_to_numbers(grid))
            self._file["image_names"] = np.array(image_names, h5py.string_dtype())
            for name in COLUMNS:
                self._file.create_dataset(f"sums/{name}", (0,), COLUMN_TYPES[name], maxshape=(None,), **_STORAGE)
        except OSError as error:
            self._give_up(error)

    def append(self, table: SumsTable) -> None:
        """Write the rows of `table`.

        Raises:
            DataError: the disk is full, for example; nothing is left of the file.
        """
        start, stop = self._n_rows, self._n_rows + len(table)
        try:
            # A chunk that is half full is written again with its other half.
            require_space(self._path, (len(table) + _CHUNK_ROWS) * _ROW_BYTES)
            for name in COLUMNS:
                dataset = self._file["sums"][name]
                dataset.resize(stop, axis=0)
                values = getattr(table, name)
                if values.any():
                    dataset[start:stop] = values
            self._file.flush()
        except (DataError, OSError, RuntimeError) as error:
            self._give_up(error)
        self._n_rows = stop
        self._bounds.append(stop)

    def finish(self) -> StoredSums:
        """Close the file and open it for reading."""
        try:
            self._file["table_bounds"] = np.array(self._bounds, np.int64)
            self._file.close()
        except (OSError, RuntimeError) as error:
            self._give_up(error)
        self._whole.__exit__(None, None, None)
        return StoredSums(self._path)

    def _give_up(self, error: Exception) -> None:
        """Remove what was written and say why."""
        with suppress(AttributeError, OSError, RuntimeError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)
        if isinstance(error, DataError):
            raise error
        wrapped = error if isinstance(error, OSError) else OSError(None, str(error))
        raise DataError(f"can't write {self._path}: {reason(wrapped)}") from error


class StoredSums:
    """Sums read from a file, table by table; pickles as its path."""

    def __init__(self, path: Path) -> None:
        """Open a file that `SumsWriter` finished.

        Raises:
            DataError: it isn't there, or isn't one.
        """
        self.path = Path(path)
        try:
            with h5py.File(self.path, "r") as file:
                if file.attrs.get("format") != FORMAT:
                    raise DataError(f"{path} is not a file of sums ({FORMAT}); diffuse.process writes sums.h5")
                self.grid = grid_from_numbers(json.loads(file.attrs["grid"]))
                self.image_names = tuple(file["image_names"].asstr()[:])
                self._bounds = file["table_bounds"][:]
        except FileNotFoundError as error:
            raise DataError(f"there is no file {path}") from error
        except (OSError, KeyError) as error:
            raise DataError(f"can't read {path}: it is no HDF5 file of sums, or is cut short ({error})") from error

    def tables(self) -> Iterator[SumsTable]:
        """Yield the tables in the order they were written."""
        with h5py.File(self.path, "r") as file:
            columns = {name: file["sums"][name] for name in COLUMNS}
            for start, stop in zip(self._bounds[:-1], self._bounds[1:], strict=True):
                yield SumsTable(**{name: column[start:stop] for name, column in columns.items()})
