"""The results of a run, under the file names that the visual checks expect."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.errors import DataError
from diffuse_framework.host.registry import PluginRecord
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import write_json, writing
from diffuse_framework.io.grid_file import grid_to_numbers
from diffuse_framework.io.map_box import write_map_nexus
from diffuse_framework.io.scales import model_record, write_scales
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import RELATIVE, AbsoluteMap, MergedMap, Subtracted
from diffuse_framework.model.pixels import CorrectedPixels
from diffuse_framework.model.scales import ImageScales, Scales

Halves = tuple[MergedMap, MergedMap]


def write_results(
    folder: Path,
    final: AbsoluteMap,
    scales: Scales,
    image_names: tuple[str, ...],
    maker: PluginRecord,
    halves: Halves | None = None,
) -> None:
    """Write what `write_map_files` does, and the scaling model.

    Args:
        folder: for the files.
        final: the map.
        scales: the scaling model.
        image_names: of the images it was fitted to.
        maker: the scaler that made it.
        halves: maps of two half sets of images.

    Raises:
        DataError: a file can't be written.
    """
    write_scales(folder / filenames.SCALES, scales, image_names, maker)
    write_map_files(folder, final, scales, image_names, maker, halves)


def write_map_files(
    folder: Path,
    final: AbsoluteMap,
    scales: Scales,
    image_names: tuple[str, ...],
    maker: PluginRecord,
    halves: Halves | None = None,
) -> None:
    """Write the grid and the map, with all that belongs to its absolute scale where it has one.

    Files of an absolute scale that an earlier run left, and this map does not have, are removed.

    Raises:
        DataError: a file can't be written.
    """
    write_grid(folder / filenames.GRID, final.merged.grid)
    if halves is not None:
        write_half_maps(folder, halves)
    write_map(folder, final, halves)
    if final.is_absolute:
        write_absolute(folder, final, scales, image_names, maker, halves)
    else:
        for name in (filenames.ABSOLUTE_MAP, filenames.ABSOLUTE_BOX, filenames.FINAL_MODEL, filenames.ABSOLUTE_SCALE):
            (folder / name).unlink(missing_ok=True)


def file_stem(image_name: str) -> str:
    """Return a file name for what belongs to one image, whatever characters its name holds."""
    stem = Path(image_name).with_suffix("") if "#" not in image_name else Path(image_name)
    return re.sub(r"[^\w.-]+", "_", str(stem)).strip("._")


def write_grid(path: Path, grid: VoxelGrid) -> None:
    """Write ``global_voxel_grid_definition.json``."""
    write_json(path, grid_to_numbers(grid))


def write_map(folder: Path, final: AbsoluteMap, halves: Halves | None = None) -> None:
    """Write the map before its final scale as ``voxel_data_relative.npz`` and ``.nxs``.

    Args:
        folder: for the files.
        final: the map.
        halves: of two half sets of images; the NPZ file gets columns for them.
    """
    merged = final.merged
    write_map_npz(folder / filenames.RELATIVE_MAP, merged, halves)
    relative = AbsoluteMap(merged, merged.intensity, merged.variance, 1.0, 0.0, RELATIVE)
    write_map_nexus(folder / filenames.RELATIVE_BOX, relative)


def write_half_maps(folder: Path, halves: Halves) -> None:
    """Write the maps of two half sets as ``voxel_data_half_1.npz`` and ``voxel_data_half_2.npz``."""
    for name, half in zip(filenames.HALF_MAPS, halves, strict=True):
        write_map_npz(folder / name, half)


def map_arrays(merged: MergedMap) -> dict[str, np.ndarray]:
    """Return the arrays of ``voxel_data_relative.npz``, each (n_voxels,).

    q is Cartesian in the reference crystal's frame, 1/angstrom without 2 pi. ``num_observations``
    counts patches of pixels on single images, ``num_pixels`` their pixels.
    """
    return dict(_map_columns(merged))


def _map_columns(merged: MergedMap) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of `map_arrays` one by one: all at a time are twice as large as the map."""
    yield "voxel_indices", merged.voxel
    hkl = merged.grid.hkl_of(merged.voxel)
    yield from ((f"{name}_center", hkl[:, axis]) for axis, name in enumerate("HKL"))
    del hkl
    q = merged.grid.q_of(merged.voxel)
    yield from ((f"q_center_{name}", q[:, axis]) for axis, name in enumerate("xyz"))
    yield "q_magnitude_center", np.linalg.norm(q, axis=1)
    del q
    yield "I_merged_relative", merged.intensity
    yield "Sigma_merged_relative", np.sqrt(merged.variance)
    yield "num_observations", merged.multiplicity
    yield "num_pixels", merged.pixels
    yield "photons", merged.counts
    yield "I_total_relative", merged.total_intensity
    yield "Sigma_total_relative", np.sqrt(merged.total_variance)


