"""The rules of an accumulator."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.model.conventions import BRAGG, DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import Background, PixelTable
from diffuse_framework.model.source import Frame
from diffuse_framework.model.voxels import (
    COLUMN_TYPES,
    COLUMNS,
    SumsTable,
    concatenate,
)
from diffuse_framework.testing.checks.common import check_finite, first_difference, require, unpickled


def check_accumulator(
    accumulator: Any,
    experiment: Experiment,
    frames: tuple[Frame, ...],
    grid: Any,
    pixels: PixelTable,
    masks: tuple[PixelMask, ...],
    backgrounds: tuple[Background | None, ...],
) -> bool:
    """Check one accumulator on images whose pixels the grid holds all.

    Rules: no photon is lost or counted twice; sums depend neither on the order of images nor on what was
    added before; sums of the parts of an image add up to those of the whole.

    Returns:
        True: nothing here may be refused.

    Raises:
        BrokenContract: a rule is broken.
    """
    geometry = experiment.geometries[0]
    arguments: list[dict[str, Any]] = [
        {
            "number": number,
            "image": image,
            "frame": frame,
            "mask": mask,
            "background": background,
            "pixels": pixels,
            "geometry": geometry,
        }
        for number, (image, frame, mask, background) in enumerate(
            zip(experiment.images, frames, masks, backgrounds, strict=True)
        )
    ]

    def add(adder: Any, given: dict[str, Any]) -> SumsTable:
        copied = pickle.loads(pickle.dumps(given))
        table = adder.add(*copied.values())
        where = first_difference(given, copied, "")
        require(where is None, accumulator, f"add changes what it is given: {where}; copy first")
        return table

    adder = accumulator.adder(grid)
    tables = [add(adder, given) for given in arguments]
    for given, table in zip(arguments, tables, strict=True):
        _check_sums_table(accumulator, table, given["number"], grid)
        _check_conserved(accumulator, table, given)
    other = unpickled(accumulator).adder(grid)
    for given, table in list(zip(arguments, tables, strict=True))[::-1]:
        where = first_difference(table, add(other, given))
        require(
            where is None,
            accumulator,
            f"the sums of an image depend on which images were added before it, or on pickling: column {where}. "
            "Scratch memory must be empty again when add returns",
        )
    for given, table in zip(arguments, tables, strict=True):
        _check_noise(accumulator, table, given)
    for given, table in zip(arguments, tables, strict=True):
        halves = [add(adder, given | {"mask": half}) for half in _halves(given["mask"])]
        _check_additive(accumulator, table, halves)
    all_masked = PixelMask(tuple(np.full(panel.shape, UNTRUSTED) for panel in geometry.panels))
    table = add(adder, arguments[0] | {"mask": all_masked})
    require(
        table.pixels.sum() == 0 and table.counts.sum() == 0 and table.bragg_counts.sum() == 0,
        accumulator,
        "counts untrusted pixels: an image that is masked altogether must leave no sums",
    )
    return True


def _check_sums_table(accumulator: Any, table: SumsTable, number: int, grid: Any) -> None:
    for name in COLUMNS:
        column = getattr(table, name)
        require(
            column.dtype == COLUMN_TYPES[name] and column.shape == (len(table),),
            accumulator,
            f"column {name} is {column.dtype} of shape {column.shape}; it is {COLUMN_TYPES[name]}, one per row",
        )
        check_finite(accumulator, f"column {name}", column)
    require((table.image == number).all(), accumulator, f"column image is not {number}, the image's number")
    require(
        len(table) == 0 or (table.voxel.min() >= 0 and table.voxel.max() < grid.size),
        accumulator,
        "column voxel holds numbers outside the grid",
    )
    keys = np.stack([table.panel.astype(np.int64), table.voxel, table.operator.astype(np.int64)])
    order = np.lexsort(keys[::-1])
    require(
        (order == np.arange(len(table))).all(),
        accumulator,
        "rows do not ascend in panel, voxel and operator",
    )
    for name in ("exposure", "pixels", "bragg_exposure", "bragg_pixels"):
        require((getattr(table, name) >= 0).all(), accumulator, f"column {name} is negative")
    require(
        ((table.share_squares >= 0) & (table.share_squares <= table.pixels * (1 + 1e-5))).all(),
        accumulator,
        "column share_squares is no sum of squares of shares: it is that of pixels at most, and not negative",
    )


def _expected_sums(given: dict[str, Any]) -> dict[str, float]:
    """What an image's sums must add up to."""
    totals = dict.fromkeys(("counts", "exposure", "pixels", "background"), 0.0)
    totals |= {f"bragg_{name}": 0.0 for name in totals}
    for number, panel in enumerate(given["geometry"].panels):
        values, classes = given["frame"].counts[number], given["mask"].panels[number]
        for prefix, kind in (("", DIFFUSE), ("bragg_", BRAGG)):
            use = classes == kind
            totals[f"{prefix}pixels"] += np.count_nonzero(use)
            totals[f"{prefix}counts"] += ((values[use].astype(float) - panel.pedestal) / panel.gain).sum()
            response = given["pixels"].response[number][use].sum(dtype=float)
            totals[f"{prefix}exposure"] += response * given["image"].exposure_s
            if given["background"] is not None:
                totals[f"{prefix}background"] += given["background"].counts[number][use].sum(dtype=float)
    return totals


