"""Between accumulation and scaling: one indexing for crystals that can be indexed in several ways."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.reindexing import Reindexing
from diffuse_framework.model.voxels import VoxelSums

__all__ = ["Reindexer"]


class Reindexer(Protocol):
    """Resolves the indexing ambiguity of crystals that are less symmetric than their lattice.

    It decides; the pipeline carries it out, on the sums and on the experiment. Voxels are named by integers, so
    that this is exact and no image is read again.
    """

    name: ClassVar[str]
    phil: ClassVar[str]

    @classmethod
    def from_params(cls, params: Any) -> Reindexer:
        """Return the reindexer that the parameters describe."""

    def reindex(self, sums: VoxelSums, experiment: Experiment) -> Reindexing:
        """Return what becomes of the indexing of each image.

        Args:
            sums: of all images.
            experiment: their orientations and Bragg intensities.

        Raises:
            GeometryError: a grid on which the choice can't be made.
        """