def half_arrays(merged: MergedMap, halves: Halves) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield intensities and uncertainties of half maps at the map's voxels, NaN where a half has none."""
    for half in halves:
        intensity, sigma = np.full((2, len(merged)), np.nan)
        _, here, there = np.intersect1d(merged.voxel, half.voxel, assume_unique=True, return_indices=True)
        intensity[here], sigma[here] = half.intensity[there], np.sqrt(half.variance[there])
        yield intensity, sigma


def _half_columns(merged: MergedMap, halves: Halves) -> Iterator[tuple[str, np.ndarray]]:
    for number, (intensity, sigma) in enumerate(half_arrays(merged, halves), 1):
        yield f"I_merged_relative_half_{number}", intensity
        yield f"Sigma_merged_relative_half_{number}", sigma


def write_map_npz(path: Path, merged: MergedMap, halves: Halves | None = None) -> None:
    """Write ``voxel_data_relative.npz``, with columns of half maps where there are any."""
    columns = chain(_map_columns(merged), _half_columns(merged, halves) if halves else ())
    # What np.savez_compressed writes, a column at a time, hardly larger and in a fifth of the time.
    with writing(path) as temporary, zipfile.ZipFile(temporary, "w", compresslevel=1) as file:
        for name, values in columns:
            file.compression = zipfile.ZIP_DEFLATED if _shrinks(values) else zipfile.ZIP_STORED
            with file.open(f"{name}.npy", "w", force_zip64=True) as column:
                np.lib.format.write_array(column, values, allow_pickle=False)


def _shrinks(values: np.ndarray) -> bool:
    """Whether compression is worth its time: what was measured has digits that look like chance."""
    some = values[len(values) // 2 :][:8192].tobytes()
    return len(zlib.compress(some, 1)) < 0.8 * len(some)


def read_map_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of ``voxel_data_relative.npz``.

    Raises:
        DataError: it can't be read, or is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"can't read {path}: {error}") from error
    if "voxel_indices" not in arrays:
        raise DataError(f"{path} is not a map: it has no voxel_indices")
    return arrays


def write_absolute(
    folder: Path,
    final: AbsoluteMap,
    scales: Scales,
    image_names: tuple[str, ...],
    maker: PluginRecord,
    halves: Halves | None = None,
) -> None:
    """Write ``voxel_data_absolute.npz`` and ``.nxs``, ``scaling_model_final.json`` and ``absolute_scale.json``.

    The voxels' uncertainties are those of counting; k's own is common to all and kept apart. Half maps
    are put on the scale of the whole map.
    """
    merged = final.merged
    relative = map_arrays(merged)
    positions = [name for name in relative if name == "voxel_indices" or "_center" in name]
    subtracted = final.subtracted_at(merged.voxel)
    columns = {}
    for number, (intensity, sigma) in enumerate(half_arrays(merged, halves) if halves else (), 1):
        columns[f"I_abs_diffuse_half_{number}"] = final.scale * intensity - subtracted
        columns[f"Sigma_abs_diffuse_half_{number}"] = final.scale * sigma
    with writing(folder / filenames.ABSOLUTE_MAP) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            **{name: relative[name] for name in (*positions, "num_observations")},
            I_abs_diffuse=final.intensity,
            Sigma_abs_diffuse=np.sqrt(final.variance),
            I_incoherent_theoretical=subtracted,
            I_abs_total=final.scale * merged.total_intensity - subtracted,
            Sigma_abs_total=final.scale * np.sqrt(merged.total_variance),
            Scale_Abs=final.scale,
            Scale_Abs_sigma=final.scale_sigma,
            **columns,
        )
    write_map_nexus(folder / filenames.ABSOLUTE_BOX, final)
    write_json(folder / filenames.FINAL_MODEL, final_model(final, scales, image_names, maker))
    write_json(folder / filenames.ABSOLUTE_SCALE, {"units": final.units} | final.report_table)


