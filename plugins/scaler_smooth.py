"""The full scaling model: scale, offset, panel, absorption and resolution."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.scaling.bragg_reference import Reflections, bragg_reference
from diffuse_framework.algorithms.scaling.components import COMPONENTS
from diffuse_framework.algorithms.scaling.failures import (
    NoReflectionsError,
    NoSpaceError,
    NothingSeenTwiceError,
    SameForAllImagesError,
    TooManyObservationsError,
)
from diffuse_framework.algorithms.scaling.fit import (
    Fitter,
    Recipe,
    data_sets_by_name,
    order_by_angle,
    order_of_images,
    scale_smoothly,
)
from diffuse_framework.algorithms.scaling.gauss_newton import fit_model
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.algorithms.scaling.restraints import Restraints
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums

logger = logging.getLogger(__name__)

PHIL = """
data_sets = *by_name one
  .type = choice
  .help = "Images whose names differ in their last number only are one data set, with control points of"
          "its own; or all images are."
order = *image angle
  .type = choice
  .help = "What control points along a data set are spaced in: image numbers, or degrees of rotation, which"
          "need the experiment (diffuse.process, not diffuse.scale)."
scale
  .help = "Multiplicative scale b."
{
  model = *per_image smooth off
    .type = choice
    .help = "One for each image, smooth along each data set, or 1."
  order_spacing = 5.0
    .type = float(value_min=1e-3)
    .help = "Distance of control points of a smooth scale, in images or degrees."
  restraint = 0.1
    .type = float(value_min=1e-6)
    .help = "Expected second difference of neighbouring control points."
}
offset
  .help = "Additive scattering c(|q|, order) that does not scale with the crystal."
{
  refine = False
    .type = bool
    .help = "Whether the model has it."
  q_spacing = 0.05
    .type = float(value_min=1e-4)
    .help = "Distance of control points in |q| = 1/d, 1/angstrom."
  order_spacing = 10.0
    .type = float(value_min=1e-3)
    .help = "Distance along a data set, in images or degrees; None for one offset per data set."
  restraint = 0.1
    .type = float(value_min=1e-6)
    .help = "Expected second difference of neighbouring control points, relative to the mean intensity."
}
panel
  .help = "One factor d for each detector panel."
{
  refine = False
    .type = bool
    .help = "Whether the model has it; without effect for a single panel."
}
absorption
  .help = "Factor a(x, y, order) that is smooth over each panel: absorption, shadows, uneven sensitivity."
{
  refine = False
    .type = bool
    .help = "Whether the model has it."
  px_spacing = 500.0
    .type = float(value_min=1)
    .help = "Distance of control points on a panel, in pixels."
  order_spacing = None
    .type = float(value_min=1e-3)
    .help = "Distance along a data set, in images or degrees; None for one that all images share."
  restraint = 0.05
    .type = float(value_min=1e-6)
    .help = "Expected second difference of neighbouring control points."
}
resolution
  .help = "Factor s(|q|, order): decay with resolution, as far as it changes from image to image. What all"
          "images share of it can't be told from the map."
{
  refine = False
    .type = bool
    .help = "Whether the model has it."
  q_spacing = 0.1
    .type = float(value_min=1e-4)
    .help = "Distance of control points in |q| = 1/d, 1/angstrom."
  order_spacing = 20.0
    .type = float(value_min=1e-3)
    .help = "Distance along a data set, in images or degrees; None for one smoother per data set."
  restraint = 0.05
    .type = float(value_min=1e-6)
    .help = "Expected second difference of neighbouring control points."
}
bragg
  .help = "Bragg reference: integrated intensities, corrected for partiality, as further observations for the"
          "scales. It needs the experiment (diffuse.process, not diffuse.scale)."
{
  use = False
    .type = bool
    .help = "Whether reflections count."
  min_partiality = 0.2
    .type = float(value_min=0, value_max=1)
    .help = "Leave out reflections recorded to a smaller fraction."
  relative_error = 0.2
    .type = float(value_min=0)
    .help = "Expected relative error of partialities."
}
outliers
  .help = "Observations that disagree with the rest of their voxel."
{
  limit = 6.0
    .type = float(value_min=1)
    .help = "Reject beyond so many standard deviations, above or below; None keeps all."
}
error_model = True
  .type = bool
  .help = "Fit by how much observations scatter more than photons do."
tolerance = 0.02
  .type = float(value_min=1e-9)
  .help = "Stop when no parameter changes by more than this fraction of its uncertainty in one cycle."
max_cycles = 30
  .type = int(value_min=1)
  .help = "Stop after so many cycles, converged or not."
memory_mib = 1024
  .type = float(value_min=0)
  .expert_level = 2
  .help = "Observations take 32 bytes each. Where all need more than so many MiB, they lie in a temporary file"
          "(TMPDIR says in which folder) and are read from it in each pass; while they are sorted, as much again"
          "is used."
