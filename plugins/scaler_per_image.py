"""One scale factor per image."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.scaling.per_image import fit_image_scales
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import ImageScales, Scales
from diffuse_framework.model.voxels import VoxelSums

logger = logging.getLogger(__name__)

PHIL = """
tolerance = 1e-4
  .type = float(value_min=1e-12)
  .help = "Stop when no scale changes by more than this fraction in one cycle."
max_cycles = 200
  .type = int(value_min=1)
  .help = "Stop after so many cycles, converged or not."
outliers.limit = 6.0
  .type = float(value_min=1)
  .help = "Reject beyond so many standard deviations, above or below; None keeps all."
"""

# Scales that still change by so much mean nothing.
_GROSS = 0.05


@dataclass(frozen=True)
class PerImageScaler:
    """One multiplicative scale per image, by Poisson maximum likelihood."""

    name: ClassVar[str] = "per_image"
    interface: ClassVar[int] = 2
    phil: ClassVar[str] = PHIL
    tolerance: float = 1e-4
    max_cycles: int = 200
    outlier_limit: float | None = 6.0

    @classmethod
    def from_params(cls, params: Any) -> PerImageScaler:
        """Return the scaler."""
        return cls(params.tolerance, params.max_cycles, params.outliers.limit)

    def fit(self, sums: VoxelSums, experiment: Experiment | None) -> Scales:
        """Return one scale per image, their mean 1; warns where it did not quite converge.

        Raises:
            DataError: images that share no voxel with the others, or without photons; scales far from convergence.
        """
        scales = fit_image_scales(sums, self.tolerance, self.max_cycles, outlier_limit=self.outlier_limit)
        # What changes by less than it is uncertain by is not far from where it would end.
        change = scales.statistics.get("largest_change_beyond_errors", 0.0)
        if not change <= _GROSS:
            raise DataError(
                f"scaling did not converge in {self.max_cycles} cycles: a scale still changed by {change:.2g} of "
                "itself. Raise scaler.per_image.max_cycles, use coarser voxels so that images overlap more "
                "(grid.hkl.divisions), or take scaler.plugin=smooth"
            )
        if not scales.statistics["converged"]:
            logger.warning(
                "Scaling did not converge in %d cycles: a scale still changed by %.2g of itself. Raise "
                "scaler.per_image.max_cycles, or use coarser voxels so that images overlap more.",
                self.max_cycles,
                scales.statistics["largest_change"],
            )
        if "outliers_not_judged" in scales.statistics:
            logger.info("Scaling: %s", scales.statistics["outliers_not_judged"])
        return scales

    @classmethod
    def scales_from_plain(cls, plain: Mapping[str, Any], image_names: tuple[str, ...], grid: VoxelGrid) -> Scales:
        """Return the scales that were written."""
        return ImageScales.from_plain(plain).on_grid(grid)


@hookimpl
def diffuse_scalers() -> list[type]:
    """Offer the scaler."""
    return [PerImageScaler]
