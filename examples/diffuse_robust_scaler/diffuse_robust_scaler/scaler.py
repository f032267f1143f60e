"""One scale per image, by medians of ratios."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import VoxelSums
from diffuse_robust_scaler.medians import fit_medians

logger = logging.getLogger(__name__)

PHIL = """
min_photons = 30
  .type = float(value_min=1, allow_none=False)
  .help = "Photons that a group of voxels holds, for the dimmest image: fewer, and ratios are noise."
min_groups = 5
  .type = int(value_min=3, allow_none=False)
  .help = "Number of groups of voxels below which an image is too dim for a median."
max_groups = 200
  .type = int(value_min=3, allow_none=False)
  .help = "Largest number of groups of voxels."
tolerance = 1e-5
  .type = float(value_min=1e-12, value_max=0.1, allow_none=False)
  .help = "Stop when no scale changes by more than this fraction in one cycle."
max_cycles = 300
  .type = int(value_min=1, allow_none=False)
  .help = "Stop after this number of cycles, converged or not."
"""


@dataclass(frozen=True)
class RobustMedianScaler:
    """One multiplicative scale per image, the median of ratios over groups of voxels."""

    name: ClassVar[str] = "robust_median"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 2
    min_photons: float = 30.0
    min_groups: int = 5
    max_groups: int = 200
    tolerance: float = 1e-5
    max_cycles: int = 300

    @classmethod
    def from_params(cls, params: Any) -> RobustMedianScaler:
        """Return the scaler; refuses fewer groups at most than at least."""
        if params.min_groups > params.max_groups:
            raise ConfigError(
                f"scaler.robust_median.min_groups={params.min_groups} is above max_groups={params.max_groups}"
            )
        return cls(params.min_photons, params.min_groups, params.max_groups, params.tolerance, params.max_cycles)

    def fit(self, sums: VoxelSums, experiment: Experiment | None) -> ImageScales:
        """Return one scale per image, their mean 1; warns where they still changed.

        Raises:
            DataError: images that share too few voxels or photons.
        """
        scales = fit_medians(sums, self.min_photons, self.min_groups, self.max_groups, self.tolerance, self.max_cycles)
        if not scales.statistics["converged"]:
            logger.warning(
                "Scaling did not converge in %d cycles: a scale still changed by %.2g of itself. Raise "
                "scaler.robust_median.max_cycles.",
                self.max_cycles,
                scales.statistics["largest_change"],
            )
        return scales

    @classmethod
    def scales_from_plain(cls, plain: Mapping[str, Any], image_names: tuple[str, ...], grid: VoxelGrid) -> ImageScales:
        """Return the scales that were written."""
        return ImageScales.from_plain(plain)


@hookimpl
def diffuse_scalers() -> list[type]:
    """Offer the scaler."""
    return [RobustMedianScaler]
