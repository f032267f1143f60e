"""The rules of a reindexer."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuse_framework.errors import DiffuseError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.reindexing import Reindexing
from diffuse_framework.model.voxels import VoxelSums
from diffuse_framework.testing.checks.common import call, require


def check_reindexer(reindexer: Any, sums: VoxelSums, experiment: Experiment) -> bool:
    """Check one reindexer on one set of sums.

    Rules: one operator of integers and determinant 1 for each image, which maps the lattice to itself to within
    what the plugin tolerates; the same answer when it is asked again.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    n = len(experiment.images)
    try:
        found: Reindexing = call(reindexer, "reindex", sums=sums, experiment=experiment)
    except DiffuseError:
        return False
    operators, keep = np.asarray(found.operators), np.asarray(found.keep)
    require(
        operators.shape == (n, 3, 3) and operators.dtype.kind == "i",
        reindexer,
        f"operators are {operators.dtype} of shape {operators.shape}; for {n} images they are integers ({n}, 3, 3)",
    )
    require(
        keep.shape == (n,) and keep.dtype == bool,
        reindexer,
        f"keep is {keep.dtype} of shape {keep.shape}; for {n} images it is ({n},) True or False",
    )
    wrong = np.flatnonzero(np.rint(np.linalg.det(operators)) != 1)
    require(
        len(wrong) == 0,
        reindexer,
        f"the operator of image {wrong[0] if len(wrong) else 0} has not the determinant 1: it changes the hand or the "
        "volume of the cell",
    )
    again: Reindexing = call(reindexer, "reindex", sums=sums, experiment=experiment)
    require(
        np.array_equal(again.operators, operators) and np.array_equal(again.keep, keep),
        reindexer,
        "gives another answer when it is asked again; take random numbers from a generator with a seed of its own",
    )
    return True
