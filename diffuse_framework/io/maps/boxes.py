"""Maps that are plain boxes: Lunus lattices, CCP4 maps, the HDF5 layout of CXIDB entry 128, and NumPy arrays."""

from __future__ import annotations

import re
from pathlib import Path

import gemmi
import h5py
import numpy as np

from diffuse_framework.errors import DataError
from diffuse_framework.io.export.cxidb import VARIATIONAL
from diffuse_framework.io.export.lunus import MISSING
from diffuse_framework.io.maps.hints import MapHints, box_to_map, divisions_of_steps
from diffuse_framework.model.voxel_map import VoxelMap

__all__ = ["read_ccp4", "read_cxidb", "read_lattice", "read_npy"]


def read_lattice(path: Path, hints: MapHints) -> VoxelMap:
    """Return the map of a Lunus lattice: three sizes (uint32), six limits in 1/angstrom, values (float32), x fastest.

    Byte order is found from the size of the file. The format states no cell; edges along the axes give the divisions.

    Raises:
        DataError: it is no lattice, or the cell is not known.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    for order in "<>":
        size = np.frombuffer(raw[:12], f"{order}u4").astype(np.int64)
        if len(size) == 3 and len(raw) == 36 + 4 * int(np.prod(size, dtype=float)):
            break
    else:
        raise DataError(f"{path} is not a Lunus lattice: its size does not fit its header")
    if (size < 2).any():
        raise DataError(f"{path} is a lattice of {' x '.join(map(str, size))} points; a map has two along each axis")
    limits = np.frombuffer(raw, f"{order}f4", 6, 12).astype(float)
    values = np.frombuffer(raw, f"{order}f4", -1, 36).astype(float)
    values[values == MISSING] = np.nan
    low, high = limits[0::2], limits[1::2]
    steps = (high - low) / (size - 1)
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise DataError(f"{path} is not a Lunus lattice: its limits are {', '.join(f'{x:g}' for x in limits)}")
    origin = np.floor(-low / steps + 0.5).astype(int)
    divisions = divisions_of_steps(path, steps, hints)
    box = values.reshape(size[::-1]).transpose(2, 1, 0)
    return box_to_map(path, box, tuple(-int(n) for n in origin), divisions, hints.cell(path), hints.symmetry())


def read_ccp4(path: Path, hints: MapHints) -> VoxelMap:
    """Return the map of a CCP4/MRC file whose cell stands for a box of reciprocal space, as diffuse.export writes it.

    The label says how many angstrom stand for 1/angstrom, 100 where it doesn't, and what stands for no value.

    Raises:
        DataError: it is no such map.
    """
    try:
        file = gemmi.read_ccp4_map(str(path), setup=False)
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"can't read {path}: {error}") from error
    if [file.header_i32(word) for word in (17, 18, 19)] != [1, 2, 3]:
        raise DataError(f"{path} has its axes in another order than x, y, z")
    label = file.header_str(57, 80)
    scale = re.search(r"([\d.eE+-]+) A = 1 1/A", label)
    missing = re.search(r"missing = ([\d.eE+-]+)", label)
    values = np.array(file.grid, copy=True).astype(float)
    if missing:
        stands = float(missing.group(1))
        values[np.abs(values - stands) <= 1e-4 * abs(stands)] = np.nan
    sampling = np.array([file.header_i32(word) for word in (8, 9, 10)], float)
    edges = np.array([file.header_float(word) for word in (11, 12, 13)])
    steps = edges / np.maximum(sampling, 1) / (float(scale.group(1)) if scale else 100.0)
    start = tuple(file.header_i32(word) for word in (5, 6, 7))
    units = "electron units per unit cell" if "e.u./cell" in label else "relative"
    divisions = divisions_of_steps(path, steps, hints)
    return box_to_map(path, values, start, divisions, hints.cell(path), hints.symmetry(), units=units)


def read_cxidb(path: Path, hints: MapHints) -> VoxelMap:
    """Return the map of an HDF5 file laid out as CXIDB entry 128 is: I and sigma over a grid of fractional indices.

    Raises:
        DataError: it is something else.
    """
    try:
        with h5py.File(path, "r") as file:
            group = _group(file, hints.column)
            if "format" in file.attrs and "sums" in str(file.attrs["format"]):
                raise DataError(f"{path} holds sums, not a map: give its folder")
            if group is None:
                raise DataError(f"{path} is not a map: no group has a dataset I and the attribute grid_delta")
            ori, delta = (np.ravel(group.attrs[f"grid_{name}"]).astype(float) for name in ("ori", "delta"))
            # MATLAB's first axis is h5py's last.
            values = group["I"][()].transpose(2, 1, 0)
            sigma = group["sigma"][()].transpose(2, 1, 0) if "sigma" in group else None
            units = group.attrs.get("units", "relative")
            crystal = dict(file["crystal"].attrs) if "crystal" in file else {}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not a map as in CXIDB entry 128: {error}") from error
    names = ("a", "b", "c", "alpha", "beta", "gamma")
    stated = all(name in crystal for name in names)
    cell = tuple(float(np.ravel(crystal[name])[0]) for name in names) if stated else hints.cell(path)
    number = int(np.ravel(crystal.get("spaceGroupNumber", 1))[0])
    divisions = tuple(int(n) for n in np.rint(1 / delta))
    lowest = tuple(int(n) for n in np.rint(ori / delta))
    units = units.decode() if isinstance(units, bytes) else str(units)
    if "electron" in units:
        units = "electron units per unit cell"
    symmetry = hints.symmetry(gemmi.SpaceGroup(number).xhm())
    return box_to_map(path, values, lowest, divisions, cell, symmetry, sigma, units)


def _group(file: h5py.File, wanted: str | None) -> h5py.Group | None:
    found: list[str] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Group) and "I" in item and "grid_delta" in item.attrs:
            found.append(name)

    file.visititems(visit)
    for name in (wanted, VARIATIONAL.strip("/"), *found):
        if name and name.strip("/") in found:
            return file[name]
    return None


def read_npy(path: Path, hints: MapHints) -> VoxelMap:
    """Return the map of a NumPy array [h, k, l] that is centred on the origin, as eryx writes it.

    Raises:
        DataError: it is something else, or its divisions are not known.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"can't read {path}: {error}") from error
    if values.ndim != 3 or values.dtype.kind not in "fiu" or not all(n % 2 for n in values.shape):
        raise DataError(f"{path} is an array of shape {values.shape}: a map has three axes of odd lengths")
    divisions = hints.divisions or (hints.like.divisions if hints.like is not None else None)
    if divisions is None:
        raise DataError(f"{path} does not say its divisions: give input.divisions=n_h,n_k,n_l")
    lowest = tuple(-(n // 2) for n in values.shape)
    return box_to_map(path, values.astype(float), lowest, divisions, hints.cell(path), hints.symmetry())
