"""Small valid objects of the model, without DIALS."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.symmetry import asymmetric_box
from diffuse_framework.fingerprint import fingerprint
from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.geometry import Beam, Geometry, Panel
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import Cell, reciprocal_basis
from diffuse_framework.model.source import Frame


def orthorhombic_symmetry() -> Symmetry:
    """Return the Laue group mmm."""
    signs = itertools.product((1, -1), repeat=3)
    return Symmetry("P222", "mmm", np.array([np.diag(s) for s in signs]), np.eye(3, dtype=np.int64))


def orthorhombic_grid(
    cell: Cell = (20.0, 25.0, 30.0, 90.0, 90.0, 90.0),
    divisions: tuple[int, ...] = (2, 2, 2),
    d_min: float = 2.0,
) -> VoxelGrid:
    """Return a grid of Laue group mmm, of some 10^4 voxels by default."""
    return grid_of(orthorhombic_symmetry(), cell, divisions, d_min)


def grid_of(
    symmetry: Symmetry, cell: Cell, divisions: tuple[int, ...], d_min: float, d_max: float = np.inf
) -> VoxelGrid:
    """Return the grid of a crystal; `cell` and `divisions` must have its symmetry.

    Raises:
        GeometryError: divisions that the symmetry does not allow, or no voxel within the limits.
    """
    count, low, high = asymmetric_box(symmetry, divisions, reciprocal_basis(cell), d_min, d_max)
    return VoxelGrid(
        cell=cell,
        symmetry=symmetry,
        divisions=divisions,
        index_min=tuple(int(n) for n in low),
        dimensions=tuple(int(n) for n in high - low + 1),
        d_min=d_min,
        d_max=d_max,
        n_voxels=count,
    )


def geometry(n_panels: int = 1, shape: tuple[int, int] = (60, 50), distance_mm: float = 100.0) -> Geometry:
    """Return panels side by side along the fast direction, centred on the beam, wavelength 1 angstrom."""
    slow, fast = shape
    pixel = 0.172
    beam = Beam(np.array([0.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0]), 0.99)
    panels = tuple(
        Panel(
            name=f"panel_{number}",
            origin_mm=np.array([(number - n_panels / 2) * fast * pixel, slow * pixel / 2, -distance_mm]),
            fast_axis=np.array([1.0, 0.0, 0.0]),
            slow_axis=np.array([0.0, -1.0, 0.0]),
            pixel_size_mm=(pixel, pixel),
            shape=shape,
            material="Si",
            thickness_mm=0.45,
            mu_per_mm=3.8,
            trusted_range=(0.0, 1e6),
        )
        for number in range(n_panels)
    )
    return Geometry(beam, panels)


@dataclass(frozen=True, eq=False)
class FramesInMemory:
    """An `ImageSource` of frames that are already there, all of one geometry.

    Attributes:
        frames: one per image, with unique names.
        of_all: beam and detector.
        seconds: exposure time of each image.
    """

    frames: tuple[Frame, ...]
    of_all: Geometry
    seconds: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """One unique name per image."""
        return tuple(frame.name for frame in self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, index: int) -> Frame:
        """Return image number `index`."""
        return self.frames[index]

    def geometry(self, index: int) -> Geometry:
        """Beam and detector of image number `index`."""
        return self.of_all

    def exposure_s(self, index: int) -> float:
        """Exposure time in seconds of image number `index`."""
        return self.seconds[index]

    def stamp(self, index: int) -> str:
        """A digest of its counts."""
        return fingerprint(self.frames[index].counts)

    def trusted_pixels(self, index: int) -> tuple[np.ndarray, ...] | None:
        """Return None: no mask comes with the images."""
        return None
