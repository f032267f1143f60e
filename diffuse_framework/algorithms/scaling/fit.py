"""How a scaling model is made from sums: fit, outliers, errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from diffuse_framework.algorithms.scaling.bragg_reference import Reflections
from diffuse_framework.algorithms.scaling.components import Extent
from diffuse_framework.algorithms.scaling.error_model import ERROR_ROWS, NormalisedDeviations, fit_error_model
from diffuse_framework.algorithms.scaling.gauss_newton import Fit, fit_model
from diffuse_framework.algorithms.scaling.model import (
    Layout,
    ScalingOptions,
    assemble_layout,
    make_layout,
    same_for_all,
)
from diffuse_framework.algorithms.scaling.observations import Observations, Survey, gather
from diffuse_framework.algorithms.scaling.outliers import Outliers, find_outliers, outlier_report, outliers_by_shell
from diffuse_framework.algorithms.scaling.overlap import refuse_unconnected
from diffuse_framework.algorithms.scaling.restraints import Restraints
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.algorithms.scaling.smoothers import CONSTANT
from diffuse_framework.errors import DataError
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import ErrorModel
from diffuse_framework.model.voxels import VoxelSums

logger = logging.getLogger(__name__)

# Each takes more outliers off, and errors shrink; two or three are the rule.
MOST_JUDGEMENTS = 10


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
        options: components of the model.
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
    folder: str | None = None,
) -> SmoothScales:
    """Fit the scaling model, reject outliers, fit again, and fit the error model.

    Args:
        sums: of all images.
        data_set, order: (n_images,) data set of each image, and where in it.
        recipe: what to do.
        fitter: minimises; called like `fit_model`.
        reflections: Bragg reflections that help to set the scales.
        folder: of `gather`.

    Raises:
        DataError: nothing to scale, or images or data sets without overlap with the others.
        ConfigError: a model that can't be determined from any data. Where parameters could mend it, the error is one
            of `failures`, whose message its caller completes.
    """
    options = recipe.options
    observations, surveyed = gather(sums, recipe.memory_mib, places=options.panel or options.absorption, folder=folder)
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
    by_signal, by_kind = NormalisedDeviations(observations.accepting(accepted), scales).in_all_bins()
    model = fit_error_model(by_signal) if recipe.error_model else ErrorModel()
    statistics = fit.statistics | {
        "chi_squared_per_observation": float(by_signal.squares.sum() / max(by_signal.expected.sum(), 1e-300)),
        "outliers": outlier_report(outliers, sums.image_names, surveyed.n_rows)
        | {"by_shell": outliers_by_shell(outliers, observations)},
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
                model = fit_error_model(NormalisedDeviations(rest, scales).by_signal())
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
        if self.recipe.outlier_limit is None or set(layout.components) <= {"scale"}:
            return accepted
        equal = same_for_all(layout.extent)
        scales = SmoothScales(self.grid, equal, equal.null(), np.zeros(equal.size), np.zeros(1))
        for alone in ({}, {name: kept for name, kept in layout.components.items() if name == "scale"}):
            if alone:
                scales = _scales(self.grid, fitted(assemble_layout(layout.extent, alone), accepted, fit_model))
            found = self.outliers(scales).accepted
            assert found is not None
            accepted = found
        return accepted


def _scales(grid: VoxelGrid, fit: Fit) -> SmoothScales:
    common = fit.common if "offset" in fit.layout.components else np.zeros(CONSTANT.n_values)
    return SmoothScales(grid, fit.layout, fit.parameters, fit.sigma, common, statistics=fit.statistics)


def _refuse_dark_images(sums: VoxelSums, surveyed: Survey) -> None:
    dark = np.flatnonzero(surveyed.net_counts <= 0)
    if len(dark):
        shown = ", ".join(sums.image_names[image] for image in dark[:5]) + (", ..." if len(dark) > 5 else "")
        raise DataError(
            f"{len(dark)} images have no scattering above their background ({shown}); leave them out, or "
            "check the background"
        )
