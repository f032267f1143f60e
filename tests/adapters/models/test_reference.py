"""Unit cells of the files a user may have of a crystal."""

from __future__ import annotations

import pytest

pytest.importorskip("dxtbx")

from diffuse_framework.adapters.models.reference import reference_cell
from diffuse_framework.errors import DataError

CELL = (58.1, 58.2, 150.3, 90.0, 90.0, 90.0)
CRYST1 = "CRYST1   58.100   58.200  150.300  90.00  90.00  90.00 P 21 21 2     8\n"
ATOM = "ATOM      1  CA  GLY A   1       1.000   2.000   3.000  1.00 10.00           C\nEND\n"


def write_pdb(path):
    path.write_text(CRYST1 + ATOM)


def write_cif(path):
    path.write_text(
        "data_model\n_cell.length_a 58.1\n_cell.length_b 58.2\n_cell.length_c 150.3\n"
        "_cell.angle_alpha 90\n_cell.angle_beta 90\n_cell.angle_gamma 90\n"
        "_symmetry.space_group_name_H-M 'P 21 21 2'\n"
    )


def write_mtz(path):
    from cctbx import crystal, miller
    from cctbx.array_family import flex

    symmetry = crystal.symmetry(CELL, "P21212")
    indices = miller.build_set(symmetry, anomalous_flag=False, d_min=15)
    data = indices.array(flex.double(indices.size(), 1.0))
    data.as_mtz_dataset("I").mtz_object().write(str(path))


def write_expt(path):
    from dxtbx.model import Crystal, Experiment, ExperimentList

    experiments = ExperimentList()
    for a in (57.9, 58.1, 61.0):
        crystal = Crystal((a, 0, 0), (0, 58.2, 0), (0, 0, 150.3), space_group_symbol="P21212")
        experiments.append(Experiment(crystal=crystal))
    experiments.as_json(str(path))


@pytest.mark.parametrize("write", [write_pdb, write_cif, write_mtz, write_expt])
def test_cell_and_space_group_come_back(write, tmp_path):
    path = tmp_path / f"reference.{write.__name__.removeprefix('write_')}"
    write(path)
    cell, group = reference_cell(path)
    assert cell == pytest.approx(CELL, rel=1e-6)
    assert group == "P21212"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("garbage.mtz", b"no reflections here"),
        ("garbage.cif", b"data_\nloop_\n_a\n_b\n1"),
        ("no_cell.cif", b"data_x\n_entry.id x\n"),
        ("no_cell.pdb", ATOM.encode()),
        ("nmr.pdb", b"CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1\n" + ATOM.encode()),
        ("binary.pdb", bytes(range(256))),
        ("garbage.expt", b"{}"),
        (
            "imported.expt",
            b'{"__id__": "ExperimentList", "experiment": [], "imageset": [], "beam": [], '
            b'"detector": [], "goniometer": [], "scan": [], "crystal": [], "profile": [], '
            b'"scaling_model": []}',
        ),
        ("model.xyz", b""),
    ],
)
def test_files_without_a_cell_are_refused_by_name(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=name) as refused:
        reference_cell(path)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no file"):
        reference_cell(tmp_path / "model.pdb")
