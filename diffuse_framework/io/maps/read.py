"""Any map, by what its file is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py

from diffuse_framework.errors import DataError
from diffuse_framework.io.maps import boxes, own
from diffuse_framework.io.maps.hints import MapHints
from diffuse_framework.io.maps.mtz import read_mtz
from diffuse_framework.model.voxel_map import VoxelMap

__all__ = ["ENDINGS", "read_pair", "read_voxel_map"]


def _hdf5(path: Path, hints: MapHints) -> VoxelMap:
    try:
        with h5py.File(path, "r") as file:
            nexus = "entry" in file
    except OSError as error:
        raise DataError(f"can't read {path}: {str(error).splitlines()[0]}") from error
    return own.read_nexus(path, hints) if nexus else boxes.read_cxidb(path, hints)


_READERS: dict[str, Callable[[Path, MapHints], VoxelMap]] = {
    ".npz": own.read_npz,
    ".nxs": _hdf5,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".mtz": read_mtz,
    ".ccp4": boxes.read_ccp4,
    ".map": boxes.read_ccp4,
    ".mrc": boxes.read_ccp4,
    ".lat": boxes.read_lattice,
    ".npy": boxes.read_npy,
}
ENDINGS = tuple(_READERS)
"""Of the names of files that can be read."""

# These say nothing of the crystal, or of how it is divided.
_NEED_ANOTHER = (".ccp4", ".map", ".mrc", ".lat", ".npy", ".mtz")


def read_voxel_map(path: Path, hints: MapHints = MapHints()) -> VoxelMap:  # noqa: B008
    """Return the map of a folder of results, or of a file of this program or another.

    Args:
        path: of it; what it is follows from its ending.
        hints: what the file may leave open.

    Raises:
        DataError: it can't be read, or isn't a map.
        ConfigError, GeometryError: hints that don't fit.
    """
    path = Path(path)
    if path.is_dir():
        return own.read_folder(path, hints)
    if not path.is_file():
        raise DataError(f"there is no file or folder {path}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: maps are folders of results or files that end in {', '.join(ENDINGS)}")
    return reader(path, hints)


def read_pair(first: Path, second: Path, hints: MapHints = MapHints()) -> tuple[VoxelMap, VoxelMap]:  # noqa: B008
    """Return two maps of one crystal: what the file of one leaves open is as in the other.

    Raises:
        DataError: as `read_voxel_map`.
    """
    first, second = Path(first), Path(second)
    if first.suffix.lower() in _NEED_ANOTHER and second.suffix.lower() not in _NEED_ANOTHER:
        b, a = read_pair(second, first, hints)
        return a, b
    # A map that names its crystal states its own; hints are for one that does not.
    a = read_voxel_map(first, hints)
    return a, read_voxel_map(second, replace(hints, like=a.grid))
