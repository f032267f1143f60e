"""Single images: observed spots near predicted ones, bright pixels on the lattice, cells that agree."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.validation.bright_pixels import NORMAL_SHARE
from diffuse_framework.algorithms.validation.orientations import OrientationCheck, check_stills
from diffuse_framework.algorithms.validation.stills import Limits, validate
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.source import ImageSource
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

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
min_bright = 0.2
  .type = float(value_min=0, value_max=1)
  .help = "Bright pixels of a still must lie near reciprocal lattice points: 1 if all do, 0 if no more than by"
          "chance. Finds orientations that belong to other images. 0 does not look."
"""

ADVICE = "check that its orientation is that of this image, beam centre, distance and cell"


_MOST_NAMED = 5


@dataclass(frozen=True)
class ImageValidator:
    """Rejects images whose spots or bright pixels lie far from predictions, or whose cell differs from the others'."""

    name: ClassVar[str] = "images"
    phil: ClassVar[str] = PHIL
    limits: Limits = Limits()
    min_bright: float = 0.2

    @classmethod
    def from_params(cls, params: Any) -> ImageValidator:
        """Return the validator."""
        return cls(Limits(**{name: getattr(params, name) for name in Limits.__dataclass_fields__}), params.min_bright)

    def validate(self, experiment: Experiment, source: ImageSource, hints: CrystalHints, mapper: Mapper) -> Experiment:
        """Return the experiment without the images that fail.

        Raises:
            DataError: most stills do not fit their orientations.
        """
        accepted, _ = validate(experiment, self.limits, hints.reference_cell or hints.unit_cell)
        if self.min_bright == 0:
            return accepted
        accepted, check = check_stills(accepted, source, mapper.map, self.min_bright, ADVICE)
        _report(check)
        return accepted


def _report(check: OrientationCheck) -> None:
    scores = check.scores
    if len(check.failed) > max(len(scores) / 2, 1):
        raise DataError(
            f"orientations or geometry do not fit the images: on {len(check.failed)} of {len(scores)} stills bright "
            f"pixels are hardly nearer to reciprocal lattice points than by chance (for example {check.failed[0]}). "
            "Check that images and orientations are in the same order, and beam centre, distance and cell; "
            "validator.images.min_bright=0 does not look"
        )
    unknown = len(check.names) - len(scores)
    if unknown:
        logger.log(
            logging.WARNING if len(scores) == 0 else logging.INFO,
            "%d of %d stills have too few bright pixels, or too large a cell, to compare orientations with them",
            unknown,
            len(check.names),
        )
    if len(scores) == 0:
        return
    middle = float(np.median(scores))
    logger.info("Bright pixels on the lattice: %.2f (median of %d stills; 1 if all are)", middle, len(scores))
    if middle < NORMAL_SHARE:
        logger.warning(
            "Bright pixels lie on the lattices with a score of %.2f only (median; 1 is normal): beam centre, distance, "
            "cell or orientations are somewhat off, or many images have further lattices",
            middle,
        )
    beside = check.displacement
    if beside is not None and beside.complaints:
        logger.warning(
            "Bright pixels lie %s: index the images again, so that geometry and cell are refined, or correct them",
            " and ".join(beside.complaints),
        )
    low = [
        name
        for name, found in zip(check.names, check.found, strict=True)
        if found and found.score < NORMAL_SHARE * middle
    ]
    if low:
        logger.warning(
            "On %d of %d stills fewer bright pixels than normal (%.2f) are on the lattice, below %.2f: %s",
            len(low),
            len(scores),
            middle,
            NORMAL_SHARE * middle,
            ", ".join(low[:_MOST_NAMED]) + (", ..." if len(low) > _MOST_NAMED else ""),
        )


@hookimpl
def diffuse_validators() -> list[type]:
    """Offer the validator."""
    return [ImageValidator]
