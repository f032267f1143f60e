"""A map as a box of reciprocal space in a NeXus file."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from diffuse_framework.io.atomic import require_space, writing
from diffuse_framework.io.grid_file import grid_to_numbers
from diffuse_framework.model.maps import AbsoluteMap


def write_map_nexus(path: Path, final: AbsoluteMap) -> None:
    """Write the map as a NeXus file whose default plot is the intensity over h, k, l.

    The box holds the asymmetric unit; voxels that were not observed are NaN. The total scattering
    has voxels that lie wholly inside Bragg peaks too. ``entry/grid_definition`` is the grid as JSON.
    """
    merged, grid = final.merged, final.merged.grid
    voxel, total, total_variance = total_scattering(final)
    fields = {
        "intensity": (merged.voxel, final.intensity, np.float32, np.nan),
        "intensity_errors": (merged.voxel, np.sqrt(final.variance), np.float32, np.nan),
        "total_intensity": (voxel, total, np.float32, np.nan),
        "total_intensity_errors": (voxel, np.sqrt(total_variance), np.float32, np.nan),
        "multiplicity": (merged.voxel, merged.multiplicity, np.int32, 0),
        "pixels": (merged.voxel, merged.pixels, np.int32, 0),
    }
    require_space(path, 4 * len(fields) * grid.size)
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs.update(NX_class="NXentry", default="map")
        entry["title"] = f"diffuse scattering, {grid.symmetry.space_group}"
        entry["grid_definition"] = json.dumps(grid_to_numbers(grid))
        sample = entry.create_group("sample")
        sample.attrs["NX_class"] = "NXsample"
        sample["unit_cell"] = np.array(grid.cell)
        sample["unit_cell"].attrs["units"] = "angstrom, degree"
        sample["space_group"] = grid.symmetry.space_group
        data = entry.create_group("map")
        data.attrs.update(NX_class="NXdata", signal="intensity", axes=["h", "k", "l"])
        data.attrs["auxiliary_signals"] = ["multiplicity"]
        for number, axis in enumerate("hkl"):
            index = grid.index_min[number] + np.arange(grid.dimensions[number])
            data[axis] = index / grid.divisions[number]
            data[axis].attrs.update(units="reciprocal lattice units", long_name=axis)
            data.attrs[f"{axis}_indices"] = number
        for name, (rows, values, kind, missing) in fields.items():
            dataset = data.create_dataset(
                name, grid.dimensions, kind, compression="gzip", compression_opts=1, shuffle=True, fillvalue=missing
            )
            _fill_box(dataset, rows, values)
            dataset.attrs["units"] = "counts" if kind is np.int32 else final.units


def _fill_box(dataset: h5py.Dataset, voxel: np.ndarray, values: np.ndarray) -> None:
    """Write values (n,) of voxel numbers (n,), ascending, to the chunks that have any, a layer of chunks at a time."""
    n_i, n_j, n_k = dataset.shape
    thick, wide, deep = dataset.chunks
    for first in range(0, n_i, thick):
        last = min(first + thick, n_i)
        start, stop = np.searchsorted(voxel, [first * n_j * n_k, last * n_j * n_k])
        line, k = np.divmod(voxel[start:stop], n_k)
        i, j = np.divmod(line, n_j)
        layer = np.full((last - first, n_j, n_k), dataset.fillvalue, dataset.dtype)
        layer[i - first, j, k] = values[start:stop]
        for left in np.unique(j // wide) * wide:
            within = (j >= left) & (j < left + wide)
            for top in np.unique(k[within] // deep) * deep:
                across, along = slice(left, left + wide), slice(top, top + deep)
                dataset[first:last, across, along] = layer[:, across, along]


def total_scattering(final: AbsoluteMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return voxel numbers (n,), ascending, their coherent scattering and its variance.

    Bragg peaks are included. It is on the map's final scale; on a relative one incoherent scattering
    is still in it.
    """
    merged = final.merged
    voxel = np.concatenate([merged.voxel, merged.bragg_voxel])
    order = np.argsort(voxel)
    voxel = voxel[order]
    total = np.concatenate([merged.total_intensity, merged.bragg_intensity])[order]
    variance = np.concatenate([merged.total_variance, merged.bragg_variance])[order]
    return voxel, final.scale * total - final.subtracted_at(voxel), final.scale**2 * variance
