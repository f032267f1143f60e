"""Scales images by their photons per exposure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import VoxelSums

PHIL = """
d_min = 0
  .type = float(value_min=0, allow_none=False)
  .help = "Use voxels of lower resolution (larger d) only, in angstrom; 0 for all."
"""


@dataclass(frozen=True)
class TemplateScaler:
    """Scales images by their photons per exposure: for images that cover reciprocal space alike."""

    name: ClassVar[str] = "template"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 2
    d_min: float = 0.0

    @classmethod
    def from_params(cls, params: Any) -> TemplateScaler:
        """Return the scaler that the parameters describe."""
        return cls(params.d_min)

    def fit(self, sums: VoxelSums, experiment: Experiment | None) -> ImageScales:
        """Return one scale per image, their mean 1.

        Raises:
            DataError: an image without photons above its background.
        """
        n_images = len(sums.image_names)
        net, photons, exposure = np.zeros(n_images), np.zeros(n_images), np.zeros(n_images)
        # Sums need not fit in memory: they come table by table.
        for table in sums.tables():
            length = np.linalg.norm(sums.grid.q_of(table.voxel), axis=1)
            rows = table.select((table.exposure > 0) & (length * self.d_min <= 1))
            net += sum_by(rows.image, rows.counts - rows.background, n_images)
            photons += sum_by(rows.image, rows.counts, n_images)
            exposure += sum_by(rows.image, rows.exposure, n_images)
        if (net <= 0).any():
            name = sums.image_names[int(np.argmin(net))]
            raise DataError(f"{name} has no photons above its background; leave it out")
        rates = net / exposure
        scales = rates / rates.mean()
        return ImageScales(scales, scales * np.sqrt(photons) / net, {"photons": float(photons.sum())})

    @classmethod
    def scales_from_plain(cls, plain: Mapping[str, Any], image_names: tuple[str, ...], grid: VoxelGrid) -> ImageScales:
        """Return the scales that were written: what `to_plain` of them gave, read back in a later run."""
        return ImageScales.from_plain(plain)


@hookimpl
def diffuse_scalers() -> list[type]:
    """Offer the scaler."""
    return [TemplateScaler]
