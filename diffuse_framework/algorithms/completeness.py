"""How much of the asymmetric unit a map holds: the one definition that log, report and files share.

Completeness is the number of voxels that were observed over the number of voxels of the asymmetric unit, both
counted one by one. Shares of a shell's volume aren't that: a voxel on a symmetry element stands for fewer
equivalents than others, so that volumes count too few of them, and a shell may seem more than complete.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.algorithms.symmetry import inside_unit, q2_limits, q_squared, voxel_operators
from diffuse_framework.model.grid import VoxelGrid

__all__ = ["ResolutionShells", "completeness", "resolution_shells", "voxels_possible"]


@dataclass(frozen=True, eq=False)
class ResolutionShells:
    """The observed voxels of a map in resolution shells.

    Attributes:
        edges: (n_shells + 1,) |q| in 1/angstrom.
        shell: (n,) number of each observed voxel's shell.
        possible: (n_shells,) voxels of the asymmetric unit in each.
    """

    edges: np.ndarray
    shell: np.ndarray
    possible: np.ndarray

    def __len__(self) -> int:
        return len(self.possible)

    @property
    def observed(self) -> np.ndarray:
        """(n_shells,) voxels observed in each."""
        return np.bincount(self.shell, minlength=len(self))

    @property
    def completeness(self) -> np.ndarray:
        """(n_shells,) of each shell; NaN where the asymmetric unit has no voxel."""
        return completeness(self.observed, self.possible)

    def resolution(self, number: int) -> dict[str, float | None]:
        """Return the limits of a shell in angstrom, d_max being None where the shell reaches |q| = 0."""
        low, high = self.edges[number], self.edges[number + 1]
        return {"d_max": float(1 / low) if low > 0 else None, "d_min": float(1 / high)}


def completeness(observed: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """Return voxels observed over voxels of the asymmetric unit, NaN where there is none."""
    possible = np.asarray(possible, float)
    return np.divide(observed, possible, out=np.full(possible.shape, np.nan), where=possible > 0)


def resolution_shells(grid: VoxelGrid, voxel: np.ndarray, n_shells: int) -> ResolutionShells:
    """Put observed voxels (n,) into shells of equal volume, from the grid's lowest resolution to the last voxel's."""
    metric = _metric(grid)
    squared = _all_q_squared(grid.index_of(voxel), metric)
    low = 0.0 if np.isinf(grid.d_max) else 1 / grid.d_max
    high = np.sqrt(float(squared.max())) if len(squared) and squared.max() > low**2 else 1 / grid.d_min
    edges = np.cbrt(np.linspace(low**3, high**3, n_shells + 1))
    bounds = _bounds(edges)
    shell = np.clip(np.searchsorted(bounds, squared, side="right") - 1, 0, n_shells - 1)
    return ResolutionShells(edges, shell, voxels_possible(grid, edges))


def voxels_possible(grid: VoxelGrid, edges: np.ndarray) -> np.ndarray:
    """Return the number of voxels of the asymmetric unit in each shell, (n_shells,), counted one by one.

    Args:
        grid: its box and its limits of resolution are those of the count.
        edges: (n_shells + 1,) |q| in 1/angstrom, ascending. A shell holds its lower edge; the last one both.
    """
    _, cuts, laue = voxel_operators(grid.symmetry, grid.divisions)
    counts = np.zeros(len(edges) - 1, np.int64)
    low = np.array(grid.index_min, np.int64)
    q2_min, q2_max = q2_limits(grid.d_min, grid.d_max)
    _count(low, low + np.array(grid.dimensions), _metric(grid), q2_min, q2_max, cuts[0], laue, _bounds(edges), counts)
    return counts


def _metric(grid: VoxelGrid) -> np.ndarray:
    basis = grid.reciprocal_basis / np.array(grid.divisions, float)
    return basis.T @ basis


def _bounds(edges: np.ndarray) -> np.ndarray:
    """Return the edges in |q|^2, the outer two wide enough for voxels that lie right on them."""
    bounds = np.asarray(edges, float) ** 2
    bounds[0] *= 1 - 1e-9
    bounds[-1] *= 1 + 1e-9
    return bounds


@njit(cache=True)
def _all_q_squared(index, metric):
    result = np.empty(len(index))
    for n in range(len(index)):
        result[n] = q_squared(index[n, 0], index[n, 1], index[n, 2], metric)
    return result


@njit(cache=True)
def _count(start, stop, metric, q2_min, q2_max, cut, laue, bounds, counts):
    """Add to `counts` (n_shells,) the voxels of the asymmetric unit between start and stop (3,)."""
    last = len(bounds) - 1
    for i in range(start[0], stop[0]):
        for j in range(start[1], stop[1]):
            shell = 0
            for k in range(start[2], stop[2]):
                q2 = q_squared(i, j, k, metric)
                if q2 < q2_min or q2 > q2_max or q2 < bounds[0] or q2 > bounds[last]:
                    continue
                if not inside_unit(
                    laue,
                    cut[0, 0] * i + cut[0, 1] * j + cut[0, 2] * k,
                    cut[1, 0] * i + cut[1, 1] * j + cut[1, 2] * k,
                    cut[2, 0] * i + cut[2, 1] * j + cut[2, 2] * k,
                ):
                    continue
                # Along a line |q| changes by little from one voxel to the next.
                while shell > 0 and q2 < bounds[shell]:
                    shell -= 1
                while shell < last - 1 and q2 >= bounds[shell + 1]:
                    shell += 1
                counts[shell] += 1
