"""A fitted scaling model, and how it is made from sums: fit, outliers, errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from diffuse_framework.algorithms.bragg_reference import Reflections
from diffuse_framework.algorithms.observations import (
    Agreement,
    Outliers,
    Rejected,
    find_outliers,
    fit_error_model,
    outlier_report,
    voxel_q,
)
from diffuse_framework.algorithms.scaling import refuse_islands, shared_voxels
from diffuse_framework.algorithms.scaling_fit import Fit, Restraints, fit_model
from diffuse_framework.algorithms.scaling_model import (
    Layout,
    ScalingOptions,
    assemble_layout,
    evaluate,
    make_layout,
)
from diffuse_framework.algorithms.scaling_rows import RowSource, Survey, extent_of, survey
from diffuse_framework.algorithms.smoothers import CONSTANT, weight_matrix
from diffuse_framework.errors import DataError
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import ErrorModel, ImageScales, Scales
from diffuse_framework.model.voxels import ROW_BYTES, SumsTable, VoxelSums

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SmoothScales:
    """A fitted scaling model.

    Attributes:
        grid: that voxel numbers belong to.
        layout, parameters, sigma: the model, (n_parameters,).
        common: (n_q,) part of the offset that all images share in proportion to their scale, which
            is taken off: it can't be told from the map's isotropic part.
        rejected: (n, 4) image, voxel, operator and panel of outliers.
        error_model: of observations.
        statistics: how the fit went.
    """

    grid: VoxelGrid
    layout: Layout
    parameters: np.ndarray
    sigma: np.ndarray
    common: np.ndarray
    rejected: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    error_model: ErrorModel = ErrorModel()
    statistics: dict = field(default_factory=dict)

    @property
    def per_image(self) -> np.ndarray:
        """(n_images,) b of each image; their mean is 1."""
        return self.layout.image_scales(self.parameters)

    @property
    def per_image_sigma(self) -> np.ndarray:
        """(n_images,) its standard uncertainty, control points taken as independent."""
        if "scale" not in self.layout.parts:
            return np.zeros(self.layout.extent.n_images)
        part = self.layout.parts["scale"]
        squares = part.order_weights.power(2) @ self.sigma[self.layout.slices["scale"]] ** 2
        return np.sqrt(squares)[part.state]

    def factor(self, table: SumsTable) -> np.ndarray:
        """Return the multiplicative part for each row."""
        return self._evaluate(table)[0]

    def offset(self, table: SumsTable) -> np.ndarray:
        """Return the additive part for each row."""
        if "offset" not in self.layout.parts:
            return np.zeros(len(table))
        (factor, offset), q = self._evaluate(table), self._q(table)
        axis = self.layout.parts["offset"].q
        return offset - factor * (weight_matrix(axis, q) @ self.common)

    def keep(self, table: SumsTable) -> np.ndarray:
        """Return False for outliers."""
        result = np.ones(len(table), bool)
        if not len(self.rejected) or not len(table):
            return result
        here = self.rejected[np.isin(self.rejected[:, 0], np.unique(table.image))]
        maybe = np.flatnonzero(np.isin(table.voxel, here[:, 1]))
        columns = (table.image, table.voxel, table.operator, table.panel)
        keys = np.stack([column[maybe].astype(np.int64) for column in columns], axis=1)
        known = set(map(tuple, here.tolist()))
        result[maybe] = [tuple(key) not in known for key in keys.tolist()]
        return result

    def offsets_at_images(self) -> np.ndarray:
        """Return c at its control points for every image, (n_images, n_q), at its lowest 0."""
        if "offset" not in self.layout.parts:
            return np.zeros((self.layout.extent.n_images, 1))
        taken_off = self.layout.crystal_at_offset(self.parameters) * self.common
        return self.layout.at_images("offset", self.parameters) - taken_off

    def _q(self, table: SumsTable) -> np.ndarray:
        return np.linalg.norm(self.grid.q_of(table.voxel), axis=1)

    def _evaluate(self, table: SumsTable) -> tuple[np.ndarray, np.ndarray]:
        smooth_in_q = {"offset", "resolution"} & set(self.layout.parts)
        q = self._q(table) if smooth_in_q else np.zeros(len(table))
        return evaluate(self.layout, self.parameters, table.image, table.panel, table.fast, table.slow, q)


class KeptSums:
    """Sums that stay in memory once read, where they fit into what they may take."""

    def __init__(self, sums: VoxelSums, memory_mib: float) -> None:
        """Read nothing yet."""
        self._sums, self._limit = sums, memory_mib * 2**20
        self._kept: list[SumsTable] | None = None
        self.grid, self.image_names = sums.grid, sums.image_names

    def tables(self) -> Iterator[SumsTable]:
        """Yield all tables, from memory or as the sums do."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[SumsTable] | None = []
        size = 0
        for table in self._sums.tables():
            size += len(table) * ROW_BYTES
            kept = None if kept is None or size > self._limit else [*kept, table]
            yield table
        self._kept = kept


