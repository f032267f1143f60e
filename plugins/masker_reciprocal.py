"""Bragg peaks, masked within an ellipsoid around every node of the reciprocal lattice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.geometry import highest_resolution
from diffuse_framework.algorithms.masking.shapes import centring_conditions, near_nodes
from diffuse_framework.algorithms.rotation import index_sweep, n_substeps, sub_settings
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.stages.work import Mapper

PHIL = """
radii = 0.15,0.15,0.15
  .type = floats(size=3, value_min=0)
  .help = "Half axes of the ellipsoid along a*, b* and c*, in fractional Miller indices."
radius = None
  .type = float(value_min=0)
  .help = "A sphere of this radius in 1/angstrom instead of an ellipsoid."
d_min = None
  .type = float(value_min=0)
  .help = "Peaks of higher resolution are too weak to mask, in angstrom; all are masked where it is"
          "not given."
"""

_MOST_STEPS = 100


@dataclass(frozen=True)
class ReciprocalMasker:
    """Marks pixels near integer Miller indices as Bragg peaks; they go to the second channel."""

    name: ClassVar[str] = "reciprocal"
    phil: ClassVar[str] = PHIL
    radii: tuple[float, float, float] = (0.15, 0.15, 0.15)
    radius: float | None = None
    d_min: float = 0.0
    space_group: str = "P1"

    @classmethod
    def from_params(cls, params: Any) -> ReciprocalMasker:
        """Return the masker that the parameters describe.

        Raises:
            ConfigError: an ellipsoid without size, or one that reaches the next node.
        """
        if params.radius is not None and not params.radius > 0:
            raise ConfigError(f"radius={params.radius:g} masks nothing: give a radius above 0 in 1/angstrom")
        if params.radius is None and (params.radii is None or not all(0 < r <= 0.5 for r in params.radii)):
            raise ConfigError(f"radii={params.radii}: give three numbers above 0 and up to 0.5")
        return cls(radii=tuple(params.radii or cls.radii), radius=params.radius, d_min=params.d_min or 0.0)

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> ReciprocalMasker:
        """Return a masker that knows the lattice centring.

        Raises:
            ConfigError: the sphere reaches over to the next node along an axis.
        """
        if self.radius is not None:
            for image in experiment.images:
                shortest = np.linalg.norm(image.setting_matrix, axis=0).min()
                if self.radius > shortest / 2:
                    raise ConfigError(
                        f"radius={self.radius:g} 1/angstrom reaches over half of the distance of reciprocal "
                        f"lattice points on {image.name}, {shortest:.5f} 1/angstrom: nothing would be left"
                    )
        return replace(self, space_group=experiment.symmetry.space_group)

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return None: every image has its own orientation."""
        return None

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return Bragg where a pixel comes near the lattice nodes of `image`, at any of its angles."""
        if image.other_lattices:
            masks = [self.image_mask(frame, lattice, geometry, pixels) for lattice in image.each_lattice()]
            panels = zip(*(mask.panels for mask in masks if mask is not None), strict=True)
            return PixelMask(tuple(np.minimum.reduce(classes) for classes in panels))
        a = image.setting_matrix
        form = np.diag(1 / np.square(self.radii)) if self.radius is None else a.T @ a / self.radius**2
        conditions = centring_conditions(self.space_group)
        settings = sub_settings(a, image.rotation, self._n_steps(image, geometry, form))
        return PixelMask(
            tuple(
                np.minimum.reduce([near_nodes(q, step, form, self.d_min, conditions) for step in settings])
                for q in pixels.q
            )
        )

    def _n_steps(self, image: Image, geometry: Geometry, form: np.ndarray) -> int:
        """Cut the rotation of an image so that nothing moves further than the ellipsoid's half axis."""
        if image.rotation is None:
            return 1
        sweep = index_sweep(image.setting_matrix, image.rotation, (1, 1, 1), highest_resolution(geometry))
        return n_substeps(sweep, 1 / np.sqrt(np.linalg.eigvalsh(form).max()), _MOST_STEPS)


@hookimpl
def diffuse_maskers() -> list[type]:
    """Offer the masker."""
    return [ReciprocalMasker]
