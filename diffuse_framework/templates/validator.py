"""Rejects images whose cell is much larger or smaller than the others'."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.model.experiment import CrystalHints, Experiment, Rejected
from diffuse_framework.model.source import ImageSource
from diffuse_framework.stages.work import Mapper

PHIL = """
max_deviation = 0.05
  .type = float(value_min=0, allow_none=False)
  .help = "Largest relative deviation of the volume of an image's cell from the median of all."
"""


@dataclass(frozen=True)
class TemplateValidator:
    """Rejects images whose cell is much larger or smaller than the others'."""

    name: ClassVar[str] = "template"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 1
    max_deviation: float = 0.05

    @classmethod
    def from_params(cls, params: Any) -> TemplateValidator:
        """Return the validator that the parameters describe."""
        return cls(params.max_deviation)

    def validate(self, experiment: Experiment, source: ImageSource, hints: CrystalHints, mapper: Mapper) -> Experiment:
        """Return the experiment without the images that fail; those move to `rejected`, each with its reason."""
        volumes = np.array([1 / abs(np.linalg.det(image.setting_matrix)) for image in experiment.images])
        deviations = volumes / np.median(volumes) - 1
        kept, rejected = [], []
        for image, deviation in zip(experiment.images, deviations, strict=True):
            if abs(deviation) <= self.max_deviation:
                kept.append(image)
            else:
                reason = f"the volume of its cell is {deviation:+.1%} off the median of all images"
                rejected.append(Rejected(image.name, "validation", reason))
        return replace(experiment, images=tuple(kept), rejected=(*experiment.rejected, *rejected))


@hookimpl
def diffuse_validators() -> list[type]:
    """Offer the validator."""
    return [TemplateValidator]
