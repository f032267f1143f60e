"""Single images, stills and rotations: observed spots near predicted ones, cells that agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.validation.stills import Limits, validate
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.source import ImageSource
from diffuse_framework.stages.work import Mapper

PHIL = """
max_rms_px = 3.0
  .type = float(value_min=0)
  .help = "Largest rms distance, in pixels, between observed and predicted spots of an image."
max_rms_q = 0.005
  .type = float(value_min=0)
  .help = "Largest rms distance, in 1/angstrom, between the scattering vectors of observed spots"
          "and of the reciprocal lattice points they were indexed as."
max_length_deviation = 0.03
  .type = float(value_min=0)
  .help = "Largest relative deviation of a cell length from the reference cell (crystal.reference or"
          "crystal.unit_cell), or from the median of all images where there is none."
max_angle_deviation = 2.0
  .type = float(value_min=0)
  .help = "Likewise for cell angles, in degrees."
"""


@dataclass(frozen=True)
class ImageValidator:
    """Rejects images whose observed spots lie far from the predicted ones, or whose cell differs from the others'."""

    name: ClassVar[str] = "images"
    phil: ClassVar[str] = PHIL
    limits: Limits = Limits()

    @classmethod
    def from_params(cls, params: Any) -> ImageValidator:
        """Return the validator."""
        return cls(Limits(**{name: getattr(params, name) for name in Limits.__dataclass_fields__}))

    def validate(self, experiment: Experiment, source: ImageSource, hints: CrystalHints, mapper: Mapper) -> Experiment:
        """Return the experiment without the images that fail."""
        accepted, _ = validate(experiment, self.limits, hints.reference_cell or hints.unit_cell)
        return accepted


@hookimpl
def diffuse_validators() -> list[type]:
    """Offer the validator."""
    return [ImageValidator]
