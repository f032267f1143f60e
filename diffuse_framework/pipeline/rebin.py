"""The map of a run on coarser voxels: from its sums where they are there, else from the map."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffuse_framework.algorithms.comparison.regridding import Rebinning, rebinned, rebinned_sums
from diffuse_framework.algorithms.statistics import SomeImages, half_sets
from diffuse_framework.errors import DataError
from diffuse_framework.host.registry import Registry
from diffuse_framework.io import filenames
from diffuse_framework.io.inputs import read_arrays
from diffuse_framework.io.maps.hints import MapHints
from diffuse_framework.io.maps.read import read_voxel_map
from diffuse_framework.io.scales import read_scales
from diffuse_framework.io.sums_store import StoredSums
from diffuse_framework.model.maps import RELATIVE, AbsoluteMap, MergedMap, Subtracted
from diffuse_framework.model.voxel_map import VoxelMap

logger = logging.getLogger(__name__)

EITHER, SUMS, MAP = "sums_or_map", "sums", "map"

# The merger whose formula rebinned sums are merged by.
_OF_SUMS = "poisson"


def rebin(
    path: Path,
    how: Rebinning,
    registry: Registry,
    hints: MapHints = MapHints(),  # noqa: B008
    source: str = EITHER,
    seed: int = 0,
    merger: str = _OF_SUMS,
) -> VoxelMap:
    """Return a map on coarser voxels.

    Args:
        path: of a folder of results, of its ``sums.h5``, or of a file of a map.
        how: divisions, and which voxels are used.
        registry: of plugins: scales may be another's.
        hints: what the file of a map may leave open.
        source: "sums", "map", or "sums_or_map" for sums where there are any.
        seed: of the random halves of the images, for half maps.
        merger: name of the one that made the run's map. Sums can be rebinned as `poisson` merges only; the map of
            another is rebinned itself.

    Raises:
        DiffuseError: files that can't be read, divisions that can't be had, no voxel left.
    """
    path = Path(path)
    sums = path / filenames.SUMS if path.is_dir() else path if path.name == filenames.SUMS else None
    if sums is not None and merger != _OF_SUMS and source != MAP:
        reason = f"the map was merged by {merger}, sums are rebinned as {_OF_SUMS} merges"
        if source == SUMS:
            raise DataError(f"{reason}: input.source=map takes the map")
        logger.warning("Not the sums but the map is rebinned, for %s", reason)
        source = MAP
    if sums is not None and source != MAP:
        if sums.is_file() and sums.with_name(filenames.SCALES).is_file():
            return _of_sums(sums, how, registry, seed)
        if source == SUMS or sums == path:
            raise DataError(
                f"{sums} and its {filenames.SCALES} are needed to rebin sums; input.source=map takes the map"
            )
    elif source == SUMS:
        raise DataError(f"{path} is a map: give the folder of results, or sums.h5, to rebin sums")
    logger.info("Rebinning the map of %s", path)
    return rebinned(read_voxel_map(path.parent if sums == path else path, hints), how)


def _of_sums(path: Path, how: Rebinning, registry: Registry, seed: int) -> VoxelMap:
    sums = StoredSums(path)
    scales = read_scales(path.with_name(filenames.SCALES), sums.image_names, sums.grid, registry)
    logger.info("Rebinning the sums of %d images in %s", len(sums.image_names), path)
    merged = rebinned_sums(sums, scales, how)
    halves = None
    if len(sums.image_names) > 1:
        second = half_sets(len(sums.image_names), np.random.default_rng(seed))
        try:
            first, other = (rebinned_sums(sums, SomeImages(scales, use), how) for use in (~second, second))
            halves = first, other
        except DataError as error:
            logger.info("No half maps: %s", error)
    return VoxelMap.of(_on_final_scale(merged, path.parent), halves, str(path.parent))


def _on_final_scale(merged: MergedMap, folder: Path) -> AbsoluteMap:
    """Return a map on the absolute scale that the run found, if it found one."""
    final = AbsoluteMap(merged, merged.intensity, merged.variance, 1.0, 0.0, RELATIVE)
    path = folder / filenames.ABSOLUTE_MAP
    if not path.is_file():
        return final
    found = read_arrays(path, ("q_magnitude_center", "I_incoherent_theoretical", "Scale_Abs", "Scale_Abs_sigma"))
    q, first = np.unique(found["q_magnitude_center"], return_index=True)
    subtracted = Subtracted(q, found["I_incoherent_theoretical"][first], "of the run")
    scale = float(found["Scale_Abs"])
    final = replace(
        final,
        scale=scale,
        scale_sigma=float(found["Scale_Abs_sigma"]),
        units="electron units per unit cell",
        subtracted=subtracted,
    )
    taken_off = final.subtracted_at(merged.voxel)
    return replace(final, intensity=scale * merged.intensity - taken_off, variance=scale**2 * merged.variance)
