"""Indexing by the functions behind `dials.ssx_index` and `dials.ssx_integrate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing.common import finish
from diffuse_framework.adapters.indexing.dials_phil import DialsParameters, hint_text, phil_paths, user_texts
from diffuse_framework.adapters.indexing.ssx import (
    FIND_SPOTS_FIXED,
    SSX_INDEX_DEFAULTS,
    SSX_INDEX_FIXED,
    SSX_INTEGRATE_FIXED,
    run_ssx,
)
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.stages.work import Mapper

PHIL = """
find_spots_phil = None
  .type = path
  .multiple = True
  .help = "A file of dials.find_spots parameters of your own."
index_phil = None
  .type = path
  .multiple = True
  .help = "A file of dials.ssx_index parameters of your own."
integrate_phil = None
  .type = path
  .multiple = True
  .help = "A file of dials.ssx_integrate parameters of your own."
min_spots = None
  .type = int(value_min=1)
  .help = "Reject images with fewer spots; None leaves it to DIALS (10)."
d_min = None
  .type = float(value_min=0.1)
  .help = "Highest resolution, in angstrom, of spots to look for and of reflections to integrate."
method = None
  .type = strings
  .help = "Indexing methods to try in turn: fft1d, real_space_grid_search. None tries both, the second only"
          "where the cell is known."
refine_all_candidates = True
  .type = bool
  .help = "Refine every lattice that may fit before choosing one. False indexes two to three times"
          "faster, but lets wrong lattices pass where spots are few: leave it to validator.*."
integrate = True
  .type = bool
  .help = "Integrate Bragg reflections. The diffuse map needs no Bragg intensities."
integrator = *stills ellipsoid
  .type = choice
  .help = "How to integrate. ellipsoid also refines cell and orientation against a profile model and gives"
          "partialities; it takes some seconds an image and only detectors of one panel."
profile_model = *simple6 simple1
  .type = choice
  .help = "Profile model of the integrator ellipsoid; these two are in all releases of DIALS."
shoeboxes = False
  .type = bool
  .help = "Keep the pixels that integration takes for peaks: masker shoebox needs them. Some 10 MB an"
          "image in memory and in indexed.refl."
"""


@dataclass(frozen=True)
class DialsSsxIndexer:
    """Spot finding, indexing and integration by the functions behind dials.ssx_index and ssx_integrate."""

    name: ClassVar[str] = "dials_ssx"
    interface: ClassVar[int] = 2
    phil: ClassVar[str] = PHIL
    find_spots_phil: tuple[str, ...] = ()
    index_phil: tuple[str, ...] = ()
    integrate_phil: tuple[str, ...] = ()
    min_spots: int | None = None
    d_min: float | None = None
    method: tuple[str, ...] = ()
    refine_all_candidates: bool = True
    integrate: bool = True
    integrator: str = "stills"
    profile_model: str = "simple6"
    shoeboxes: bool = False

    @classmethod
    def from_params(cls, params: Any) -> DialsSsxIndexer:
        """Return the indexer.

        Raises:
            ConfigError: a file of DIALS parameters that isn't there.
        """
        return cls(
            phil_paths(params.find_spots_phil),
            phil_paths(params.index_phil),
            phil_paths(params.integrate_phil),
            params.min_spots,
            params.d_min,
            tuple(params.method or ()),
            params.refine_all_candidates,
            params.integrate,
            params.integrator,
            params.profile_model,
            params.shoeboxes,
        )

    def index(self, source: DxtbxSource, hints: CrystalHints, folder: Path, mapper: Mapper) -> Experiment:
        """Return the indexed images; see `diffuse_framework.stages.indexer`.

        The integrator stills takes every reflection for fully recorded: the partiality of all
        of them is 1.

        Raises:
            ConfigError: DIALS parameters that can't be used.
            DataError: not one image could be indexed.
        """
        find, index = self.find_parameters(), self.index_parameters(hints)
        integrate = self.integrate_parameters()
        for parameters in (find, index, integrate):
            parameters.check()
        outcomes = run_ssx(source, find, index, integrate if self.integrate else None, self.shoeboxes, mapper.map)
        return finish(source, outcomes, hints, folder, ADVICE)

    def find_parameters(self) -> DialsParameters:
        """Return the parameters of dials.find_spots.

        Raises:
            ConfigError: a file that can't be read.
        """
        return self._parameters(
            "find_spots",
            "phil_scope",
            self._resolution("spotfinder.filter.d_min"),
            self.find_spots_phil,
            ("our settings", FIND_SPOTS_FIXED),
        )

    def index_parameters(self, hints: CrystalHints) -> DialsParameters:
        """Return the parameters of dials.ssx_index.

        Raises:
            ConfigError: a file that can't be read.
        """
        own = [
            SSX_INDEX_DEFAULTS,
            f"indexing.stills.refine_all_candidates = {self.refine_all_candidates}",
        ]
        if self.min_spots is not None:
            own.append(f"min_spots = {self.min_spots}")
        if self.method:
            own.append(f"method = {' '.join(self.method)}")
        return self._parameters(
            "ssx_index",
            "phil_scope",
            own,
            self.index_phil,
            hint_text(hints),
            ("our settings", SSX_INDEX_FIXED),
        )

    def integrate_parameters(self) -> DialsParameters:
        """Return the parameters of dials.ssx_integrate.

        Raises:
            ConfigError: a file that can't be read.
        """
        own = [
            f"algorithm = {self.integrator}",
            f"profile.ellipsoid.rlp_mosaicity.model = {self.profile_model}",
            *self._resolution("prediction.d_min"),
        ]
        return self._parameters(
            "ssx_integrate", "working_phil", own, self.integrate_phil, ("our settings", SSX_INTEGRATE_FIXED)
        )

    def _resolution(self, parameter: str) -> list[str]:
        return [] if self.d_min is None else [f"{parameter} = {self.d_min}"]

    @staticmethod
    def _parameters(
        program: str, scope: str, own: list[str], files: tuple[str, ...], *last: tuple[str, str]
    ) -> DialsParameters:
        texts = (("indexer.dials_ssx", "\n".join(own)), *user_texts(files), *last)
        return DialsParameters(f"dials.command_line.{program}", scope, texts)


ADVICE = {
    "spot finding": "indexer.dials_ssx.find_spots_phil",
    "min_spots": "indexer.dials_ssx.min_spots",
    "indexing": "indexer.dials_ssx.method, or parameters in a file for indexer.dials_ssx.index_phil",
    "integration": "indexer.dials_ssx.integrate=False",
}


@hookimpl
def diffuse_indexers() -> list[type]:
    """Offer the indexer."""
    return [DialsSsxIndexer]
