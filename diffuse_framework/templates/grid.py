"""Voxels of about equal size along all three axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.geometry import highest_resolution
from diffuse_framework.algorithms.lattice import robust_cell
from diffuse_framework.algorithms.symmetry import asymmetric_box
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import reciprocal_basis

PHIL = """
width = 0.02
  .type = float(value_min=1e-3, value_max=1, allow_none=False)
  .help = "Largest width of a voxel, in 1/angstrom."
d_min = None
  .type = float(value_min=0.1)
  .help = "Highest resolution in angstrom; None takes what the detector reaches."
"""


@dataclass(frozen=True)
class TemplateGrid:
    """Voxels of about equal size along all three axes."""

    name: ClassVar[str] = "template"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 1
    width: float = 0.02
    d_min: float | None = None

    @classmethod
    def from_params(cls, params: Any) -> TemplateGrid:
        """Return the grid builder that the parameters describe."""
        return cls(params.width, params.d_min)

    def build(self, experiment: Experiment) -> VoxelGrid:
        """Return the grid of the robust average cell.

        Raises:
            GeometryError: no voxel within the resolution limit.
        """
        symmetry = experiment.symmetry
        cell = robust_cell(experiment.cells(), symmetry.operators)
        basis = reciprocal_basis(cell)
        needed = np.maximum(np.ceil(np.linalg.norm(basis, axis=0) / self.width), 1).astype(int)
        # Axes that the symmetry mixes need equal divisions.
        mixed = (symmetry.operators != 0).any(axis=0)
        divisions = tuple(int(needed[row].max()) for row in mixed)
        d_min = self.d_min or min(highest_resolution(geometry) for geometry in experiment.geometries)
        count, low, high = asymmetric_box(symmetry, divisions, basis, d_min)
        return VoxelGrid(
            cell=cell,
            symmetry=symmetry,
            divisions=divisions,
            index_min=tuple(int(n) for n in low),
            dimensions=tuple(int(n) for n in high - low + 1),
            d_min=d_min,
            d_max=np.inf,
            n_voxels=count,
        )


@hookimpl
def diffuse_grids() -> list[type]:
    """Offer the grid."""
    return [TemplateGrid]
