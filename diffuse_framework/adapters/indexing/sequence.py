"""Whole sweeps through DIALS: spot finding, indexing, refinement, integration."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dxtbx.model import Experiment, ExperimentList

from diffuse_framework.adapters.images.experiments import SharedModels, identifier_of, reset_ids
from diffuse_framework.adapters.images.sequences import IndexedSweep, SequenceSource
from diffuse_framework.adapters.indexing.common import (
    INDEXING,
    INTEGRATION,
    SPOTS,
    ImageRejected,
    capture_dials_log,
)
from diffuse_framework.adapters.indexing.dials_phil import DialsParameters
from diffuse_framework.adapters.indexing.packing import VERSIONS, model_texts, pack, unpack
from diffuse_framework.adapters.indexing.shims import provide_missing_modules
from diffuse_framework.errors import in_one_line
from diffuse_framework.fingerprint import fingerprint

if TYPE_CHECKING:
    from types import TracebackType

    from dials.array_family import flex

logger = logging.getLogger(__name__)

REFINEMENT = "refinement"

SPOTS_FIXED = """
output {
  shoeboxes = False
  experiments = None
}
"""
INTEGRATE_DEFAULTS = """
# dials.integrate's own default integrates to the corners of the detector, predictions padded by 1 degree.
prediction.padding = 0
"""


@dataclass(frozen=True)
class SequenceParameters:
    """Parameters of the four programs; `integrate` is None where nothing is to be integrated."""

    find: DialsParameters
    index: DialsParameters
    refine: DialsParameters
    integrate: DialsParameters | None

    def check(self) -> None:
        """Find mistakes before any work is done.

        Raises:
            ConfigError: a text that doesn't parse, or a parameter DIALS doesn't have.
        """
        for parameters in (self.find, self.index, self.refine, self.integrate):
            if parameters is not None:
                parameters.check()


@dataclass(frozen=True, eq=False)
class SweepOutcome:
    """What became of sweeps that were indexed together; travels from a worker.

    Attributes:
        sweeps: their numbers.
        indexed: those that were indexed.
        n_found: spots found.
        rejected_at, reason: the step that failed and why, "" where none did.
        warning: what else the user should know.
        captured_log: what DIALS logged and printed.
    """

    sweeps: tuple[int, ...]
    indexed: tuple[IndexedSweep, ...] = ()
    n_found: int = 0
    rejected_at: str = ""
    reason: str = ""
    warning: str = ""
    captured_log: str = ""


@dataclass(frozen=True, eq=False)
class SweepWork:
    """Indexes sweeps together; pickles.

    Attributes:
        experiments: one per sweep of the source, without crystals.
        parameters: of DIALS.
        shoeboxes: whether to keep those of integration.
        stamps: for each sweep the stamps of its images.
    """

    experiments: ExperimentList
    parameters: SequenceParameters
    shoeboxes: bool = False
    stamps: tuple[tuple[str, ...], ...] = ()

    def key(self, numbers: tuple[int, ...]) -> str:
        """Return a name for all that the outcome of the sweeps `numbers` depends on."""
        sweeps = [(number, self.stamps[number], model_texts(self.experiments[number])) for number in numbers]
        return fingerprint("sweeps", sweeps, self.parameters, self.shoeboxes, VERSIONS)

    def to_plain(self, outcome: SweepOutcome) -> dict[str, Any]:
        """Return an outcome as a dictionary of text, numbers and bytes."""
        indexed = [(one.sweep, one.crystal, pack(one.experiment, one.reflections)) for one in outcome.indexed]
        return vars(outcome) | {"indexed": indexed}

    def from_plain(self, plain: dict[str, Any]) -> SweepOutcome:
        """Return the outcome that `to_plain` took apart."""
        indexed = tuple(
            IndexedSweep(sweep, *unpack(packed)[:2], crystal) for sweep, crystal, packed in plain["indexed"]
        )
        # Each was packed with models of its own; sweeps of one crystal share beam and detector.
        shared = SharedModels()
        for one in indexed:
            one.experiment.beam, one.experiment.detector = shared.models(one.experiment)
        return SweepOutcome(**plain | {"indexed": indexed})

    def __call__(self, numbers: tuple[int, ...]) -> SweepOutcome:
        """Process the sweeps `numbers`."""
        provide_missing_modules()
        with capture_dials_log() as captured_log:
            try:
                experiments, table, n_found, warning = self._process(numbers)
            except ImageRejected as refusal:
                return SweepOutcome(
                    numbers,
                    n_found=refusal.n_found,
                    rejected_at=refusal.stage,
                    reason=refusal.reason,
                    captured_log=captured_log.getvalue(),
                )
            indexed = tuple(self._sweeps(numbers, experiments, table))
        missing = [number for number in numbers if number not in {sweep.sweep for sweep in indexed}]
        if missing:
            warning += f" Not indexed together with the others: sweeps {missing}."
        return SweepOutcome(numbers, indexed, n_found, warning=warning, captured_log=captured_log.getvalue())

    def _process(self, numbers: tuple[int, ...]) -> tuple[ExperimentList, flex.reflection_table, int, str]:
        from dials.array_family import flex
        from dials.command_line.index import index
        from dials.command_line.integrate import run_integration
        from dials.command_line.refine import run_dials_refine

        experiments = ExperimentList([copy.deepcopy(self.experiments[number]) for number in numbers])
        # Copies are of their own; sweeps of one crystal on one detector refine one detector.
        shared = SharedModels()
        for experiment in experiments:
            experiment.beam, experiment.detector = shared.models(experiment)
        with _step(SPOTS):
            spots = flex.reflection_table.from_observations(experiments, self.parameters.find.fresh())
        n_found = len(spots)
        if n_found == 0:
            raise ImageRejected(SPOTS, "no spots found")
        # Integration models its profiles on the spots' own pixels; nothing else needs them.
        if self.parameters.integrate is None and "shoebox" in spots:
            del spots["shoebox"]
        with _step(INDEXING, n_found):
            experiments, table = index(experiments, [spots], self.parameters.index.fresh())
        if len(experiments) == 0:
            raise ImageRejected(INDEXING, f"no lattice found ({n_found} spots)", n_found)
        table = table.select(table["id"] >= 0)
        with _step(REFINEMENT, n_found):
            refine = self.parameters.refine.fresh()
            varies = refine.refinement.parameterisation.scan_varying is not False
            if varies and len(experiments.crystals()) < len(experiments):
                # DIALS lets a crystal vary over one scan only: one model for all sweeps comes first, and each
                # sweep goes on from a copy of it.
                static = self.parameters.refine.fresh()
                static.refinement.parameterisation.scan_varying = False
                experiments, table, _, _ = run_dials_refine(experiments, table, static)
                for experiment in experiments:
                    experiment.crystal = copy.deepcopy(experiment.crystal)
            experiments, table, _, _ = run_dials_refine(experiments, table, refine)
        if self.parameters.integrate is None:
            return experiments, table, n_found, ""
        try:
            with _step(INTEGRATION, n_found):
                experiments, integrated, _ = run_integration(
                    self.parameters.integrate.fresh(), experiments, copy.deepcopy(table)
                )
        except ImageRejected as refusal:
            warning = f"Integration failed ({refusal.reason}); the diffuse map goes on without Bragg intensities."
            # What is left are pixels of found spots, not of all reflections.
            if "shoebox" in table:
                del table["shoebox"]
            return experiments, table, n_found, warning
        return experiments, integrated, n_found, ""

    def _sweeps(
        self, numbers: tuple[int, ...], experiments: ExperimentList, table: flex.reflection_table
    ) -> Iterator[IndexedSweep]:
        """Yield the lattice of each sweep with the most reflections."""
        identifiers = [self.experiments[number].identifier for number in numbers]
        best: dict[int, tuple[Experiment, flex.reflection_table]] = {}
        for row, experiment in enumerate(experiments):
            rows = table.select(table["id"] == row)
            sweep = _sweep_of(experiment, [self.experiments[number] for number in numbers], identifiers)
            if sweep not in best or len(rows) > len(best[sweep][1]):
                best[sweep] = experiment, rows
        for sweep, (experiment, rows) in sorted(best.items()):
            if "shoebox" in rows and not self.shoeboxes:
                del rows["shoebox"]
            reset_ids(rows, 0, experiment.identifier)
            # The source has the images; without them an experiment travels as numbers only.
            experiment.imageset = None
            yield IndexedSweep(numbers[sweep], experiment, rows, numbers[0])


def _sweep_of(experiment: Experiment, originals: list[Experiment], identifiers: list[str]) -> int:
    """Return which of the original experiments an indexed one belongs to."""
    if experiment.identifier in identifiers:
        return identifiers.index(experiment.identifier)
    path, first = experiment.imageset.get_path(0), experiment.scan.get_image_range()
    for number, original in enumerate(originals):
        if (original.imageset.get_path(0), original.scan.get_image_range()) == (path, first):
            return number
    return 0


class _step:
    """Turns whatever DIALS raises in one of its steps into a refusal."""

    def __init__(self, stage: str, n_found: int = 0) -> None:
        self.stage, self.n_found = stage, n_found

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Refuse; dials.refine calls sys.exit, other steps raise RuntimeError, ValueError, IndexError ..."""
        if error is None or isinstance(error, ImageRejected | KeyboardInterrupt):
            return
        spots = f" ({self.n_found} spots found)" if self.n_found else ""
        raise ImageRejected(self.stage, f"{in_one_line(error)}{spots}", self.n_found) from error


