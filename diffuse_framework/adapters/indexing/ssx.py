"""The functions behind `dials.find_spots`, `dials.ssx_index` and `dials.ssx_integrate`, image by image."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diffuse_framework.adapters.guards.memory import raise_if_short
from diffuse_framework.adapters.images.experiments import IndexedStill, reset_ids, still_for_dials
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing.common import (
    INDEXING,
    INTEGRATION,
    SPOTS,
    GivesOutcomes,
    ImageRejected,
    StillOutcome,
    best_lattice,
    capture_dials_log,
    refuse_damaged,
    spot_finding_failure,
)
from diffuse_framework.adapters.indexing.dials_phil import DialsParameters, hint_text
from diffuse_framework.adapters.indexing.packing import VERSIONS, model_texts, pack
from diffuse_framework.errors import in_one_line
from diffuse_framework.fingerprint import fingerprint
from diffuse_framework.model.experiment import CrystalHints

if TYPE_CHECKING:
    from dials.array_family import flex
    from dxtbx.model import Experiment, ExperimentList

SSX_INDEX_DEFAULTS = """
# As for dials.stills_process.
indexing.stills.ewald_proximal_volume_max = 0.02
"""

# Processes are ours to handle.
FIND_SPOTS_FIXED = "spotfinder.mp.nproc = 1"
SSX_INDEX_FIXED = """
nproc = 1
indexing.nproc = 1
output.nuggets = None
"""
# A file name for the report, which is not written here, because DIALS 3.30 needs what is
# gathered for it.
SSX_INTEGRATE_FIXED = """
nproc = 1
integration.mp.nproc = 1
output.nuggets = None
output.html = unused.html
image_range = None
"""


@dataclass(frozen=True, eq=False)
class Spots:
    """The spots of one image; travels between workers.

    Attributes:
        source_index: number of the image.
        table: a strong reflection table, None where the image was rejected.
        max_cell: longest cell axis that the spots suggest, angstrom, None where not looked for.
        rejected_at, reason: as for an `StillOutcome`.
        n_found: spots found.
        captured_log: what DIALS logged and printed.
    """

    source_index: int
    table: flex.reflection_table | None = None
    max_cell: float | None = None
    rejected_at: str = ""
    reason: str = ""
    n_found: int = 0
    captured_log: str = ""


@dataclass(frozen=True, eq=False)
class FindSpotsWork:
    """Finds the spots of one image; pickles.

    Attributes:
        source: all images.
        find: parameters of `dials.find_spots`.
        index: parameters of `dials.ssx_index`.
    """

    source: DxtbxSource
    find: DialsParameters
    index: DialsParameters

    def key(self, index: int) -> str:
        """Return a name for all that spots depend on."""
        models = model_texts(self.source.experiments[index])
        return fingerprint("spots", index, self.source.stamp(index), models, self.find, self.index, VERSIONS)

    def to_plain(self, spots: Spots) -> dict[str, Any]:
        """Return spots as a dictionary of text, numbers and bytes."""
        return vars(spots) | {"table": None if spots.table is None else spots.table.as_msgpack()}

    def from_plain(self, plain: dict[str, Any]) -> Spots:
        """Return the spots that `to_plain` took apart."""
        from dials.array_family import flex

        table = plain["table"]
        return Spots(**plain | {"table": None if table is None else flex.reflection_table.from_msgpack(table)})

    def __call__(self, index: int) -> Spots:
        """Find spots on image number `index`, and the longest axis where no cell is known."""
        with capture_dials_log() as captured_log:
            try:
                table, max_cell = self._find(index)
            except ImageRejected as rejection:
                return Spots(
                    index,
                    rejected_at=rejection.stage,
                    reason=rejection.reason,
                    n_found=rejection.n_found,
                    captured_log=captured_log.getvalue(),
                )
        return Spots(index, table, max_cell, n_found=len(table), captured_log=captured_log.getvalue())

    def _find(self, index: int) -> tuple[flex.reflection_table, float | None]:
        from dials.array_family import flex
        from dxtbx.model import ExperimentList

        refuse_damaged(self.source, index)
        experiments = ExperimentList([still_for_dials(self.source.experiments[index])])
        params = self.index.fresh()
        try:
            table = flex.reflection_table.from_observations(experiments, self.find.fresh(), is_stills=True)
        # DIALS raises whatever its parts do: RuntimeError, AssertionError, Sorry, IndexError ...
        except Exception as error:
            raise_if_short(error, self.source.geometry(index).n_pixels)
            raise spot_finding_failure(self.source, index, error) from error
        if len(table) < params.min_spots:
            raise ImageRejected(SPOTS, f"{len(table)} spots found, {params.min_spots} needed", n_found=len(table))
        return table, _max_cell(experiments, table, params)


def _max_cell(experiments: ExperimentList, table: flex.reflection_table, params: Any) -> float | None:
    """Return the longest axis the spots suggest, as `dials.ssx_index` does where it needs one."""
    from dials.algorithms.indexing import DialsIndexError
    from dials.algorithms.indexing.max_cell import find_max_cell
    from dials.array_family import flex

    if not _needs_max_cell(params):
        return None
    table = table.copy()
    table["imageset_id"] = flex.int(len(table), 0)
    table.centroid_px_to_mm(experiments)
    table.map_centroids_to_reciprocal_space(experiments)
    try:
        return find_max_cell(table).max_cell
    except (DialsIndexError, AssertionError):
        return None


def _needs_max_cell(params: Any) -> bool:
    from libtbx import Auto

    return params.indexing.max_cell is Auto and not params.indexing.known_symmetry.unit_cell


@dataclass(frozen=True, eq=False)
class IndexWork(GivesOutcomes):
    """Indexes and integrates the spots of one image; pickles.

    Attributes:
        source: all images.
        index: parameters of `dials.ssx_index`.
        integrate: parameters of `dials.ssx_integrate`, None to leave it out.
        max_cell: longest cell axis to look for, None to leave it to DIALS.
        shoeboxes: whether to keep the foreground of shoeboxes.
    """

    source: DxtbxSource
    index: DialsParameters
    integrate: DialsParameters | None
    max_cell: float | None = None
    shoeboxes: bool = False

    def key(self, spots: Spots) -> str:
        """Return a name for all that the outcome depends on."""
        number = spots.source_index
        table = None if spots.table is None else spots.table.as_msgpack()
        return fingerprint(self.key_of_image(number), table, spots.reason)

    def key_of_image(self, number: int) -> str:
        """Return a name for all but the spots."""
        models = model_texts(self.source.experiments[number])
        own = (self.index, self.integrate, self.max_cell, self.shoeboxes)
        return fingerprint("ssx", number, self.source.stamp(number), models, own, VERSIONS)

    def __call__(self, spots: Spots) -> StillOutcome:
        """Index and integrate one image."""
        number = spots.source_index
        if spots.table is None:
            return StillOutcome(
                number,
                n_found=spots.n_found,
                rejected_at=spots.rejected_at,
                reason=spots.reason,
                captured_log=spots.captured_log,
            )
        with capture_dials_log() as captured_log:
            captured_log.write(spots.captured_log)
            try:
                still, lattices = self._process(spots, captured_log)
            except ImageRejected as rejection:
                return StillOutcome(
                    number,
                    n_found=spots.n_found,
                    rejected_at=rejection.stage,
                    reason=rejection.reason,
                    captured_log=captured_log.getvalue(),
                )
        packed = pack(still.experiment, still.reflections, still.other_crystals)
        return StillOutcome(number, packed, spots.n_found, lattices, captured_log=captured_log.getvalue())

    def _process(self, spots: Spots, captured_log: io.StringIO) -> tuple[IndexedStill, tuple[int, ...]]:
        experiments, indexed = self._index(spots, captured_log)
        integrated = None
        if self.integrate is not None:
            experiments, integrated = self._integrate(self.integrate.fresh(), experiments, indexed, captured_log)
        return best_lattice(spots.source_index, experiments, indexed, integrated, self.shoeboxes)

    def _index(self, spots: Spots, captured_log: io.StringIO) -> tuple[ExperimentList, flex.reflection_table]:
        from dials.algorithms.indexing.ssx.processing import index
        from dxtbx.model import ExperimentList

        experiments = ExperimentList([still_for_dials(self.source.experiments[spots.source_index])])
        params = self.index.fresh()
        if self.max_cell is not None:
            params.indexing.max_cell = self.max_cell
        try:
            # DIALS 3.12 points stdout elsewhere and, at the end, to the terminal.
            with redirect_stdout(captured_log):
                experiments, indexed, _ = index(experiments, spots.table, params)
        # DIALS raises whatever its parts do: RuntimeError, AssertionError, Sorry, IndexError ...
        except Exception as error:
            raise_if_short(error, self.source.geometry(spots.source_index).n_pixels)
            raise ImageRejected(INDEXING, f"{in_one_line(error)} ({spots.n_found} spots found)") from error
        if len(experiments) == 0:
            reason = _last_error(captured_log) or "no lattice was found"
            raise ImageRejected(INDEXING, f"{reason} ({spots.n_found} spots found)")
        return experiments, indexed

    def _integrate(
        self, params: Any, experiments: ExperimentList, indexed: flex.reflection_table, captured_log: io.StringIO
    ) -> tuple[ExperimentList, flex.reflection_table]:
        from dials.array_family import flex
        from dials.command_line.ssx_integrate import run_integration
        from dxtbx.model import ExperimentList

        tables = indexed.split_by_experiment_id()
        params.debug.output.shoeboxes = self.shoeboxes
        integrated_experiments, integrated = ExperimentList(), flex.reflection_table()
        try:
            for number, table in enumerate(tables):
                # One lattice at a time, because integration changes ids and identifiers.
                for one, reflections, _ in run_integration([table], experiments[number : number + 1], params):
                    if len(one) == 0:
                        continue
                    if "partiality" not in reflections:
                        reflections.compute_partiality(one)
                    _append(integrated_experiments, integrated, one[0], reflections)
        # DIALS raises whatever its parts do: RuntimeError, AssertionError, Sorry, IndexError ...
        except Exception as error:
            raise ImageRejected(INTEGRATION, in_one_line(error)) from error
        if len(integrated_experiments) == 0:
            raise ImageRejected(INTEGRATION, _last_error(captured_log) or "no reflection was integrated")
        return integrated_experiments, integrated


def _append(
    experiments: ExperimentList,
    table: flex.reflection_table,
    experiment: Experiment,
    reflections: flex.reflection_table,
) -> None:
    reset_ids(reflections, len(experiments), experiment.identifier)
    experiments.append(experiment)
    table.extend(reflections)


def _last_error(captured_log: io.StringIO) -> str:
    """Return what DIALS logged as its last error; it logs some and goes on."""
    errors = [line for line in captured_log.getvalue().splitlines() if "error:" in line]
    return errors[-1].rpartition("error:")[2].strip() if errors else ""


@dataclass(frozen=True, eq=False)
class SsxWork(GivesOutcomes):
    """All steps on one image; pickles."""

    find: FindSpotsWork
    index: IndexWork

    def key(self, number: int) -> str:
        """Return a name for all that the outcome depends on."""
        return fingerprint(self.find.key(number), self.index.key_of_image(number))

    def __call__(self, number: int) -> StillOutcome:
        """Find spots on, index and integrate image `number`."""
        return self.index(self.find(number))


def default_work(source: DxtbxSource, hints: CrystalHints, integrate: bool) -> SsxWork:
    """Return all steps with the defaults of DIALS and ours, for a cell that is known.

    Args:
        source: all images.
        hints: what is known of the crystal.
        integrate: also integrate.
    """
    name = "settings for DIALS"

    def parameters(program: str, scope: str, *texts: tuple[str, str]) -> DialsParameters:
        return DialsParameters(f"dials.command_line.{program}", scope, texts)

    find = parameters("find_spots", "phil_scope", (name, FIND_SPOTS_FIXED))
    index = parameters("ssx_index", "phil_scope", (name, SSX_INDEX_DEFAULTS), hint_text(hints), (name, SSX_INDEX_FIXED))
    last = parameters("ssx_integrate", "working_phil", (name, f"algorithm = stills\n{SSX_INTEGRATE_FIXED}"))
    return SsxWork(FindSpotsWork(source, find, index), IndexWork(source, index, last if integrate else None))


def run_ssx(
    source: DxtbxSource,
    find: DialsParameters,
    index: DialsParameters,
    integrate: DialsParameters | None,
    shoeboxes: bool,
    spread: Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]],
) -> Iterator[StillOutcome]:
    """Yield the outcome of every image, in order.

    Where nothing is known of the cell, spots are found on all images first, because
    `dials.ssx_index` looks for cells up to the longest axis that any image suggests.

    Args:
        source: all images.
        find, index: parameters of `dials.find_spots` and `dials.ssx_index`.
        integrate: parameters of `dials.ssx_integrate`, None to leave it out.
        shoeboxes: whether to keep the foreground of shoeboxes.
        spread: takes work and items, yields ``work(item)`` in the order of the items.
    """
    find_work = FindSpotsWork(source, find, index)
    work = IndexWork(source, index, integrate, shoeboxes=shoeboxes)
    if not _needs_max_cell(index.fresh()):
        yield from spread(SsxWork(find_work, work), range(len(source)))
        return
    spots = list(spread(find_work, range(len(source))))
    longest = max((item.max_cell for item in spots if item.max_cell is not None), default=None)
    yield from spread(replace(work, max_cell=longest), spots)
