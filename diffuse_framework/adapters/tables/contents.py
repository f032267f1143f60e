"""What molecules consist of, from model files and sequences."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import gemmi

from diffuse_framework.algorithms.absolute.composition import (
    DNA,
    RNA,
    Composition,
    mass_of,
    sequence_composition,
    total,
)
from diffuse_framework.errors import ConfigError, DataError


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


def check_elements(counts: Composition) -> None:
    """Check that a composition names elements.

    Raises:
        ConfigError: it names something else.
    """
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
            nucleic_mass += mass_of(composition, weights_of(composition))
        if unknown:
            notes.append(f"{unknown} unknown residues of {path.name} count as the mean of the others")
    return Molecule(counts, nucleic_mass, f"{len(chains)} chain(s) of {path.name}", tuple(notes))


def _kind(chain: str) -> str:
    letters = {letter for letter in chain.upper() if letter.isalpha()}
    if letters <= {*DNA, "N"}:
        return "dna"
    return "rna" if letters <= {*RNA, "N"} else "protein"


def weights_of(composition: Composition) -> dict[str, float]:
    """Return the atomic weight of each element of a composition, in dalton."""
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
    check_elements(counts)
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
    return Molecule(counts, mass_of(nucleic, weights_of(nucleic)) * copies, path.name, tuple(notes), volume)


def _residues(chain: gemmi.Chain) -> list[list[gemmi.Residue]]:
    """Group residues that share a place in the chain: point mutations as alternate conformations."""
    groups: dict[tuple[str, str], list[gemmi.Residue]] = {}
    for residue in chain:
        groups.setdefault((str(residue.seqid), residue.subchain), []).append(residue)
    return list(groups.values())


def _hydrogens(group: list[gemmi.Residue], in_polymer: bool) -> float | None:
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
