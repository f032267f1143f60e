"""Indexes every image with one operator that the user gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.reindexing import Reindexing, unchanged
from diffuse_framework.model.voxels import VoxelSums

PHIL = """
operator = 1 0 0 0 1 0 0 0 1
  .type = ints(size=9)
  .help = "The matrix, row by row, that makes new Miller indices of old ones; its determinant is 1."
"""


@dataclass(frozen=True)
class TemplateReindexer:
    """Indexes every image with one operator that the user gives."""

    name: ClassVar[str] = "template"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 1
    operator: tuple[int, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)

    @classmethod
    def from_params(cls, params: Any) -> TemplateReindexer:
        """Return the reindexer that the parameters describe.

        Raises:
            ConfigError: a matrix that is no rotation of a lattice.
        """
        if round(np.linalg.det(np.reshape(params.operator, (3, 3)))) != 1:
            raise ConfigError(f"reindexer.template.operator={params.operator}: its determinant must be 1")
        return cls(tuple(params.operator))

    def reindex(self, sums: VoxelSums, experiment: Experiment) -> Reindexing:
        """Return what becomes of the indexing of each image: the same for all."""
        as_it_is = unchanged(len(experiment.images))
        operator = np.reshape(self.operator, (3, 3)).astype(np.int64)
        return replace(as_it_is, operators=np.broadcast_to(operator, as_it_is.operators.shape).copy())


@hookimpl
def diffuse_reindexers() -> list[type]:
    """Offer the reindexer."""
    return [TemplateReindexer]