def final_model(
    final: AbsoluteMap, scales: Scales, image_names: tuple[str, ...], maker: PluginRecord
) -> dict[str, Any]:
    """Return the scaling model with the absolute scale, and what was subtracted, folded in.

    Expected counts of a pixel are exposure x (multiplicative_scale x I_abs + additive_offset(|q|)) +
    background, with I_abs in the map's final units; a model's other parts are under "model".
    """
    subtracted = final.subtracted or Subtracted(np.zeros(0), np.zeros(0))
    step = max(len(subtracted.q) // 200, 1)
    offsets: list[Any] = [0.0 if isinstance(scales, ImageScales) else None] * len(image_names)
    content: dict[str, Any] = {
        "Scale_Abs": final.scale,
        "Scale_Abs_sigma": final.scale_sigma,
        "units": final.units,
        "meaning": _MEANING,
        "incoherent": {
            "q": subtracted.q[::step],
            "intensity": subtracted.intensity[::step],
            "source": subtracted.source,
        },
    }
    if isinstance(scales, SmoothScales):
        content["meaning"] = _MEANING_SMOOTH
        if "offset" in scales.layout.components:
            content["relative_offset_q"] = scales.layout.components["offset"].q.positions
            offsets = list(scales.offsets_at_images())
        else:
            offsets = [0.0] * len(image_names)
    if not isinstance(scales, ImageScales):
        content["model"] = model_record(scales, maker)
    content["refined_parameters"] = {
        name: {
            "multiplicative_scale": scale / final.scale,
            "multiplicative_scale_sigma": sigma / final.scale,
            "relative_offset": offset,
        }
        for name, scale, sigma, offset in zip(
            image_names, scales.per_image, scales.per_image_sigma, offsets, strict=True
        )
    }
    content["refinement_statistics"] = scales.statistics
    return content


_MEANING = (
    "counts = exposure * (multiplicative_scale * I_abs + additive_offset) + background; "
    "additive_offset = multiplicative_scale * incoherent(|q|) + relative_offset, with |q| = 1/d. "
    "multiplicative_scale_sigma leaves out Scale_Abs_sigma, which all images share. A relative_offset of null is "
    "known to the scaler of 'model' alone."
)
_MEANING_SMOOTH = (
    "counts = exposure * a * d * (multiplicative_scale * s * I_abs + additive_offset) + background; "
    "additive_offset = multiplicative_scale * s * incoherent(|q|) + relative_offset(|q|), with |q| = 1/d. "
    "a, d and s are absorption, panel and resolution of 'model', 1 where it lacks them; its own scale is "
    "multiplicative_scale * Scale_Abs. relative_offset is given at the |q| of 'relative_offset_q'. "
    "multiplicative_scale_sigma leaves out Scale_Abs_sigma, which all images share."
)


def write_pixels(path: Path, image: Image, pixels: CorrectedPixels) -> None:
    """Write one image's corrected pixels as an NPZ file, with the arrays that the visual checks read."""
    with writing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            q_vectors=pixels.q,
            intensities=pixels.intensity,
            sigmas=pixels.sigma,
            original_panel_ids=pixels.panel,
            original_fast_coords=pixels.fast,
            original_slow_coords=pixels.slow,
            still_identifier=image.name,
        )
