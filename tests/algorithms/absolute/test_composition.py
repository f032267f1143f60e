"""What a cell holds, from formulas and sequences."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from diffuse_framework.algorithms.absolute.composition import (
    AMINO_ACIDS,
    DNA,
    RNA,
    fill_cell,
    mass_of,
    parse_formula,
    sequence_composition,
)
from diffuse_framework.errors import ConfigError, DataError

# UniProt P00698, hen egg-white lysozyme, residues 19 to 147: the mature chain.
LYSOZYME = (
    "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPCSALLSSDITASVNC"
    "AKKIVSDGNGMNAWVAWRNRCKGTDVQAWIRGCRL"
)
WEIGHTS = {element: gemmi.Element(element).weight for element in ("H", "C", "N", "O", "S", "P", "Na", "Cl")}
NUMBERS = {element: gemmi.Element(element).atomic_number for element in WEIGHTS}


def test_lysozyme_has_its_published_formula():
    # ExPASy ProtParam for P00698 19-147: C613 H959 N193 O185 S10, 14313 Da, residues neutral. Ours are
    # those of the Chemical Component Dictionary, which gives 11 Arg, 6 Lys and 1 His their proton.
    composition, unknown = sequence_composition(LYSOZYME, "protein")
    assert unknown == 0
    assert composition == {"C": 613, "H": 959 + 11 + 6 + 1, "N": 193, "O": 185, "S": 10}
    assert mass_of(composition, WEIGHTS) == pytest.approx(14313 + 18, abs=2)


@pytest.mark.parametrize("letter", [letter for letter in AMINO_ACIDS if letter != "U"])
def test_residues_agree_with_the_chemical_component_dictionary(letter):
    # gemmi's table holds weights and hydrogens of the CCD's free molecules.
    info = gemmi.find_tabulated_residue(gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA))
    free = sequence_composition(letter, "protein")[0]
    assert free["H"] == info.hydrogen_count
    assert mass_of(free, WEIGHTS) == pytest.approx(info.weight, abs=0.05)


@pytest.mark.parametrize(("table", "prefix"), [(RNA, ""), (DNA, "D")])
def test_nucleotides_agree_with_the_chemical_component_dictionary(table, prefix):
    for letter, formula in table.items():
        info = gemmi.find_tabulated_residue(prefix + letter)
        free = parse_formula(formula)
        assert free["H"] + 2 == info.hydrogen_count
        assert mass_of(free, WEIGHTS) + 18.015 == pytest.approx(info.weight, abs=0.05)


def test_formulas():
    assert parse_formula("NaCl") == {"Na": 1, "Cl": 1}
    assert parse_formula("C6 H12O6 C") == {"C": 7, "H": 12, "O": 6}
    for wrong in ("", "c6", "C6-H", "C1.2.3"):
        with pytest.raises(ConfigError):
            parse_formula(wrong)


def test_unknown_residues_count_as_the_mean_of_the_others():
    known, _ = sequence_composition("GAGA", "protein")
    longer, unknown = sequence_composition("GAXGAX", "protein")
    assert unknown == 2
    assert (longer["C"], longer["N"]) == (1.5 * known["C"], 1.5 * known["N"])


def lysozyme_cell(**changes):
    # Tetragonal lysozyme, PDB 193L: 78.54 78.54 37.77, P43212, Matthews coefficient 2.03 in its header.
    molecule, _ = sequence_composition(LYSOZYME, "protein")
    arguments = {
        "molecules": {element: 8 * count for element, count in molecule.items()},
        "solutes": (),
        "cell_volume": 78.54**2 * 37.77,
        "copies": 8,
        "weights": WEIGHTS,
        "atomic_numbers": NUMBERS,
    }
    return fill_cell(**(arguments | changes))


def test_the_matthews_coefficient_of_lysozyme():
    contents = lysozyme_cell()
    assert contents.matthews == pytest.approx(2.03, abs=0.01)
    assert contents.solvent_fraction == pytest.approx(1 - 1.212 / contents.matthews)
    density = contents.solvent @ contents.atomic_numbers / (contents.solvent_fraction * contents.cell_volume)
    assert density == pytest.approx(0.334)
    # Protein holds 0.43 electrons per cubic angstrom, water 0.334.
    assert 0.38 < contents.electrons / contents.cell_volume < 0.40


def test_solutes_take_the_place_of_water():
    contents = lysozyme_cell(solutes=(("NaCl", 1.0, 27.0),))
    free = contents.solvent_fraction * contents.cell_volume
    of = dict(zip(contents.elements, contents.solvent, strict=True))
    assert of["Na"] == of["Cl"] == pytest.approx(6.022e-4 * free, rel=1e-3)
    assert of["O"] == pytest.approx(0.0334 * free * (1 - 27 * 6.022e-4), rel=1e-3)


@pytest.mark.parametrize("volume", [100_000.0, 2_000_000.0])
def test_impossible_contents_are_refused(volume):
    with pytest.raises(DataError, match="Matthews coefficient of"):
        lysozyme_cell(cell_volume=volume)


def test_a_full_cell_gets_no_solvent_and_says_so():
    contents = lysozyme_cell(cell_volume=125_000.0)
    assert contents.solvent_fraction == 0
    assert not np.any(contents.solvent)
    assert "no solvent" in contents.notes[0]
