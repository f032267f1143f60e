"""Maps read back from the files that `diffuse.process` and `diffuse.merge` write."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from diffuse_framework.errors import DataError
from diffuse_framework.io import filenames
from diffuse_framework.io.grid_file import grid_from_numbers
from diffuse_framework.io.results import read_map_npz
from diffuse_framework.model.grid import VoxelGrid

# Columns of the NPZ files and fields of the NeXus files, the first found is the map's value.
VALUES = ("I_abs_diffuse", "I_merged_relative", "intensity")
SIGMAS = {
    "I_abs_diffuse": "Sigma_abs_diffuse",
    "I_abs_total": "Sigma_abs_total",
    "I_merged_relative": "Sigma_merged_relative",
    "I_total_relative": "Sigma_total_relative",
}


@dataclass(frozen=True, eq=False)
class StoredMap:
    """A map as a file holds it.

    Attributes:
        grid: the voxel grid.
        voxel: (n,) voxel numbers, ascending.
        columns: arrays (n,) by name.
        units: of the intensities.
    """

    grid: VoxelGrid
    voxel: np.ndarray
    columns: dict[str, np.ndarray]
    units: str

    def select(self, rows: np.ndarray) -> StoredMap:
        """Return the voxels of a boolean selection."""
        return replace(
            self,
            voxel=self.voxel[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
        )

    def value_name(self, wanted: str | None) -> str:
        """Return the name of the column to write: the one wanted, or the map's own intensity.

        Raises:
            DataError: there is none of that name.
        """
        names = [wanted] if wanted else VALUES
        for name in names:
            if name in self.columns:
                return name
        raise DataError(f"the map has no column {' or '.join(names)}; it has {', '.join(self.columns)}")

    def sigma_of(self, name: str) -> np.ndarray | None:
        """Return the uncertainties (n,) of a column, None where the file has none."""
        whole, half, number = name.partition("_half")
        return self.columns.get(f"{SIGMAS[whole]}{half}{number}" if whole in SIGMAS else f"{name}_errors")

    def halves_of(self, name: str) -> list[str]:
        """Return the names of the columns that hold half maps of a column."""
        return [other for other in self.columns if other.startswith(name) and "half" in other]


def read_stored_map(path: Path, grid_path: Path | None = None) -> StoredMap:
    """Return the map of a ``voxel_data_*.npz`` or ``.nxs`` file.

    Args:
        path: of the map.
        grid_path: of the grid's definition, for NPZ files; by default beside the map.

    Raises:
        DataError: a file is missing or is something else.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no file {path}")
    if path.suffix == ".nxs":
        return _read_nexus(path)
    arrays = read_map_npz(path)
    grid = _read_grid(Path(grid_path) if grid_path else path.with_name(filenames.GRID))
    voxel = arrays["voxel_indices"]
    if len(voxel) and voxel.max() >= grid.size:
        raise DataError(f"{path} does not belong to its grid: voxel {voxel.max()} is outside; give input.grid=")
    columns = {
        name: values
        for name, values in arrays.items()
        if values.shape == voxel.shape and name != "voxel_indices" and "_center" not in name
    }
    absolute = "I_abs_diffuse" in columns
    return StoredMap(grid, voxel, columns, "electron units per unit cell" if absolute else "relative")


def _read_grid(path: Path) -> VoxelGrid:
    try:
        return grid_from_numbers(json.loads(path.read_text()))
    except OSError as error:
        raise DataError(
            f"the map needs the definition of its grid, and {path} can't be read; give input.grid="
        ) from error
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not the definition of a grid: {error}") from error


def _read_nexus(path: Path) -> StoredMap:
    try:
        with h5py.File(path, "r") as file:
            entry = file["entry"]
            grid = grid_from_numbers(json.loads(entry["grid_definition"].asstr()[()]))
            data = entry["map"]
            names = [name for name in data if data[name].shape == tuple(grid.dimensions)]
            boxes = {name: data[name][()].ravel() for name in names}
            units = data["intensity"].attrs["units"]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a map of diffuse_framework: {error}") from error
    voxel = np.flatnonzero(np.isfinite(boxes["intensity"]))
    return StoredMap(grid, voxel, {name: box[voxel] for name, box in boxes.items()}, str(units))
