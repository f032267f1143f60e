"""What a run leaves behind, under the names of the visual diagnostics guide."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np

from diffuse_framework.errors import DataError
from diffuse_framework.io.grid_file import grid_to_numbers
from diffuse_framework.io.whole import require_space, write_json, writing
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import AbsoluteMap, MergedMap
from diffuse_framework.model.pixels import CorrectedPixels
from diffuse_framework.model.scales import ImageScales, Scales


def write_results(folder: Path, scales: Scales, image_names: tuple[str, ...], final: AbsoluteMap) -> None:
    """Write the grid, the scales and the map of a run."""
    write_grid(folder / "global_voxel_grid_definition.json", final.merged.grid)
    write_scales(folder / "refined_scaling_model_params.json", scales, image_names)
    write_map(folder, final)


def file_stem(image_name: str) -> str:
    """Return a file name for what belongs to one image, whatever characters its name holds."""
    stem = Path(image_name).with_suffix("") if "#" not in image_name else Path(image_name)
    return re.sub(r"[^\w.-]+", "_", str(stem)).strip("._")


def write_grid(path: Path, grid: VoxelGrid) -> None:
    """Write ``global_voxel_grid_definition.json``."""
    write_json(path, grid_to_numbers(grid))


def write_scales(path: Path, scales: Scales, image_names: tuple[str, ...]) -> None:
    """Write ``refined_scaling_model_params.json``."""
    refined = {
        name: {"multiplicative_scale": scale, "multiplicative_scale_sigma": sigma, "additive_offset": 0.0}
        for name, scale, sigma in zip(image_names, scales.per_image, scales.per_image_sigma, strict=True)
    }
    write_json(
        path,
        {
            "refined_parameters": refined,
            "refinement_statistics": scales.statistics,
            "resolution_smoother": {"enabled": False, "control_points": []},
        },
    )


def read_scales(path: Path, image_names: tuple[str, ...]) -> ImageScales:
    """Return the scales of ``refined_scaling_model_params.json``, in the order of `image_names`.

    Raises:
        DataError: it can't be read, or lacks an image.
    """
    try:
        content = json.loads(Path(path).read_text())
        refined = [content["refined_parameters"][name] for name in image_names]
        scales = np.array([image["multiplicative_scale"] for image in refined], float)
        sigma = np.array([image["multiplicative_scale_sigma"] for image in refined], float)
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    except KeyError as error:
        raise DataError(f"{path} has no scale for {error}: it belongs to other sums") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is not a file of scales: {error}") from error
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise DataError(f"{path} holds scales that are not positive numbers")
    return ImageScales(scales, sigma, content.get("refinement_statistics", {}))


def write_map(folder: Path, final: AbsoluteMap) -> None:
    """Write the map as ``voxel_data_relative.npz`` and ``.nxs``."""
    write_map_npz(folder / "voxel_data_relative.npz", final.merged)
    write_map_nexus(folder / "voxel_data_relative.nxs", final)


def map_arrays(merged: MergedMap) -> dict[str, np.ndarray]:
    """Return the arrays of ``voxel_data_relative.npz``, each (n_voxels,).

    q is Cartesian in the reference crystal's frame, 1/angstrom without 2 pi. ``num_observations``
    counts patches of pixels on single images, ``num_pixels`` their pixels.
    """
    hkl, q = merged.grid.hkl_of(merged.voxel), merged.grid.q_of(merged.voxel)
    return {
        "voxel_indices": merged.voxel,
        "H_center": hkl[:, 0],
        "K_center": hkl[:, 1],
        "L_center": hkl[:, 2],
        "q_center_x": q[:, 0],
        "q_center_y": q[:, 1],
        "q_center_z": q[:, 2],
        "q_magnitude_center": np.linalg.norm(q, axis=1),
        "I_merged_relative": merged.intensity,
        "Sigma_merged_relative": np.sqrt(merged.variance),
        "num_observations": merged.multiplicity,
        "num_pixels": merged.pixels,
        "photons": merged.counts,
        "I_total_relative": merged.total_intensity,
        "Sigma_total_relative": np.sqrt(merged.total_variance),
    }


def write_map_npz(path: Path, merged: MergedMap) -> None:
    """Write ``voxel_data_relative.npz``."""
    with writing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **map_arrays(merged))


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


def write_map_nexus(path: Path, final: AbsoluteMap) -> None:
    """Write the map as a NeXus file whose default plot is the intensity over h, k, l.

    The box holds the asymmetric unit; voxels that were not observed are NaN.
    """
    merged, grid = final.merged, final.merged.grid
    fields = {
        "intensity": (final.intensity, np.float32, np.nan),
        "intensity_errors": (np.sqrt(final.variance), np.float32, np.nan),
        "total_intensity": (merged.total_intensity * final.scale, np.float32, np.nan),
        "total_intensity_errors": (np.sqrt(merged.total_variance) * final.scale, np.float32, np.nan),
        "multiplicity": (merged.multiplicity, np.int32, 0),
        "pixels": (merged.pixels, np.int32, 0),
    }
    require_space(path, 4 * len(fields) * grid.size)
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs.update(NX_class="NXentry", default="map")
        entry["title"] = f"diffuse scattering, {grid.symmetry.space_group}"
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
        for name, (values, kind, missing) in fields.items():
            box = np.full(grid.size, missing, kind)
            box[merged.voxel] = values
            dataset = data.create_dataset(
                name, data=box.reshape(grid.dimensions), compression="gzip", compression_opts=1, shuffle=True
            )
            dataset.attrs["units"] = "counts" if kind is np.int32 else final.units


def write_pixels(path: Path, image: Image, pixels: CorrectedPixels) -> None:
    """Write one image's corrected pixels as the guide's NPZ file."""
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
