"""Boxes of reciprocal space for ParaView: legacy VTK files, binary."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffuse_framework.algorithms.expansion import Box
from diffuse_framework.io.atomic import writing


def write_vtk(path: Path, boxes: dict[str, Box], basis: np.ndarray, title: str) -> None:
    """Write boxes of one shape as a structured grid whose points are scattering vectors.

    Args:
        path: of the file.
        boxes: by name; missing values stay NaN.
        basis: (3, 3) B of the map, ``q = B hkl`` in 1/angstrom.
        title: one line.
    """
    first = next(iter(boxes.values()))
    shape = first.values.shape
    # VTK's first axis runs fastest.
    indices = np.meshgrid(first.axis(2), first.axis(1), first.axis(0), indexing="ij")
    points = np.stack(indices[::-1], -1).reshape(-1, 3) @ basis.T
    with writing(path) as temporary, temporary.open("wb") as file:
        file.write(f"# vtk DataFile Version 3.0\n{title[:250]}\nBINARY\nDATASET STRUCTURED_GRID\n".encode())
        file.write(f"DIMENSIONS {shape[0]} {shape[1]} {shape[2]}\nPOINTS {points.shape[0]} float\n".encode())
        file.write(points.astype(">f4").tobytes())
        file.write(f"\nPOINT_DATA {points.shape[0]}\n".encode())
        for name, box in boxes.items():
            file.write(f"SCALARS {name.replace(' ', '_')} float 1\nLOOKUP_TABLE default\n".encode())
            file.write(box.values.transpose(2, 1, 0).astype(">f4").tobytes())
            file.write(b"\n")
