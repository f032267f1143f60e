"""Cell contents from model files and sequences, and the parameters that name them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from cctbx import sgtbx

from diffuse_framework.algorithms.absolute.composition import (
    DNA,
    RNA,
    Composition,
    fill_cell,
    mass_of,
    parse_formula,
    scaled,
    sequence_composition,
    total,
)
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.contents import CellContents
from diffuse_framework.model.grid import VoxelGrid

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
class Molecule:
    """What is repeated in the cell.

    Attributes:
        counts: atoms of each element.
        nucleic_mass: part of its mass that is nucleic acid, dalton.
        source: where it comes from.
        notes: what was assumed.
        cell_volume: of the file it comes from, cubic angstrom, 0 where there is none.
    """

    counts: Composition
    nucleic_mass: float
    source: str
    notes: tuple[str, ...] = ()
    cell_volume: float = 0.0


@dataclass(frozen=True)
class Contents:
    """What the user says of the cell; see `PHIL`.

    Attributes:
        molecule: one copy.
        copies: per asymmetric unit.
        waters_per_volume: per cubic angstrom, 0 for no solvent.
        solutes: (formula, mol/l, cubic angstrom).
    """

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
            _check_elements(counts)
            molecule = Molecule(counts, 0.0, f"the formula {named['formula']}")
        solutes = tuple(_solute(text, where) for text in params.solvent.solutes or [])
        water = params.solvent.water if params.solvent.fill else 0.0
        return cls(molecule, params.copies, water, solutes)

    def fill(self, grid: VoxelGrid) -> CellContents:
        """Return the contents of the unit cell of a grid.

        Raises:
            DataError: a Matthews coefficient that no crystal has.
        """
        molecule = self.molecule
        volume = float(1 / abs(np.linalg.det(grid.reciprocal_basis)))
        copies = self.copies * operations_of(grid.symmetry.space_group)
        known = {*molecule.counts, "H", "O"}
        known = known.union(*(parse_formula(formula) for formula, _, _ in self.solutes))
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


def _other_cell(molecule: Molecule, volume: float) -> tuple[str, ...]:
    """Say so where a model comes from a cell of another size."""
    if not molecule.cell_volume or abs(molecule.cell_volume / volume - 1) < 0.05:
        return ()
    return (
        f"{molecule.source} comes from a cell of {molecule.cell_volume:.0f} cubic angstrom, the map's has "
        f"{volume:.0f}: are they the same crystal form, with as many molecules?",
    )


def operations_of(space_group: str) -> int:
    """Return the number of symmetry operations per unit cell, centring included."""
    return int(sgtbx.space_group_info(space_group).group().order_z())


def _solute(text: str, where: str) -> tuple[str, float, float]:
    """Return formula, mol/l and cubic angstrom of for example "NaCl:0.5" or "C3H8O3:2.7:118"."""
    formula, *numbers = text.split(":")
    _check_elements(parse_formula(formula))
    try:
        molar, volume = map(float, numbers if len(numbers) != 1 else [*numbers, _SALT_VOLUME])
    except ValueError as error:
        raise ConfigError(
            f"{where}.solvent.solutes: {text!r} is not formula:mol/l or formula:mol/l:volume, as in NaCl:0.5"
        ) from error
    if molar < 0 or volume < 0:
        raise ConfigError(f"{where}.solvent.solutes: {text!r} holds a negative number")
    return formula, molar, volume


def _check_elements(counts: Composition) -> None:
    for element in counts:
        if gemmi.Element(element).atomic_number == 0:
            raise ConfigError(f"{element!r} is not a chemical element")


def read_sequences(path: Path) -> Molecule:
    """Return the composition of all chains of a FASTA file together.

    Raises:
        DataError: it can't be read, or holds no sequence.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't read the sequence {path}: {error}") from error
    chains: list[str] = []
    for line in text.splitlines():
        if line.startswith(">"):
            chains.append("")
        elif line.strip() and not line.startswith(";"):
            chains = chains or [""]
            chains[-1] += line.strip().rstrip("*")
    chains = [chain for chain in chains if chain]
    if not chains:
        raise DataError(f"{path} holds no sequence")
    counts: dict[str, float] = {}
    nucleic_mass, notes = 0.0, []
    for chain in chains:
        kind = _kind(chain)
        composition, unknown = sequence_composition(chain, kind)
        counts = total(counts, composition)
        if kind != "protein":
            nucleic_mass += mass_of(composition, _weights(composition))
        if unknown:
            notes.append(f"{unknown} unknown residues of {path.name} count as the mean of the others")
    return Molecule(counts, nucleic_mass, f"{len(chains)} chain(s) of {path.name}", tuple(notes))


