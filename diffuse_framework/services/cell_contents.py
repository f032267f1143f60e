"""What the unit cell holds: the parameters that name it, and the atoms they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from diffuse_framework.adapters.models.symmetry import operations_of
from diffuse_framework.adapters.tables.contents import (
    Molecule,
    check_elements,
    read_model,
    read_sequences,
)
from diffuse_framework.algorithms.absolute.composition import fill_cell, parse_formula, scaled
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.contents import CellContents
from diffuse_framework.model.grid import VoxelGrid

__all__ = ["PHIL", "Contents", "Molecule", "read_model", "read_sequences"]

PHIL = """
contents
  .help = "What the unit cell holds: a model, a sequence or a formula, times copies, and solvent."
{
  model = None
    .type = path
    .help = "PDB or mmCIF file of the asymmetric unit. Occupancies count, hydrogens it lacks are added in"
            "number; its water is replaced by the bulk solvent."
  sequence = None
    .type = path
    .help = "FASTA file with one molecule: protein, RNA or DNA, several chains if it has them."
  formula = None
    .type = str
    .help = "Element counts of one molecule, for example C613 H959 N193 O185 S10."
  copies = 1
    .type = int(value_min=1)
    .help = "Molecules, or copies of the model, in the asymmetric unit."
  hydrogens = True
    .type = bool
    .help = "Add the hydrogens that a model lacks."
  solvent {
    fill = True
      .type = bool
      .help = "Fill the volume that molecules leave with water and solutes."
    water = 0.0334
      .type = float(value_min=0)
      .help = "Water molecules per cubic angstrom of solvent: 0.334 electrons per cubic angstrom."
    solutes = None
      .type = strings
      .help = "Salt and the like in the solvent, each as formula:mol/l:volume, separated by blanks. The volume"
              "of a formula unit in cubic angstrom, whose water it takes the place of, is 27 where it is not"
              "given, that of NaCl. For example NaCl:0.5 C3H8O3:2.7:118 N2H8SO4:1.6:83."
  }
}
"""


# Cubic angstrom that NaCl takes up in water: 16.6 cm^3/mol, Millero (1971), Chem. Rev. 71, 147.
_SALT_VOLUME = "27"


@dataclass(frozen=True)
class Contents:
    """What the user says of the cell; see `PHIL`.

    Attributes:
        where: place of the parameters, for messages.
        molecule: one copy.
        copies: per asymmetric unit.
        waters_per_volume: per cubic angstrom, 0 for no solvent.
        solutes: (formula, mol/l, cubic angstrom).
    """

    where: str
    molecule: Molecule
    copies: int
    waters_per_volume: float
    solutes: tuple[tuple[str, float, float], ...]

    @classmethod
    def from_params(cls, params: Any, where: str) -> Contents | None:
        """Read what `params`, an extracted scope `contents`, names; None where it names nothing.

        Args:
            params: extracted.
            where: its place in the tree of parameters, for messages.

        Raises:
            ConfigError: more than one thing is named, or something that isn't chemistry.
            DataError: a file that can't be read.
        """
        named = {n: getattr(params, n) for n in ("model", "sequence", "formula") if getattr(params, n)}
        if not named:
            return None
        if len(named) > 1:
            raise ConfigError(f"{where}: name only one of model=, sequence= and formula=")
        if "model" in named:
            molecule = read_model(Path(named["model"]), params.hydrogens)
        elif "sequence" in named:
            molecule = read_sequences(Path(named["sequence"]))
        else:
            counts = parse_formula(named["formula"])
            check_elements(counts)
            molecule = Molecule(counts, 0.0, f"the formula {named['formula']}")
        solutes = tuple(_solute(text, where) for text in params.solvent.solutes or [])
        water = params.solvent.water if params.solvent.fill else 0.0
        return cls(where, molecule, params.copies, water, solutes)

    def fill(self, grid: VoxelGrid) -> CellContents:
        """Return the contents of the unit cell of a grid.

        Raises:
            ConfigError: solutes that leave no room for water.
            DataError: a Matthews coefficient that no crystal has.
        """
        molecule = self.molecule
        volume = float(1 / abs(np.linalg.det(grid.reciprocal_basis)))
        copies = self.copies * operations_of(grid.symmetry.space_group)
        known = {*molecule.counts, "H", "O"}
        known = known.union(*(parse_formula(formula) for formula, _, _ in self.solutes))
        try:
            return fill_cell(
                scaled(molecule.counts, copies),
                self.solutes,
                volume,
                copies,
                {element: gemmi.Element(element).weight for element in known},
                {element: gemmi.Element(element).atomic_number for element in known},
                molecule.nucleic_mass * copies,
                self.waters_per_volume,
                molecule.source,
                molecule.notes + _other_cell(molecule, volume),
            )
        except (ConfigError, DataError) as error:
            raise type(error)(
                f"{error}. Check {self.where}.copies={self.copies}, {self.where}.solvent.solutes and the unit cell"
            ) from error


def _other_cell(molecule: Molecule, volume: float) -> tuple[str, ...]:
    """Say so where a model comes from a cell of another size."""
    if not molecule.cell_volume or abs(molecule.cell_volume / volume - 1) < 0.05:
        return ()
    return (
        f"{molecule.source} comes from a cell of {molecule.cell_volume:.0f} cubic angstrom, the map's has "
        f"{volume:.0f}: are they the same crystal form, with as many molecules?",
    )


def _solute(text: str, where: str) -> tuple[str, float, float]:
    """Return formula, mol/l and cubic angstrom of for example "NaCl:0.5" or "C3H8O3:2.7:118"."""
    formula, *numbers = text.split(":")
    check_elements(parse_formula(formula))
    try:
        molar, volume = map(float, numbers if len(numbers) != 1 else [*numbers, _SALT_VOLUME])
    except ValueError as error:
        raise ConfigError(
            f"{where}.solvent.solutes: {text!r} is not formula:mol/l or formula:mol/l:volume, as in NaCl:0.5"
        ) from error
    if molar < 0 or volume < 0:
        raise ConfigError(f"{where}.solvent.solutes: {text!r} holds a negative number")
    return formula, molar, volume
