"""What the indexers that run DIALS share: one image's outcome, DIALS's captured log, the data set's end."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cctbx import crystal, sgtbx

from diffuse_framework.adapters.images.experiments import (
    IndexedStill,
    build_experiment,
    cropped_shoeboxes,
    reset_ids,
    save_indexed,
    with_observations,
)
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing.packing import Packed, unpack
from diffuse_framework.errors import DataError, in_one_line
from diffuse_framework.model.experiment import CrystalHints, Experiment, Rejected

logger = logging.getLogger(__name__)
# The command sends this one to the log file only.
dials_logger = logging.getLogger("dials")

READING, SPOTS, INDEXING, INTEGRATION = "reading", "spot finding", "indexing", "integration"
# Which parameter says how many spots are needed; beside the stages in what an indexer advises.
MIN_SPOTS = "min_spots"


@dataclass(frozen=True, eq=False)
class StillOutcome:
    """What became of one image; travels from a worker.

    Attributes:
        source_index: its number in the source.
        packed: the indexed image, None where it was rejected.
        n_found: spots found.
        lattices: indexed spots of each lattice, that of the indexed image first.
        rejected_at, reason: the step that failed and why, "" where none did.
        captured_log: what DIALS logged and printed.
        indexed_by: name of the indexer, "" for the one that was chosen.
    """

    source_index: int
    packed: Packed | None = None
    n_found: int = 0
    lattices: tuple[int, ...] = ()
    rejected_at: str = ""
    reason: str = ""
    captured_log: str = ""
    indexed_by: str = ""

    def still(self) -> IndexedStill | None:
        """Return the indexed image, None where it was rejected."""
        if self.packed is None:
            return None
        return IndexedStill(self.source_index, *unpack(self.packed), indexed_by=self.indexed_by)


class GivesOutcomes:
    """What works have in common whose result is the outcome of one image."""

    def to_plain(self, outcome: StillOutcome) -> dict[str, Any]:
        """Return an outcome as a dictionary of text, numbers and bytes."""
        return asdict(outcome)

    def from_plain(self, plain: dict[str, Any]) -> StillOutcome:
        """Return the outcome that `to_plain` took apart."""
        return StillOutcome(**plain)


class ImageRejected(Exception):
    """One image can't be used; ends its processing."""

    def __init__(self, stage: str, reason: str, n_found: int = 0) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
        self.n_found = n_found


@contextmanager
def capture_dials_log() -> Iterator[io.StringIO]:
    """Collect what DIALS logs and prints meanwhile, so that it can be shown image by image."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    before = dials_logger.handlers, dials_logger.propagate, dials_logger.level
    dials_logger.handlers, dials_logger.propagate = [handler], False
    dials_logger.setLevel(logging.INFO)
    try:
        with redirect_stdout(text):
            yield text
    finally:
        dials_logger.handlers, dials_logger.propagate = before[:2]
        dials_logger.setLevel(before[2])


def refuse_damaged(source: DxtbxSource, index: int) -> None:
    """Refuse an image whose bytes are not those that were written; DIALS would look for spots on them.

    Raises:
        ImageRejected: it is one.
    """
    try:
        source.check_bytes(index)
    except DataError as damaged:
        raise ImageRejected(READING, str(damaged).removeprefix(f"{source.names[index]}: ")) from damaged


def spot_finding_failure(source: DxtbxSource, index: int, error: BaseException) -> ImageRejected:
    """Return why no spots could be looked for; most often the image itself can't be read."""
    try:
        source.read(index)
    except DataError as unreadable:
        return ImageRejected(READING, str(unreadable).removeprefix(f"{source.names[index]}: "))
    return ImageRejected(SPOTS, in_one_line(error))


