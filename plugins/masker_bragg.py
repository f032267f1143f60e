"""Bragg peaks, masked around every predicted reflection whether or not it was observed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.masking.shapes import (
    centring_conditions,
    paint_panels,
    predicted_spots,
)
from diffuse_framework.model.conventions import BRAGG
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

PHIL = """
radius = 6.0
  .type = float(value_min=0.5, allow_none=False)
  .help = "Pixels whose centre is this near to a predicted reflection are masked, in pixels."
shape = *disk box
  .type = choice
  .help = "A disk of that radius, or a box of twice the radius on a side."
excitation_error = None
  .type = float(value_min=0)
  .help = "Reflections this far from the Ewald sphere still show, in 1/angstrom: for the size of"
          "mosaic blocks, the divergence and the bandwidth of the beam. Make it smaller for sharp"
          "spots and large cells; too small leaves peaks in the map. Where not given 0.004 for stills, and"
          "0.002 for rotations, whose reflections are known to cross the sphere or not."
mosaic_width = None
  .type = float(value_min=0)
  .help = "Full width of the mosaic spread in degrees; that of each image where it is not given."
d_min = None
  .type = float(value_min=0)
  .help = "Reflections of higher resolution are too weak to mask, in angstrom; all on the detector"
          "are masked where it is not given."
"""

_CROWDED = 0.5
_STILL_WIDTH, _ROTATION_WIDTH = 0.004, 0.002


@dataclass(frozen=True)
class BraggMasker:
    """Marks Bragg peaks around every predicted reflection; they go to the second channel."""

    name: ClassVar[str] = "bragg"
    phil: ClassVar[str] = PHIL
    radius: float = 6.0
    disk: bool = True
    excitation_error: float | None = None
    mosaic_width_deg: float | None = None
    d_min: float = 0.0
    space_group: str = "P1"

    @classmethod
    def from_params(cls, params: Any) -> BraggMasker:
        """Return the masker that the parameters describe."""
        return cls(
            radius=params.radius,
            disk=params.shape == "disk",
            excitation_error=params.excitation_error,
            mosaic_width_deg=params.mosaic_width,
            d_min=params.d_min or 0.0,
        )

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> BraggMasker:
        """Return a masker that knows the lattice centring, and log how much it takes."""
        masker = replace(self, space_group=experiment.symmetry.space_group)
        masker._log_coverage(experiment)
        return masker

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return None: every image has its own reflections."""
        return None

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return Bragg around the predictions of `image`."""
        return self._mask(image, geometry)

    def _mask(self, image: Image, geometry: Geometry) -> PixelMask:
        mosaic_width_deg = self.mosaic_width_deg
        if mosaic_width_deg is None:
            mosaic_width_deg = image.mosaic_width_deg
        panel, px = predicted_spots(
            image.setting_matrix,
            geometry,
            self.d_min,
            self._width(image),
            mosaic_width_deg,
            centring_conditions(self.space_group),
            self.radius,
            image.rotation,
        )
        shapes = [panel.shape for panel in geometry.panels]
        return PixelMask(paint_panels(shapes, panel, px, self.radius, self.disk))

    def _width(self, image: Image) -> float:
        """Distance from the Ewald sphere that still excites, 1/angstrom."""
        if self.excitation_error is not None:
            return self.excitation_error
        return _STILL_WIDTH if image.rotation is None else _ROTATION_WIDTH

    def _log_coverage(self, experiment: Experiment) -> None:
        """Log the share of pixels masked on one image, and of indexed spots that the mask holds."""
        if not experiment.images:
            return
        image = experiment.images[len(experiment.images) // 2]
        mask = self._mask(image, experiment.geometry_of(image))
        share = mask.count(BRAGG) / experiment.geometry_of(image).n_pixels
        n_spots, n_held = _spots_held(image, mask)
        logger.info(
            "Bragg mask: %.1f %% of the pixels of %s%s",
            100 * share,
            image.name,
            f", with {n_held} of its {n_spots} indexed spots" if n_spots else "",
        )
        if share > _CROWDED:
            logger.warning(
                "The Bragg mask leaves only %.0f %% of the pixels: try a smaller masker.bragg.radius "
                "(now %g) or masker.bragg.excitation_error (now %g)",
                100 * (1 - share),
                self.radius,
                self._width(image),
            )


def _spots_held(image: Image, mask: PixelMask) -> tuple[int, int]:
    """Number of observed spots of an image, and of those whose centre is masked."""
    n_spots = n_held = 0
    for number, classes in enumerate(mask.panels):
        px = image.spots.observed_px[image.spots.panel == number]
        px = px[np.isfinite(px).all(axis=1)].astype(int)
        px = px[((px >= 0) & (px < classes.shape[::-1])).all(axis=1)]
        n_spots += len(px)
        n_held += int(np.count_nonzero(classes[px[:, 1], px[:, 0]] == BRAGG))
    return n_spots, n_held


@hookimpl
def diffuse_maskers() -> list[type]:
    """Offer the masker."""
    return [BraggMasker]
