"""Indexing of stills of a known cell, in a fraction of a second an image."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.adapters.images.sequences import SequenceSource
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing.common import finish
from diffuse_framework.adapters.indexing.fast import FastWork, run_fast, with_fallback
from diffuse_framework.adapters.indexing.ssx import default_work
from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.indexing.known_cell import known_cell
from diffuse_framework.algorithms.indexing.lattices import IndexingLimits
from diffuse_framework.algorithms.indexing.refinement import RefinementLimits
from diffuse_framework.algorithms.indexing.search import SearchLimits
from diffuse_framework.algorithms.indexing.spots import SpotLimits
from diffuse_framework.algorithms.indexing.stills import StillLimits
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

PHIL = """
min_spots = 15
  .type = int(value_min=15, allow_none=False)
  .help = "Reject images with fewer spots, and lattices that explain fewer: below 15 chance explains as many."
max_lattices = 1
  .type = int(value_min=1, allow_none=False)
  .help = "Lattices to look for on an image. It is mapped with the one with most spots; the Bragg peaks of all"
          "are masked."
cell_tolerance = 0.03
  .type = float(value_min=0.001, value_max=0.1, allow_none=False)
  .help = "Relative error that crystal.unit_cell may have."
d_min = None
  .type = float(value_min=0.1)
  .help = "Highest resolution, in angstrom, of spots to look for and of reflections to integrate."
max_chance = 1e-10
  .type = float(value_min=1e-300, value_max=0.01, allow_none=False)
  .help = "Reject a lattice that explains no more spots than one of this probability would of random spots."
refine_geometry = True
  .type = bool
  .help = "Move the detector across the beam, once for all images, as the spots of 20 of them ask for."
integrate = True
  .type = bool
  .help = "Sum up Bragg reflections. The diffuse map needs no Bragg intensities."
fallback = True
  .type = bool
  .help = "Have DIALS, as dials_ssx does, index images with enough spots that could not be indexed."
max_fallback = 0.2
  .type = float(value_min=0, value_max=1, allow_none=False)
  .help = "Share of the images that DIALS may try again; where more could not be indexed, cell or geometry are"
          "wrong. Up to 20 images are always tried."
spots {
  sigma_background = 6
    .type = float(value_min=0.1, allow_none=False)
    .help = "Standard deviations by which the index of dispersion around a pixel exceeds that of counting."
  sigma_strong = 3
    .type = float(value_min=0.1, allow_none=False)
    .help = "Standard deviations of the pixels of a spot above the background."
  min_pixels = 3
    .type = int(value_min=1, allow_none=False)
    .help = "Pixels of the smallest spot."
}
"""

# Tried again whatever their share: a minute or two.
_ALWAYS = 20


@dataclass(frozen=True)
class FastStillsIndexer:
    """Spot finding, indexing, refinement and summation for a known cell, without DIALS's algorithms."""

    name: ClassVar[str] = "fast_stills"
    interface: ClassVar[int] = 2
    phil: ClassVar[str] = PHIL
    limits: StillLimits = StillLimits()
    refine_geometry: bool = True
    fallback: bool = True
    max_fallback: float = 0.2

    @classmethod
    def from_params(cls, params: Any) -> FastStillsIndexer:
        """Return the indexer."""
        spots = params.spots
        indexing = IndexingLimits(
            max_lattices=params.max_lattices,
            min_spots=params.min_spots,
            max_log10_chance=float(np.log10(params.max_chance)),
            search=SearchLimits(cell_tolerance=params.cell_tolerance),
            refinement=RefinementLimits(cell_tolerance=params.cell_tolerance),
        )
        limits = StillLimits(
            spots=SpotLimits(
                sigma_background=spots.sigma_background, sigma_strong=spots.sigma_strong, min_pixels=spots.min_pixels
            ),
            indexing=indexing,
            d_min=params.d_min or 0.0,
            integrate=params.integrate,
        )
        return cls(limits, params.refine_geometry, params.fallback, params.max_fallback)

    def index(self, source: DxtbxSource, hints: CrystalHints, folder: Path, mapper: Mapper) -> Experiment:
        """Return the indexed images; see `diffuse_framework.stages.indexer`.

        Raises:
            ConfigError: rotation images, or no unit cell.
            DataError: not one image could be indexed.
        """
        if isinstance(source, SequenceSource):
            raise ConfigError("indexer fast_stills is for stills: take indexer.plugin=dials_sequence for rotations")
        if hints.unit_cell is None:
            raise DataError(
                "indexer fast_stills needs the cell: give crystal.unit_cell= and crystal.space_group=, or take "
                "indexer.plugin=dials_ssx, which finds it"
            )
        group = hints.space_group or "P1"
        known = known_cell(hints.unit_cell, symmetry_of(group))
        self._warn_of_cell(hints, known.cell)
        work = FastWork(source, known, group, self.limits, np.zeros(3), self.name)
        outcomes = run_fast(work, self.refine_geometry, mapper.map)
        if self.fallback:
            again = default_work(source, hints, self.limits.integrate)
            most = max(_ALWAYS, int(self.max_fallback * len(source)))
            outcomes = iter(with_fallback(list(outcomes), again, most, mapper.map, "dials_ssx"))
        return finish(source, outcomes, hints, folder, ADVICE)

    def _warn_of_cell(self, hints: CrystalHints, cell: tuple[float, ...]) -> None:
        """Warn where the cell had to be changed for the symmetry by as much as it may be wrong."""
        given = np.array(hints.unit_cell)
        off = np.abs(np.array(cell) - given)
        if (off[:3] > self.limits.indexing.search.cell_tolerance * given[:3]).any() or (off[3:] > 2).any():
            logger.warning(
                "The cell %s can't be that of %s: %s is looked for",
                " ".join(f"{value:g}" for value in given),
                hints.space_group,
                " ".join(f"{value:.4g}" for value in cell),
            )


ADVICE = {
    "spot finding": "lower indexer.fast_stills.spots.sigma_background",
    "indexing": "raise indexer.fast_stills.cell_tolerance, or index by indexer.plugin=dials_ssx",
}


@hookimpl
def diffuse_indexers() -> list[type]:
    """Offer the indexer."""
    return [FastStillsIndexer]
