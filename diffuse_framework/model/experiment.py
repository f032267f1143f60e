"""What indexing finds: a crystal orientation per image, symmetry, Bragg spots."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import numpy as np

from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.lattice import Cell, cell_of_matrix

__all__ = ["BraggSpots", "CrystalHints", "Experiment", "Image", "Rejected", "Rotation", "Symmetry", "no_spots"]


@dataclass(frozen=True, eq=False)
class Symmetry:
    """A space group as far as diffuse scattering needs it.

    Attributes:
        space_group: Hermann-Mauguin symbol.
        laue_group: one of the 14 classes of `algorithms.symmetry.LAUE_CLASSES`.
        operators: (n, 3, 3) integers; ``operators[m] @ hkl`` are the symmetry
            equivalents of hkl under the Laue group, inversion included, identity first.
        asu_matrix: (3, 3) integers; ``asu_matrix @ hkl`` is a positive multiple of the
            index in the setting in which the asymmetric unit of the Laue class is written.
    """

    space_group: str
    laue_group: str
    operators: np.ndarray
    asu_matrix: np.ndarray


@dataclass(frozen=True)
class CrystalHints:
    """What the user knows about the crystal before indexing.

    Attributes:
        unit_cell: angstrom and degrees.
        space_group: Hermann-Mauguin symbol.
        reference_cell: that every image's cell is compared with; the unit cell where None.
    """

    unit_cell: Cell | None = None
    space_group: str | None = None
    reference_cell: Cell | None = None


@dataclass(frozen=True, eq=False)
class BraggSpots:
    """The indexed Bragg reflections of one image.

    Attributes:
        hkl: (n, 3) integers.
        intensity, variance: (n,) integrated, NaN where not integrated.
        partiality: (n,) fraction of the reflection recorded, NaN where unknown.
        panel: (n,) integers.
        observed_px, predicted_px: (n, 2) (fast, slow); observed is NaN where no spot
            was found at the prediction.
        foreground: (m, 3) integers (panel, slow, fast) of the pixels that integration
            took for peaks; empty where shoeboxes were not kept.
    """

    hkl: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    partiality: np.ndarray
    panel: np.ndarray
    observed_px: np.ndarray
    predicted_px: np.ndarray
    foreground: np.ndarray

    def __len__(self) -> int:
        return len(self.hkl)


def no_spots() -> BraggSpots:
    """Return an empty table of Bragg spots."""
    nothing = np.zeros(0)
    return BraggSpots(
        hkl=np.zeros((0, 3), np.int32),
        intensity=nothing,
        variance=nothing,
        partiality=nothing,
        panel=np.zeros(0, np.int32),
        observed_px=np.zeros((0, 2)),
        predicted_px=np.zeros((0, 2)),
        foreground=np.zeros((0, 3), np.int32),
    )


@dataclass(frozen=True, eq=False)
class Rotation:
    """How the crystal turned while an image was taken.

    Attributes:
        axis: (3,) unit vector in the laboratory frame; a positive angle turns right-handed about it.
        angle_deg: of the goniometer at the middle of the image.
        width_deg: of the image, negative where angles decrease.
        sweep: number of the run of images it belongs to, in the order of the source.
    """

    axis: np.ndarray
    angle_deg: float
    width_deg: float
    sweep: int = 0


@dataclass(frozen=True, eq=False)
class Image:
    """One indexed image.

    Attributes:
        name: as in the source.
        source_index: its number in the source.
        geometry: index into `Experiment.geometries`.
        exposure_s: exposure time in seconds.
        setting_matrix: (3, 3) A = U B in 1/angstrom: ``q = A hkl`` in the laboratory
            frame, at the orientation at which the image was taken; for a rotation at its
            middle, ``S R(phi) F A(phi)`` with the goniometer's setting rotation S and fixed rotation F.
        mosaic_width_deg: full width of the mosaic spread, 0 where unknown.
        spots: its Bragg reflections; of a rotation those whose centre is on it.
        rotation: None for a still.
        crystal: number of the crystal model; images that share one were indexed together, so
            that their axes agree. None where the image has a model of its own.
        other_lattices: (3, 3) setting matrices of further crystals in the beam, whose Bragg peaks are masked too.
        indexed_by: name of the indexer where a run has several, else "".
    """

    name: str
    source_index: int
    geometry: int
    exposure_s: float
    setting_matrix: np.ndarray
    mosaic_width_deg: float = 0.0
    spots: BraggSpots = field(default_factory=no_spots)
    rotation: Rotation | None = None
    crystal: int | None = None
    other_lattices: tuple[np.ndarray, ...] = ()
    indexed_by: str = ""

    def each_lattice(self) -> tuple[Image, ...]:
        """Return the image once for each of its lattices, as if that were the only one."""
        one = replace(self, other_lattices=())
        return one, *(replace(one, setting_matrix=setting) for setting in self.other_lattices)


@dataclass(frozen=True)
class Rejected:
    """An image rejected.

    Attributes:
        name: of the image.
        stage: what rejected it, for example "indexing" or "validation".
        reason: in words a user can act on.
    """

    name: str
    stage: str
    reason: str


@dataclass(frozen=True, eq=False)
class Experiment:
    """All that is known of the data set before accumulation.

    Attributes:
        geometries: beam and detector pairs, each used by one or more images.
        symmetry: of the crystal.
        images: the indexed images, in the order of the source.
        rejected: the images rejected.
    """

    geometries: tuple[Geometry, ...]
    symmetry: Symmetry
    images: tuple[Image, ...]
    rejected: tuple[Rejected, ...] = ()

    def __repr__(self) -> str:
        n_rejected = f", {len(self.rejected)} rejected" if self.rejected else ""
        return f"Experiment({len(self.images)} images{n_rejected}, {self.symmetry.space_group})"

    def cells(self) -> np.ndarray:
        """Unit cells of all images, (n, 6) in angstrom and degrees."""
        return np.array([cell_of_matrix(image.setting_matrix) for image in self.images]).reshape(-1, 6)

    def geometry_of(self, image: Image) -> Geometry:
        """Beam and detector of `image`."""
        return self.geometries[image.geometry]

    def images_by_name(self) -> tuple[Image, ...]:
        """Return the images in the order of their names, numbers within names as numbers.

        What is learned from a sample taken in this order, and summed in it, is the same to the last bit in whatever
        order the images were given.
        """
        return tuple(sorted(self.images, key=_by_name))


def _by_name(image: Image) -> tuple[list[str | int], int]:
    # The parts are text and digits in turn, so that like is compared with like.
    parts = re.split(r"(\d+)", image.name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], image.source_index
