"""What a unit cell holds, and what its atoms scatter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["CellContents", "Theory"]


@dataclass(frozen=True, eq=False)
class CellContents:
    """All atoms of a unit cell, bulk solvent included.

    Attributes:
        elements: (n,) symbols, each once.
        ordered: (n,) atoms per unit cell of the molecules; fractions where occupancies are.
        solvent: (n,) atoms per unit cell of the bulk solvent and what is dissolved in it.
        atomic_numbers: (n,).
        cell_volume: cubic angstrom.
        copies: molecules, or models as the file has them, per unit cell.
        molecule_mass: of the molecules of one unit cell, dalton.
        matthews: cell volume per dalton of molecules, cubic angstrom per dalton.
        solvent_fraction: part of the cell's volume that molecules leave to the solvent.
        source: where the composition comes from.
        notes: what was assumed, in words.
    """

    elements: tuple[str, ...]
    ordered: np.ndarray
    solvent: np.ndarray
    atomic_numbers: np.ndarray
    cell_volume: float
    copies: int
    molecule_mass: float
    matthews: float
    solvent_fraction: float
    source: str
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> np.ndarray:
        """(n,) atoms per unit cell, ordered and solvent."""
        return self.ordered + self.solvent

    @property
    def electrons(self) -> float:
        """F(000), the electrons of a unit cell."""
        return float(self.counts @ self.atomic_numbers)


@dataclass(frozen=True, eq=False)
class Theory:
    """What the atoms of a unit cell scatter on their own, in electron units per cell.

    Attributes:
        q: (m,) |q| in 1/angstrom, ascending from 0.
        coherent: (m,) sum of f0^2 over all atoms, and the interference between bonded ones where the
            sum rule counts it.
        ordered: (m,) the same over the ordered atoms only: what Bragg peaks come from.
        incoherent: (m,) Compton scattering of all atoms, as a photon counter sees it.
        f000_squared_density: F(000)^2 / V, electrons^2 per cubic angstrom: the integral of the
            forward peak over reciprocal space.
        source: of the tables.
    """

    q: np.ndarray
    coherent: np.ndarray
    ordered: np.ndarray
    incoherent: np.ndarray
    f000_squared_density: float
    source: str
