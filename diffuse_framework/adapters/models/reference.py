"""Unit cell and space group from a model, from data, or from experiments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cctbx import sgtbx, uctbx

from diffuse_framework.adapters.models.symmetry import cell_of
from diffuse_framework.errors import DataError, in_one_line
from diffuse_framework.model.lattice import Cell

_CIF = (".cif", ".mmcif")
_PDB = (".pdb", ".ent")
_EXPERIMENTS = (".expt", ".json")


def reference_cell(path: Path) -> tuple[Cell, str | None]:
    """Return the unit cell and the space group of a .pdb, .cif, .mtz or .expt file.

    Returns:
        The cell (angstrom, degrees), for an .expt file the median of its crystals, and the
        Hermann-Mauguin symbol, None where the file has none.

    Raises:
        DataError: the file isn't there, can't be read, or has no unit cell.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    ending = path.suffix.lower()
    if ending not in (*_CIF, *_PDB, *_EXPERIMENTS, ".mtz"):
        raise DataError(f"{path}: a reference cell is read from .pdb, .cif, .mtz or .expt files only")
    try:
        cell, group = _from_experiments(path) if ending in _EXPERIMENTS else _from_crystal(path, ending)
    except DataError:
        raise
    # The readers raise whatever went wrong inside: RuntimeError, ValueError, Sorry, AssertionError ...
    except Exception as error:
        raise DataError(f"{path}: can't be read ({in_one_line(error)})") from error
    if cell is None or cell.volume() < 2:
        # A PDB file without a crystal has the cell 1 1 1 90 90 90.
        raise DataError(f"{path}: has no unit cell")
    return cell_of(cell), None if group is None else str(group).replace(" ", "")


def _from_crystal(path: Path, ending: str) -> tuple[uctbx.unit_cell | None, sgtbx.space_group_info | None]:
    if ending == ".mtz":
        from iotbx import mtz

        symmetry = mtz.object(file_name=str(path)).crystals()[0].crystal_symmetry()
    elif ending in _CIF:
        from iotbx.cif import crystal_symmetry_from_cif

        symmetry = crystal_symmetry_from_cif.extract_from(file_name=str(path))
    else:
        from iotbx.pdb import crystal_symmetry_from_pdb

        symmetry = crystal_symmetry_from_pdb.extract_from(file_name=str(path))
    if symmetry is None or symmetry.unit_cell() is None:
        raise DataError(f"{path}: has no unit cell")
    return symmetry.unit_cell(), symmetry.space_group_info()


def _from_experiments(path: Path) -> tuple[uctbx.unit_cell | None, sgtbx.space_group_info | None]:
    from dxtbx.model.experiment_list import ExperimentListFactory

    crystals = ExperimentListFactory.from_json_file(str(path), check_format=False).crystals()
    if not crystals:
        raise DataError(f"{path}: has no crystal; give the .expt file of indexed images")
    cells = np.array([crystal.get_unit_cell().parameters() for crystal in crystals])
    return uctbx.unit_cell(tuple(np.median(cells, axis=0))), crystals[0].get_space_group().info()