def best_lattice(
    index: int, experiments: Any, indexed: Any, integrated: Any, shoeboxes: bool
) -> tuple[IndexedStill, tuple[int, ...]]:
    """Return the lattice of an image with the most indexed spots, and how many each lattice has.

    Args:
        index: number of the image in its source.
        experiments: one per lattice.
        indexed: the indexed spots of all lattices.
        integrated: integrated reflections of all lattices, None where there are none.
        shoeboxes: whether to keep the foreground of shoeboxes.

    Returns:
        The lattice, and the numbers of spots, its own first.
    """
    counts = []
    for experiment in experiments:
        spots = _rows_of(indexed, experiment.identifier, len(experiments))
        counts.append(len(spots))
    best = int(np.argmax(counts))
    experiment = experiments[best]
    table = _rows_of(indexed, experiment.identifier, len(experiments))
    if integrated is not None:
        table = with_observations(_rows_of(integrated, experiment.identifier, len(experiments)), table)
    if "shoebox" in table:
        if shoeboxes and integrated is not None:
            table = cropped_shoeboxes(table)
        else:
            del table["shoebox"]
    reset_ids(table, 0, experiment.identifier)
    # The source has the image; without it an experiment travels as numbers only.
    experiment.imageset = None
    others = sorted((n for n in range(len(counts)) if n != best), key=lambda number: -counts[number])
    crystals = tuple(experiments[number].crystal for number in others)
    still = IndexedStill(index, experiment, table, crystals)
    return still, (counts[best], *(counts[number] for number in others))


def _rows_of(table: Any, identifier: str, n_lattices: int) -> Any:
    """Return the rows of one lattice; tables of a single lattice may come without identifiers."""
    if n_lattices == 1:
        return table.select(table["id"] >= 0)
    numbers = [number for number, found in table.experiment_identifiers() if found == identifier]
    return table.select(table["id"] == (numbers[0] if numbers else -2))


def finish(
    source: DxtbxSource,
    outcomes: Iterable[StillOutcome],
    hints: CrystalHints,
    folder: Path,
    advice: dict[str, str],
) -> Experiment:
    """Log each outcome as it arrives, save what was indexed and return the experiment.

    Args:
        source: all images.
        outcomes: one per image, in order.
        hints: what the user knows of the crystal.
        folder: for ``indexed.expt`` and ``indexed.refl``.
        advice: what to try where a step rejected all images, by step.

    Raises:
        DataError: no image is left, or the files can't be written.
    """
    stills, rejected = [], []
    for outcome in outcomes:
        name = source.names[outcome.source_index]
        # By `refuse_damaged`, in a run before where the outcome was kept: its name has the image's stamp in it.
        source.note_compared(outcome.source_index)
        still = outcome.still()
        _log_captured(name, outcome)
        if still is None:
            rejected.append(Rejected(name, outcome.rejected_at, outcome.reason))
            logger.info("Rejected %s at %s: %s", name, outcome.rejected_at, outcome.reason)
        else:
            stills.append(still)
            _log_indexed(name, still, outcome)
    experiment, kept = build_experiment(source, stills, rejected, hints)
    if not kept:
        raise DataError(_nothing_left(experiment.rejected, hints, advice))
    for late in experiment.rejected:
        if late not in rejected:
            logger.info("Rejected %s at %s: %s", late.name, late.stage, late.reason)
    warn_of_symmetry(kept, hints)
    save_indexed(source, kept, folder)
    return experiment


def _log_captured(name: str, outcome: StillOutcome) -> None:
    level = logging.INFO if outcome.packed is None else logging.DEBUG
    if outcome.captured_log.strip():
        dials_logger.log(level, "\nDIALS on %s:\n%s", name, outcome.captured_log.strip())


def _log_indexed(name: str, still: IndexedStill, outcome: StillOutcome) -> None:
    table = still.reflections
    spots = table.select(table.get_flags(table.flags.indexed))
    x, y, _ = (spots["xyzobs.px.value"] - spots["xyzcal.px"]).parts()
    rms_px = np.sqrt((x.dot(x) + y.dot(y)) / len(spots)) if len(spots) else np.nan
    cell = still.experiment.crystal.get_unit_cell().parameters()
    logger.info(
        "Indexed %s: %d of %d spots, cell %.2f %.2f %.2f %.2f %.2f %.2f, rms %.2f px",
        name,
        outcome.lattices[0],
        outcome.n_found,
        *cell,
        rms_px,
    )
    if len(outcome.lattices) > 1:
        logger.info(
            "%s shows %d lattices, with %s spots: it is mapped with the first, and the Bragg peaks of all are masked",
            name,
            len(outcome.lattices),
            ", ".join(map(str, outcome.lattices)),
        )


