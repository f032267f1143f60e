"""Cell contents from model files and sequences."""

from __future__ import annotations

from pathlib import Path

import gemmi
import pytest
from iotbx.phil import parse

from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.services.cell_contents import PHIL, Contents, read_model, read_sequences
from diffuse_framework.services.symmetry import operations_of
from diffuse_framework.testing.fakes import orthorhombic_grid

ATOM = (
    "ATOM  {n:5d} {name:<4s}{alt}{res:>3s} {chain}{seq:4d}    "
    "{x:8.3f}{y:8.3f}{z:8.3f}{occ:6.2f} 20.00          {e:>2s}\n"
)


def pdb(atoms, header="CRYST1   20.000   25.000   30.000  90.00  90.00  90.00 P 2 2 2\n"):
    """Return a PDB file of (name, alternate, residue, number, occupancy, element)."""
    lines = [
        ATOM.format(n=n, name=f" {a[0]}", alt=a[1], res=a[2], chain="A", seq=a[3], x=n, y=0, z=0, occ=a[4], e=a[5])
        for n, a in enumerate(atoms, 1)
    ]
    return header + "".join(lines) + "END\n"


ALANINE = [("N", "N"), ("CA", "C"), ("C", "C"), ("O", "O"), ("CB", "C")]


def peptide(n=3, occupancy=1.0, end=False):
    atoms = [(name, " ", "ALA", seq, occupancy, e) for seq in range(1, n + 1) for name, e in ALANINE]
    return [*atoms, ("OXT", " ", "ALA", n, occupancy, "O")] if end else atoms


def written(tmp_path: Path, text: str, name="model.pdb") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_hydrogens_are_added_in_number(tmp_path):
    path = written(tmp_path, pdb(peptide(3)))
    assert read_model(path).counts == {"N": 3, "C": 9, "O": 3, "H": 15}
    assert read_model(path, hydrogens=False).counts == {"N": 3, "C": 9, "O": 3}


def test_the_end_of_a_chain_has_one_more(tmp_path):
    assert read_model(written(tmp_path, pdb(peptide(3, end=True)))).counts["H"] == 16


def test_hydrogens_in_the_model_are_kept(tmp_path):
    atoms = [*peptide(1), ("H", " ", "ALA", 1, 1.0, "H")]
    assert read_model(written(tmp_path, pdb(atoms))).counts["H"] == 1


def test_occupancies_and_alternates_count(tmp_path):
    atoms = [a for a in peptide(1) if a[0] != "CB"]
    atoms += [("CB", "A", "ALA", 1, 0.6, "C"), ("CB", "B", "ALA", 1, 0.4, "C")]
    assert read_model(written(tmp_path, pdb(atoms))).counts == pytest.approx({"N": 1, "C": 3, "O": 1, "H": 5})
    half = read_model(written(tmp_path, pdb(peptide(2, 0.5))))
    assert half.counts == pytest.approx({"N": 1, "C": 3, "O": 1, "H": 5})


def test_a_cut_side_chain_has_its_share_of_hydrogens(tmp_path):
    atoms = [a for a in peptide(1) if a[0] != "CB"]
    assert read_model(written(tmp_path, pdb(atoms))).counts["H"] == pytest.approx(5 * 4 / 5)


def test_water_is_left_to_the_solvent(tmp_path):
    molecule = read_model(written(tmp_path, pdb([*peptide(2), ("O", " ", "HOH", 9, 1.0, "O")])))
    assert molecule.counts["O"] == 2
    assert any("1 water" in note for note in molecule.notes)


def test_an_unknown_ligand_is_named(tmp_path):
    ligand = [(name, " ", "QQ9", 9, 1.0, "C") for name in ("C1", "C2")]
    molecule = read_model(written(tmp_path, pdb([*peptide(2), *ligand])))
    assert any("QQ9" in note for note in molecule.notes)


