"""Whole sweeps of rotation images through DIALS."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.adapters.images.sequences import (
    IndexedSweep,
    SequenceSource,
    build_sequence_experiment,
    save_sweeps,
)
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing.common import dials_logger, spots_advice, warn_of_symmetry
from diffuse_framework.adapters.indexing.dials_phil import DialsParameters, hint_text, phil_paths, user_texts
from diffuse_framework.adapters.indexing.sequence import (
    INTEGRATE_DEFAULTS,
    REFINEMENT,
    SPOTS_FIXED,
    SequenceParameters,
    SweepOutcome,
    cpus,
    rms_px,
    run_sequences,
)
from diffuse_framework.errors import DataError, GeometryError
from diffuse_framework.model.experiment import CrystalHints, Experiment, Rejected
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

PHIL = """
find_spots_phil = None
  .type = path
  .multiple = True
  .help = "A file of dials.find_spots parameters of your own."
index_phil = None
  .type = path
  .multiple = True
  .help = "A file of dials.index parameters of your own."
refine_phil = None
  .type = path
  .multiple = True
  .help = "A file of dials.refine parameters of your own."
integrate_phil = None
  .type = path
  .multiple = True
  .help = "A file of dials.integrate parameters of your own."
joint = False
  .type = bool
  .help = "All sweeps are of one crystal, on other settings of the goniometer, and indexed together. False"
          "indexes each by itself."
scan_varying = True
  .type = bool
  .help = "After one model for all images of a sweep, refine one that varies smoothly over the sweep."
d_min = None
  .type = float(value_min=0.1)
  .help = "Highest resolution, in angstrom, of spots to look for and of reflections to integrate."
integrate = True
  .type = bool
  .help = "Integrate Bragg reflections. The diffuse map needs no Bragg intensities."
shoeboxes = False
  .type = bool
  .help = "Keep the pixels that integration takes for peaks: masker shoebox needs them. Large."
nproc = None
  .type = int(value_min=1)
  .help = "Processes that DIALS takes for one sweep. Where not given, all CPUs where there is one sweep, and"
          "one CPU each where several are processed side by side."
