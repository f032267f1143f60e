"""Stage 4: where in reciprocal space voxels lie."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid

__all__ = ["Grid"]


class Grid(Protocol):
    """Builds the one voxel grid of a data set."""

    name: ClassVar[str]
    phil: ClassVar[str]

    @classmethod
    def from_params(cls, params: Any) -> Grid:
        """Return the grid builder that the parameters describe."""

    def build(self, experiment: Experiment) -> VoxelGrid:
        """Return the grid.

        Raises:
            GeometryError: the grid can't be folded by the crystal's symmetry.
        """
