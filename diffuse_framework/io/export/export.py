"""One map in the formats of other programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffuse_framework.algorithms.expansion import (
    Box,
    asymmetric_box_of,
    delta_pdf,
    reciprocal_map_cell,
    whole_box,
)
from diffuse_framework.algorithms.statistics import isotropic_part
from diffuse_framework.algorithms.symmetry import orbit_sizes, voxel_operators
from diffuse_framework.errors import DataError
from diffuse_framework.io.export.arrays import (
    write_boxes_nexus,
    write_boxes_npz,
    write_centred_array,
    write_nexus,
    write_text,
)
from diffuse_framework.io.export.ccp4_map import write_ccp4
from diffuse_framework.io.export.cxidb import write_cxidb
from diffuse_framework.io.export.lunus import write_lattice
from diffuse_framework.io.export.mtz import write_mtz
from diffuse_framework.io.export.stored_map import StoredMap
from diffuse_framework.io.export.vtk import write_vtk
from diffuse_framework.model.grid import VoxelGrid

# Up to the resolution limit, of the spherical average that is subtracted.
_ISOTROPIC_SHELLS = 100


@dataclass(frozen=True)
class ExportOptions:
    """What of a map is written, and how.

    Attributes:
        column: name of the values, None for the map's diffuse intensity.
        halves: whether half maps are written too.
        whole: whether boxes hold all of reciprocal space, or the asymmetric unit.
        remove_isotropic: whether the spherical average is subtracted.
        d_min, d_max: resolution limits in angstrom, None for none.
        scale: angstrom of a CCP4 map per 1/angstrom.
        fill_with_mean: whether missing voxels of CCP4 maps hold the mean, or 0.
        window: of the Fourier transform.
        mdx2_columns: whether MTZ files have mdx2's names of columns and its symmetry, or ours.
        expand_to_p1: whether MTZ files hold all of reciprocal space, in P1.
    """

    column: str | None = None
    halves: bool = True
    whole: bool = True
    remove_isotropic: bool = False
    d_min: float | None = None
    d_max: float | None = None
    scale: float = 100.0
    fill_with_mean: bool = False
    window: str = "gaussian"
    mdx2_columns: bool = False
    expand_to_p1: bool = False


class Export:
    """A map prepared for writing."""

    def __init__(self, stored: StoredMap, options: ExportOptions, source: str) -> None:
        """Choose the voxels and columns.

        Args:
            stored: the map.
            options: what to write of it.
            source: its name, for titles.

        Raises:
            DataError: no such column, or no voxel within the limits.
        """
        name = stored.value_name(options.column)
        q = np.linalg.norm(stored.grid.q_of(stored.voxel), axis=1)
        use = np.isfinite(stored.columns[name])
        use &= (q <= 1 / (options.d_min or 1e-9)) & (q >= 1 / (options.d_max or np.inf))
        if not use.any():
            raise DataError(f"{source} has no voxel between d_max={options.d_max} and d_min={options.d_min} angstrom")
        self._stored = stored.select(use)
        self._options = options
        self._source = source
        self._grid = replace(stored.grid, d_min=max(stored.grid.d_min, options.d_min or 0.0))
        self.columns = [name, *(self._stored.halves_of(name) if options.halves else [])]
        self._values = {column: self._final(column) for column in self.columns}

    def _final(self, column: str) -> np.ndarray:
        values = self._stored.columns[column].astype(float)
        if self._options.remove_isotropic:
            # Half maps lose their own average: they stay independent.
            known = np.isfinite(values)
            voxel = self.voxel[known]
            q = np.linalg.norm(self._grid.q_of(voxel), axis=1)
            # A voxel weighs as many as it stands for; one at the limit belongs to the last shell.
            weight = orbit_sizes(self._grid.index_of(voxel), self._grid.symmetry, self._grid.divisions).astype(float)
            width = (1 + 1e-9) / (_ISOTROPIC_SHELLS * self._grid.d_min)
            values[known] -= isotropic_part(q, values[known], weight, width)
        return values

    @property
    def voxel(self) -> np.ndarray:
        """(n,) numbers of the voxels written."""
        return self._stored.voxel

    @property
    def grid(self) -> VoxelGrid:
        """The grid, to the resolution written."""
        return self._grid

    def values(self, column: str) -> np.ndarray:
        """Return the values (n,) that are written of a column."""
        return self._values[column]

    def sigma(self, column: str) -> np.ndarray | None:
        """Return their uncertainties (n,), None where the map has none."""
        return self._stored.sigma_of(column)

    @property
    def title(self) -> str:
        """What the files hold, in one line."""
        removed = ", isotropic part removed" if self._options.remove_isotropic else ""
        return f"{self.columns[0]} of {self._source}, {self._stored.units}{removed}"

    def text(self) -> str:
        """Return what was written, for the log."""
        d = 1 / np.linalg.norm(self._grid.q_of(self.voxel), axis=1).max()
        return (
            f"{self.title}: {len(self.voxel)} voxels of the asymmetric unit to d = {d:.2f} angstrom. In CCP4 "
            f"maps of reciprocal space {self._options.scale:g} angstrom stand for 1 1/angstrom of |q| = 1/d"
        )

    def write(self, name: str, prefix: Path, hall_symbol: str) -> list[Path]:
        """Write the files of one format.

        Args:
            name: of the format, as in ``export.phil``.
            prefix: beginning of the names.
            hall_symbol: of the symmetry of MTZ files.

        Raises:
            DataError: a file that can't be written, or nothing to write.
        """
        ending = {
            "ccp4": ".ccp4",
            "mtz": "_supercell.mtz",
            "mtz_integer": "_integer.mtz",
            "nexus": "_box.nxs",
            "npz": "_box.npz",
            "vtk": ".vtk",
            "text": ".txt",
            "pdf": "_delta_pdf.ccp4",
            "lunus": ".lat",
            "cxidb": "_cxidb.h5",
            "eryx": "_eryx.npy",
        }[name]
        path = prefix.with_name(prefix.name + ending)
        if name == "ccp4":
            return [self._ccp4(column, path) for column in self.columns]
        if name == "pdf":
            return [file for column in self.columns for file in self._pdf(column, path)]
        if name in ("mtz", "mtz_integer"):
            return [self._mtz(path, hall_symbol, integer=name == "mtz_integer")]
        if name == "text":
            write_text(path, self._grid, self._grid.hkl_of(self.voxel), self._table(), self.title)
            return [path]
        if name in ("lunus", "cxidb", "eryx"):
            return [self._plain_box(name, path)]
        boxes = {column: self._box(values) for column, values in self._table().items()}
        if name == "vtk":
            write_vtk(path, boxes, self._grid.reciprocal_basis, self.title)
        elif name == "npz":
            write_boxes_npz(path, boxes, self._grid, self.title)
        else:
            write_boxes_nexus(path, boxes, self._grid, self._stored.units, self.title)
        return [path]

    def _table(self) -> dict[str, np.ndarray]:
        """Columns and their uncertainties by name."""
        table = {}
        for column in self.columns:
            table[column] = self._values[column]
            sigma = self.sigma(column)
            if sigma is not None:
                table[f"{column}_errors"] = sigma
        return table

    def _box(self, values: np.ndarray, whole: bool | None = None) -> Box:
        expand = whole_box if (self._options.whole if whole is None else whole) else asymmetric_box_of
        return expand(self._grid, self.voxel, values)

    def _ccp4(self, column: str, path: Path) -> Path:
        path = self._named(path, column)
        box = self._box(self._values[column])
        missing = float(np.nanmean(box.values)) if self._options.fill_with_mean else 0.0
        cell = reciprocal_map_cell(self._grid, box.values.shape, self._options.scale)
        units = self._stored.units.replace("electron units per unit cell", "e.u./cell")
        label = f"{column} {units}; {self._options.scale:g} A = 1 1/A of 1/d; missing = {missing:.4g}"
        write_ccp4(path, box.values, cell, box.index_min, label, missing)
        return path

    def _pdf(self, column: str, path: Path) -> list[Path]:
        path = self._named(path, column)
        values, cell = delta_pdf(self._grid, self._box(self._values[column], whole=True), self._options.window)
        label = f"3D-delta-PDF of {column}, ({self._stored.units})/A^3, window {self._options.window}"
        # Read as one unit cell, the map starts at the origin and repeats.
        write_ccp4(path, values, cell, (0, 0, 0), label)
        centred = np.fft.fftshift(values)
        nexus = path.with_suffix(".nxs")
        write_nexus(
            nexus,
            {"delta_pdf": centred},
            _real_axes(values.shape, self._grid),
            self._grid,
            f"({self._stored.units}) / angstrom^3",
            f"{self.title}; {label}",
        )
        return [path, nexus]

    def _plain_box(self, name: str, path: Path) -> Path:
        """Write a box of all of reciprocal space of the map alone, for programs that know no symmetry."""
        box, sigma = self._box(self._values[self.columns[0]], whole=True), self.sigma(self.columns[0])
        if name == "lunus":
            write_lattice(path, box, self._grid)
        elif name == "cxidb":
            errors = None if sigma is None else self._box(sigma, whole=True)
            write_cxidb(path, box, errors, self._grid, self._stored.units, self.title)
        else:
            write_centred_array(path, box)
        return path

    def _named(self, path: Path, column: str) -> Path:
        """Give half maps names of their own."""
        return path if column == self.columns[0] else path.with_name(f"{path.stem}_{column}{path.suffix}")

    def _mtz(self, path: Path, hall_symbol: str, integer: bool) -> Path:
        index, divisions = self._grid.index_of(self.voxel), np.array(self._grid.divisions)
        # Reflection files have no 0 0 0: its d is infinite.
        use = (index != 0).any(axis=1)
        if integer:
            use &= (index % divisions == 0).all(axis=1)
        if not use.any():
            raise DataError("no voxel of the map lies on an integer hkl: its peaks were masked; write mtz instead")
        index, rows = index[use], np.flatnonzero(use)
        if self._options.expand_to_p1:
            index, rows = self._in_p1(index, rows)
        hkl = index // divisions if integer else index
        a, b, c = np.array(self._grid.cell[:3]) * (1 if integer else divisions)
        columns: dict[str, tuple[str, np.ndarray]] = {}
        for number, column in enumerate(self.columns):
            intensity = ("IMEAN" if self._options.mdx2_columns else "I") + self._suffix(number)
            columns[intensity] = ("J", self._values[column][rows])
            sigma = self.sigma(column)
            if sigma is not None:
                columns[f"SIG{intensity}"] = ("Q", sigma[rows])
        n = " x ".join(map(str, self._grid.divisions))
        what = "integer hkl" if integer else f"supercell of {n}: hkl are the crystal's times {n}"
        cell = (float(a), float(b), float(c), *self._grid.cell[3:])
        hall_symbol = "P 1" if self._options.expand_to_p1 else hall_symbol
        write_mtz(path, hkl, columns, cell, hall_symbol, self.title, [what, self.title])
        return path

    def _suffix(self, number: int) -> str:
        """What follows the name of a column of an MTZ file: nothing for the map, the number of a half map."""
        if number == 0:
            return ""
        return f"_half{number}" if self._options.mdx2_columns else f"_{number}"

    def _in_p1(self, index: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all mates of voxel indices (n, 3), one of each Friedel pair, and whose they are."""
        operators, _, _ = voxel_operators(self._grid.symmetry, self._grid.divisions)
        mates = np.concatenate([index @ operator.T for operator in operators])
        whose = np.tile(rows, len(operators))
        h, k, l = mates.T
        upper = (l > 0) | ((l == 0) & ((h > 0) | ((h == 0) & (k >= 0))))
        mates, first = np.unique(mates[upper], axis=0, return_index=True)
        return mates, whose[upper][first]


def _real_axes(shape: tuple[int, ...], grid: VoxelGrid) -> dict[str, tuple[np.ndarray, str]]:
    """Fractional coordinates in the crystal's own cell along each axis of a centred transform."""
    return {
        name: ((np.arange(n) - n // 2) / n * divisions, "fractions of the unit cell")
        for name, n, divisions in zip("xyz", shape, grid.divisions, strict=True)
    }