def _nothing_left(rejected: tuple[Rejected, ...], hints: CrystalHints, advice: dict[str, str]) -> str:
    """Say why no image could be indexed, and what to try."""
    if len(rejected) == 1:
        start = f"{rejected[0].name} was rejected at {rejected[0].stage}: {rejected[0].reason}"
    else:
        stage, number = Counter(item.stage for item in rejected).most_common(1)[0]
        example = next(item for item in rejected if item.stage == stage)
        start = (
            f"none of {len(rejected)} images could be indexed, {number} were rejected at {stage} "
            f"(for example {example.name}: {example.reason})"
        )
    stages = {item.stage for item in rejected}
    tries = [advice[stage] for stage in (INDEXING, INTEGRATION) if stage in stages and stage in advice]
    reasons = dict.fromkeys(item.reason for item in rejected if item.stage == SPOTS)
    if SPOTS in advice:
        tries[:0] = dict.fromkeys(spots_advice(reason, advice[SPOTS], advice.get(MIN_SPOTS, "")) for reason in reasons)
    if INDEXING in stages:
        missing = [f"crystal.{field}=" for field in ("unit_cell", "space_group") if getattr(hints, field) is None]
        crystal_advice = "check crystal.unit_cell and crystal.space_group"
        if missing:
            crystal_advice = f"give {' and '.join(missing)}"
        tries.insert(0, f"{crystal_advice}, check beam centre and distance (input.reference_geometry=)")
    return f"{start}. Try: {'; '.join(tries)}" if tries else start


def spots_advice(reason: str, where: str, least: str = "") -> str:
    """Return what to try about an image whose spots could not be used.

    Args:
        reason: of its rejection.
        where: the parameter for a file with parameters of the spot finder.
        least: the parameter that says how many spots are needed, "" where there is none.
    """
    if "allowed" in reason:
        return (
            f"raw values that are no photons look like spots: give detector.gain=, or spotfinder.threshold.* in a file "
            f"for {where}"
        )
    if least and "needed" in reason:
        return f"lower {least}, or spotfinder.* in a file for {where}"
    return f"spotfinder.* in a file for {where}"


def warn_of_symmetry(stills: tuple[Any, ...], hints: CrystalHints) -> None:
    """Warn where images indexed apart may disagree on the axes, or symmetry is not used."""
    model = stills[0].experiment.crystal
    if hints.space_group is None and model.get_space_group().type().number() == 1:
        logger.warning(
            "No crystal.space_group was given: images were indexed in P1. Cells may come in several "
            "settings, and the map is not averaged over symmetry"
        )
    if len(stills) > 1 and has_indexing_ambiguity(model):
        logger.info(
            "The lattice has more symmetry than the space group %s: crystals that are indexed one by one can "
            "disagree on the directions of the axes. Their diffuse scattering is compared after accumulation, unless "
            "reindexer.plugin=as_indexed",
            sgtbx.space_group_info(group=model.get_space_group()),
        )


def has_indexing_ambiguity(model: Any, max_delta_deg: float = 0.5) -> bool:
    """Whether the lattice of a dxtbx crystal has rotations that its Laue group lacks."""
    symmetry = crystal.symmetry(unit_cell=model.get_unit_cell(), space_group=model.get_space_group())
    primitive = symmetry.niggli_cell()
    lattice = sgtbx.lattice_symmetry.group(primitive.unit_cell(), max_delta=max_delta_deg)
    laue = primitive.space_group().build_derived_laue_group()
    # The lattice group has rotations only, the Laue group each of them twice.
    return lattice.order_p() > laue.order_p() // 2
