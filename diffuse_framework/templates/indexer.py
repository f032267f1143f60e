"""Gives every image one orientation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from scipy.spatial.transform import Rotation

from diffuse_framework import hookimpl
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import CrystalHints, Experiment, Image
from diffuse_framework.model.lattice import reciprocal_basis
from diffuse_framework.model.source import ImageSource
from diffuse_framework.services.symmetry import symmetry_of
from diffuse_framework.stages.work import Mapper

PHIL = """
rotation = 0 0 0
  .type = floats(size=3, value_min=-180, value_max=180)
  .help = "Rotations about x, y and z that turn the crystal from its standard setting, in degrees."
"""


@dataclass(frozen=True)
class TemplateIndexer:
    """Gives every image one orientation."""

    name: ClassVar[str] = "template"
    phil: ClassVar[str] = PHIL
    interface: ClassVar[int] = 2
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def from_params(cls, params: Any) -> TemplateIndexer:
        """Return the indexer that the parameters describe."""
        return cls(tuple(params.rotation))

    def index(self, source: ImageSource, hints: CrystalHints, folder: Path, mapper: Mapper) -> Experiment:
        """Return all images in the one orientation; those that can't be indexed belong in `rejected`.

        Raises:
            DataError: the unit cell is not known.
        """
        if hints.unit_cell is None or hints.space_group is None:
            raise DataError("this indexer needs crystal.unit_cell and crystal.space_group")
        turn = Rotation.from_euler("xyz", self.rotation_deg, degrees=True).as_matrix()
        images = tuple(
            Image(
                name=name,
                source_index=number,
                geometry=0,
                exposure_s=source.exposure_s(number),
                setting_matrix=turn @ reciprocal_basis(hints.unit_cell),
            )
            for number, name in enumerate(source.names)
        )
        return Experiment((source.geometry(0),), symmetry_of(hints.space_group), images)


@hookimpl
def diffuse_indexers() -> list[type]:
    """Offer the indexer."""
    return [TemplateIndexer]
