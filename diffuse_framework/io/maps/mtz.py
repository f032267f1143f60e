"""Maps as reflections: MTZ files of this program, mdx2, phenix.diffuse and Lunus."""

from __future__ import annotations

import re
from pathlib import Path

import gemmi
import numpy as np

from diffuse_framework.algorithms.comparison.grids import make_map
from diffuse_framework.errors import DataError
from diffuse_framework.io.maps.hints import MapHints
from diffuse_framework.model.voxel_map import VoxelMap

__all__ = ["read_mtz"]

# The types of columns that hold intensities, and others that a map of another program may be in.
_INTENSITY, _OTHERS = "J", "FKGR"


def read_mtz(path: Path, hints: MapHints) -> VoxelMap:
    """Return the map of an MTZ file: its intensity is the column asked for, or the first one there is.

    The divisions are those given; those that the file's history states, as ours do; or, where another map's cell is
    known, how often that fits into the file's.

    Raises:
        DataError: it can't be read, or has no column of values.
    """
    try:
        mtz = gemmi.read_mtz_file(str(path))
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"can't read {path}: {error}") from error
    columns = {column.label: np.array(column, float) for column in mtz.columns}
    label = _intensity(path, mtz, hints.column)
    index = np.stack([columns[name] for name in ("H", "K", "L")], axis=1)
    sigma = columns.get(f"SIG{label}")
    if sigma is None:
        labels = list(columns)
        after = labels[labels.index(label) + 1 :][:1]
        kinds = {column.label: column.type for column in mtz.columns}
        sigma = columns[after[0]] if after and kinds[after[0]] in "QL" else None
    halves = [columns[name] for name in _halves(label, list(columns))]
    edges = np.array(mtz.cell.parameters)
    divisions = _divisions(path, mtz, edges, hints)
    cell = (*(float(x) for x in edges[:3] / np.array(divisions)), *(float(x) for x in edges[3:]))
    group = "P1" if mtz.spacegroup is None else mtz.spacegroup.xhm()
    return make_map(
        cell,
        hints.symmetry(group),
        divisions,
        np.rint(index).astype(np.int64),
        columns[label],
        sigma,
        np.stack(halves) if len(halves) == 2 else None,
        units=_units(mtz),
        name=str(path),
    )


def _intensity(path: Path, mtz: gemmi.Mtz, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in [column.label for column in mtz.columns]:
            raise DataError(f"{path} has no column {wanted}; it has {', '.join(c.label for c in mtz.columns)}")
        return wanted
    for kinds in (_INTENSITY, _OTHERS):
        for column in mtz.columns:
            if column.type in kinds:
                return str(column.label)
    raise DataError(f"{path} has no column of intensities (type J)")


def _halves(label: str, labels: list[str]) -> list[str]:
    for first, second in ((f"{label}_half1", f"{label}_half2"), (f"{label}_1", f"{label}_2")):
        if first in labels and second in labels:
            return [first, second]
    return []


def _divisions(path: Path, mtz: gemmi.Mtz, cell: np.ndarray, hints: MapHints) -> tuple[int, ...]:
    if hints.divisions is not None:
        return hints.divisions
    for line in mtz.history:
        stated = re.search(r"supercell of (\d+) x (\d+) x (\d+)", line)
        if stated:
            return tuple(int(n) for n in stated.groups())
    known = hints.unit_cell or (hints.like.cell if hints.like is not None else None)
    if known is None:
        return (1, 1, 1)
    ratio = cell[:3] / np.array(known[:3])
    whole = np.maximum(np.rint(ratio), 1)
    if (np.abs(ratio / whole - 1) > 0.05).any():
        # Another cell, which whoever compares them says.
        return (1, 1, 1)
    return tuple(int(n) for n in whole)


def _units(mtz: gemmi.Mtz) -> str:
    text = " ".join([mtz.title, *mtz.history])
    return "electron units per unit cell" if "electron units" in text else "relative"
