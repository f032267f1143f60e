"""What a known cell says before any spot is seen: short vectors of its lattice, and how symmetry lets it stretch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.masking.shapes import centring_conditions
from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.lattice import Cell, cell_of_matrix, cell_of_metric, reciprocal_basis

__all__ = ["KnownCell", "known_cell"]


@dataclass(frozen=True, eq=False)
class KnownCell:
    """A unit cell and its symmetry as an indexer needs them.

    Attributes:
        cell: angstrom and degrees.
        basis: (3, 3) B, ``q = U B hkl`` in 1/angstrom.
        conditions: rows of `centring_conditions`.
        primitive: (3, 3) columns are three short vectors that span the direct lattice, in angstrom, in the frame of
            the basis; shortest first.
        strains: (m, 3, 3) symmetric matrices; ``B' = (1 + sum_k e_k strains[k]) B`` are the cells that the symmetry
            allows.
        rotations: (n, 3, 3) proper rotations of the Laue group in the frame of the basis, identity first.
    """

    cell: Cell
    basis: np.ndarray
    conditions: np.ndarray
    primitive: np.ndarray
    strains: np.ndarray
    rotations: np.ndarray


def known_cell(cell: Cell, symmetry: Symmetry) -> KnownCell:
    """Return what follows from a cell and a space group.

    The cell is first made to obey the symmetry: its metric is averaged over the operations.

    Args:
        cell: angstrom and degrees, of the conventional, perhaps centred lattice.
        symmetry: of the crystal.
    """
    given = reciprocal_basis(cell)
    operators = symmetry.operators
    metric = np.mean([m.T @ given.T @ given @ m for m in operators], axis=0)
    basis = reciprocal_basis(cell_of_metric(metric))
    inverse = np.linalg.inv(basis)
    in_space = np.array([basis @ m @ inverse for m in operators])
    rotations = in_space[np.linalg.det(in_space) > 0]
    conditions = centring_conditions(symmetry.space_group)
    primitive = _primitive(basis, conditions)
    return KnownCell(cell_of_matrix(basis), basis, conditions, primitive, _strains(in_space), rotations)


def _primitive(basis: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """Return the three shortest vectors of the direct lattice that don't lie in a plane, as columns."""
    translations = [np.zeros(3)]
    for row in conditions:
        # Where c . h is a multiple of m for all reflections, c / m is a translation of the lattice.
        translations = [one + n * row[:3] / row[3] for one in translations for n in range(row[3])]
    steps = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    fractional = (steps[:, None] + np.array(translations)).reshape(-1, 3)
    vectors = fractional @ np.linalg.inv(basis)
    vectors = vectors[np.argsort(np.round(np.linalg.norm(vectors, axis=1), 6), kind="stable")][1:]
    chosen = [vectors[0]]
    for vector in vectors[1:]:
        trial = np.array([*chosen, vector])
        if np.linalg.matrix_rank(trial / np.linalg.norm(trial, axis=1, keepdims=True), tol=1e-3) == len(trial):
            chosen.append(vector)
        if len(chosen) == 3:
            break
    primitive = np.array(chosen).T
    return primitive if np.linalg.det(primitive) > 0 else primitive * np.array([1, 1, -1])


def _strains(in_space: np.ndarray) -> np.ndarray:
    """Return a basis of the symmetric matrices (m, 3, 3) that all operations leave as they are."""
    found = []
    for i in range(3):
        for j in range(i, 3):
            one = np.zeros((3, 3))
            one[i, j] = one[j, i] = 1
            found.append(np.mean([r @ one @ r.T for r in in_space], axis=0).ravel())
    _, sizes, rows = np.linalg.svd(np.array(found))
    return rows[: int((sizes > 1e-6).sum())].reshape(-1, 3, 3)
