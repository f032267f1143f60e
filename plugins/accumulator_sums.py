"""Additive sums per image and voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.binning import VoxelAdder
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import Background, PixelTable
from diffuse_framework.model.source import Frame
from diffuse_framework.model.voxels import SumsTable, concatenate

PHIL = ""


@dataclass(frozen=True)
class SumsAccumulator:
    """Sums of counts, exposure and pixels, for diffuse and Bragg pixels apart."""

    name: ClassVar[str] = "sums"
    phil: ClassVar[str] = PHIL

    @classmethod
    def from_params(cls, params: Any) -> SumsAccumulator:
        """Return the accumulator; it has no parameters."""
        return cls()

    def adder(self, grid: VoxelGrid) -> PanelByPanel:
        """Return an object that adds images to the voxels of `grid`."""
        return PanelByPanel(VoxelAdder(grid))


@dataclass(frozen=True, eq=False)
class PanelByPanel:
    """Adds the panels of an image one after another."""

    voxels: VoxelAdder

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
        return concatenate(
            [
                self.voxels.add(
                    number,
                    panel_number,
                    frame.counts[panel_number],
                    mask.panels[panel_number],
                    pixels.q[panel_number],
                    pixels.response[panel_number],
                    image.setting_matrix,
                    image.exposure_s,
                    panel.gain,
                    panel.pedestal,
                    background.counts[panel_number] if background else None,
                    background.variance[panel_number] if background else None,
                )
                for panel_number, panel in enumerate(geometry.panels)
            ]
        )


@hookimpl
def diffuse_accumulators() -> list[type]:
    """Offer the accumulator."""
    return [SumsAccumulator]
