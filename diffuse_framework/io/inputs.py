"""Reading back the results of a run."""

from __future__ import annotations

import json
import tokenize
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffuse_framework.errors import DataError, in_one_line
from diffuse_framework.io.grid_file import checked_grid, grid_from_numbers
from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.pixels import CorrectedPixels

MAP_ARRAYS = (
    "voxel_indices",
    "H_center",
    "K_center",
    "L_center",
    "q_center_x",
    "q_center_y",
    "q_center_z",
    "q_magnitude_center",
    "I_merged_relative",
    "Sigma_merged_relative",
    "num_observations",
)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file that holds an object.

    Raises:
        DataError: it can't be read, or is something else.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__} where an object of names and values should be")
    return content


def read_arrays(path: Path, needed: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the arrays of an NPZ file, or of the root of an HDF5 file, by name.

    Args:
        path: ``.npz``, ``.h5`` or ``.hdf5``.
        needed: names that must be there.

    Raises:
        DataError: it can't be read, or lacks a name.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in (".h5", ".hdf5", ".nxs"):
            with h5py.File(path, "r") as file:
                arrays = {name: item[()] for name, item in file.items() if isinstance(item, h5py.Dataset)}
        else:
            with np.load(path, allow_pickle=False) as file:
                if not isinstance(file, Mapping):
                    raise ValueError("it holds a single array, where the .npz file should be")
                arrays = {name: file[name] for name in file}
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}") from error
    # What h5py and numpy make of damaged files: OSError, RuntimeError, BadZipFile, zlib.error, NotImplementedError ...
    except Exception as error:
        raise DataError(f"can't read {path}: it is cut short or damaged ({in_one_line(error)})") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise DataError(f"{path} has no array {', '.join(missing)}; it has {', '.join(arrays) or 'none'}")
    return arrays


def read_map(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of ``voxel_data_relative.npz``, or of an HDF5 file that has them.

    Raises:
        DataError: it can't be read, lacks an array, or its arrays differ in length.
    """
    arrays = read_arrays(path, MAP_ARRAYS)
    lengths = {name: np.shape(arrays[name]) for name in MAP_ARRAYS}
    if len(set(lengths.values())) != 1 or len(lengths["voxel_indices"]) != 1:
        raise DataError(f"the arrays of {path} differ in shape: {lengths}")
    if lengths["voxel_indices"] == (0,):
        raise DataError(f"{path} holds no voxel")
    return arrays


def read_pixels(path: Path) -> tuple[CorrectedPixels, bool]:
    """Return one image's corrected pixels from their NPZ file, and whether it holds detector coordinates.

    Without coordinates panel, fast and slow are empty.

    Raises:
        DataError: it can't be read, lacks an array, or its arrays don't belong together.
    """
    arrays = read_arrays(path, ("q_vectors", "intensities", "sigmas"))
    q, intensity, sigma = (arrays[name].astype(float) for name in ("q_vectors", "intensities", "sigmas"))
    if intensity.ndim != 1 or q.shape != (len(intensity), 3) or sigma.shape != intensity.shape:
        raise DataError(
            f"the arrays of {path} don't belong together: q_vectors {q.shape}, intensities {intensity.shape}, "
            f"sigmas {sigma.shape}"
        )
    if len(intensity) == 0:
        raise DataError(f"{path} holds no pixel: all were masked or filtered out")
    names = ("original_panel_ids", "original_fast_coords", "original_slow_coords")
    present = all(name in arrays and arrays[name].shape == intensity.shape for name in names)
    where = [arrays[name].astype(np.int64) if present else np.zeros(0, np.int64) for name in names]
    return CorrectedPixels(q, intensity, sigma, *where), present


def read_grid(path: Path) -> VoxelGrid:
    """Return the grid of ``global_voxel_grid_definition.json``.

    A file of another program, with the keys of the visual checks only, gives a grid without symmetry.

    Raises:
        DataError: it can't be read, or lacks something.
    """
    content = read_json(path)
    try:
        if "voxel_numbering" in content:
            return grid_from_numbers(content)
        return _grid_without_symmetry(content)
    except KeyError as error:
        raise DataError(f"{path} is not a definition of a grid: it has no {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is not a definition of a grid: {error}") from error


def _grid_without_symmetry(content: dict[str, Any]) -> VoxelGrid:
    """Return the grid of a file with the keys of the visual checks alone, numbered as ours are."""
    divisions = (int(content["ndiv_h"]), int(content["ndiv_k"]), int(content["ndiv_l"]))
    crystal, bounds = content["crystal_avg_ref"], content["hkl_bounds"]
    low = [round(bounds[f"{axis}_min"] * n) for axis, n in zip("hkl", divisions, strict=True)]
    high = [round(bounds[f"{axis}_max"] * n) for axis, n in zip("hkl", divisions, strict=True)]
    a, b, c, alpha, beta, gamma = crystal["unit_cell"]
    identity = np.eye(3, dtype=np.int64)
    grid = VoxelGrid(
        cell=(float(a), float(b), float(c), float(alpha), float(beta), float(gamma)),
        symmetry=Symmetry(str(crystal.get("space_group", "P1")), "-1", np.stack([identity, -identity]), identity),
        divisions=divisions,
        index_min=(low[0], low[1], low[2]),
        dimensions=tuple(b - a + 1 for a, b in zip(low, high, strict=True)),
        d_min=1.0,
        d_max=np.inf,
        n_voxels=int(content["total_voxels"]),
    )
    checked_grid(grid)
    corners = np.stack(np.meshgrid(*((bounds[f"{a}_min"], bounds[f"{a}_max"]) for a in "hkl")), -1).reshape(-1, 3)
    reach = float(np.linalg.norm(corners @ grid.reciprocal_basis.T, axis=1).max())
    return replace(grid, d_min=1 / reach) if reach > 0 else grid


def voxel_numbers(grid: VoxelGrid, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return voxel numbers (n,) of `grid` from the centres of a map, -1 for those outside its box."""
    hkl = np.stack([arrays[f"{axis}_center"] for axis in "HKL"], axis=1)
    offset = np.rint(hkl * np.array(grid.divisions)).astype(np.int64) - np.array(grid.index_min)
    inside = ((offset >= 0) & (offset < np.array(grid.dimensions))).all(axis=1)
    numbers = np.full(len(hkl), -1, np.int64)
    numbers[inside] = np.ravel_multi_index(offset[inside].T, grid.dimensions)
    return numbers


def read_background(path: Path) -> tuple[np.ndarray, ...]:
    """Return a background map, (slow, fast) per panel, from ``.npy``, or the array ``counts`` of ``.npz`` or HDF5.

    Raises:
        DataError: it can't be read, or holds anything but numbers.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic == b"\x93NUMPY":
            content = np.load(path, allow_pickle=False)
        elif magic[:4] in (b"PK\x03\x04", b"\x89HDF"):
            content = read_arrays(path, ("counts",))["counts"]
        else:
            raise DataError(
                f"{path} is not a background map: give an array as .npy, or named counts as .npz or .h5; a pickle, "
                "which is a program, is not read (numpy.save writes .npy)"
            )
        array = np.asarray(content, float)
    except OSError as error:
        raise DataError(f"can't read the background {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, EOFError, MemoryError, SyntaxError, tokenize.TokenError) as error:
        raise DataError(f"{path} is not a background map: {error}") from error
    panels = tuple(array) if array.ndim == 3 else (array,)
    if not panels or any(panel.ndim != 2 for panel in panels):
        raise DataError(f"{path} holds an array of shape {array.shape}; (slow, fast) is needed")
    return panels
