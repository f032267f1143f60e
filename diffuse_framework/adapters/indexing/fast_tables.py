"""What the fast indexer found on an image, as a reflection table of DIALS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dxtbx import flumpy
from dxtbx.model import Experiment, ExperimentList

from diffuse_framework.adapters.images.experiments import reset_ids
from diffuse_framework.algorithms.geometry import project
from diffuse_framework.algorithms.indexing.spots import Spots
from diffuse_framework.algorithms.indexing.stills import StillResult
from diffuse_framework.model.geometry import Geometry

if TYPE_CHECKING:
    from dials.array_family import flex
    from dxtbx.model import Detector


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of a reflection table: predictions and spots of one lattice.

    Attributes:
        hkl, panel, px, s1: of each row.
        spot: number of its spot, -1 where none was found.
        prediction: its number among the predictions, -1 for a spot that none predicts.
        off_sphere: distance from the Ewald sphere, 1/angstrom.
    """

    hkl: np.ndarray
    panel: np.ndarray
    px: np.ndarray
    s1: np.ndarray
    spot: np.ndarray
    prediction: np.ndarray
    off_sphere: np.ndarray


def _rows_of(found: StillResult, geometry: Geometry) -> _Rows:
    """Bring predictions and explained spots of the first lattice together, one row a reflection."""
    fit, spots, predictions = found.lattices[0].fit, found.spots, found.predictions
    numbers = np.flatnonzero(fit.explained)
    # Of several spots of one reflection the nearest is taken.
    numbers = numbers[np.argsort(fit.across[numbers], kind="stable")]
    hkl, first = np.unique(fit.hkl[numbers], axis=0, return_index=True)
    numbers = numbers[first]
    node = hkl @ fit.setting_matrix.T
    ray = node + geometry.beam.s0
    length = np.linalg.norm(ray, axis=1)
    panel, px = project(geometry, ray)
    on = panel == spots.panel[numbers]
    seen = _Rows(
        hkl[on],
        panel[on],
        px[on],
        ray[on] / (length[on, None] * geometry.beam.wavelength),
        numbers[on],
        np.full(on.sum(), -1),
        (length - 1 / geometry.beam.wavelength)[on],
    )
    if predictions is None or found.summed is None:
        return seen
    of_hkl = {tuple(index): row for row, index in enumerate(predictions.hkl.tolist())}
    matched = np.array([of_hkl.get(tuple(index), -1) for index in seen.hkl.tolist()], int)
    spot = np.full(len(predictions), -1)
    spot[matched[matched >= 0]] = seen.spot[matched >= 0]
    alone = matched < 0
    whole = (predictions.hkl, predictions.panel, predictions.px, predictions.s1, spot, np.arange(len(predictions)))
    pairs = zip((*whole, predictions.off_sphere), vars(seen).values(), strict=True)
    return _Rows(*(np.concatenate([one, other[alone]]) for one, other in pairs))


