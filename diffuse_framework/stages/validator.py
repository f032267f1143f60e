"""Between indexing and accumulation: which indexed images can be trusted."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.source import ImageSource
from diffuse_framework.stages.work import Mapper

__all__ = ["Validator"]


class Validator(Protocol):
    """Rejects images whose indexing can't be trusted."""

    name: ClassVar[str]
    phil: ClassVar[str]

    @classmethod
    def from_params(cls, params: Any) -> Validator:
        """Return the validator that the parameters describe."""

    def validate(self, experiment: Experiment, source: ImageSource, hints: CrystalHints, mapper: Mapper) -> Experiment:
        """Return the experiment without the images that fail; those move to `rejected`, each with its reason.

        Args:
            experiment: indexed images, at least one.
            source: all images, for validators that compare pixels.
            hints: unit cell, space group and reference cell, where the user knows them.
            mapper: spreads work on single images.
        """
