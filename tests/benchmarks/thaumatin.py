"""The PILATUS 6M stills of thaumatin that benchmarks take, and orientations for them."""

from __future__ import annotations

import bz2
import os
import sys
from pathlib import Path
from typing import Any

from scipy.spatial.transform import Rotation

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.lattice import reciprocal_basis

CELL = (58.4, 58.4, 152.2, 90.0, 90.0, 90.0)
N_INDEXED = 15
"""The last four are blank."""


def unpack(folder: Path, n_images: int, n_different: int = 19) -> list[str]:
    """Unpack the stills into `folder`, the first ones again where there are too few; return their paths."""
    if "DIALS_DATA" not in os.environ:
        sys.exit("set DIALS_DATA to the folder that holds thaumatin_grid_scan (dials.data get thaumatin_grid_scan)")
    packed = sorted((Path(os.environ["DIALS_DATA"]) / "thaumatin_grid_scan").glob("*.cbf.bz2"))[:n_different]
    paths = [folder / f"still_{number + 1:05d}.cbf" for number in range(n_images)]
    for path, source in zip(paths, packed, strict=False):
        path.write_bytes(bz2.decompress(source.read_bytes()))
    for number in range(len(packed), n_images):
        # A link, or the same bytes, would be refused: photons must count once.
        paths[number].write_bytes(paths[number % len(packed)].read_bytes() + b"\n" * (number // len(packed)))
    return [str(path) for path in paths]


def experiment_on(source: Any, seed: int = 0) -> Experiment:
    """Return random orientations for every image of the source."""
    turns = Rotation.random(len(source), random_state=seed).as_matrix()
    images = tuple(
        Image(name, number, 0, source.exposure_s(number), turns[number] @ reciprocal_basis(CELL), 0.1)
        for number, name in enumerate(source.names)
    )
    return Experiment((source.geometry(0),), symmetry_of("P41212"), images)
