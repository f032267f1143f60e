"""Averaging unit cells."""

from __future__ import annotations

import numpy as np

from diffuse_framework.model.lattice import Cell, cell_of_metric, reciprocal_basis

__all__ = ["robust_cell", "symmetrized_cell"]


def symmetrized_cell(cell: Cell, operators: np.ndarray) -> Cell:
    """Return the cell nearest to `cell` that obeys the Laue group.

    The reciprocal metric tensor is averaged over the group's operators (n, 3, 3).
    """
    basis = reciprocal_basis(cell)
    metric = basis.T @ basis
    averaged = np.mean([operator.T @ metric @ operator for operator in operators], axis=0)
    return cell_of_metric(averaged)


def robust_cell(cells: np.ndarray, operators: np.ndarray) -> Cell:
    """Return the median of cells (n, 6), made to obey the Laue group."""
    return symmetrized_cell(tuple(map(float, np.median(cells, axis=0))), operators)
