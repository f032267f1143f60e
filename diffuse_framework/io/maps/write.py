"""Maps that no run made, in the files of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import writing
from diffuse_framework.io.map_box import write_map_nexus
from diffuse_framework.io.results import map_arrays, write_grid, write_map
from diffuse_framework.model.maps import RELATIVE, AbsoluteMap, MergedMap
from diffuse_framework.model.voxel_map import VoxelMap

__all__ = ["merged_of", "write_voxel_map"]


def merged_of(one: VoxelMap) -> MergedMap:
    """Return a map with the columns of a merged one; what isn't known is NaN, or 1 for counts of pixels."""
    unknown, once = np.full(len(one), np.nan), np.ones(len(one), np.int64)
    variance = unknown if one.sigma is None else one.sigma**2
    return MergedMap(
        grid=one.grid,
        voxel=one.voxel,
        intensity=one.intensity,
        variance=variance,
        multiplicity=(once if one.multiplicity is None else one.multiplicity).astype(np.int32),
        pixels=(once if one.pixels is None else one.pixels).astype(np.int64),
        counts=unknown if one.photons is None else one.photons,
        total_intensity=unknown,
        total_variance=unknown,
    )


def write_voxel_map(folder: Path, one: VoxelMap) -> Path:
    """Write grid and map as a run does, so that diffuse.report, diffuse.export and diffuse.compare read them.

    Args:
        folder: for the files.
        one: the map; in electron units it becomes ``voxel_data_absolute``, else ``voxel_data_relative``.

    Returns:
        The NPZ file.

    Raises:
        DataError: a file can't be written.
    """
    merged = merged_of(one)
    write_grid(folder / filenames.GRID, one.grid)
    absolute = one.units != RELATIVE
    for name in (filenames.RELATIVE_MAP, filenames.RELATIVE_BOX, filenames.ABSOLUTE_MAP, filenames.ABSOLUTE_BOX):
        (folder / name).unlink(missing_ok=True)
    if not absolute:
        final = AbsoluteMap(merged, merged.intensity, merged.variance, 1.0, 0.0, RELATIVE)
        write_map(folder, final, _halves_of(one, merged))
        return folder / filenames.RELATIVE_MAP
    kept = ("voxel_indices", "num_observations", "num_pixels", "photons")
    columns = {name: values for name, values in map_arrays(merged).items() if name in kept or "_center" in name}
    columns |= {"I_abs_diffuse": one.intensity, "Sigma_abs_diffuse": np.sqrt(merged.variance)}
    for number, half in enumerate([] if one.halves is None else one.halves, 1):
        columns[f"I_abs_diffuse_half_{number}"] = half
    with writing(folder / filenames.ABSOLUTE_MAP) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **columns)
    final = AbsoluteMap(merged, merged.intensity, merged.variance, 1.0, 0.0, one.units)
    write_map_nexus(folder / filenames.ABSOLUTE_BOX, final)
    return folder / filenames.ABSOLUTE_MAP


def _halves_of(one: VoxelMap, merged: MergedMap) -> tuple[MergedMap, MergedMap] | None:
    """Return half maps with the intensities that are known, their errors not."""
    if one.halves is None:
        return None
    halves = []
    for values in one.halves:
        seen = np.isfinite(values)
        part = merged_of(one.select(seen))
        unknown = np.full(len(part), np.nan)
        halves.append(
            MergedMap(
                part.grid,
                part.voxel,
                values[seen],
                unknown,
                part.multiplicity,
                part.pixels,
                unknown,
                unknown,
                unknown,
            )
        )
    return halves[0], halves[1]
