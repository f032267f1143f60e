"""A fitted scaling model, and how it is made from sums: fit, outliers, errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from diffuse_framework.algorithms.geometry import voxel_q
from diffuse_framework.algorithms.scaling.bragg_reference import Reflections
from diffuse_framework.algorithms.scaling.error_model import Agreement, fit_error_model
from diffuse_framework.algorithms.scaling.gauss_newton import Fit, Restraints, fit_model
from diffuse_framework.algorithms.scaling.model import (
    Extent,
    Layout,
    ScalingOptions,
    assemble_layout,
    evaluate,
    layout_from_numbers,
    layout_to_numbers,
    make_layout,
    same_for_all,
)
from diffuse_framework.algorithms.scaling.observations import Observations, Survey, gather
from diffuse_framework.algorithms.scaling.outliers import Outliers, find_outliers, outlier_report
from diffuse_framework.algorithms.scaling.per_image import refuse_unconnected
from diffuse_framework.algorithms.scaling.smoothers import CONSTANT, line_at
from diffuse_framework.errors import DataError
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import ErrorModel
from diffuse_framework.model.voxels import SumsTable, VoxelSums

logger = logging.getLogger(__name__)

# Rows from which the errors are judged that outliers are measured in: to 0.2 %.
ERROR_ROWS = 1_000_000
# Each takes more outliers off, and errors shrink; two or three are the rule.
MOST_JUDGEMENTS = 10


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
    _last: tuple[SumsTable, np.ndarray, np.ndarray] | None = field(default=None, init=False, repr=False)

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
        return self._at_rows(table)[0]

    def offset(self, table: SumsTable) -> np.ndarray:
        """Return the additive part for each row."""
        return self._at_rows(table)[1]

    def at(
        self, image: np.ndarray, panel: np.ndarray, fast: np.ndarray, slow: np.ndarray, q: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return factor and offset of rows, (n,) each; arguments are those of `evaluate`."""
        factor, offset = evaluate(self.layout, self.parameters, image, panel, fast, slow, q)
        if "offset" in self.layout.parts:
            offset -= factor * line_at(self.layout.parts["offset"].q, self.common, q)
        return factor, offset

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

    def to_plain(self) -> dict[str, Any]:
        """Return the model, its outliers and how voxels were numbered."""
        return {
            "layout": layout_to_numbers(self.layout),
            "parameters": self.parameters,
            "sigma": self.sigma,
            "common_offset": self.common,
            "rejected": self.rejected,
            "rejected_columns": ["image", "voxel", "operator", "panel"],
            "voxel_numbering": _numbering(self.grid),
            "error_model": asdict(self.error_model),
            "statistics": self.statistics,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], grid: VoxelGrid) -> SmoothScales:
        """Return the model that `to_plain` took apart, for sums on `grid`."""
        same_voxels = plain["voxel_numbering"] == _numbering(grid)
        return cls(
            grid,
            layout_from_numbers(plain["layout"]),
            plain["parameters"],
            plain["sigma"],
            plain["common_offset"],
            # On another grid the numbers of outlying observations mean nothing.
            plain["rejected"] if same_voxels else np.zeros((0, 4), np.int64),
            ErrorModel(**plain["error_model"]),
            plain["statistics"],
        )

    def offsets_at_images(self) -> np.ndarray:
        """Return c at its control points for every image, (n_images, n_q), at its lowest 0."""
        if "offset" not in self.layout.parts:
            return np.zeros((self.layout.extent.n_images, 1))
        taken_off = self.layout.crystal_at_offset(self.parameters) * self.common
        return self.layout.at_images("offset", self.parameters) - taken_off

    def _at_rows(self, table: SumsTable) -> tuple[np.ndarray, np.ndarray]:
        """Return factor and offset; those of the last table are kept, because who asks for one asks for the other."""
        if self._last is None or self._last[0] is not table:
            q = voxel_q(self.grid, table.voxel) if self.layout.depends_on_q else np.zeros(len(table))
            at = self.at(table.image, table.panel, table.fast, table.slow, q)
            object.__setattr__(self, "_last", (table, *at))
        assert self._last is not None
        return self._last[1:]


