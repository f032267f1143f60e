"""Maps that this program wrote: folders of results, their files, and boxes that were exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from diffuse_framework.errors import DataError
from diffuse_framework.io import filenames
from diffuse_framework.io.export.stored_map import StoredMap, read_stored_map
from diffuse_framework.io.inputs import read_arrays
from diffuse_framework.io.maps.hints import MapHints, box_to_map
from diffuse_framework.model.voxel_map import VoxelMap

__all__ = ["read_box_npz", "read_folder", "read_nexus", "read_npz"]

_NAMES = {
    "multiplicity": ("num_observations", "multiplicity"),
    "pixels": ("num_pixels", "pixels"),
    "photons": ("photons",),
}


def read_folder(folder: Path, hints: MapHints) -> VoxelMap:
    """Return the map of a folder of results, on the absolute scale where it has one.

    Raises:
        DataError: it has none.
    """
    for name in (filenames.ABSOLUTE_MAP, filenames.RELATIVE_MAP):
        if (folder / name).is_file():
            return read_npz(folder / name, hints)
    raise DataError(f"{folder} holds no {filenames.RELATIVE_MAP}: it is not the output folder of diffuse.process")


def read_npz(path: Path, hints: MapHints) -> VoxelMap:
    """Return the map of ``voxel_data_absolute.npz`` or ``voxel_data_relative.npz``, or of an exported box.

    Raises:
        DataError: it is something else.
    """
    if "voxel_indices" not in read_arrays(path, ()):
        return read_box_npz(path, hints)
    stored = read_stored_map(path, hints.grid)
    return _with_counts(_of_stored(stored, path, hints), path)


def _of_stored(stored: StoredMap, path: Path, hints: MapHints) -> VoxelMap:
    name = stored.value_name(hints.column)
    known = np.isfinite(stored.columns[name])
    if not known.any():
        raise DataError(f"{path} holds no finite intensity in {name}")
    sigma = stored.sigma_of(name)
    if sigma is not None and not (np.isfinite(sigma[known]) & (sigma[known] > 0)).any():
        sigma = None
    if sigma is not None:
        known &= np.isfinite(sigma) & (sigma >= 0)
    stored = stored.select(known)
    halves = [stored.columns[half] for half in stored.halves_of(name) if not half.endswith("_errors")]
    counted = {}
    for field, names in _NAMES.items():
        found = [stored.columns[one] for one in names if one in stored.columns]
        counted[field] = found[0] if found else None
    sigma = stored.sigma_of(name) if sigma is not None else None
    return VoxelMap(
        stored.grid,
        stored.voxel,
        stored.columns[name].astype(float),
        None if sigma is None else sigma.astype(float),
        np.stack(halves).astype(float) if len(halves) == 2 else None,
        units=stored.units,
        name=str(path),
        **counted,
    )


def _with_counts(one: VoxelMap, path: Path) -> VoxelMap:
    """Add pixels and photons of the relative map beside an absolute one, whose file leaves them out."""
    beside = path.with_name(filenames.RELATIVE_MAP)
    if one.pixels is None and beside.is_file() and beside != path:
        arrays = read_arrays(beside, ("voxel_indices",))
        if np.array_equal(arrays["voxel_indices"], one.voxel):
            one = replace(one, pixels=arrays.get("num_pixels"), photons=arrays.get("photons"))
    return one


def read_nexus(path: Path, hints: MapHints) -> VoxelMap:
    """Return the map of a NeXus file of ours, or of one whose default NXdata lies over h, k and l.

    Raises:
        DataError: it is something else.
    """
    try:
        with h5py.File(path, "r") as file:
            if "entry/grid_definition" not in file:
                return _nxdata(path, file, hints)
    except OSError as error:
        raise DataError(f"can't read {path}: {error}") from error
    return _of_stored(read_stored_map(path), path, hints)


def _nxdata(path: Path, file: h5py.File, hints: MapHints) -> VoxelMap:
    group = file
    while "default" in group.attrs and group.attrs["default"] in group:
        group = group[group.attrs["default"]]
    axes = [str(name) for name in np.atleast_1d(group.attrs.get("axes", []))]
    signal = str(hints.column or group.attrs.get("signal", ""))
    if [name[:1].lower() for name in axes] != ["h", "k", "l"] or signal not in group:
        raise DataError(f"{path} is not a map: its default NXdata has no signal over the axes h, k and l")
    index_min, divisions = _index_of_axes(path, [group[name][()] for name in axes])
    stated = file.get("entry/sample/unit_cell")
    cell = hints.cell(path) if stated is None else tuple(float(x) for x in stated[()])
    group_symbol = file.get("entry/sample/space_group")
    symmetry = hints.symmetry("P1" if group_symbol is None else group_symbol.asstr()[()])
    errors = group.get(f"{signal}_errors")
    units = str(group[signal].attrs.get("units", "relative"))
    return box_to_map(
        path, group[signal][()], index_min, divisions, cell, symmetry, None if errors is None else errors[()], units
    )


def read_box_npz(path: Path, hints: MapHints) -> VoxelMap:
    """Return the map of a box over h, k and l, as diffuse.export writes it.

    Raises:
        DataError: it is something else.
    """
    arrays = read_arrays(path, ())
    boxes = {name: values for name, values in arrays.items() if np.ndim(values) == 3}
    if not {"h", "k", "l"} <= set(arrays) or not boxes:
        raise DataError(f"{path} is not a map: it has neither voxel_indices nor a box over h, k and l")
    name = hints.column or next(iter(boxes))
    if name not in boxes:
        raise DataError(f"{path} has no box {name}; it has {', '.join(boxes)}")
    index_min, divisions = _index_of_axes(path, [arrays[axis] for axis in "hkl"])
    cell = tuple(map(float, arrays["unit_cell"])) if "unit_cell" in arrays else hints.cell(path)
    symmetry = hints.symmetry(str(arrays.get("space_group", "P1")))
    return box_to_map(path, boxes[name], index_min, divisions, cell, symmetry, boxes.get(f"{name}_errors"))


def _index_of_axes(path: Path, axes: list[np.ndarray]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return lowest voxel index and divisions of axes of fractional indices.

    Raises:
        DataError: they are no multiples of 1/n.
    """
    divisions, lowest = [], []
    for axis in axes:
        values = np.asarray(axis, float)
        n = int(round((len(values) - 1) / (values[-1] - values[0]))) if len(values) > 1 else 1
        index = values * max(n, 1)
        if n < 1 or np.abs(index - np.rint(index[0]) - np.arange(len(values))).max() > 0.01 * max(n, 1):
            raise DataError(f"{path} is not a map on voxels of a lattice: an axis does not go by 1/n")
        divisions.append(n)
        lowest.append(int(round(index[0])))
    return tuple(lowest), tuple(divisions)
