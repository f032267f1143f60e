"""Additive sums per image and voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.binning import VoxelAdder
from diffuse_framework.algorithms.rotation import index_sweep, n_substeps, sub_settings
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import Background, PixelTable
from diffuse_framework.model.source import Frame
from diffuse_framework.model.voxels import SumsTable, concatenate

PHIL = """
step = 0.5
  .type = float(value_min=0.01, allow_none=False)
  .help = "A rotation image is accumulated in equal steps of its angle, so many that no pixel moves by more"
          "than this number of voxels in one of them. Stills have one step."
max_steps = 20
  .type = int(value_min=1, allow_none=False)
  .help = "Largest number of steps of an image; each takes as long as a still."
"""


@dataclass(frozen=True)
class SumsAccumulator:
    """Sums of counts, exposure and pixels, for diffuse and Bragg pixels apart."""

    name: ClassVar[str] = "sums"
    phil: ClassVar[str] = PHIL
    step: float = 0.5
    max_steps: int = 20

    @classmethod
    def from_params(cls, params: Any) -> SumsAccumulator:
        """Return the accumulator."""
        return cls(params.step, params.max_steps)

    def adder(self, grid: VoxelGrid) -> PanelByPanel:
        """Return an object that adds images to the voxels of `grid`."""
        return PanelByPanel(VoxelAdder(grid), grid, self.step, self.max_steps)


@dataclass(frozen=True, eq=False)
class PanelByPanel:
    """Adds the panels of an image one after another."""

    voxels: VoxelAdder
    grid: VoxelGrid
    step: float
    max_steps: int

    def add(
        self,
        number: int,
        image: Image,
        frame: Frame,
        mask: PixelMask,
        background: Background | None,
        pixels: PixelTable,
        geometry: Geometry,
    ) -> SumsTable:
        """Return the sums of one image."""
        settings = self._settings(image)
        return concatenate(
            [
                self.voxels.add(
                    number,
                    panel_number,
                    frame.counts[panel_number],
                    mask.panels[panel_number],
                    pixels.q[panel_number],
                    pixels.response[panel_number],
                    settings,
                    image.exposure_s,
                    panel.gain,
                    panel.pedestal,
                    background.counts[panel_number] if background else None,
                    background.variance[panel_number] if background else None,
                )
                for panel_number, panel in enumerate(geometry.panels)
            ]
        )

    def _settings(self, image: Image) -> np.ndarray:
        """Setting matrices (m, 3, 3) of the parts of an image."""
        if image.rotation is None:
            return image.setting_matrix
        sweep = index_sweep(image.setting_matrix, image.rotation, self.grid.divisions, self.grid.d_min)
        return sub_settings(image.setting_matrix, image.rotation, n_substeps(sweep, self.step, self.max_steps))


@hookimpl
def diffuse_accumulators() -> list[type]:
    """Offer the accumulator."""
    return [SumsAccumulator]
