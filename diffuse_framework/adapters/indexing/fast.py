"""The fast indexer of stills as work on images: DxtbxSource in, experiments and reflection tables of DIALS out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from dxtbx.model import Crystal, Experiment, MosaicCrystalSauter2014

from diffuse_framework.adapters.images.experiments import identifier_of
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing.common import INDEXING, READING, SPOTS, GivesOutcomes, StillOutcome
from diffuse_framework.adapters.indexing.fast_tables import reflections_of
from diffuse_framework.adapters.indexing.packing import VERSIONS, model_texts, pack
from diffuse_framework.algorithms.indexing.known_cell import KnownCell
from diffuse_framework.algorithms.indexing.rays import aside_of
from diffuse_framework.algorithms.indexing.stills import StillLimits, StillResult, index_still
from diffuse_framework.errors import DataError
from diffuse_framework.fingerprint import fingerprint
from diffuse_framework.model.geometry import Geometry

if TYPE_CHECKING:
    from dxtbx.model import Detector

logger = logging.getLogger(__name__)

# Images whose shift of the detector is looked at, and spots of one that tells it.
_SAMPLE, _TELLING_SPOTS = 20, 30
_LEAST_SAMPLE = 3
# Twice, for spots of a detector that is far off are not all explained the first time.
_ROUNDS = 2


def moved(geometry: Geometry, shift: np.ndarray) -> Geometry:
    """Return a geometry whose panels have moved by a vector (3,) in mm."""
    if not shift.any():
        return geometry
    panels = tuple(replace(panel, origin_mm=panel.origin_mm + shift) for panel in geometry.panels)
    return replace(geometry, panels=panels)


def _moved_detector(detector: Detector, shift: np.ndarray) -> Detector:
    if not shift.any():
        return detector
    result = copy.deepcopy(detector)
    for panel in result:
        origin = np.array(panel.get_origin()) + shift
        panel.set_frame(panel.get_fast_axis(), panel.get_slow_axis(), tuple(origin))
    return result


@dataclass(frozen=True, eq=False)
class FastWork(GivesOutcomes):
    """Indexes one image with a known cell; pickles.

    Attributes:
        source: all images.
        known: the cell.
        space_group: symbol, for the crystal model.
        limits: what is believed.
        shift: (3,) mm that the detector is moved by.
        name: of the indexer.
    """

    source: DxtbxSource
    known: KnownCell
    space_group: str
    limits: StillLimits
    shift: np.ndarray
    name: str

    def key(self, number: int) -> str:
        """Return a name for all that the outcome depends on."""
        models = model_texts(self.source.experiments[number])
        own = (self.known, self.space_group, self.limits, self.shift, self.name)
        return fingerprint("fast stills", number, self.source.stamp(number), models, own, VERSIONS)

    def find(self, number: int) -> StillResult:
        """Return what is found on image `number`.

        Raises:
            DataError: it can't be read.
        """
        frame = self.source.read(number)
        trusted = self.source.trusted_pixels(number)
        bad = None if trusted is None else tuple((~mask).view(np.uint8) for mask in trusted)
        return index_still(frame.counts, moved(self.source.geometry(number), self.shift), bad, self.known, self.limits)

    def __call__(self, number: int) -> StillOutcome:
        """Find spots on, index and integrate image `number`."""
        try:
            found = self.find(number)
        except DataError as unreadable:
            reason = str(unreadable).removeprefix(f"{self.source.names[number]}: ")
            return StillOutcome(number, rejected_at=READING, reason=reason)
        n_found = len(found.spots)
        if not found.lattices:
            stage = SPOTS if n_found < self.limits.indexing.min_spots else INDEXING
            return StillOutcome(number, n_found=n_found, rejected_at=stage, reason=found.reason)
        original = self.source.experiments[number]
        crystals = [self._crystal(found, lattice.fit.setting_matrix) for lattice in found.lattices]
        experiment = Experiment(
            beam=original.beam,
            detector=_moved_detector(original.detector, self.shift),
            crystal=crystals[0],
            identifier=identifier_of(original),
        )
        geometry = moved(self.source.geometry(number), self.shift)
        table = reflections_of(found, geometry, experiment)
        return StillOutcome(
            number,
            pack(experiment, table, crystals[1:]),
            n_found,
            tuple(int(lattice.explained.sum()) for lattice in found.lattices),
            indexed_by=self.name,
        )

    def _crystal(self, found: StillResult, setting: np.ndarray) -> Crystal:
        a, b, c = map(tuple, np.linalg.inv(setting))
        crystal = MosaicCrystalSauter2014(Crystal(a, b, c, space_group_symbol=self.space_group))
        crystal.set_half_mosaicity_deg(found.excitation.mosaic_width_deg / 2)
        crystal.set_domain_size_ang(found.excitation.domain_size)
        return crystal


@dataclass(frozen=True, eq=False)
class ShiftWork:
    """Finds the shift of the detector across the beam that the spots of one image ask for; pickles."""

    work: FastWork

    def key(self, number: int) -> str:
        """Return a name for all that the result depends on."""
        return fingerprint("shift", self.work.key(number))

    def to_plain(self, shift: tuple[float, ...]) -> tuple[float, ...]:
        """Return a result as numbers."""
        return shift

    def from_plain(self, plain: Any) -> tuple[float, ...]:
        """Return the result that `to_plain` took apart."""
        return tuple(map(float, plain))

    def __call__(self, number: int) -> tuple[float, ...]:
        """Return mm along the two directions of `aside_of`, nothing where too few spots tell."""
        try:
            found = self.work.find(number)
        except DataError:
            return ()
        if not found.lattices or found.lattices[0].explained.sum() < _TELLING_SPOTS:
            return ()
        return tuple(map(float, found.lattices[0].fit.shift_mm))


Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


def refined_shift(work: FastWork, spread: Spread) -> np.ndarray:
    """Return the shift (3,) of the detector in mm that the spots of a sample of the images ask for in the median.

    Args:
        work: its detector as the source has it.
        spread: takes work and items, yields ``work(item)`` in the order of the items.
    """
    n = len(work.source)
    sample = sorted({int(number) for number in np.linspace(0, n - 1, min(n, _SAMPLE)).round()})
    work = replace(work, limits=replace(work.limits, integrate=False))
    aside = aside_of(work.source.geometry(0).beam)
    total = np.zeros(2)
    for _ in range(_ROUNDS):
        found = [shift for shift in spread(ShiftWork(replace(work, shift=total @ aside)), sample) if shift]
        if len(found) < _LEAST_SAMPLE:
            logger.info("Too few images (%d of %d) tell how the detector lies: it is left where it is", len(found), n)
            return np.zeros(3)
        shifts = np.array(found)
        step = np.median(shifts, axis=0)
        error = 1.4826 * np.median(np.abs(shifts - step), axis=0) * 1.2533 / np.sqrt(len(shifts))
        if (np.abs(step) < 3 * error).all():
            break
        total += step
        pixel = work.source.geometry(0).panels[0].pixel_size_mm[0]
        logger.info(
            "%d images ask for the detector to be moved across the beam by %.3f and %.3f mm (%.2f and %.2f px), within "
            "%.3f and %.3f mm",
            len(shifts),
            *step,
            *(step / pixel),
            *error,
        )
        if np.abs(step).max() < pixel:
            break
    return total @ aside


def run_fast(work: FastWork, refine_geometry: bool, spread: Spread) -> Iterator[StillOutcome]:
    """Yield the outcome of every image, in order.

    Args:
        work: on one image.
        refine_geometry: move the detector across the beam as the spots ask for.
        spread: takes work and items, yields ``work(item)`` in the order of the items.
    """
    if refine_geometry:
        work = replace(work, shift=refined_shift(work, spread))
    yield from spread(work, range(len(work.source)))


def with_fallback(
    outcomes: list[StillOutcome], again: Callable[[int], StillOutcome], most: int, spread: Spread, name: str
) -> list[StillOutcome]:
    """Return outcomes, those of images that could not be indexed made anew by another indexer.

    Args:
        outcomes: one per image.
        again: work on one image, by number.
        most: images that are tried again at most; more say that something is wrong with the cell or the geometry.
        spread: takes work and items, yields ``work(item)`` in the order of the items.
        name: of the other indexer.
    """
    failed = [outcome.source_index for outcome in outcomes if outcome.rejected_at == INDEXING]
    if not failed:
        return outcomes
    if len(failed) > most:
        logger.warning(
            "%d of %d images could not be indexed, more than DIALS is given to try again (%d): check crystal.unit_cell "
            "and the geometry, or set indexer.fast_stills.max_fallback=1",
            len(failed),
            len(outcomes),
            most,
        )
        return outcomes
    by_number = {outcome.source_index: outcome for outcome in outcomes}
    n_indexed = 0
    for outcome in spread(again, failed):
        if outcome.packed is not None:
            by_number[outcome.source_index] = replace(outcome, indexed_by=name)
            n_indexed += 1
    logger.info("DIALS indexed %d of %d images that the fast indexer could not", n_indexed, len(failed))
    return [by_number[outcome.source_index] for outcome in outcomes]
