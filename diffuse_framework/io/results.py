"""What a run leaves behind, under the names of the visual diagnostics guide."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffuse_framework.algorithms.scaling.model import layout_from_numbers, layout_to_numbers
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.errors import DataError
from diffuse_framework.io.atomic import require_space, write_json, writing
from diffuse_framework.io.grid_file import grid_to_numbers
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import AbsoluteMap, AbsoluteReport, MergedMap
from diffuse_framework.model.pixels import CorrectedPixels
from diffuse_framework.model.scales import ErrorModel, ImageScales, Scales


def write_results(folder: Path, scales: Scales, image_names: tuple[str, ...], final: AbsoluteMap) -> None:
    """Write the grid, the scales and the map of a run."""
    write_grid(folder / "global_voxel_grid_definition.json", final.merged.grid)
    write_scales(folder / "refined_scaling_model_params.json", scales, image_names)
    write_map(folder, final)
    if final.report is not None:
        write_absolute(folder, final, scales, image_names)


def file_stem(image_name: str) -> str:
    """Return a file name for what belongs to one image, whatever characters its name holds."""
    stem = Path(image_name).with_suffix("") if "#" not in image_name else Path(image_name)
    return re.sub(r"[^\w.-]+", "_", str(stem)).strip("._")


def write_grid(path: Path, grid: VoxelGrid) -> None:
    """Write ``global_voxel_grid_definition.json``."""
    write_json(path, grid_to_numbers(grid))


def write_scales(path: Path, scales: Scales, image_names: tuple[str, ...]) -> None:
    """Write ``refined_scaling_model_params.json``.

    The keys of the visual diagnostics guide, for people and plots; and under "model" all that
    `read_scales` needs, where the model is more than one scale per image.
    """
    smooth = scales if isinstance(scales, SmoothScales) else None
    offsets = np.zeros(len(image_names)) if smooth is None else smooth.offsets_at_images().mean(axis=1)
    refined = {
        name: {"multiplicative_scale": scale, "multiplicative_scale_sigma": sigma, "additive_offset": offset}
        for name, scale, sigma, offset in zip(
            image_names, scales.per_image, scales.per_image_sigma, offsets, strict=True
        )
    }
    content = {
        "refined_parameters": refined,
        "refinement_statistics": scales.statistics,
        "resolution_smoother": {"enabled": False, "control_points": []},
        "error_model": vars(scales.error_model),
    }
    if smooth is not None:
        content["resolution_smoother"] = _resolution_smoother(smooth)
        content["model"] = _model_numbers(smooth)
    write_json(path, content)


def _model_numbers(smooth: SmoothScales) -> dict[str, Any]:
    return {
        "layout": layout_to_numbers(smooth.layout),
        "parameters": smooth.parameters,
        "sigma": smooth.sigma,
        "common_offset": smooth.common,
        "rejected": smooth.rejected,
        "rejected_columns": ["image", "voxel", "operator", "panel"],
        "voxel_numbering": _numbering(smooth.grid),
    }


def _numbering(grid: VoxelGrid) -> list[list[int]]:
    return [[int(n) for n in three] for three in (grid.divisions, grid.index_min, grid.dimensions)]


def _resolution_smoother(scales: SmoothScales) -> dict[str, Any]:
    """Control points of the resolution smoother: |q| and its mean over the images there."""
    part = scales.layout.components.get("resolution")
    if part is None:
        return {"enabled": False, "control_points": []}
    values = scales.layout.at_images("resolution", scales.parameters)
    return {
        "enabled": True,
        "control_points": [
            {"q": q, "value_mean": at_q.mean(), "value_min": at_q.min(), "value_max": at_q.max()}
            for q, at_q in zip(part.q.positions, values.T, strict=True)
        ],
    }


def read_scales(path: Path, image_names: tuple[str, ...], grid: VoxelGrid) -> ImageScales | SmoothScales:
    """Return the scales of ``refined_scaling_model_params.json``, in the order of `image_names`.

    Args:
        path: of the file.
        image_names: of the sums they are for.
        grid: of those sums.

    Raises:
        DataError: it can't be read, lacks an image, or holds a model of other images.
    """
    try:
        content = json.loads(Path(path).read_text())
        refined = [content["refined_parameters"][name] for name in image_names]
        scales = np.array([image["multiplicative_scale"] for image in refined], float)
        sigma = np.array([image["multiplicative_scale_sigma"] for image in refined], float)
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            raise DataError(f"{path} holds scales that are not positive numbers")
        error_model = ErrorModel(**content.get("error_model", {}))
        statistics = content.get("refinement_statistics", {})
        model = content.get("model")
        if model is not None:
            if list(content["refined_parameters"]) != list(image_names):
                raise DataError(f"{path} is a model of other images, or in another order; run diffuse.scale again")
            if not np.isfinite(np.array(model["parameters"], float)).all():
                raise DataError(f"{path} holds a model whose parameters are not all numbers")
            return SmoothScales(
                grid,
                layout_from_numbers(model["layout"]),
                np.array(model["parameters"], float),
                np.array([np.inf if value is None else value for value in model["sigma"]], float),
                np.array(model["common_offset"], float),
                # On another grid the numbers of outlying observations mean nothing.
                np.array(model["rejected"] if model["voxel_numbering"] == _numbering(grid) else [], np.int64).reshape(
                    -1, 4
                ),
                error_model,
                statistics,
            )
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    except KeyError as error:
        raise DataError(f"{path} has no scale for {error}: it belongs to other sums") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is not a file of scales: {error}") from error
    return ImageScales(scales, sigma, statistics, error_model)


Halves = tuple[MergedMap, MergedMap]


def write_map(folder: Path, final: AbsoluteMap, halves: Halves | None = None) -> None:
    """Write the map before its final scale as ``voxel_data_relative.npz`` and ``.nxs``.

    Args:
        folder: for the files.
        final: the map.
        halves: of two half sets of images; the NPZ file gets columns for them.
    """
    merged = final.merged
    write_map_npz(folder / "voxel_data_relative.npz", merged, halves)
    relative = AbsoluteMap(merged, merged.intensity, merged.variance, 1.0, 0.0, "relative")
    write_map_nexus(folder / "voxel_data_relative.nxs", relative)


def write_half_maps(folder: Path, halves: Halves) -> None:
    """Write the maps of two half sets as ``voxel_data_half_1.npz`` and ``voxel_data_half_2.npz``."""
    for number, half in enumerate(halves, 1):
        write_map_npz(folder / f"voxel_data_half_{number}.npz", half)


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
    return voxel, final.scale * total - _incoherent(final, voxel), final.scale**2 * variance


def _incoherent(final: AbsoluteMap, voxel: np.ndarray) -> np.ndarray:
    """Incoherent scattering (n,) that was subtracted at voxels (n,)."""
    if final.report is None:
        return np.zeros(len(voxel))
    theory = final.report.theory
    return np.interp(np.linalg.norm(final.merged.grid.q_of(voxel), axis=1), theory.q, theory.incoherent)


def write_absolute(
    folder: Path,
    final: AbsoluteMap,
    scales: Scales,
    image_names: tuple[str, ...],
    halves: Halves | None = None,
) -> None:
    """Write ``voxel_data_absolute.npz`` and ``.nxs``, and ``scaling_model_final.json``.

    The voxels' uncertainties are those of counting; k's own is common to all and kept apart. Half maps
    are put on the scale of the whole map.
    """
    assert final.report is not None
    merged, report = final.merged, final.report
    relative = map_arrays(merged)
    positions = [name for name in relative if name == "voxel_indices" or "_center" in name]
    incoherent = _incoherent(final, merged.voxel)
    columns = {}
    for number, (intensity, sigma) in enumerate(half_arrays(merged, halves) if halves else (), 1):
        columns[f"I_abs_diffuse_half_{number}"] = final.scale * intensity - incoherent
        columns[f"Sigma_abs_diffuse_half_{number}"] = final.scale * sigma
    with writing(folder / "voxel_data_absolute.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            **{name: relative[name] for name in (*positions, "num_observations")},
            I_abs_diffuse=final.intensity,
            Sigma_abs_diffuse=np.sqrt(final.variance),
            I_incoherent_theoretical=incoherent,
            I_abs_total=final.scale * merged.total_intensity - incoherent,
            Sigma_abs_total=final.scale * np.sqrt(merged.total_variance),
            Scale_Abs=final.scale,
            Scale_Abs_sigma=final.scale_sigma,
            **columns,
        )
    write_map_nexus(folder / "voxel_data_absolute.nxs", final)
    write_json(folder / "scaling_model_final.json", final_model(final, scales, image_names))
    write_json(folder / "absolute_scale.json", report_numbers(report))


def final_model(final: AbsoluteMap, scales: Scales, image_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the scaling model with k and incoherent scattering folded in.

    Expected counts of a pixel are exposure x (multiplicative_scale x I_abs + additive_offset(|q|)) +
    background, with I_abs in electron units per cell; a smooth model's other parts are under "model".
    """
    assert final.report is not None
    theory = final.report.theory
    step = max(len(theory.q) // 200, 1)
    smooth = scales if isinstance(scales, SmoothScales) else None
    offsets: list[Any] = [0.0] * len(image_names)
    content: dict[str, Any] = {
        "Scale_Abs": final.scale,
        "Scale_Abs_sigma": final.scale_sigma,
        "units": final.units,
        "meaning": "counts = exposure * (multiplicative_scale * I_abs + additive_offset) + background; "
        "additive_offset = multiplicative_scale * incoherent(|q|) + relative_offset, with |q| = 1/d. "
        "multiplicative_scale_sigma leaves out Scale_Abs_sigma, which all images share.",
        "incoherent": {
            "q": theory.q[::step],
            "intensity": theory.incoherent[::step],
            "source": theory.source,
        },
    }
    if smooth is not None:
        content["meaning"] = (
            "counts = exposure * a * d * (multiplicative_scale * s * I_abs + additive_offset) + background; "
            "additive_offset = multiplicative_scale * s * incoherent(|q|) + relative_offset(|q|), with |q| = 1/d. "
            "a, d and s are absorption, panel and resolution of 'model', 1 where it lacks them; its own scale is "
            "multiplicative_scale * Scale_Abs. relative_offset is given at the |q| of 'relative_offset_q'. "
            "multiplicative_scale_sigma leaves out Scale_Abs_sigma, which all images share."
        )
        content["model"] = _model_numbers(smooth)
        if "offset" in smooth.layout.components:
            content["relative_offset_q"] = smooth.layout.components["offset"].q.positions
            offsets = list(smooth.offsets_at_images())
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


def report_numbers(report: AbsoluteReport) -> dict[str, Any]:
    """Return the content of ``absolute_scale.json``: how the scale was found."""
    contents = report.contents
    return {
        "method": report.method,
        "estimates": {
            name: {
                "k": one.scale,
                "sigma": one.sigma,
                "sigma_counting": one.sigma_counting,
                "sigma_spread": one.sigma_spread,
                "b_factor": one.b_factor,
                "q": one.q,
                "k_of_q": one.scales,
            }
            for name, one in report.estimates.items()
        },
        "no_estimate": report.failures,
        "limit": report.limit,
        "beamstop_share": report.beamstop_share,
        "filled_share": report.filled_share,
        "forward_share": report.forward_share,
        "profile": {
            "q": report.q,
            "total_relative": report.total,
            "bragg_relative": report.bragg,
            "completeness": report.completeness,
            "sum_f0_squared": np.interp(report.q, report.theory.q, report.theory.coherent),
            "incoherent": np.interp(report.q, report.theory.q, report.theory.incoherent),
        },
        "tables": report.theory.source,
        "cell_contents": {
            "elements": dict(zip(contents.elements, contents.counts, strict=True)),
            "ordered": dict(zip(contents.elements, contents.ordered, strict=True)),
            "solvent": dict(zip(contents.elements, contents.solvent, strict=True)),
            "electrons": contents.electrons,
            "volume": contents.cell_volume,
            "copies": contents.copies,
            "molecule_mass": contents.molecule_mass,
            "matthews_coefficient": contents.matthews,
            "solvent_fraction": contents.solvent_fraction,
            "source": contents.source,
            "notes": contents.notes,
        },
    }


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
