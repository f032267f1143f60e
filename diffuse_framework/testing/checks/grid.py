"""The rules of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.errors import GeometryError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.testing.checks.common import BrokenContract, call, require, title_of


def check_grid(grid: Any, experiment: Experiment, seed: int = 0) -> bool:
    """Check the grid that a builder makes for one experiment.

    Rules: folding is idempotent, takes symmetry equivalents to one voxel and centres to centres; every
    voxel within the limits has its place in the box, once.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    try:
        built = call(grid, "build", experiment=experiment)
    except GeometryError:
        return False
    require(
        built.symmetry.laue_group == experiment.symmetry.laue_group,
        grid,
        f"is of Laue group {built.symmetry.laue_group}, the crystal of {experiment.symmetry.laue_group}",
    )
    require(0 < built.d_min < built.d_max, grid, f"has d_min={built.d_min} and d_max={built.d_max}")
    require(
        len(built.dimensions) == 3 and min(built.dimensions) > 0 and len(built.index_min) == 3,
        grid,
        f"has a box of {built.dimensions} voxels from {built.index_min}; three numbers each",
    )
    reach = np.ceil(np.linalg.norm(np.linalg.inv(built.reciprocal_basis), axis=1) / built.d_min).astype(int)
    reach = reach * np.array(built.divisions)
    index = np.random.default_rng(seed).integers(-reach, reach + 1, (400, 3))
    length = np.linalg.norm(index / np.array(built.divisions) @ built.reciprocal_basis.T, axis=1)
    inside = (length <= (1 - 1e-6) / built.d_min) & (length >= (1 + 1e-6) / built.d_max)
    try:
        folded, operator = fold(index, built.symmetry, built.divisions)
    except GeometryError as error:
        raise BrokenContract(
            f"{title_of(grid)}: build returns a grid that cannot be folded ({error}); raise GeometryError in build"
        ) from error
    require(
        (operator >= 0).all(),
        grid,
        f"{np.count_nonzero(operator < 0)} of {len(index)} voxels fold into no asymmetric unit: symmetry.operators "
        "are no Laue group, or asu_matrix does not belong to them",
    )
    again, _ = fold(folded, built.symmetry, built.divisions)
    require(
        (again == folded).all(),
        grid,
        f"folding is not idempotent: folding again moves {np.count_nonzero((again != folded).any(axis=1))} of "
        f"{len(index)} voxels, so that one intensity has several places",
    )
    numbers = np.array(built.divisions)
    for equivalent in built.symmetry.operators:
        centres = (index / numbers) @ equivalent.T * numbers
        turned = np.rint(centres).astype(np.int64)
        require(
            np.allclose(centres, turned, atol=1e-6),
            grid,
            f"a symmetry operation maps voxel centres beside centres: divisions {built.divisions} do not have the "
            "symmetry; raise GeometryError and name the axes",
        )
        equal, _ = fold(turned, built.symmetry, built.divisions)
        require(
            (equal == folded).all(),
            grid,
            f"symmetry equivalents fold to different voxels ({np.count_nonzero((equal != folded).any(axis=1))} of "
            f"{len(index)}): the map would hold one intensity in several places",
        )
    offset = folded[inside] - np.array(built.index_min)
    require(
        ((offset >= 0) & (offset < np.array(built.dimensions))).all(),
        grid,
        "voxels within the resolution limits lie outside the box: their pixels would be lost. See "
        "algorithms.symmetry.asymmetric_box",
    )
    number = np.ravel_multi_index(tuple(offset.T), built.dimensions)
    require(
        (built.index_of(number) == folded[inside]).all()
        and np.allclose(built.hkl_of(number) * numbers, folded[inside]),
        grid,
        "index_of and hkl_of do not return the voxel that a number stands for",
    )
    return True