def _numbering(grid: VoxelGrid) -> list[list[int]]:
    return [[int(n) for n in three] for three in (grid.divisions, grid.index_min, grid.dimensions)]


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
        memory_mib: of `gather`.
    """

    options: ScalingOptions = ScalingOptions()
    restraints: Restraints = Restraints()
    tolerance: float = 0.02
    max_cycles: int = 30
    outlier_limit: float | None = 6.0
    error_model: bool = True
    memory_mib: float = 1024.0


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
    options = recipe.options
    observations, surveyed = gather(sums, recipe.memory_mib, places=options.panel or options.absorption)
    _refuse_dark_images(sums, surveyed)
    if options.scale == "per_image":
        refuse_unconnected(observations, np.arange(len(data_set)), sums.image_names)
    else:
        names = tuple(f"data set {number + 1}" for number in range(data_set.max() + 1))
        refuse_unconnected(observations, data_set, names)
    layout = make_layout(options, Extent(data_set, order, surveyed.q, surveyed.panels))

    def fitted(layout: Layout, accepted: np.ndarray, fitter: Fitter, start: np.ndarray | None = None) -> Fit:
        source = observations.accepting(accepted)
        if reflections is not None:
            source = source.with_reflections(*reflections)
        return fitter(source, layout, recipe.restraints, recipe.tolerance, recipe.max_cycles, start)

    judge = _Judge(sums.grid, observations, recipe)
    accepted = judge.without_gross_outliers(layout, fitted)
    fit = fitted(layout, accepted, fitter)
    scales = _scales(sums.grid, fit)
    outliers = Outliers()
    if recipe.outlier_limit is not None:
        outliers = judge.outliers(scales)
        assert outliers.accepted is not None
        if not np.array_equal(outliers.accepted, accepted):
            accepted = outliers.accepted
            fit = fitted(layout, accepted, fitter, fit.parameters)
        scales = replace(_scales(sums.grid, fit), rejected=outliers.keys)
    by_signal, by_kind = Agreement(observations.accepting(accepted), scales).in_all_bins()
    model = fit_error_model(by_signal) if recipe.error_model else ErrorModel()
    statistics = fit.statistics | {
        "chi_squared_per_observation": float(by_signal.squares.sum() / max(by_signal.expected.sum(), 1e-300)),
        "outliers": outlier_report(outliers, sums.image_names, surveyed.n_rows),
        "error_model": {"inflation": model.inflation, "fraction": model.fraction},
        "chi_squared": by_kind.chi_squared(model),
    }
    return replace(scales, error_model=model, statistics=statistics)


@dataclass(frozen=True, eq=False)
class _Judge:
    """Finds outliers as a recipe asks."""

    grid: VoxelGrid
    observations: Observations
    recipe: Recipe

    @cached_property
    def sample(self) -> Observations:
        """Whole voxels, enough to tell the errors of all."""
        return self.observations.sample(ERROR_ROWS)[0]

    def outliers(self, scales: SmoothScales) -> Outliers:
        """Return all outliers, by the errors that the other rows show.

        Errors in which outliers take part are too large: only the worst stand out from them. The errors of what is
        left without those tell more, until no more stand out.
        """
        model, limit = ErrorModel(), self.recipe.outlier_limit
        assert limit is not None
        if self.recipe.error_model:
            rest = self.sample
            for _ in range(MOST_JUDGEMENTS):
                model = fit_error_model(Agreement(rest, scales).by_signal())
                accepted = find_outliers(rest, scales, limit, model).accepted
                assert accepted is not None
                if np.array_equal(accepted, rest.accepted):
                    break
                rest = rest.accepting(accepted)
        return find_outliers(self.observations, scales, limit, model)

    def without_gross_outliers(self, layout: Layout, fitted: Callable[..., Fit]) -> np.ndarray:
        """Return the rows (n_rows,) but those that no change of scale explains, for the first fit of the full model.

        Offsets and factors that vary over the detector bend to a few very wrong observations, such as Bragg
        peaks that the mask missed, until nothing else fits. Scales alone bend less, and equal ones not at all:
        these two judge first. What is rejected in the end is judged by the full model.
        """
        accepted = np.ones(len(self.observations), bool)
        if self.recipe.outlier_limit is None or set(layout.parts) <= {"scale"}:
            return accepted
        equal = same_for_all(layout.extent)
        scales = SmoothScales(self.grid, equal, equal.null(), np.zeros(equal.size), np.zeros(1))
        for parts in ({}, {name: part for name, part in layout.parts.items() if name == "scale"}):
            if parts:
                scales = _scales(self.grid, fitted(assemble_layout(layout.extent, parts), accepted, fit_model))
            found = self.outliers(scales).accepted
            assert found is not None
            accepted = found
        return accepted


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
