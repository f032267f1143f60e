"""One indexing for all crystals, between adding up and scaling."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.algorithms.indexing.ambiguity import (
    Choice,
    choose_operators,
    crystal_numbers,
    refolded,
    reindexed_image,
    reindexing_operators,
    triplet,
)
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.voxels import VoxelSums

logger = logging.getLogger(__name__)

# Crystals that are listed one by one, and the lead in correlation below which a choice is doubtful.
_MOST_LISTED, _DOUBTFUL = 20, 0.02


@dataclass(frozen=True)
class ResolveAmbiguity:
    """Brings crystals to one indexing where their lattice is more symmetric than they are.

    Attributes:
        tolerance_deg: by which a lattice may miss the higher symmetry.
        seed: of random starts.
    """

    tolerance_deg: float = 1.0
    seed: int = 0

    def __call__(self, sums: VoxelSums, experiment: Experiment, make_sink: Callable) -> tuple[VoxelSums, Experiment]:
        """Return sums and experiment in one indexing; the same objects where there is nothing to do.

        Args:
            sums: of all images.
            experiment: their crystals.
            make_sink: called with grid and image names; where changed sums are kept.

        Raises:
            GeometryError: a grid whose divisions the operators can't be applied to.
        """
        crystals = crystal_numbers(experiment)
        operators = reindexing_operators(sums.grid.symmetry, sums.grid.cell, self.tolerance_deg)
        if len(operators) == 1 or crystals.max(initial=0) == 0:
            return sums, experiment
        logger.info(
            "The lattice can be indexed in %d ways (%s): comparing the diffuse scattering of %d crystals",
            len(operators),
            "; ".join(map(triplet, operators)),
            crystals.max() + 1,
        )
        rng = np.random.default_rng(self.seed)
        choice = choose_operators(sums.tables(), crystals, sums.grid, operators, rng)
        _log(choice, experiment, crystals)
        if not choice.chosen.any():
            return sums, experiment
        sink = make_sink(sums.grid, sums.image_names)
        for table in refolded(sums.tables(), crystals, choice, sums.grid):
            sink.append(table)
        images = tuple(
            reindexed_image(image, choice.operators[choice.chosen[crystal]])
            for image, crystal in zip(experiment.images, crystals, strict=True)
        )
        return sink.finish(), replace(experiment, images=images)


def _log(choice: Choice, experiment: Experiment, crystals: np.ndarray) -> None:
    n_crystals = len(choice.chosen)
    changed = int(np.count_nonzero(choice.chosen))
    logger.info("%d of %d crystals are indexed again", changed, n_crystals)
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
            "For %d of %d crystals one indexing correlates hardly better than another: their diffuse "
            "scattering is "
            "too weak to tell, or nearly as symmetric as the lattice. dials.cosym may tell from Bragg "
            "intensities",
            doubtful,
            n_crystals,
        )
