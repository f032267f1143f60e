"""What the commands that make pictures share: files in, figures and texts out."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffuse_framework.adapters.images.masks import read_mask
from diffuse_framework.adapters.images.single_image import crystal_rotations, image_paths, read_image
from diffuse_framework.errors import DataError
from diffuse_framework.io import filenames
from diffuse_framework.io.atomic import make_folder, writing
from diffuse_framework.io.inputs import (
    read_arrays,
    read_background,
    read_grid,
    read_json,
    read_map,
    read_pixels,
    voxel_numbers,
)
from diffuse_framework.io.maps.read import read_voxel_map
from diffuse_framework.model.voxel_map import VoxelMap
from diffuse_framework.report.image import pictures as image_pictures
from diffuse_framework.report.image.pictures import Extraction
from diffuse_framework.report.map import pictures as map_pictures
from diffuse_framework.report.map.pictures import MapData

logger = logging.getLogger("diffuse_framework.look")

EXTRACTION_SUMMARY = "extraction_diagnostics_summary.txt"
MAP_SUMMARY = "phase3_diagnostics_summary.txt"
_DPI = 110


def save_figure(path: Path, figure: Figure, dpi: int = _DPI) -> None:
    """Write a figure as PNG."""
    with writing(path) as temporary:
        # Tight: the layout of a figure may leave labels beside axes of fixed aspect outside of it.
        figure.savefig(temporary, dpi=dpi, format="png", bbox_inches="tight")


def save_text(path: Path, text: str) -> None:
    """Write a text file."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _save_all(folder: Path, pictures: Iterable[tuple[str, Figure]]) -> list[str]:
    names = []
    for name, figure in pictures:
        save_figure(folder / name, figure)
        logger.debug("Drew %s", folder / name)
        names.append(name)
    return names


def load_extraction(
    raw_image: Path,
    expt: Path,
    total_mask: Path,
    npz_file: Path,
    bragg_mask: Path | None = None,
    pixel_mask: Path | None = None,
    bg_map: Path | None = None,
) -> Extraction:
    """Read one image and what was taken from it.

    Raises:
        DataError: a file that can't be read, or that does not belong to the image.
    """
    frame, geometry, _ = read_image(raw_image, expt)
    shapes = [panel.shape for panel in geometry.panels]
    total = _fitting(read_mask(total_mask), shapes, total_mask)
    trusted = _fitting(read_mask(pixel_mask), shapes, pixel_mask) if pixel_mask else None
    bragg = _bragg(_fitting(read_mask(bragg_mask), shapes, bragg_mask), total) if bragg_mask else None
    background = _fitting(read_background(bg_map), shapes, bg_map) if bg_map else None
    pixels, has_places = read_pixels(npz_file)
    if has_places:
        _check_places(pixels, shapes, npz_file)
    photons = tuple(
        (values - panel.pedestal) / panel.gain for values, panel in zip(frame.counts, geometry.panels, strict=True)
    )
    if trusted is None:
        trusted = tuple(
            (values >= panel.trusted_range[0]) & (values <= panel.trusted_range[1])
            for values, panel in zip(frame.counts, geometry.panels, strict=True)
        )
    return Extraction(frame.name, photons, total, trusted, bragg, background, pixels, has_places)


def _fitting(panels: tuple[np.ndarray, ...], shapes: list, path: Path) -> tuple[np.ndarray, ...]:
    found = [panel.shape for panel in panels]
    if found != shapes:
        raise DataError(f"{path} has panels of {found} (slow, fast) pixels, the image has {shapes}")
    return panels