def data_sets_by_name(image_names: tuple[str, ...]) -> np.ndarray:
    """Return the data set of each image, (n,): those whose names differ in their last number only."""
    stems = [re.sub(r"\d+(?=\D*$)", "#", name) for name in image_names]
    numbers = {stem: number for number, stem in enumerate(dict.fromkeys(stems))}
    return np.array([numbers[stem] for stem in stems], np.int64)


def order_of_images(data_set: np.ndarray) -> np.ndarray:
    """Return the number of each image within its data set, (n,), from 0."""
    order = np.zeros(len(data_set))
    for number in np.unique(data_set):
        inside = data_set == number
        order[inside] = np.arange(np.count_nonzero(inside))
    return order


def order_by_angle(data_set: np.ndarray, setting_matrices: np.ndarray) -> np.ndarray:
    """Return how far the crystal has turned since the first image of its data set, (n,) degrees.

    Args:
        data_set: (n,) of each image.
        setting_matrices: (n, 3, 3) at the orientation of each image.
    """
    order = np.zeros(len(data_set))
    for number in np.unique(data_set):
        inside = np.flatnonzero(data_set == number)
        turns = setting_matrices[inside[1:]] @ np.linalg.inv(setting_matrices[inside[:-1]])
        cosines = np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1)
        order[inside[1:]] = np.cumsum(np.degrees(np.arccos(cosines)))
    return order


@dataclass(frozen=True)
class Recipe:
    """How a scaling model is fitted.

    Attributes:
        options: parts of the model.
        restraints: on control points.
        tolerance, max_cycles: of `fit_model`.
        outlier_limit: standard deviations beyond which an observation is rejected; None for never.
        error_model: whether to fit one.
        memory_mib: rows kept in memory.
    """

    options: ScalingOptions = ScalingOptions()
    restraints: Restraints = Restraints()
    tolerance: float = 0.02
    max_cycles: int = 30
    outlier_limit: float | None = 6.0
    error_model: bool = True
    memory_mib: float = 2048.0


Fitter = Callable[..., Fit]