def reflections_of(found: StillResult, geometry: Geometry, experiment: Experiment) -> flex.reflection_table:
    """Return the reflection table of an image: spots of its first lattice, and what was integrated.

    Args:
        found: an indexed image.
        geometry: that it was indexed with.
        experiment: of dxtbx, with the same models.
    """
    from dials.array_family import flex

    rows = _rows_of(found, geometry)
    n, spots, seen = len(rows.hkl), found.spots, rows.spot >= 0
    table = flex.reflection_table()
    table["miller_index"] = flex.miller_index(*(flex.int(np.ascontiguousarray(c, np.int32)) for c in rows.hkl.T))
    table["id"] = flex.int(n, 0)
    table["panel"] = flumpy.from_numpy(rows.panel.astype(np.uint64)) if n else flex.size_t()
    table["entering"] = flex.bool(n, False)
    table["s1"] = _vectors(rows.s1)
    q = np.linalg.norm(rows.hkl @ found.lattices[0].fit.setting_matrix.T, axis=1)
    table["d"] = flumpy.from_numpy(1 / q)
    table["delpsical.rad"] = flumpy.from_numpy(np.arcsin(np.clip(rows.off_sphere / q, -1, 1)))
    observed, variance = rows.px.copy(), np.zeros((n, 2))
    observed[seen], variance[seen] = spots.px[rows.spot[seen]], spots.variance_px[rows.spot[seen]]
    size = np.array([experiment.detector[int(number)].get_pixel_size() for number in rows.panel]).reshape(-1, 2)
    table["xyzcal.px"] = _vectors(_flat(rows.px))
    table["xyzcal.mm"] = _vectors(_flat(_millimetres(experiment.detector, rows.panel, rows.px)))
    table["xyzobs.px.value"] = _vectors(_flat(observed, 0.5))
    table["xyzobs.px.variance"] = _vectors(_flat(variance))
    table["xyzobs.mm.value"] = _vectors(_flat(_millimetres(experiment.detector, rows.panel, observed)))
    table["xyzobs.mm.variance"] = _vectors(_flat(variance * size**2))
    table["bbox"] = _boxes(rows, spots)
    flags = np.full(n, int(table.flags.predicted), np.int64)
    flags[seen] |= int(table.flags.strong) | int(table.flags.indexed) | int(table.flags.used_in_refinement)
    if found.summed is not None and found.predictions is not None:
        flags |= _add_intensities(table, found, rows)
    table["flags"] = flumpy.from_numpy(flags.astype(np.uint64)) if n else flex.size_t()
    if found.summed is not None:
        table.compute_corrections(ExperimentList([experiment]))
    reset_ids(table, 0, experiment.identifier)
    return table


def _add_intensities(table: flex.reflection_table, found: StillResult, rows: _Rows) -> np.ndarray:
    """Add the columns of integration; return the flag of those rows that were integrated."""
    summed, predictions = found.summed, found.predictions
    assert summed is not None and predictions is not None
    here = rows.prediction >= 0
    number = rows.prediction[here]
    columns = {
        "intensity.sum.value": summed.intensity,
        "intensity.sum.variance": summed.variance,
        "background.sum.value": summed.background,
        "background.mean": summed.background / np.maximum(summed.n_foreground, 1),
        "partiality": predictions.partiality,
    }
    for name, values in columns.items():
        column = np.zeros(len(here))
        column[here] = values[number]
        table[name] = flumpy.from_numpy(column)
    for name, counts in (("foreground", summed.n_foreground), ("background", summed.n_background)):
        pixels = np.zeros(len(here), np.int32)
        pixels[here] = counts[number]
        table[f"num_pixels.{name}"] = flumpy.from_numpy(pixels)
    done = np.zeros(len(here), bool)
    done[here] = summed.whole[number]
    return np.where(done, int(table.flags.integrated_sum), 0)


def _vectors(values: np.ndarray) -> Any:
    return flumpy.vec_from_numpy(np.ascontiguousarray(values, float))


def _flat(px: np.ndarray, z: float = 0.0) -> np.ndarray:
    return np.column_stack([px, np.full(len(px), z)])


def _millimetres(detector: Detector, panel: np.ndarray, px: np.ndarray) -> np.ndarray:
    mm = np.empty((len(px), 2))
    for number in np.unique(panel):
        here = panel == number
        found = detector[int(number)].pixel_to_millimeter(_vectors(px[here]))
        mm[here] = flumpy.to_numpy(found)
    return mm


def _boxes(rows: _Rows, spots: Spots) -> Any:
    """Boxes around spots, and small ones around reflections that no spot was found of."""
    from dials.array_family import flex

    corner = np.floor(rows.px).astype(np.int32)
    box = np.stack([corner[:, 0] - 2, corner[:, 0] + 3, corner[:, 1] - 2, corner[:, 1] + 3], -1)
    seen = rows.spot >= 0
    box[seen] = spots.box[rows.spot[seen]]
    columns = [*box.T, np.zeros(len(box), np.int32), np.ones(len(box), np.int32)]
    return flex.int6(*(flex.int(np.ascontiguousarray(column, np.int32)) for column in columns))
