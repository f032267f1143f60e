"""Space groups of cctbx as integer arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cctbx import sgtbx, uctbx

from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.lattice import Cell


def symmetry_of(space_group: sgtbx.space_group | str) -> Symmetry:
    """Return the numbers of a `cctbx.sgtbx.space_group`, or of a symbol such as "P41212".

    Raises:
        ConfigError: a symbol that is not one.
    """
    info = _info(space_group)
    group = info.group()
    laue = group.build_derived_laue_group()
    rotations = {operation.r().as_double() for operation in laue.all_ops()}
    # A symmetry operation acts on hkl as a row vector: transposed, it acts on columns.
    operators = np.unique([np.rint(r).astype(np.int64).reshape(3, 3).T for r in rotations], axis=0)
    identity = (operators == np.eye(3, dtype=np.int64)).all(axis=(1, 2))
    operators = np.concatenate([operators[identity], operators[~identity]])

    asu = sgtbx.reciprocal_space_asu(info.type())
    # Miller indices change basis with the inverse rotation, as rows; transposed, as columns.
    to_reference = asu.cb_op().c_inv().r()
    asu_matrix = np.array(to_reference.num(), np.int64).reshape(3, 3).T
    laue_group = group.laue_group_type()
    if laue_group == "-3m":
        laue_group = "-31m" if "k>0 or l>=0" in asu.reference_as_string() else "-3m1"
    return Symmetry(str(info).replace(" ", ""), laue_group, operators, asu_matrix)


def _info(space_group: sgtbx.space_group | str) -> sgtbx.space_group_info:
    if not isinstance(space_group, str):
        return sgtbx.space_group_info(group=space_group)
    try:
        return sgtbx.space_group_info(space_group)
    except RuntimeError as error:
        raise ConfigError(f"{space_group!r} is not a space group cctbx knows, try for example P41212") from error


def cell_of(parameters: uctbx.unit_cell | Iterable[float]) -> Cell:
    """Return six numbers of a `cctbx.uctbx.unit_cell` or of any six numbers."""
    if isinstance(parameters, uctbx.ext.unit_cell):
        parameters = parameters.parameters()
    return tuple(float(x) for x in parameters)


def point_group_hall(space_group: str) -> str:
    """Return the Hall symbol of a space group's point group, without translations: of a supercell of it."""
    group = sgtbx.space_group_info(space_group).group().build_derived_point_group()
    return str(group.type().hall_symbol())


def laue_group_hall(space_group: str) -> str:
    """Return the Hall symbol of a space group's Laue group: the symmetry of its diffraction."""
    group = sgtbx.space_group_info(space_group).group().build_derived_point_group()
    group.expand_smx(sgtbx.rt_mx("-x,-y,-z"))
    return str(group.type().hall_symbol())


def is_absent(space_group: str, hkl: np.ndarray) -> np.ndarray:
    """Return which of the integers (n, 3) a space group extinguishes, (n,) booleans."""
    group = sgtbx.space_group_info(space_group).group()
    return np.array([group.is_sys_absent(tuple(map(int, index))) for index in hkl], bool)


def operations_of(space_group: str) -> int:
    """Return the number of symmetry operations per unit cell, centring included."""
    return int(sgtbx.space_group_info(space_group).group().order_z())
