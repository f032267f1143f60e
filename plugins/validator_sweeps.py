"""Sweeps of a turning crystal: a steady orientation, and the right sense of turning."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tabulate import tabulate

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.validation.bright_pixels import NORMAL_SHARE
from diffuse_framework.algorithms.validation.sweeps import (
    DRIFTS,
    MISPLACED,
    REVERSED,
    UNSTEADY,
    SweepCheck,
    SweepLimits,
    validate_sweeps,
)
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.source import ImageSource
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

PHIL = """
max_misorientation = 2.0
  .type = float(value_min=0)
  .help = "Largest rms angle, in degrees, by which a crystal's orientation may vary over a sweep of"
          "rotation images, the goniometer's own rotation taken off."
min_bright = 0.2
  .type = float(value_min=0, value_max=1)
  .help = "Bright pixels of the first, middle and last image of a sweep must lie near reciprocal lattice"
          "points: 1 if all do, 0 if no more than by chance. Finds a crystal that turns the other way than"
          "its headers say. 0 leaves the check out."
"""

ADVICE = {
    UNSTEADY: "check the geometry, or raise validator.sweeps.max_misorientation",
    REVERSED: "set geometry.goniometer.invert_rotation_axis=True",
    DRIFTS: "check the width and the axis of rotation",
    MISPLACED: "check beam centre, distance and the crystal's orientation",
}


@dataclass(frozen=True)
class SweepValidator:
    """Rejects sweeps whose crystal's orientation is unsteady, or that turn the other way than their headers say."""

    name: ClassVar[str] = "sweeps"
    phil: ClassVar[str] = PHIL
    max_misorientation_deg: float = 2.0
    min_bright: float = 0.2

    @classmethod
    def from_params(cls, params: Any) -> SweepValidator:
        """Return the validator."""
        return cls(params.max_misorientation, params.min_bright)

    def validate(self, experiment: Experiment, source: ImageSource, hints: CrystalHints, mapper: Mapper) -> Experiment:
        """Return the experiment without the sweeps that fail; stills are left alone."""
        limits = SweepLimits(self.max_misorientation_deg, self.min_bright)
        experiment, checks = validate_sweeps(experiment, source.read, limits, ADVICE)
        if checks:
            logger.info("\n%s", _table(checks))
        _warn(checks)
        return experiment


def _warn(checks: tuple[SweepCheck, ...]) -> None:
    """Say of which sweeps bright pixels are somewhat off the lattice, and of which it can't be told."""
    dim = [check.first for check in checks if check.bright and not any(check.bright)]
    if dim:
        logger.info(
            "%d of %d sweeps have too few bright pixels to compare orientations with them, for example that of %s",
            len(dim),
            len(checks),
            dim[0],
        )
    for check in checks:
        scores = [found.score for found in check.bright if found is not None]
        if scores and not check.complaint and np.median(scores) < NORMAL_SHARE:
            logger.warning(
                "%s ... %s: bright pixels lie on the lattice with a score of %.2f only (median of %d images; 1 is "
                "normal): beam centre, distance, cell or orientation are somewhat off, or there are further lattices",
                check.first,
                check.last,
                np.median(scores),
                len(scores),
            )


def _table(checks: tuple[SweepCheck, ...]) -> str:
    """Return how steady the crystal was on each sweep, and how bright pixels lie on it."""
    rows = [
        (
            check.first if check.n_images == 1 else f"{check.first} ... {check.last}",
            check.crystal,
            f"{check.rms_misorientation_deg:.3f}",
            f"{check.max_misorientation_deg:.3f}",
            f"{check.max_drift:.2%}",
            " ".join("-" if found is None else f"{found.score:.2f}" for found in check.bright),
        )
        for check in checks
    ]
    header = ("sweep", "crystal", "misorientation rms", "largest / deg", "cell drift", "bright pixels on lattice")
    return tabulate(rows, header, "simple", disable_numparse=True)


@hookimpl
def diffuse_validators() -> list[type]:
    """Offer the validator."""
    return [SweepValidator]
