"""The rules of a scaler."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np

from diffuse_framework.errors import DiffuseError
from diffuse_framework.io.plain import decoded, encoded
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import (
    SumsInMemory,
    SumsTable,
    VoxelSums,
    concatenate,
)
from diffuse_framework.testing.checks.altered import known_scales, reordered, with_columns
from diffuse_framework.testing.checks.common import (
    BrokenContract,
    call,
    check_finite,
    first_difference,
    require,
    title_of,
    unpickled,
)


def check_scaler(scaler: Any, sums: SumsInMemory, experiment: Experiment | None = None, rtol: float = 0.02) -> bool:
    """Check one scaler on one set of sums.

    Rules: scales are finite, positive, of mean 1; they depend neither on the unit of exposure nor on the
    order of images, rows or tables; they bring images of known scales no further apart; taken apart into plain
    values and put together again they are the same.

    Args:
        scaler: the plugin.
        sums: small enough to repeat.
        experiment: for models that need it.
        rtol: how well repeated fits agree, relatively; an iteration stops at a tolerance of its own.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    scales = _fitted(scaler, sums, experiment)
    if scales is not None:
        _check_scales(scaler, scales, sums)
        _check_scaler_invariance(scaler, scales, sums, experiment, rtol)
    _check_scaler_improves(scaler, experiment)
    return scales is not None


def _fitted(scaler: Any, sums: VoxelSums, experiment: Experiment | None) -> Scales | None:
    """Return the scales, None where the scaler refuses the sums."""
    try:
        return call(scaler, "fit", sums=sums, experiment=experiment)
    except DiffuseError:
        return None


def _check_scales(scaler: Any, scales: Scales, sums: SumsInMemory) -> None:
    n_images = len(sums.image_names)
    for name in ("per_image", "per_image_sigma"):
        values = getattr(scales, name)
        require(
            np.shape(values) == (n_images,), scaler, f"{name} has shape {np.shape(values)}, there are {n_images} images"
        )
        check_finite(scaler, name, values)
    require((scales.per_image > 0).all(), scaler, f"per_image holds {scales.per_image.min():g}; scales are positive")
    require((scales.per_image_sigma >= 0).all(), scaler, "per_image_sigma is negative")
    require(
        abs(scales.per_image.mean() - 1) < 1e-6,
        scaler,
        f"the scales have mean {scales.per_image.mean():.6g}; divide by it, so that the mean is 1",
    )
    for table in sums.pieces:
        for name, limit in (("factor", 0.0), ("offset", -np.inf)):
            values = _call_scales(scaler, scales, name, table)
            shape = np.shape(values)
            require(shape == (len(table),), scaler, f"{name} has shape {shape} for {len(table)} rows")
            check_finite(scaler, name, values)
            require((np.asarray(values) > limit).all(), scaler, f"{name} is not above {limit:g}")
    unpickled(scales)
    _check_plain(scaler, scales, sums)
    try:
        json.dumps(scales.statistics)
    except TypeError as error:
        raise BrokenContract(
            f"{title_of(scaler)}: statistics can't be written to JSON ({error}); use plain numbers, strings and lists"
        ) from error


def _check_plain(scaler: Any, scales: Scales, sums: SumsInMemory) -> None:
    """Check that the scales are what `scales_from_plain` makes of their `to_plain`, through JSON."""
    try:
        text = json.dumps(encoded(scales.to_plain(), "to_plain"))
    except DiffuseError as error:
        raise BrokenContract(f"{title_of(scaler)}: its scales can't be kept: {error}") from error
    except AttributeError as error:
        raise BrokenContract(f"{title_of(scaler)}: its scales have no to_plain ({error})") from error
    again = type(scaler).scales_from_plain(decoded(json.loads(text)), sums.image_names, sums.grid)
    for name in ("per_image", "per_image_sigma"):
        same = np.array_equal(getattr(scales, name), getattr(again, name))
        require(same, scaler, f"{name} is lost by to_plain and scales_from_plain")
    require(again.error_model == scales.error_model, scaler, "error_model is lost by to_plain and scales_from_plain")
    for table in sums.pieces:
        for name in ("factor", "offset", "keep"):
            where = first_difference(getattr(scales, name)(table), getattr(again, name)(table))
            require(where is None, scaler, f"{name} is another one after to_plain and scales_from_plain")


def _call_scales(scaler: Any, scales: Scales, method: str, table: SumsTable) -> np.ndarray:
    copied = pickle.loads(pickle.dumps(table))
    values = getattr(scales, method)(copied)
    where = first_difference(table, copied, "table")
    require(where is None, scaler, f"{method} of its scales changes what it is given: {where}")
    return values


def _check_scaler_invariance(
    scaler: Any, scales: Scales, sums: SumsInMemory, experiment: Experiment | None, rtol: float
) -> None:
    for unit in (2.0**20, 2.0**-20):
        other = _fitted(scaler, with_columns(sums, exposure=unit, bragg_exposure=unit), experiment)
        require(
            other is not None and np.allclose(other.per_image, scales.per_image, rtol=rtol),
            scaler,
            f"the scales change with the unit of exposure (all {unit:.3g} times as long, the same counts). Only "
            "ratios between images mean something; make thresholds relative",
        )
    if experiment is not None:
        return
    order = np.arange(len(sums.image_names))[::-1]
    other = _fitted(scaler, reordered(sums, order), None)
    require(
        other is not None and np.allclose(other.per_image, scales.per_image[order], rtol=rtol),
        scaler,
        "the scales change with the order of images, rows or tables. Compare with all images alike, not with the first",
    )


def _check_scaler_improves(scaler: Any, experiment: Experiment | None) -> None:
    if experiment is not None:
        return
    sums, truth = known_scales()
    scales = _fitted(scaler, sums, None)
    require(scales is not None, scaler, "refuses bright sums of six images that overlap well; see checks.known_scales")
    table = concatenate(list(sums.pieces))
    ratio = np.log(scales.factor(table) / truth[table.image])  # type: ignore[union-attr]
    before, after = np.std(np.log(truth[table.image])), np.std(ratio)
    require(
        after <= 1.01 * before,
        scaler,
        f"drives images apart: their scales spread by {before:.2f} before and by {after:.2f} after, in log. Expected "
        "counts are exposure x factor x intensity: is the factor upside down?",
    )
