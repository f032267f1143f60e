"""Maps laid out as entry 128 of the CXIDB (Meisburger, Case & Ando 2020), which mdx-lib and GOODVIBES read."""

from __future__ import annotations

from pathlib import Path

import gemmi
import h5py
import numpy as np

from diffuse_framework.algorithms.expansion import Box
from diffuse_framework.io.atomic import writing
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import RELATIVE

VARIATIONAL = "/maps/processed/variational"
"""The group of the map."""


def write_cxidb(path: Path, intensity: Box, sigma: Box | None, grid: VoxelGrid, units: str, title: str) -> None:
    """Write intensity and sigma over fractional indices with l >= 0; the other half is equal by Friedel's law.

    The layout is that of MATLAB, whose first axis is the last of HDF5. Where there is no value, it is NaN.

    Args:
        path: of the file.
        intensity: the whole of reciprocal space, centred on the origin.
        sigma: the same of its errors, None where there are none.
        grid: of the map.
        units: of the intensity.
        title: one line.
    """
    upper = slice(-intensity.index_min[2], None)
    lowest = np.array([*intensity.index_min[:2], 0])
    divisions = np.array(grid.divisions)
    boxes = {"I": intensity} | ({} if sigma is None else {"sigma": sigma})
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["sample"] = title
        crystal = file.create_group("crystal")
        symbol = gemmi.find_spacegroup_by_name(grid.symmetry.space_group.replace(" ", ""))
        crystal.attrs["spaceGroupNumber"] = np.uint32(1 if symbol is None else symbol.number)
        for name, value in zip(("a", "b", "c", "alpha", "beta", "gamma"), grid.cell, strict=True):
            crystal.attrs[name] = np.float32(value)
        group = file.create_group(VARIATIONAL)
        group.attrs["Description"] = title
        group.attrs["units"] = units if units == RELATIVE else "electron scattering per unit cell"
        group.attrs["grid_coordinates"] = "fractional Miller indices (h,k,l)"
        group.attrs["grid_size"] = np.array(intensity.values[:, :, upper].shape, np.uint32)
        group.attrs["grid_ori"] = lowest / divisions
        group.attrs["grid_delta"] = 1 / divisions
        for name, box in boxes.items():
            values = box.values[:, :, upper].transpose(2, 1, 0).astype(np.float32)
            group.create_dataset(name, data=values, fillvalue=np.nan, compression="gzip", compression_opts=1)