def run_sequences(
    source: SequenceSource, parameters: SequenceParameters, joint: bool, shoeboxes: bool, mapper: Any
) -> Iterable[SweepOutcome]:
    """Yield the outcome of every group of sweeps, in order.

    Args:
        source: rotation images.
        parameters: of DIALS.
        joint: whether all sweeps are of one crystal and indexed together.
        shoeboxes: whether to keep those of integration.
        mapper: spreads sweeps that are indexed apart.
    """
    experiments = []
    for sweep in source.sweeps:
        experiment = copy.copy(sweep.experiment)
        experiment.crystal = None
        experiment.identifier = identifier_of(source.experiments[sweep.first])
        experiments.append(experiment)
    stamps = tuple(
        tuple(source.stamp(number) for number in range(sweep.first, sweep.first + sweep.n_images))
        for sweep in source.sweeps
    )
    work = SweepWork(experiments, parameters, shoeboxes, stamps)
    # A mapper works on a single group here, where DIALS spreads its images itself.
    groups = [tuple(range(len(experiments)))] if joint else [(number,) for number in range(len(experiments))]
    yield from mapper.map(work, groups)


def cpus(n_groups: int) -> int:
    """Return how many processes DIALS may take for each of groups of sweeps that run side by side."""
    return len(os.sched_getaffinity(0)) if n_groups == 1 else 1


def rms_px(table: flex.reflection_table) -> float:
    """Return the rms distance of observed from predicted positions of indexed spots, in pixels."""
    spots = table.select(table.get_flags(table.flags.indexed) & table.get_flags(table.flags.used_in_refinement))
    if len(spots) == 0:
        return np.nan
    x, y, _ = (spots["xyzobs.px.value"] - spots["xyzcal.px"]).parts()
    return float(np.sqrt((x.dot(x) + y.dot(y)) / len(spots)))
