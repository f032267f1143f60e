"""What a file of a map may leave open, and how the rest is found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffuse_framework.algorithms.comparison.grids import make_map
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import Cell, reciprocal_basis
from diffuse_framework.model.voxel_map import VoxelMap
from diffuse_framework.services.symmetry import symmetry_of

__all__ = ["MapHints", "box_to_map", "divisions_of_steps"]

# By how much a voxel's edge may miss a whole number of them per reciprocal lattice vector.
_TOLERANCE = 0.03


@dataclass(frozen=True)
class MapHints:
    """What is known of a map besides its file.

    Attributes:
        unit_cell: angstrom and degrees.
        space_group: Hermann-Mauguin symbol.
        divisions: voxels per reciprocal lattice vector.
        column: of the intensity, in files of several.
        grid: of the definition of the grid, for NPZ files; None for beside the map.
        like: grid of another map of the same crystal, for what else is unknown.
    """

    unit_cell: Cell | None = None
    space_group: str | None = None
    divisions: tuple[int, ...] | None = None
    column: str | None = None
    grid: Path | None = None
    like: VoxelGrid | None = None

    def cell(self, path: Path) -> Cell:
        """Return the cell of a file that states none.

        Raises:
            DataError: it isn't known.
        """
        if self.unit_cell is not None:
            return self.unit_cell
        if self.like is not None:
            return self.like.cell
        raise DataError(f"{path} does not say its unit cell: give input.unit_cell=a,b,c,alpha,beta,gamma")

    def symmetry(self, stated: str = "P1") -> Symmetry:
        """Return the symmetry given, or the one that the file states.

        Raises:
            ConfigError: a symbol that is none.
        """
        return symmetry_of(self.space_group or stated)


def divisions_of_steps(path: Path, steps: np.ndarray, hints: MapHints) -> tuple[int, ...]:
    """Return the divisions of voxels whose edges along a*, b*, c* are `steps` (3,), 1/angstrom.

    Raises:
        DataError: they are no whole parts of the reciprocal lattice vectors of the cell.
    """
    if hints.divisions is not None:
        return hints.divisions
    lengths = np.linalg.norm(reciprocal_basis(hints.cell(path)), axis=0)
    found = lengths / steps
    if (np.abs(found / np.maximum(np.rint(found), 1) - 1) > _TOLERANCE).any():
        text = ", ".join(f"{x:.2f}" for x in found)
        raise DataError(
            f"the voxels of {path} are {text} to a reciprocal lattice vector of the cell, no whole numbers: it belongs "
            "to another crystal, or give input.unit_cell= or input.divisions="
        )
    return tuple(int(n) for n in np.rint(found))


def box_to_map(
    path: Path,
    values: np.ndarray,
    index_min: tuple[int, ...],
    divisions: tuple[int, ...],
    cell: Cell,
    symmetry: Symmetry,
    sigma: np.ndarray | None = None,
    units: str = "relative",
) -> VoxelMap:
    """Return the map of a box of voxels.

    Args:
        path: of the file, for its name.
        values: (n_h, n_k, n_l); NaN where there is none.
        index_min: voxel index of the first.
        divisions: voxels per reciprocal lattice vector.
        cell: angstrom and degrees.
        symmetry: of the map.
        sigma: (n_h, n_k, n_l) or None.
        units: of the values.

    Raises:
        DataError: no finite value.
        GeometryError: divisions that the symmetry does not allow.
    """
    places = np.nonzero(np.isfinite(values))
    index = np.stack(places, axis=1) + np.array(index_min, np.int64)
    known = None if sigma is None else np.asarray(sigma[places], float)
    return make_map(
        cell, symmetry, divisions, index, np.asarray(values[places], float), known, units=units, name=str(path)
    )