def scale_smoothly(
    sums: VoxelSums,
    data_set: np.ndarray,
    order: np.ndarray,
    recipe: Recipe,
    fitter: Fitter = fit_model,
    reflections: Reflections | None = None,
) -> SmoothScales:
    """Fit the scaling model, reject outliers, fit again, and fit the error model.

    Args:
        sums: of all images.
        data_set, order: (n_images,) data set of each image, and where in it.
        recipe: what to do.
        fitter: minimises; called like `fit_model`.
        reflections: Bragg reflections that help to set the scales.

    Raises:
        DataError: nothing to scale, or images or data sets without overlap with the others.
        ConfigError: a model that can't be determined from any data.
    """
    sums = KeptSums(sums, recipe.memory_mib)
    surveyed = survey(sums)
    _refuse_dark_images(sums, surveyed)
    per_image = recipe.options.scale == "per_image"
    groups = np.arange(len(data_set)) if per_image else data_set
    if groups.max() > 0:
        names = (
            sums.image_names if per_image else tuple(f"data set {n + 1}" for n in range(data_set.max() + 1))
        )
        refuse_islands(sums, shared_voxels(sums), groups, names)
    q = voxel_q(sums)
    layout = make_layout(recipe.options, extent_of(surveyed, q, data_set, order))
    source = RowSource(sums, surveyed, recipe.memory_mib)
    if reflections is not None:
        source.extra = reflections.rows
        q = np.concatenate([q, reflections.q])
    gross = _gross_outliers(source, sums, layout, q, recipe)
    clean = source.without(gross) if gross else source
    fit = fitter(clean, layout, q, recipe.restraints, recipe.tolerance, recipe.max_cycles)
    scales = _scales(sums.grid, fit)
    agreement = Agreement(sums, scales)
    outliers = Outliers()
    if recipe.outlier_limit is not None:
        model = fit_error_model(agreement.by_signal()) if recipe.error_model else ErrorModel()
        outliers = find_outliers(sums, scales, recipe.outlier_limit, model, totals=agreement.totals)
        if not _same_rows(outliers.rows, gross):
            clean = source.without(outliers.rows)
            fit = fitter(
                clean, layout, q, recipe.restraints, recipe.tolerance, recipe.max_cycles, fit.parameters
            )
        if len(outliers) or gross:
            scales = replace(_scales(sums.grid, fit), rejected=outliers.keys)
            agreement = Agreement(sums, scales)
    scatter = agreement.by_signal(np.inf)
    model = fit_error_model(scatter) if recipe.error_model else ErrorModel()
    statistics = fit.statistics | {
        "chi_squared_per_observation": float(scatter.squares.sum() / max(scatter.expected.sum(), 1e-300)),
        "outliers": outlier_report(outliers, sums.image_names, surveyed.n_rows),
        "error_model": {"inflation": model.inflation, "fraction": model.fraction},
        "chi_squared": agreement.tables(model),
    }
    return replace(scales, error_model=model, statistics=statistics)


def _gross_outliers(
    source: RowSource, sums: KeptSums, layout: Layout, q: np.ndarray, recipe: Recipe
) -> Rejected:
    """Return rows that no change of scale explains, to be left out while the full model is first fitted.

    Offsets and factors that vary over the detector bend to a few very wrong observations, such as Bragg
    peaks that the mask missed, until nothing else fits. Scales alone bend less, and equal ones not at all:
    these two judge first. What is rejected in the end is judged by the full model.
    """
    gross: Rejected = {}
    if recipe.outlier_limit is None or set(layout.parts) <= {"scale"}:
        return gross
    only_scale = {name: part for name, part in layout.parts.items() if name == "scale"}
    for parts in ({}, only_scale) if only_scale else ({},):
        scales: Scales = ImageScales(np.ones(layout.extent.n_images), np.zeros(layout.extent.n_images))
        if parts:
            clean = source.without(gross) if gross else source
            simple = assemble_layout(layout.extent, parts)
            fit = fit_model(clean, simple, q, recipe.restraints, recipe.tolerance, recipe.max_cycles)
            scales = _scales(sums.grid, fit)
        agreement = Agreement(sums, scales)
        model = fit_error_model(agreement.by_signal())
        gross = find_outliers(sums, scales, recipe.outlier_limit, model, totals=agreement.totals).rows
    return gross


def _same_rows(first: Rejected, second: Rejected) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)


def _scales(grid: VoxelGrid, fit: Fit) -> SmoothScales:
    common = fit.common if "offset" in fit.layout.parts else np.zeros(CONSTANT.n_values)
    return SmoothScales(grid, fit.layout, fit.parameters, fit.sigma, common, statistics=fit.statistics)


def _refuse_dark_images(sums: VoxelSums, surveyed: Survey) -> None:
    dark = np.flatnonzero(surveyed.net_counts <= 0)
    if len(dark):
        shown = ", ".join(sums.image_names[image] for image in dark[:5]) + (", ..." if len(dark) > 5 else "")
        raise DataError(
            f"{len(dark)} images have no scattering above their background ({shown}); leave them out, or "
            "check the background"
        )