def test_strict_ncs_is_applied(tmp_path):
    header = "CRYST1   20.000   25.000   30.000  90.00  90.00  90.00 P 2 2 2\n"
    for number, given in ((1, "1"), (2, " ")):
        for row in (1, 2, 3):
            vector = "  ".join("1.000000" if column == row else "0.000000" for column in (1, 2, 3))
            header += f"MTRIX{row} {number:3d}  {vector}     {5.0 * (number - 1):9.5f}    {given}\n"
    assert read_model(written(tmp_path, pdb(peptide(3), header))).counts["N"] == 6


def test_mmcif_says_the_same_as_pdb(tmp_path):
    path = written(tmp_path, pdb(peptide(3)))
    structure = gemmi.read_structure(str(path))
    structure.make_mmcif_document().write_file(str(tmp_path / "model.cif"))
    assert read_model(tmp_path / "model.cif").counts == read_model(path).counts


@pytest.mark.parametrize("text", ["", "nothing of the kind", pdb([("O", " ", "HOH", 1, 1.0, "O")])])
def test_files_without_molecules_are_refused(tmp_path, text):
    with pytest.raises(DataError):
        read_model(written(tmp_path, text))
    with pytest.raises(DataError, match="nowhere"):
        read_model(tmp_path / "nowhere.pdb")


def test_sequences(tmp_path):
    molecule = read_sequences(written(tmp_path, ">one\nGAVL\nKM*\n>two\nACGT\n", "s.fasta"))
    assert molecule.counts["P"] == 4
    assert 0 < molecule.nucleic_mass < 1300
    with pytest.raises(DataError):
        read_sequences(written(tmp_path, ">only a name\n", "empty.fasta"))


def contents(**settings):
    text = "".join(f"contents.{name.replace('__', '.')} = {value}\n" for name, value in settings.items())
    return Contents.from_params(parse(PHIL).fetch(parse(text)).extract().contents, "here.contents")


def test_copies_follow_from_the_symmetry():
    assert [operations_of(name) for name in ("P1", "P212121", "C2", "P41212", "R3:H", "F432")] == [1, 4, 4, 8, 9, 96]
    filled = contents(formula="C30H48N8O9S2", copies=1).fill(orthorhombic_grid())
    assert filled.copies == 4
    assert dict(zip(filled.elements, filled.ordered, strict=True))["S"] == 8


def test_salt(tmp_path):
    given = contents(formula="C30H48N8O9S2", solvent__solutes="NaCl:2 C3H8O3:1:118")
    assert given.solutes == (("NaCl", 2, 27), ("C3H8O3", 1, 118))
    filled = given.fill(orthorhombic_grid())
    free = filled.solvent_fraction * filled.cell_volume
    of = dict(zip(filled.elements, filled.solvent, strict=True))
    assert of["Cl"] == pytest.approx(2 * 6.022e-4 * free, rel=1e-3)
    for wrong in ("NaCl", "NaCl:x", "NaCl:1:2:3", "NaCl:-1", "Qx:1"):
        with pytest.raises(ConfigError):
            contents(formula="C", solvent__solutes=wrong)


def test_one_thing_is_named():
    assert contents() is None
    with pytest.raises(ConfigError, match="only one"):
        contents(formula="C", sequence="x.fasta")
    with pytest.raises(ConfigError, match="not a chemical element"):
        contents(formula="C10Qx2")


def test_impossible_copies_are_refused():
    with pytest.raises(DataError, match="contents.copies"):
        contents(formula="C300H480N80O90S2", copies=4).fill(orthorhombic_grid())


def test_a_model_from_another_cell_is_noticed(tmp_path):
    path = written(tmp_path, pdb(peptide(70), "CRYST1   40.000   25.000   30.000  90.00  90.00  90.00 P 2 2 2\n"))
    filled = contents(model=path).fill(orthorhombic_grid(cell=(30.0, 25.0, 30.0, 90.0, 90.0, 90.0)))
    assert any("same crystal form" in note for note in filled.notes)