"""


@dataclass(frozen=True)
class DialsSequenceIndexer:
    """Spot finding, indexing, refinement and integration of whole sweeps of rotation images."""

    name: ClassVar[str] = "dials_sequence"
    interface: ClassVar[int] = 2
    phil: ClassVar[str] = PHIL
    find_spots_phil: tuple[str, ...] = ()
    index_phil: tuple[str, ...] = ()
    refine_phil: tuple[str, ...] = ()
    integrate_phil: tuple[str, ...] = ()
    joint: bool = False
    scan_varying: bool = True
    d_min: float | None = None
    integrate: bool = True
    shoeboxes: bool = False
    nproc: int | None = None

    @classmethod
    def from_params(cls, params: Any) -> DialsSequenceIndexer:
        """Return the indexer.

        Raises:
            ConfigError: a file of DIALS parameters that isn't there.
        """
        return cls(
            phil_paths(params.find_spots_phil),
            phil_paths(params.index_phil),
            phil_paths(params.refine_phil),
            phil_paths(params.integrate_phil),
            params.joint,
            params.scan_varying,
            params.d_min,
            params.integrate,
            params.shoeboxes,
            params.nproc,
        )

    def index(self, source: DxtbxSource, hints: CrystalHints, folder: Path, mapper: Mapper) -> Experiment:
        """Return the images of the indexed sweeps; see `diffuse_framework.stages.indexer`.

        Raises:
            ConfigError: DIALS parameters that can't be used.
            GeometryError: stills.
            DataError: not one sweep could be indexed.
        """
        if not isinstance(source, SequenceSource):
            raise GeometryError(
                "indexer dials_sequence is for rotation images, these are stills: take indexer.plugin=dials_ssx, or "
                "say how far the crystal turned with geometry.scan.oscillation=start,width"
            )
        parameters = self.parameters(hints, 1 if self.joint else len(source.sweeps))
        parameters.check()
        sweeps: list[IndexedSweep] = []
        rejected: list[Rejected] = []
        for outcome in run_sequences(source, parameters, self.joint, self.shoeboxes, mapper):
            rejected += _rejections(source, outcome)
            sweeps += outcome.indexed
            _log(source, outcome)
        experiment, kept = build_sequence_experiment(source, sweeps, rejected, hints)
        if not kept:
            raise DataError(_nothing_left(experiment.rejected, all(sweep.n_images == 1 for sweep in source.sweeps)))
        warn_of_symmetry(kept, hints)
        save_sweeps(source, kept, folder)
        return experiment

    def parameters(self, hints: CrystalHints, n_groups: int) -> SequenceParameters:
        """Return the parameters of the four DIALS programs.

        Raises:
            ConfigError: a file that can't be read.
        """
        nproc = self.nproc or cpus(n_groups)
        limit = "" if self.d_min is None else f"{self.d_min}"
        find = f"spotfinder.mp.nproc = {nproc}\n" + (f"spotfinder.filter.d_min = {limit}" if limit else "")
        # DIALS 3.30 has Auto here, which it refuses for several sweeps. Sweeps that are indexed apart come one by one.
        index = f"indexing.nproc = {nproc}\nindexing.joint_indexing = True"
        refine = (
            f"refinement.parameterisation.scan_varying = {'Auto' if self.scan_varying else 'False'}\n"
            "refinement.reflections.outlier.nproc = 1"
        )
        integrate = f"integration.mp.nproc = {nproc}\n" + (f"prediction.d_min = {limit}" if limit else "")
        if self.shoeboxes:
            integrate += (
                "\nintegration.debug.output = True\nintegration.debug.separate_files = False"
                "\nintegration.debug.delete_shoeboxes = False"
            )

        def program(name: str, own: str, files: tuple[str, ...], *more: tuple[str, str]) -> DialsParameters:
            texts = (("indexer.dials_sequence", own), *user_texts(files), *more)
            return DialsParameters(f"dials.command_line.{name}", "working_phil", texts)

        return SequenceParameters(
            program("find_spots", find, self.find_spots_phil, ("our settings", SPOTS_FIXED)),
            program("index", index, self.index_phil, hint_text(hints)),
            program("refine", refine, self.refine_phil),
            program("integrate", INTEGRATE_DEFAULTS + integrate, self.integrate_phil) if self.integrate else None,
        )


def _rejections(source: SequenceSource, outcome: SweepOutcome) -> list[Rejected]:
    done = {sweep.sweep for sweep in outcome.indexed}
    rejected = []
    for number in outcome.sweeps:
        if number not in done:
            sweep = source.sweeps[number]
            names = source.names[sweep.first : sweep.first + sweep.n_images]
            reason = outcome.reason or "not indexed together with the other sweeps"
            rejected += [Rejected(name, outcome.rejected_at or "indexing", reason) for name in names]
    return rejected


def _log(source: SequenceSource, outcome: SweepOutcome) -> None:
    names = ", ".join(source.sweeps[number].name for number in outcome.sweeps)
    if outcome.captured_log.strip():
        level = logging.DEBUG if outcome.indexed else logging.INFO
        dials_logger.log(level, "\nDIALS on %s:\n%s", names, outcome.captured_log.strip())
    if outcome.warning:
        logger.warning("%s: %s", names, outcome.warning.strip())
    if outcome.rejected_at:
        logger.info("Rejected %s at %s: %s", names, outcome.rejected_at, outcome.reason)
    for indexed in outcome.indexed:
        crystal = indexed.experiment.crystal
        logger.info(
            "Indexed %s: cell %.2f %.2f %.2f %.2f %.2f %.2f, %d reflections, rms %.2f px, crystal %s",
            source.sweeps[indexed.sweep].name,
            *crystal.get_unit_cell().parameters(),
            len(indexed.reflections),
            rms_px(indexed.reflections),
            "varies over the scan" if crystal.num_scan_points else "the same on all images",
        )


def _nothing_left(rejected: tuple[Rejected, ...], one_image: bool) -> str:
    first = rejected[0]
    tries = {
        "spot finding": spots_advice(first.reason, "indexer.dials_sequence.find_spots_phil"),
        REFINEMENT: "indexer.dials_sequence.scan_varying=False, or refinement.* in a file for "
        "indexer.dials_sequence.refine_phil",
    }.get(
        first.stage,
        "crystal.unit_cell= and crystal.space_group=, check beam centre, distance and rotation axis (geometry.*)",
    )
    example = f"{first.name}, at {first.stage}: {first.reason}"
    if one_image and first.stage != "reading":
        tries = f"input.kind=stills, for a single image may not tell how the crystal turned; or {tries}"
    return f"no sweep could be indexed (for example {example}). Try: {tries}"


@hookimpl
def diffuse_indexers() -> list[type]:
    """Offer the indexer."""
    return [DialsSequenceIndexer]
