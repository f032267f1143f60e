"""Indexing by `dials.stills_process`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing.common import finish
from diffuse_framework.adapters.indexing.dials_phil import DialsParameters, hint_text, phil_paths, user_texts
from diffuse_framework.adapters.indexing.stills import STILLS_DEFAULTS, STILLS_FIXED, StillsWork
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.stages.work import Mapper

PHIL = """
phil = None
  .type = path
  .multiple = True
  .help = "A file of dials.stills_process parameters of your own, for all that is not named here. Files"
          "and processes (output.*, mp.*) stay with diffuse.process."
min_spots = None
  .type = int(value_min=1)
  .help = "Reject images with fewer spots; None leaves it to DIALS (16)."
d_min = None
  .type = float(value_min=0.1)
  .help = "Highest resolution, in angstrom, of spots to look for and of reflections to integrate."
refine_all_candidates = True
  .type = bool
  .help = "Refine every lattice that may fit before choosing one. False indexes two to three times"
          "faster, but lets wrong lattices pass where spots are few: leave it to validator.*."
integrate = True
  .type = bool
  .help = "Integrate Bragg reflections. The diffuse map needs no Bragg intensities."
shoeboxes = False
  .type = bool
  .help = "Keep the pixels that integration takes for peaks: masker shoebox needs them. Some 10 MB an"
          "image in memory and in indexed.refl."
"""


@dataclass(frozen=True)
class DialsStillsIndexer:
    """Spot finding, indexing, refinement and integration by dials.stills_process."""

    name: ClassVar[str] = "dials_stills"
    interface: ClassVar[int] = 2
    phil: ClassVar[str] = PHIL
    phil_files: tuple[str, ...] = ()
    min_spots: int | None = None
    d_min: float | None = None
    refine_all_candidates: bool = True
    integrate: bool = True
    shoeboxes: bool = False

    @classmethod
    def from_params(cls, params: Any) -> DialsStillsIndexer:
        """Return the indexer.

        Raises:
            ConfigError: a file of DIALS parameters that isn't there.
        """
        return cls(
            phil_paths(params.phil),
            params.min_spots,
            params.d_min,
            params.refine_all_candidates,
            params.integrate,
            params.shoeboxes,
        )

    def index(self, source: DxtbxSource, hints: CrystalHints, folder: Path, mapper: Mapper) -> Experiment:
        """Return the indexed images; see `diffuse_framework.stages.indexer`.

        DIALS's integration of stills takes every reflection for fully recorded: the
        partiality of all of them is 1.

        Raises:
            ConfigError: DIALS parameters that can't be used.
            DataError: not one image could be indexed.
        """
        parameters = self.parameters(hints)
        parameters.check()
        outcomes = mapper.map(StillsWork(source, parameters, self.shoeboxes), range(len(source)))
        return finish(source, outcomes, hints, folder, ADVICE)

    def parameters(self, hints: CrystalHints) -> DialsParameters:
        """Return the parameters of dials.stills_process.

        Raises:
            ConfigError: a file that can't be read.
        """
        own = [
            STILLS_DEFAULTS,
            f"indexing.stills.refine_all_candidates = {self.refine_all_candidates}",
            f"dispatch.integrate = {self.integrate}",
        ]
        if self.min_spots is not None:
            own.append(f"dispatch.hit_finder.minimum_number_of_reflections = {self.min_spots}")
        if self.d_min is not None:
            own.append(f"spotfinder.filter.d_min = {self.d_min}\nprediction.d_min = {self.d_min}")
        return DialsParameters(
            "dials.command_line.stills_process",
            "phil_scope",
            (
                ("indexer.dials_stills", "\n".join(own)),
                *user_texts(self.phil_files),
                hint_text(hints),
                ("our settings", STILLS_FIXED),
            ),
        )


ADVICE = {
    "spot finding": "indexer.dials_stills.phil",
    "min_spots": "indexer.dials_stills.min_spots",
    "indexing": "indexing.stills.method_list and other parameters in a file for indexer.dials_stills.phil",
    "integration": "indexer.dials_stills.integrate=False",
}


@hookimpl
def diffuse_indexers() -> list[type]:
    """Offer the indexer."""
    return [DialsStillsIndexer]