def _check_conserved(accumulator: Any, table: SumsTable, given: dict[str, Any]) -> None:
    for name, expected in _expected_sums(given).items():
        values = getattr(table, name).astype(float)
        tolerance = 1e-5 * max(np.abs(values).sum(), abs(expected))
        require(
            abs(values.sum() - expected) <= tolerance,
            accumulator,
            f"column {name} adds up to {values.sum():.8g}, the pixels of {given['image'].name} to {expected:.8g}: "
            f"{'some are lost' if abs(values.sum()) < abs(expected) else 'some are counted twice'}",
        )


def _check_noise(accumulator: Any, table: SumsTable, given: dict[str, Any]) -> None:
    for prefix, kind in (("", DIFFUSE), ("bragg_", BRAGG)):
        expected = 0.0
        for number, panel in enumerate(given["geometry"].panels):
            use = given["mask"].panels[number] == kind
            expected += panel.read_noise**2 * np.count_nonzero(use)
            if given["background"] is not None:
                expected += given["background"].variance[number][use].sum(dtype=float)
        found = float(getattr(table, f"{prefix}background_variance").sum(dtype=float))
        require(
            abs(found - expected) <= 1e-5 * expected,
            accumulator,
            f"column {prefix}background_variance adds up to {found:.8g}, not to {expected:.8g}: the variance of the "
            "background, and panel.read_noise squared for each pixel",
        )


def _halves(mask: PixelMask) -> list[PixelMask]:
    """Two masks with every other pixel untrusted."""
    halves = []
    for parity in (0, 1):
        panels = []
        for panel in mask.panels:
            slow, fast = np.indices(panel.shape)
            panels.append(np.where((slow + fast) % 2 == parity, panel, UNTRUSTED).astype(np.uint8))
        halves.append(PixelMask(tuple(panels)))
    return halves


def _check_additive(accumulator: Any, whole: SumsTable, parts: list[SumsTable]) -> None:
    tables = (whole, concatenate(parts))
    size = max(int(table.voxel.max(initial=0)) for table in tables) + 1
    for name in ("counts", "exposure", "pixels"):
        once, twice = (sum_by(table.voxel, getattr(table, name), size) for table in tables)
        require(
            np.allclose(once, twice, rtol=1e-5, atol=1e-5 * np.abs(once).max()),
            accumulator,
            f"is not additive: column {name} of two halves of an image does not add up to that of the whole",
        )
