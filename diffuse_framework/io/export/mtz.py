"""Voxels as reflections of a supercell in MTZ files."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np

from diffuse_framework.io.atomic import writing
from diffuse_framework.model.lattice import Cell


def write_mtz(
    path: Path,
    hkl: np.ndarray,
    columns: dict[str, tuple[str, np.ndarray]],
    cell: Cell,
    hall_symbol: str,
    title: str,
    history: list[str],
) -> None:
    """Write integer indices and columns, indices in the asymmetric unit that CCP4 programs expect.

    Args:
        path: of the file.
        hkl: (n, 3) integers.
        columns: MTZ type and values (n,) by label; NaN is missing.
        cell: angstrom and degrees.
        hall_symbol: of the space group, without screw axes or centring.
        title: 70 characters at most.
        history: lines of 80 characters at most.
    """
    mtz = gemmi.Mtz(with_base=True)
    mtz.title = title[:70]
    mtz.history = [line[:80] for line in history]
    mtz.spacegroup = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall_symbol))
    mtz.set_cell_for_all(gemmi.UnitCell(*cell))
    mtz.add_dataset("diffuse")
    for label, (kind, _) in columns.items():
        mtz.add_column(label, kind)
    table = np.column_stack([hkl.astype(np.float32), *(values for _, values in columns.values())])
    mtz.set_data(table.astype(np.float32))
    mtz.ensure_asu()
    mtz.sort()
    with writing(path) as temporary:
        mtz.write_to_file(str(temporary))
