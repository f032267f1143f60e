"""Unit cells and reciprocal bases."""

from __future__ import annotations

import numpy as np

__all__ = ["Cell", "cell_of_matrix", "cell_of_metric", "reciprocal_basis"]

Cell = tuple[float, ...]
"""A unit cell as six numbers, a, b, c in angstrom and alpha, beta, gamma in degrees."""


def reciprocal_basis(cell: Cell) -> np.ndarray:
    """Return (3, 3) B: Cartesian ``q = B hkl`` in 1/angstrom, a along x and c* along z."""
    a, b, c = cell[:3]
    cos_alpha, cos_beta, cos_gamma = np.cos(np.radians(cell[3:]))
    sin_gamma = np.sqrt(1 - cos_gamma**2)
    c_x, c_y = c * cos_beta, c * (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    direct = np.array(
        [
            [a, b * cos_gamma, c_x],
            [0.0, b * sin_gamma, c_y],
            [0.0, 0.0, np.sqrt(c * c - c_x * c_x - c_y * c_y)],
        ]
    )
    return np.linalg.inv(direct).T


def cell_of_metric(reciprocal_metric: np.ndarray) -> Cell:
    """Return the cell (angstrom, degrees) of a reciprocal metric tensor (3, 3), 1/angstrom^2."""
    metric = np.linalg.inv(reciprocal_metric)
    lengths = np.sqrt(np.diag(metric))
    cosines = [metric[i, j] / (lengths[i] * lengths[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    return (*map(float, lengths), *map(float, np.degrees(np.arccos(np.clip(cosines, -1, 1)))))


def cell_of_matrix(setting_matrix: np.ndarray) -> Cell:
    """Return the cell (angstrom, degrees) of a setting matrix A = U B (3, 3), 1/angstrom."""
    return cell_of_metric(setting_matrix.T @ setting_matrix)
