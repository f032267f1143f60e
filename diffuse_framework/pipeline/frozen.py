"""A grid and masks that are frozen: kept from an earlier round of a live run, not made from the data again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.source import ImageSource
from diffuse_framework.pipeline.process import Outcome
from diffuse_framework.stages.masker import Masker
from diffuse_framework.stages.steps import Steps
from diffuse_framework.stages.work import Mapper


@dataclass(frozen=True, eq=False)
class FrozenGrid:
    """Builds the grid it was given."""

    name: ClassVar[str] = "frozen"
    phil: ClassVar[str] = ""
    grid: VoxelGrid

    @classmethod
    def from_params(cls, params: Any) -> FrozenGrid:
        """Refuse: it is made with a grid."""
        raise TypeError("FrozenGrid is made with a grid")

    def build(self, experiment: Experiment) -> VoxelGrid:
        """Return the grid."""
        return self.grid


@dataclass(frozen=True, eq=False)
class FrozenMasker:
    """Stands for a masker that was prepared in an earlier round."""

    masker: Masker

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> Masker:
        """Return the masker as it is."""
        return self.masker


def freeze(steps: Steps, outcome: Outcome) -> Steps:
    """Return the steps with the grid and the maskers of an earlier outcome.

    The sums of images that are there already stay as they are, and need not be made again.
    """
    maskers: Any = tuple(FrozenMasker(masker) for masker in outcome.maskers)
    return replace(steps, grid=FrozenGrid(outcome.sums.grid), maskers=maskers)
