"""One indexing for all crystals, by the diffuse scattering itself.

A lattice that is more symmetric than the crystal (P4, P3 and others) can be indexed in ways that nothing in its
geometry tells apart. The formulas are in `algorithms.indexing.ambiguity` and `algorithms.indexing.evidence`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.indexing.ambiguity import (
    Choice,
    choose_operators,
    crystal_numbers,
    reindexing_operators,
    triplet,
)
from diffuse_framework.errors import GeometryError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.reindexing import Reindexing, unchanged
from diffuse_framework.model.voxels import VoxelSums

logger = logging.getLogger(__name__)

PHIL = """
tolerance = 1.0
  .type = float(value_min=0, value_max=10)
  .help = "By how much, in degrees, a lattice may miss the higher symmetry and still be mistaken for it."
doubtful = *keep leave_out
  .type = choice
  .help = "What becomes of crystals whose indexing the diffuse scattering does not tell beyond doubt: they keep the"
          "indexing they came with, or their images are left out of the map."
seed = 0
  .type = int(value_min=0)
  .expert_level = 2
  .help = "Seed of the random orders in which crystals are compared on further tries, and of the halves of"
          "reciprocal space on which indexings are chosen and tested."
"""

# Crystals that are listed one by one.
_MOST_LISTED = 20


@dataclass(frozen=True)
class DiffuseReindexer:
    """Compares the diffuse scattering of all crystals in every indexing that the lattice allows."""

    name: ClassVar[str] = "diffuse"
    phil: ClassVar[str] = PHIL
    tolerance_deg: float = 1.0
    seed: int = 0
    leaves_out: bool = False

    @classmethod
    def from_params(cls, params: Any) -> DiffuseReindexer:
        """Return the reindexer."""
        return cls(params.tolerance, params.seed, params.doubtful == "leave_out")

    def reindex(self, sums: VoxelSums, experiment: Experiment) -> Reindexing:
        """Return the indexing of each image that agrees best with the others, where that is beyond doubt.

        Raises:
            GeometryError: a grid that divides axes differently which the lattice can exchange.
        """
        crystals = crystal_numbers(experiment)
        operators = reindexing_operators(sums.grid.symmetry, sums.grid.cell, self.tolerance_deg)
        if len(operators) == 1 or crystals.max(initial=0) == 0:
            return unchanged(len(experiment.images))
        logger.info(
            "The lattice can be indexed in %d ways (%s): comparing the diffuse scattering of %d crystals",
            len(operators),
            "; ".join(map(triplet, operators)),
            crystals.max() + 1,
        )
        try:
            rng = np.random.default_rng(self.seed)
            choice = choose_operators(sums.tables(), crystals, sums.grid, operators, rng)
        except GeometryError as error:
            raise GeometryError(f"{error}, or set reindexer.plugin=as_indexed") from error
        self._log(choice, experiment, crystals)
        keep = choice.certain[crystals] if self.leaves_out else np.ones(len(experiment.images), bool)
        return Reindexing(choice.operators[choice.chosen[crystals]], keep)

    def _log(self, choice: Choice, experiment: Experiment, crystals: np.ndarray) -> None:
        n_crystals = len(choice.chosen)
        logger.info("%d of %d crystals are re-indexed", np.count_nonzero(choice.chosen), n_crystals)
        for crystal in range(min(n_crystals, _MOST_LISTED)):
            first = experiment.images[int(np.argmax(crystals == crystal))]
            logger.info(
                "  %s: %s, %s",
                first.name,
                triplet(choice.operators[choice.evidence.best[crystal]]),
                f"likelihood ratio to the next 10^{choice.evidence.lead[crystal] / np.log(10):.1f}"
                if choice.certain[crystal]
                else "doubtful",
            )
        if n_crystals > _MOST_LISTED:
            logger.info("  ... and %d more", n_crystals - _MOST_LISTED)
        doubtful = np.count_nonzero(~choice.certain)
        if doubtful:
            logger.warning(
                "For %d of %d crystals it could not be told in which way they are indexed: their diffuse scattering is "
                "too weak, or nearly as symmetric as the lattice. %s. dials.cosym may tell from Bragg intensities",
                doubtful,
                n_crystals,
                "Their images are left out (reindexer.diffuse.doubtful)"
                if self.leaves_out
                else "They stay as they came; reindexer.diffuse.doubtful=leave_out leaves them out of the map",
            )


@hookimpl
def diffuse_reindexers() -> list[type]:
    """Offer the reindexer."""
    return [DiffuseReindexer]