def _bragg(mask: tuple[np.ndarray, ...], total: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Return True where a pixel is Bragg, from a file that may say it either way.

    Bragg masks of the visual checks are True on peaks, those of dials.generate_mask are False there. The
    total mask, which leaves peaks out, tells which it is.
    """
    allowed_and_true = sum(int((m & t).sum()) for m, t in zip(mask, total, strict=True))
    allowed_and_false = sum(int((~m & t).sum()) for m, t in zip(mask, total, strict=True))
    return mask if allowed_and_true <= allowed_and_false else tuple(~panel for panel in mask)


def _check_places(pixels: Any, shapes: list, path: Path) -> None:
    if pixels.panel.min() < 0 or pixels.panel.max() >= len(shapes):
        raise DataError(f"{path} has pixels on panels {pixels.panel.min()} to {pixels.panel.max()} of {len(shapes)}")
    sizes = np.array(shapes)[pixels.panel]
    place = np.stack([pixels.slow, pixels.fast], axis=1)
    if ((place < 0) | (place >= sizes)).any():
        raise DataError(f"{path} has pixels outside the panels of the image: it belongs to another detector")


def look_at_extraction(data: Extraction, folder: Path, inputs: dict[str, str]) -> Path:
    """Write all pictures and texts on one image; return the path of the summary."""
    make_folder(folder)
    names = _save_all(folder, image_pictures.pictures(data))
    save_text(folder / "intensity_correction_summary.txt", image_pictures.correction_text(data))
    text = image_pictures.summary_text(data, inputs, [*names, "intensity_correction_summary.txt"])
    save_text(folder / EXTRACTION_SUMMARY, text)
    logger.info("%s", text)
    return folder / EXTRACTION_SUMMARY


def load_map(
    grid_file: Path,
    scales_file: Path,
    voxel_file: Path,
    pixel_files: Iterable[Path] = (),
    expt_files: Iterable[Path] = (),
) -> MapData:
    """Read a merged map with its grid and scales.

    Args:
        grid_file: ``global_voxel_grid_definition.json``.
        scales_file: ``refined_scaling_model_params.json``.
        voxel_file: ``voxel_data_relative.npz`` or HDF5.
        pixel_files: corrected pixels of single images, to show what was measured.
        expt_files: the experiments they belong to, in the same order or one for all.

    Raises:
        DataError: a file that can't be read, or that does not belong to the others.
    """
    grid = read_grid(grid_file)
    arrays = read_map(voxel_file)
    voxel = voxel_numbers(grid, arrays)
    outside = int(np.count_nonzero(voxel < 0))
    if outside:
        raise DataError(
            f"{outside} of {len(voxel)} voxels of {voxel_file} lie outside the grid of {grid_file}: they belong to "
            "different runs"
        )
    order = np.argsort(voxel)
    scales, sigma, names, statistics, smoother = read_scaling(scales_file)
    return MapData(
        grid=grid,
        voxel=voxel[order],
        intensity=arrays["I_merged_relative"][order].astype(float),
        sigma=arrays["Sigma_merged_relative"][order].astype(float),
        multiplicity=arrays["num_observations"][order].astype(np.int64),
        units="relative",
        scales=scales,
        scales_sigma=sigma,
        image_names=names,
        statistics=statistics,
        smoother=smoother,
        points=_points(list(pixel_files), list(expt_files)),
    )


def read_scaling(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], dict[str, Any], np.ndarray]:
    """Return scales, their sigmas, image names, statistics and the smoother's control points.

    Raises:
        DataError: it can't be read, or lacks something.
    """
    content = read_json(path)
    try:
        refined = content["refined_parameters"]
        scales = np.array([image["multiplicative_scale"] for image in refined.values()], float)
        sigma = np.array(
            [
                np.nan if image.get("multiplicative_scale_sigma") is None else image["multiplicative_scale_sigma"]
                for image in refined.values()
            ],
            float,
        )
        statistics = dict(content.get("refinement_statistics") or {})
        smoother = content.get("resolution_smoother") or {}
        points = smoother.get("control_points") or [] if smoother.get("enabled") else []
        curve = np.array([_control_point(point, n, len(points)) for n, point in enumerate(points)]).reshape(-1, 2)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not a file of scales: {error!r}") from error
    if len(scales) == 0:
        raise DataError(f"{path} holds no scale")
    return scales, sigma, tuple(refined), statistics, curve


def _control_point(point: Any, number: int, n_points: int) -> tuple[float, float]:
    """Return (|q|, value) of a control point: an object, a pair, or a value alone at its place in 0 to 1."""
    if isinstance(point, dict):
        value = next(point[key] for key in ("value_mean", "value") if key in point)
        return float(point["q"]), float(value)
    if isinstance(point, list | tuple):
        return float(point[0]), float(point[1])
    return number / max(n_points - 1, 1), float(point)


def _points(pixel_files: list[Path], expt_files: list[Path]) -> np.ndarray:
    """Return a sample of measured scattering vectors (m, 3) in the frame of the crystal; none without experiments."""
    rotations = [rotation for path in expt_files for rotation in crystal_rotations(path)]
    if pixel_files and len(rotations) not in (1, len(pixel_files)):
        logger.warning(
            "%d files of pixels and %d crystals: without the experiment of each image it isn't known where in the "
            "grid its pixels are; observed voxels are shown instead",
            len(pixel_files),
            len(rotations),
        )
        return np.zeros((0, 3))
    samples = []
    for number, path in enumerate(pixel_files):
        pixels, _ = read_pixels(path)
        sample = pixels.q[:: max(1, len(pixels.q) // 2000)]
        samples.append(sample @ rotations[number if len(rotations) > 1 else 0])
    return np.concatenate(samples) if samples else np.zeros((0, 3))


def look_at_map(data: MapData, folder: Path, inputs: dict[str, str], max_points: int) -> Path:
    """Write all pictures and texts on a map; return the path of the summary."""
    make_folder(folder)
    names = _save_all(folder, map_pictures.pictures(data, max_points))
    save_text(folder / "grid_summary.txt", map_pictures.grid_text(data.grid))
    save_text(folder / "scaling_parameters_summary.txt", map_pictures.scaling_text(data))
    text = map_pictures.summary_text(data, inputs, [*names, "grid_summary.txt", "scaling_parameters_summary.txt"])
    save_text(folder / MAP_SUMMARY, text)
    logger.info("%s", text)
    return folder / MAP_SUMMARY


def run_map(folder: Path) -> MapData:
    """Return the map of a run, on the absolute scale where it has one.

    A map that no run made, such as a difference, has no scales.

    Raises:
        DataError: files that are not there or can't be read.
    """
    maps = [folder / name for name in (filenames.ABSOLUTE_MAP, filenames.RELATIVE_MAP)]
    if not (folder / filenames.SCALES).is_file() and any(path.is_file() for path in maps):
        return _map_without_scales(read_voxel_map(folder))
    data = load_map(
        folder / filenames.GRID,
        folder / filenames.SCALES,
        folder / filenames.RELATIVE_MAP,
    )
    absolute = folder / filenames.ABSOLUTE_MAP
    if not absolute.is_file():
        return data
    arrays = read_arrays(absolute, ("voxel_indices", "I_abs_diffuse", "Sigma_abs_diffuse"))
    if not np.array_equal(np.sort(arrays["voxel_indices"]), data.voxel):
        logger.warning("%s holds other voxels than the relative map, which is shown instead", absolute)
        return data
    order = np.argsort(arrays["voxel_indices"])
    return replace(
        data,
        intensity=arrays["I_abs_diffuse"][order].astype(float),
        sigma=arrays["Sigma_abs_diffuse"][order].astype(float),
        units="electron units per cell",
    )


def _map_without_scales(one: VoxelMap) -> MapData:
    once, nothing = np.ones(len(one), np.int64), np.zeros(0)
    return MapData(
        grid=one.grid,
        voxel=one.voxel,
        intensity=one.intensity,
        sigma=np.full(len(one), np.nan) if one.sigma is None else one.sigma,
        multiplicity=once if one.multiplicity is None else one.multiplicity.astype(np.int64),
        units=one.units.replace("unit cell", "cell"),
        scales=nothing,
        scales_sigma=nothing,
        image_names=(),
    )


def images_of_run(folder: Path) -> dict[str, Path]:
    """Return the image files of a run that are still where they were, by name."""
    path = folder / filenames.INDEXED
    return {image.name: image for image in image_paths(path) if image.is_file()} if path.is_file() else {}
