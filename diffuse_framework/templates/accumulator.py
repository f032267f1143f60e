"""Adds pixels to voxels, panel by panel."""

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
class TemplateAccumulator:
    """Adds pixels to voxels, panel by panel."""

    name: ClassVar[str] = "template"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 1

    @classmethod
    def from_params(cls, params: Any) -> TemplateAccumulator:
        """Return the accumulator; it has no parameters."""
        return cls()

    def adder(self, grid: VoxelGrid) -> TemplateAdder:
        """Return a new object that adds images to the voxels of `grid`; each worker has its own."""
        return TemplateAdder(VoxelAdder(grid))


@dataclass(frozen=True, eq=False)
class TemplateAdder:
    """Adds images; may keep scratch memory, as long as nothing of one image reaches the next."""

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
        """Return the sums of one image, rows ascending in panel, voxel and operator."""
        tables = []
        for panel_number, panel in enumerate(geometry.panels):
            tables.append(
                self.voxels.add(
                    number,
                    panel_number,
                    values=frame.counts[panel_number],
                    mask=mask.panels[panel_number],
                    q=pixels.q[panel_number],
                    response=pixels.response[panel_number],
                    setting_matrix=image.setting_matrix,
                    seconds=image.exposure_s,
                    gain=panel.gain,
                    pedestal=panel.pedestal,
                    background=background.counts[panel_number] if background else None,
                    background_variance=background.variance[panel_number] if background else None,
                    read_noise=panel.read_noise,
                )
            )
        return concatenate(tables)


@hookimpl
def diffuse_accumulators() -> list[type]:
    """Offer the accumulator."""
    return [TemplateAccumulator]