def _kind(chain: str) -> str:
    letters = {letter for letter in chain.upper() if letter.isalpha()}
    if letters <= {*DNA, "N"}:
        return "dna"
    return "rna" if letters <= {*RNA, "N"} else "protein"


def _weights(composition: Composition) -> dict[str, float]:
    return {element: gemmi.Element(element).weight for element in composition}


def read_model(path: Path, hydrogens: bool = True) -> Molecule:
    """Return the composition of the asymmetric unit in a PDB or mmCIF file.

    Atoms count by their occupancy, alternate conformations each with its own; strict non-crystallographic
    symmetry that the file leaves out is applied. Residues without hydrogens get those of their entry
    in gemmi's table (from the wwPDB's Chemical Component Dictionary), less the two that a bond to the
    next residue costs, in proportion to the heavy atoms present. Water is left out: the bulk solvent fills
    its volume.

    Raises:
        DataError: it can't be read, or holds no atom.
    """
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(f"can't read {path} as a PDB or mmCIF file: {error}") from error
    if not len(structure) or not structure[0].count_atom_sites():
        raise DataError(f"{path} holds no atom")
    structure.setup_entities()
    copies = 1 + sum(not operation.given for operation in structure.ncs)
    counts: dict[str, float] = {}
    nucleic: dict[str, float] = {}
    unknown: set[str] = set()
    waters, added = 0.0, 0.0
    for chain in structure[0]:
        polymer = {residue.subchain for residue in chain.get_polymer()}
        for group in _residues(chain):
            info = gemmi.find_tabulated_residue(group[0].name)
            here: dict[str, float] = defaultdict(float)
            for residue in group:
                for atom in residue:
                    here["H" if atom.is_hydrogen() else atom.element.name] += atom.occ
            if info.is_water():
                waters += here["O"]
                continue
            if hydrogens and not here["H"]:
                missing = _hydrogens(group, group[0].subchain in polymer)
                if missing is None:
                    unknown.add(group[0].name)
                else:
                    here["H"] += missing
                    added += missing
            counts = total(counts, here)
            if info.is_nucleic_acid():
                nucleic = total(nucleic, here)
    counts = {element: count * copies for element, count in counts.items() if count > 0}
    if not counts:
        raise DataError(f"{path} holds nothing but water")
    _check_elements(counts)
    notes = []
    if waters:
        notes.append(f"{waters * copies:g} water molecules of {path.name} are part of the bulk solvent")
    if added:
        notes.append(f"{added * copies:.0f} hydrogens were added")
    if unknown:
        names = ", ".join(sorted(unknown))
        notes.append(f"residues without hydrogens that gemmi's table does not know, none added: {names}")
    if copies > 1:
        notes.append(f"{copies} copies by strict non-crystallographic symmetry")
    volume = structure.cell.volume if structure.cell.is_crystal() else 0.0
    return Molecule(counts, mass_of(nucleic, _weights(nucleic)) * copies, path.name, tuple(notes), volume)


def _residues(chain: Any) -> list[list[Any]]:
    """Group residues that share a place in the chain: point mutations as alternate conformations."""
    groups: dict[Any, list[Any]] = {}
    for residue in chain:
        groups.setdefault((str(residue.seqid), residue.subchain), []).append(residue)
    return list(groups.values())


def _hydrogens(group: list[Any], in_polymer: bool) -> float | None:
    """Return how many hydrogens a residue should have, None where that is not known."""
    hydrogens = 0.0
    for residue in group:
        info = gemmi.find_tabulated_residue(residue.name)
        heavy = sum(atom.occ for atom in residue)
        names = {atom.name for atom in residue}
        if len(names) == 1 and next(iter(residue)).element.is_metal:
            continue
        if not info.found():
            return None
        expected = _heavy_atoms(residue.name, in_polymer, "OXT" in names) or len(names)
        bonded = 0 if not in_polymer else 1 if "OXT" in names else 2
        count = max(info.hydrogen_count - bonded, 0)
        hydrogens += count * min(heavy / expected, 1.0)
    return hydrogens


def _heavy_atoms(name: str, in_polymer: bool, with_end: bool) -> int | None:
    """Return how many atoms other than hydrogen a standard residue has in a chain, None if not standard."""
    info = gemmi.find_tabulated_residue(name)
    letter = info.one_letter_code.upper()
    if not (in_polymer and info.is_standard()):
        return None
    formula = sequence_composition(letter, "protein" if info.is_amino_acid() else _strand(name))[0]
    # The chain of one residue has an end's oxygen, which a residue in the middle has not.
    return int(sum(formula.values()) - formula["H"]) - (0 if with_end else 1)


def _strand(name: str) -> str:
    return "dna" if name.startswith("D") else "rna"
