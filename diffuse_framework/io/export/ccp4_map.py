"""Boxes of reciprocal or real space as CCP4/MRC maps."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np

from diffuse_framework.io.atomic import writing
from diffuse_framework.model.lattice import Cell

# Words of the header, from 1: https://www.ccpem.ac.uk/mrc_format/mrc2014.php
_START, _LABEL, _N_LABELS = 5, 57, 56


def write_ccp4(
    path: Path, values: np.ndarray, cell: Cell, start: tuple[int, ...], label: str, missing: float = 0.0
) -> None:
    """Write a box as a CCP4/MRC map of mode 2 (float32) in space group P1.

    Args:
        path: of the map.
        values: (n_a, n_b, n_c); not finite ones are written as `missing`.
        cell: edges and angles of the whole box, angstrom and degrees.
        start: grid index of the first value along each axis: 0 is the origin.
        label: one line, 80 characters at most, for the header.
        missing: what stands for no value; viewers know no NaN.
    """
    box = gemmi.Ccp4Map()
    box.grid = gemmi.FloatGrid(np.where(np.isfinite(values), values, missing).astype(np.float32))
    box.grid.set_unit_cell(gemmi.UnitCell(*cell))
    box.grid.spacegroup = gemmi.SpaceGroup("P 1")
    box.update_ccp4_header(2, True)
    for axis in range(3):
        box.set_header_i32(_START + axis, int(start[axis]))
    box.set_header_i32(_N_LABELS, 1)
    box.set_header_str(_LABEL, label[:80].ljust(80))
    with writing(path) as temporary:
        box.write_ccp4_map(str(temporary))
