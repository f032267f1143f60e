"""One scale for each image and resolution shell."""

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
from diffuse_framework.model.voxels import SumsTable, VoxelSums, concatenate
from diffuse_shell_scaler.scales import ShellScales, keys_of, shells_of

PHIL = """
shells = 5
  .type = int(value_min=1, value_max=100, allow_none=False)
  .help = "Number of resolution shells, of equal volume."
cycles = 50
  .type = int(value_min=1, allow_none=False)
  .help = "Number of times that intensities and scales are worked out from each other."
limit = 8.0
  .type = float(value_min=3, allow_none=False)
  .help = "Leave out observations that lie further than this from the rest of their voxel, in standard"
          "deviations of counting."
"""


@dataclass(frozen=True)
class ShellScaler:
    """One multiplicative scale for each image and resolution shell; observations that disagree are left out."""

    name: ClassVar[str] = "shells"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 2
    n_shells: int = 5
    cycles: int = 50
    limit: float = 8.0

    @classmethod
    def from_params(cls, params: Any) -> ShellScaler:
        """Return the scaler that the parameters describe."""
        return cls(params.shells, params.cycles, params.limit)

    def fit(self, sums: VoxelSums, experiment: Experiment | None) -> ShellScales:
        """Return the scales: intensities and scales are worked out from each other's sums until they agree.

        Raises:
            DataError: an image without photons above its background.
        """
        # A model for few images: all rows are in memory at once.
        table = concatenate(list(sums.tables()))
        table = table.select(table.exposure > 0)
        n_images, grid = len(sums.image_names), sums.grid
        net = (table.counts - table.background).astype(float)
        photons = sum_by(table.image, net, n_images)
        if (photons <= 0).any():
            raise DataError(f"{sums.image_names[int(np.argmin(photons))]} has no photons above its background")
        edges = np.cbrt(np.linspace(0, (1 / grid.d_min) ** 3, self.n_shells + 1))
        shell = shells_of(grid, table.voxel, edges)
        kept = np.ones(len(table), bool)
        by_shell = self._fitted(table, net, shell, kept, n_images, grid.size)
        far = self._deviations(table, net, by_shell[table.image, shell], grid.size) > self.limit
        if far.any():
            kept = ~far
            if (sum_by(table.image, np.where(kept, net, 0.0), n_images) <= 0).any():
                raise DataError("an image has no photons but those that disagree with the others: leave it out")
            by_shell = self._fitted(table, net, shell, kept, n_images, grid.size)
        exposure = sum_by(table.image, table.exposure.astype(float), n_images)
        weighted = sum_by(table.image, by_shell[table.image, shell] * table.exposure, n_images) / exposure
        mean = weighted.mean()
        counts = sum_by(table.image, table.counts.astype(float), n_images)
        return ShellScales(
            grid,
            edges,
            by_shell / mean,
            weighted / mean,
            weighted / mean * np.sqrt(counts) / photons,
            keys_of(table)[far],
            {"left_out": int(far.sum()), "shells": self.n_shells},
        )

    def _fitted(
        self, table: SumsTable, net: np.ndarray, shell: np.ndarray, kept: np.ndarray, n_images: int, n_voxels: int
    ) -> np.ndarray:
        """Scales (n_images, n_shells): what an image has of a shell, over what all images make one expect."""
        cell = table.image * self.n_shells + shell
        n_cells = n_images * self.n_shells
        exposure = np.where(kept, table.exposure, 0.0).astype(float)
        net = np.where(kept, net, 0.0)
        of_image = sum_by(table.image, net, n_images) / np.maximum(sum_by(table.image, exposure, n_images), 1e-300)
        start = of_image / of_image.mean()
        scales = np.repeat(start, self.n_shells)
        found = sum_by(cell, net, n_cells)
        for _ in range(self.cycles):
            expected = np.maximum(sum_by(table.voxel, exposure * scales[cell], n_voxels), 1e-300)
            intensity = np.maximum(sum_by(table.voxel, net, n_voxels), 0) / expected
            model = sum_by(cell, exposure * intensity[table.voxel], n_cells)
            usable = (model > 0) & (found > 0)
            scales = np.where(usable, found / np.where(usable, model, 1), np.repeat(start, self.n_shells))
            # Of a shell only the ratios between images can be known: its mean is that of the images that see it.
            by_shell = scales.reshape(n_images, self.n_shells)
            scales = (by_shell / by_shell.mean(axis=0)).ravel()
        return scales.reshape(n_images, self.n_shells)

    def _deviations(self, table: SumsTable, net: np.ndarray, scale: np.ndarray, n_voxels: int) -> np.ndarray:
        """By how many standard deviations each row lies from the rest of its voxel; 0 where it is alone there."""
        exposed = table.exposure.astype(float) * scale
        rest = sum_by(table.voxel, exposed, n_voxels)[table.voxel] - exposed
        others = sum_by(table.voxel, net, n_voxels)[table.voxel] - net
        seen = rest > 1e-9 * exposed
        expected = np.where(seen, others / np.where(seen, rest, 1), 0.0) * exposed
        variance = np.maximum(expected + table.background, 1.0) + np.where(
            seen, np.maximum(others, 1) * (exposed / np.where(seen, rest, 1)) ** 2, 0.0
        )
        return np.where(seen, np.abs(net - expected) / np.sqrt(variance), 0.0)

    @classmethod
    def scales_from_plain(cls, plain: Mapping[str, Any], image_names: tuple[str, ...], grid: VoxelGrid) -> ShellScales:
        """Return the scales that were written; on other voxels without those that were left out."""
        return ShellScales.from_plain(plain, grid)


@hookimpl
def diffuse_scalers() -> list[type]:
    """Offer the scaler."""
    return [ShellScaler]
