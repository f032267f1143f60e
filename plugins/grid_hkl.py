"""Voxels that divide the reciprocal lattice evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.geometry import highest_resolution
from diffuse_framework.algorithms.lattice import robust_cell, symmetrized_cell
from diffuse_framework.algorithms.symmetry import asymmetric_box
from diffuse_framework.errors import ConfigError, GeometryError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import Cell, reciprocal_basis

PHIL = """
divisions = 3 3 3
  .type = ints(size=3, value_min=1)
  .expert_level = 0
  .help = "Voxels per reciprocal lattice vector along h, k and l. Axes that the symmetry mixes need"
          "equal numbers."
d_min = None
  .type = float(value_min=0)
  .expert_level = 0
  .help = "Highest resolution in angstrom; None takes what the detector reaches."
d_max = None
  .type = float(value_min=0)
  .help = "Lowest resolution in angstrom; None sets no limit."
unit_cell = None
  .type = floats(size=6, value_min=1)
  .help = "Cell of the grid (angstrom, degrees); None takes the median of all images."
"""


@dataclass(frozen=True)
class HklGrid:
    """Voxels centred on (i/n_h, j/n_k, l/n_l), folded by the Laue group."""

    name: ClassVar[str] = "hkl"
    phil: ClassVar[str] = PHIL
    divisions: tuple[int, ...] = (3, 3, 3)
    d_min: float | None = None
    d_max: float | None = None
    unit_cell: Cell | None = None

    @classmethod
    def from_params(cls, params: Any) -> HklGrid:
        """Return the grid builder; refuses d_min above d_max."""
        if params.d_min and params.d_max and params.d_min >= params.d_max:
            raise ConfigError(f"grid.hkl.d_min={params.d_min:g} must be below d_max={params.d_max:g} (angstrom)")
        cell = tuple(params.unit_cell) if params.unit_cell else None
        return cls(tuple(params.divisions), params.d_min, params.d_max, cell)

    def build(self, experiment: Experiment) -> VoxelGrid:
        """Return the grid of the robust average cell, or of the one given.

        Raises:
            GeometryError: divisions that the symmetry does not allow, or too many voxels.
        """
        symmetry = experiment.symmetry
        if self.unit_cell:
            cell = symmetrized_cell(self.unit_cell, symmetry.operators)
        else:
            cell = robust_cell(experiment.cells(), symmetry.operators)
        d_min = self.d_min or min(highest_resolution(geometry) for geometry in experiment.geometries)
        d_max = self.d_max or np.inf
        try:
            count, low, high = asymmetric_box(symmetry, self.divisions, reciprocal_basis(cell), d_min, d_max)
        except GeometryError as error:
            chosen = ",".join(map(str, self.divisions))
            raise GeometryError(f"{error} (grid.hkl.divisions={chosen}, grid.hkl.d_min, grid.hkl.d_max)") from error
        dimensions = tuple(int(n) for n in high - low + 1)
        if np.prod(dimensions, dtype=float) >= 2**31:
            raise GeometryError(
                f"a grid of {' x '.join(map(str, dimensions))} voxels is too large; raise grid.hkl.d_min="
                f"{d_min:.2f} or lower grid.hkl.divisions"
            )
        return VoxelGrid(
            cell=cell,
            symmetry=symmetry,
            divisions=self.divisions,
            index_min=tuple(int(n) for n in low),
            dimensions=dimensions,
            d_min=float(d_min),
            d_max=float(d_max),
            n_voxels=int(count),
        )


@hookimpl
def diffuse_grids() -> list[type]:
    """Offer the grid."""
    return [HklGrid]
