"""One indexing for all crystals, by the diffuse scattering itself.

A lattice that is more symmetric than the crystal (P4, P3 and others) can be indexed in ways that nothing in its
geometry tells apart. The formulas are in `algorithms.indexing.ambiguity`.
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
seed = 0
  .type = int(value_min=0)
  .expert_level = 2
  .help = "Seed of the random orders in which crystals are compared on further tries."
"""

# Crystals that are listed one by one, and the lead in correlation below which a choice is doubtful.
_MOST_LISTED, _DOUBTFUL = 20, 0.02


@dataclass(frozen=True)
class DiffuseReindexer:
    """Compares the diffuse scattering of all crystals in every indexing that the lattice allows."""

    name: ClassVar[str] = "diffuse"
    phil: ClassVar[str] = PHIL
    tolerance_deg: float = 1.0
    seed: int = 0

    @classmethod
    def from_params(cls, params: Any) -> DiffuseReindexer:
        """Return the reindexer."""
        return cls(params.tolerance, params.seed)

    def reindex(self, sums: VoxelSums, experiment: Experiment) -> Reindexing:
        """Return the indexing of each image that agrees best with the others.

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
        _log(choice, experiment, crystals)
        chosen = choice.operators[choice.chosen[crystals]]
        return Reindexing(chosen, np.ones(len(experiment.images), bool))


def _log(choice: Choice, experiment: Experiment, crystals: np.ndarray) -> None:
    n_crystals = len(choice.chosen)
    changed = int(np.count_nonzero(choice.chosen))
    logger.info("%d of %d crystals are re-indexed", changed, n_crystals)
    doubtful = 0
    for crystal in range(n_crystals):
        found = choice.correlations[crystal]
        own = found[choice.chosen[crystal]]
        others = np.delete(found, choice.chosen[crystal])
        second = np.nanmax(others) if np.isfinite(others).any() else np.nan
        unsure = not own - second > _DOUBTFUL
        doubtful += unsure
        if crystal < _MOST_LISTED:
            first = experiment.images[int(np.argmax(crystals == crystal))]
            logger.info(
                "  %s: %s, correlation %.3f, next best %.3f%s",
                first.name,
                triplet(choice.operators[choice.chosen[crystal]]),
                own,
                second,
                " (doubtful)" if unsure else "",
            )
    if doubtful:
        logger.warning(
            "For %d of %d crystals one indexing correlates hardly better than another: their diffuse scattering is "
            "too weak to tell, or nearly as symmetric as the lattice. dials.cosym may tell from Bragg intensities",
            doubtful,
            n_crystals,
        )


@hookimpl
def diffuse_reindexers() -> list[type]:
    """Offer the reindexer."""
    return [DiffuseReindexer]
