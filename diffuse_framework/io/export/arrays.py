"""Maps as text, NPZ and NeXus files for other programs."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from diffuse_framework.algorithms.expansion import Box
from diffuse_framework.io.atomic import writing
from diffuse_framework.model.grid import VoxelGrid


def write_text(path: Path, grid: VoxelGrid, hkl: np.ndarray, columns: dict[str, np.ndarray], title: str) -> None:
    """Write one line per voxel: fractional h, k, l and the columns, after lines that begin with #.

    Args:
        path: of the file.
        grid: of the map.
        hkl: (n, 3).
        columns: values (n,) by name.
        title: one line.
    """
    cell = " ".join(f"{x:.4f}" for x in grid.cell)
    header = f"{title}\ncell {cell}\nspace group {grid.symmetry.space_group}\nh k l {' '.join(columns)}"
    with writing(path) as temporary:
        np.savetxt(
            temporary,
            np.column_stack([hkl, *columns.values()]),
            fmt=["%.6f"] * 3 + ["%.9g"] * len(columns),
            header=header,
        )


def write_boxes_npz(path: Path, boxes: dict[str, Box], grid: VoxelGrid, title: str) -> None:
    """Write boxes of one shape with the axes h, k, l of fractional indices and the cell.

    Args:
        path: of the file.
        boxes: by name, at least one; NaN where there is no value.
        grid: of the map.
        title: one line.
    """
    first = next(iter(boxes.values()))
    with writing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            h=first.axis(0),
            k=first.axis(1),
            l=first.axis(2),
            unit_cell=np.array(grid.cell),
            space_group=grid.symmetry.space_group,
            title=title,
            **{name: box.values.astype(np.float32) for name, box in boxes.items()},
        )


def write_centred_array(path: Path, box: Box) -> None:
    """Write a box as a NumPy array [h, k, l] from -n to n with n a whole number of indices, as eryx has its maps.

    Args:
        path: of the file.
        box: centred on the origin.
    """
    values = box.values
    for axis, divisions in enumerate(box.divisions):
        half = values.shape[axis] // 2
        more = -half % divisions
        margins = [(more, more) if number == axis else (0, 0) for number in range(3)]
        values = np.pad(values, margins, constant_values=np.nan)
    with writing(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def write_boxes_nexus(path: Path, boxes: dict[str, Box], grid: VoxelGrid, units: str, title: str) -> None:
    """Write boxes of one shape as NXdata over h, k, l; the first is the default signal.

    Args:
        path: of the file.
        boxes: by name, at least one.
        grid: of the map.
        units: of the values.
        title: one line.
    """
    first = next(iter(boxes.values()))
    axes = {name: (first.axis(number), "reciprocal lattice units") for number, name in enumerate("hkl")}
    arrays = {name: box.values for name, box in boxes.items()}
    write_nexus(path, arrays, axes, grid, units, title)


def write_nexus(
    path: Path,
    arrays: dict[str, np.ndarray],
    axes: dict[str, tuple[np.ndarray, str]],
    grid: VoxelGrid,
    units: str,
    title: str,
) -> None:
    """Write arrays of one shape as NXdata; the first is the default signal.

    Args:
        path: of the file.
        arrays: by name, at least one; one called ``X_errors`` holds the uncertainties of X.
        axes: values and units by name, in order.
        grid: of the map.
        units: of the arrays.
        title: one line.
    """
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs.update(NX_class="NXentry", default="map")
        entry["title"] = title
        sample = entry.create_group("sample")
        sample.attrs["NX_class"] = "NXsample"
        sample["unit_cell"] = np.array(grid.cell)
        sample["unit_cell"].attrs["units"] = "angstrom, degree"
        sample["space_group"] = grid.symmetry.space_group
        data = entry.create_group("map")
        data.attrs.update(NX_class="NXdata", signal=next(iter(arrays)), axes=list(axes))
        for number, (name, (values, axis_units)) in enumerate(axes.items()):
            data[name] = values
            data[name].attrs["units"] = axis_units
            data.attrs[f"{name}_indices"] = number
        for name, values in arrays.items():
            dataset = data.create_dataset(
                name, data=values.astype(np.float32), compression="gzip", compression_opts=1, shuffle=True
            )
            dataset.attrs["units"] = units