"""


@dataclass(frozen=True)
class SmoothScaler:
    """Scale, offset, panel, absorption and resolution, each smooth, by weighted least squares."""

    name: ClassVar[str] = "smooth"
    interface: ClassVar[int] = 2
    phil: ClassVar[str] = PHIL
    recipe: Recipe = Recipe()
    one_data_set: bool = False
    by_angle: bool = False
    bragg: tuple[float, float] | None = None

    @classmethod
    def from_params(cls, params: Any) -> SmoothScaler:
        """Return the scaler."""
        bragg = (params.bragg.min_partiality, params.bragg.relative_error) if params.bragg.use else None
        return cls(recipe_of(params), params.data_sets == "one", params.order == "angle", bragg)

    def fit(self, sums: VoxelSums, experiment: Experiment | None) -> Scales:
        """Return the fitted model; warns where it did not converge, and of what data can't tell.

        Raises:
            ConfigError: degrees without an experiment, or a model that no data determine.
            DataError: images or data sets that share no voxel with the others, or without photons.
        """
        return self.fitted(sums, experiment, fit_model)

    def fitted(self, sums: VoxelSums, experiment: Experiment | None, fitter: Fitter) -> Scales:
        """Return the model as `fitter` finds it; raises as `fit` does, with what to type."""
        try:
            data_set, order = self.places(sums, experiment)
            reflections, folder = self.reflections(sums, experiment), tempfile.gettempdir()
            scales = scale_smoothly(sums, data_set, order, self.recipe, fitter, reflections, folder)
        except SameForAllImagesError as error:
            spacing = f"scaler.{self.name}.{error.component}.order_spacing"
            raise ConfigError(f"{error}; give {spacing} a value, or several data sets") from error
        except TooManyObservationsError as error:
            raise ConfigError(f"{error}; use scaler.plugin=smooth, which fits the same model") from error
        except NothingSeenTwiceError as error:
            raise DataError(f"{error}; use coarser voxels (grid.hkl.divisions) or more images") from error
        except NoReflectionsError as error:
            raise DataError(
                f"{error}; integrate with indexer.plugin=dials_stills, or switch scaler.{self.name}.bragg.use off"
            ) from error
        except NoSpaceError as error:
            raise DataError(f"{error}; set TMPDIR to a folder with room") from error
        warn(scales.statistics)
        return scales

    @classmethod
    def scales_from_plain(cls, plain: Mapping[str, Any], image_names: tuple[str, ...], grid: VoxelGrid) -> Scales:
        """Return the model that was written; on another grid without its outliers."""
        return SmoothScales.from_plain(plain, grid)

    def reflections(self, sums: VoxelSums, experiment: Experiment | None) -> Reflections | None:
        """Return the Bragg reference, None where it is not asked for."""
        if self.bragg is None:
            return None
        if experiment is None:
            raise ConfigError(
                f"scaler.{self.name}.bragg.use=True needs the Bragg intensities, which the sums do not hold; "
                "run diffuse.process with it, or switch it off"
            )
        return bragg_reference(experiment, sums.grid, *self.bragg)

    def places(self, sums: VoxelSums, experiment: Experiment | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the data set of each image, (n,), and where in it the image is, (n,)."""
        n_images = len(sums.image_names)
        data_set = np.zeros(n_images, np.int64) if self.one_data_set else data_sets_by_name(sums.image_names)
        if not self.by_angle:
            return data_set, order_of_images(data_set)
        if experiment is None:
            raise ConfigError(
                f"scaler.{self.name}.order=angle needs the crystal's orientations, which the sums do not hold; use "
                "order=image, with spacings in images"
            )
        return data_set, order_by_angle(data_set, np.array([image.setting_matrix for image in experiment.images]))


def recipe_of(params: Any) -> Recipe:
    """Return what the parameters ask for."""
    options = ScalingOptions(
        scale=params.scale.model,
        scale_order=params.scale.order_spacing,
        offset=params.offset.refine,
        offset_q=params.offset.q_spacing,
        offset_order=params.offset.order_spacing,
        panel=params.panel.refine,
        absorption=params.absorption.refine,
        absorption_px=params.absorption.px_spacing,
        absorption_order=params.absorption.order_spacing,
        resolution=params.resolution.refine,
        resolution_q=params.resolution.q_spacing,
        resolution_order=params.resolution.order_spacing,
    )
    given = {kind: getattr(params, kind.name).restraint for kind in COMPONENTS if kind.restraint}
    restraints = Restraints({kind.name: value for kind, value in given.items() if value != kind.restraint})
    return Recipe(
        options,
        restraints,
        params.tolerance,
        params.max_cycles,
        params.outliers.limit,
        params.error_model,
        params.memory_mib,
    )


def warn(statistics: dict) -> None:
    """Say in the log what a user should know of a fit."""
    if not statistics["converged"]:
        logger.warning(
            "Scaling did not converge in %d cycles (%s): a parameter still changed by %.2g of its "
            "uncertainty. The best model so far goes on. Use fewer components or control points, or raise its "
            "max_cycles.",
            statistics["cycles"],
            statistics["reason"],
            statistics["largest_change"],
        )
    for component, number in statistics["undetermined"].items():
        logger.warning(
            "%d control points of the scaling model's %s component are not determined by the data, only by their "
            "restraints; use wider spacing there, or switch it off",
            number,
            component,
        )
    outliers = statistics["outliers"]
    if outliers["rejected"]:
        logger.info(
            "Rejected %d observations (%.3g %%): %d too high, %d too low",
            outliers["rejected"],
            100 * outliers["fraction"],
            outliers["too_high"],
            outliers["too_low"],
        )


@hookimpl
def diffuse_scalers() -> list[type]:
    """Offer the scaler."""
    return [SmoothScaler]
