"""Compositions as counts of elements: formulas, residues, and what a unit cell is filled with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.contents import CellContents

__all__ = [
    "DNA",
    "RESIDUES",
    "RNA",
    "Composition",
    "fill_cell",
    "mass_of",
    "parse_formula",
    "scaled",
    "sequence_composition",
    "total",
]

Composition = Mapping[str, float]

# Residues within a chain, H2O lost: the free molecules of the wwPDB's Chemical Component Dictionary, in
# the protonation it gives them (ARG, LYS and HIS with their proton), without H2O.
AMINO_ACIDS = {
    "A": "C3 H5 N O",
    "R": "C6 H13 N4 O",
    "N": "C4 H6 N2 O2",
    "D": "C4 H5 N O3",
    "C": "C3 H5 N O S",
    "Q": "C5 H8 N2 O2",
    "E": "C5 H7 N O3",
    "G": "C2 H3 N O",
    "H": "C6 H8 N3 O",
    "I": "C6 H11 N O",
    "L": "C6 H11 N O",
    "K": "C6 H13 N2 O",
    "M": "C5 H9 N O S",
    "F": "C9 H9 N O",
    "P": "C5 H7 N O",
    "S": "C3 H5 N O2",
    "T": "C4 H7 N O2",
    "W": "C11 H10 N2 O",
    "Y": "C9 H9 N O2",
    "V": "C5 H9 N O",
    "U": "C3 H5 N O Se",
}
# Nucleotides within a strand, as phosphodiesters with their proton.
RNA = {"A": "C10 H12 N5 O6 P", "C": "C9 H12 N3 O7 P", "G": "C10 H12 N5 O7 P", "U": "C9 H11 N2 O8 P"}
DNA = {"A": "C10 H12 N5 O5 P", "C": "C9 H12 N3 O6 P", "G": "C10 H12 N5 O6 P", "T": "C10 H13 N2 O7 P"}
RESIDUES = {"protein": AMINO_ACIDS, "rna": RNA, "dna": DNA}

# Cubic angstrom per dalton: 0.73 cm^3/g for proteins (Matthews (1968), J. Mol. Biol. 33, 491), 0.55 for
# nucleic acids (Cohen & Eisenberg (1968), Biopolymers 6, 1077).
VOLUME_PER_DALTON = {"protein": 1.212, "nucleic": 0.913}

# What no crystal of molecules has, angstrom^3 per dalton.
MATTHEWS_LIMITS = (1.0, 10.0)

MOLECULES_PER_MOLAR = 6.02214076e-4
"""Molecules per cubic angstrom in a solution of 1 mol/l."""


def total(*compositions: Composition) -> dict[str, float]:
    """Return the sum of compositions."""
    counts: dict[str, float] = {}
    for composition in compositions:
        for element, count in composition.items():
            counts[element] = counts.get(element, 0.0) + count
    return counts


def parse_formula(text: str) -> dict[str, float]:
    """Return the counts of a formula such as "C6 H12 O6" or "NaCl".

    Raises:
        ConfigError: it is not one.
    """
    parts = re.findall(r"([A-Z][a-z]?)\s*([0-9.]*)", text)
    spelled = "".join(symbol + number for symbol, number in parts)
    if not parts or spelled != re.sub(r"\s+", "", text):
        raise ConfigError(f"{text!r} is not a chemical formula; write for example C613 H959 N193 O185 S10")
    counts: dict[str, float] = {}
    for symbol, number in parts:
        try:
            counts[symbol] = counts.get(symbol, 0.0) + float(number or 1)
        except ValueError as error:
            raise ConfigError(f"{text!r} is not a chemical formula: {number} is no number") from error
    return counts


def sequence_composition(sequence: str, kind: str) -> tuple[dict[str, float], int]:
    """Return the counts of a chain of one-letter codes, and how many letters were not known.

    The ends carry H and OH. Unknown residues (X, N, ...) count as the mean of the others.

    Args:
        sequence: one-letter codes.
        kind: "protein", "rna" or "dna".

    Raises:
        DataError: not one residue is known.
    """
    table = RESIDUES[kind]
    letters = [letter for letter in sequence.upper() if letter.isalpha()]
    known = [letter for letter in letters if letter in table]
    if not known:
        raise DataError(f"the sequence {sequence[:20]!r} has no residue of {kind}")
    unknown = len(letters) - len(known)
    residues = total(*(scaled(parse_formula(table[name]), n) for name, n in Counter(known).items()))
    return total(scaled(residues, 1 + unknown / len(known)), {"H": 2.0, "O": 1.0}), unknown


def scaled(composition: Composition, factor: float) -> dict[str, float]:
    """Return a composition multiplied by `factor`."""
    return {element: count * factor for element, count in composition.items()}


def mass_of(composition: Composition, weights: Composition) -> float:
    """Return the mass in dalton."""
    return float(sum(count * weights[element] for element, count in composition.items()))


def fill_cell(
    molecules: Composition,
    solutes: Iterable[tuple[str, float, float]],
    cell_volume: float,
    copies: int,
    weights: Composition,
    atomic_numbers: Mapping[str, int],
    nucleic_mass: float = 0.0,
    waters_per_volume: float = 0.0334,
    source: str = "",
    notes: tuple[str, ...] = (),
) -> CellContents:
    """Return the contents of a cell: its molecules, and solvent in the volume they leave.

    Args:
        molecules: counts of all molecules in the unit cell.
        solutes: (formula, mol/l, volume of one formula unit in cubic angstrom) of what is dissolved in
            the solvent; each unit takes the place of its volume of water.
        cell_volume: cubic angstrom.
        copies: molecules in the unit cell.
        weights, atomic_numbers: of every element.
        nucleic_mass: part of the molecules' mass that is nucleic acid, dalton.
        waters_per_volume: of the solvent without solutes, per cubic angstrom; 0 leaves the volume empty.
        source, notes: as in `CellContents`.

    Raises:
        DataError: a Matthews coefficient that no crystal has.
    """
    mass = mass_of(molecules, weights)
    if not mass > 0:
        raise DataError(f"there is not one atom in {source}")
    matthews = cell_volume / mass
    occupied = VOLUME_PER_DALTON["protein"] * (mass - nucleic_mass)
    occupied += VOLUME_PER_DALTON["nucleic"] * nucleic_mass
    low, high = MATTHEWS_LIMITS
    if not low <= matthews <= high:
        raise DataError(
            f"{copies} copies of {source} with {mass:.0f} Da altogether in a cell of {cell_volume:.0f} cubic "
            f"angstrom make a Matthews coefficient of {matthews:.2f} A^3/Da, and crystals have {low:g} to {high:g} "
            "(most 1.7 to 3.5)"
        )
    if occupied > cell_volume:
        notes = (*notes, "the molecules take up all of the cell: no solvent was added")
    free = max(cell_volume - occupied, 0.0)
    solvent: dict[str, float] = {}
    water = waters_per_volume
    if waters_per_volume > 0:
        for formula, molar, volume in solutes:
            per_volume = molar * MOLECULES_PER_MOLAR
            water -= per_volume * volume * waters_per_volume
            solvent = total(solvent, scaled(parse_formula(formula), per_volume * free))
        if water < 0:
            raise ConfigError("the solutes leave no room for water")
        solvent = total(solvent, {"H": 2 * water * free, "O": water * free})
    elements = tuple(sorted({*molecules, *solvent}, key=lambda element: atomic_numbers[element]))
    return CellContents(
        elements=elements,
        ordered=np.array([float(molecules.get(element, 0)) for element in elements]),
        solvent=np.array([float(solvent.get(element, 0)) for element in elements]),
        atomic_numbers=np.array([atomic_numbers[element] for element in elements]),
        cell_volume=cell_volume,
        copies=copies,
        molecule_mass=mass,
        matthews=matthews,
        solvent_fraction=free / cell_volume,
        source=source,
        notes=notes,
    )
