"""`dials.stills_process`, image by image."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffuse_framework.adapters.guards.memory import raise_if_short
from diffuse_framework.adapters.images.experiments import IndexedStill, still_for_dials
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
from diffuse_framework.adapters.indexing.dials_phil import DialsParameters
from diffuse_framework.adapters.indexing.packing import VERSIONS, model_texts, pack
from diffuse_framework.errors import in_one_line
from diffuse_framework.fingerprint import fingerprint

if TYPE_CHECKING:
    from dials.array_family import flex
    from dxtbx.model import ExperimentList

STILLS_DEFAULTS = """
dispatch.refine = True
# Made for XFELs: the default of 0.0025 refuses good synchrotron stills.
indexing.stills.ewald_proximal_volume_max = 0.02
"""
# refinement.reflections.outlier.algorithm stays what each release makes of it, which is the
# rejection of Sauter and Poon (2010) in all: in DIALS 3.12 that is part of indexing and the
# parameter has to be "null"; in 3.30 the parameter chooses it, and "null" rejects nothing.

# Processes, files and failures are ours to handle.
STILLS_FIXED = """
dispatch {
  find_spots = True
  index = True
  squash_errors = False
}
output {
  composite_output = True
  experiments_filename = None
  strong_filename = None
  integration_pickle = None
}
mp {
  nproc = 1
  method = multiprocessing
  debug.cProfile = False
  debug.output_debug_logs = False
}
spotfinder.mp.nproc = 1
indexing.nproc = 1
integration {
  mp.nproc = 1
  debug.separate_files = False
  debug.delete_shoeboxes = False
}
"""


@dataclass(frozen=True, eq=False)
class StillsWork(GivesOutcomes):
    """Runs `stills_process.Processor` on one image of a source; pickles.

    Attributes:
        source: all images.
        parameters: of `dials.stills_process`.
        shoeboxes: whether to keep the foreground of shoeboxes.
    """

    source: DxtbxSource
    parameters: DialsParameters
    shoeboxes: bool = False

    def key(self, index: int) -> str:
        """Return a name for all that the outcome depends on."""
        models = model_texts(self.source.experiments[index])
        own = (self.parameters, self.shoeboxes)
        return fingerprint("stills", index, self.source.stamp(index), models, own, VERSIONS)

    def __call__(self, index: int) -> StillOutcome:
        """Find spots, index, refine and integrate image number `index`."""
        with capture_dials_log() as captured_log, tempfile.TemporaryDirectory(prefix="diffuse_") as folder:
            params = self.parameters.fresh()
            params.output.output_dir = folder
            params.integration.debug.output = self.shoeboxes
            processor = _recorder()(params, composite_tag="image")
            try:
                still, lattices = self._process(index, processor)
            except ImageRejected as refusal:
                return StillOutcome(
                    index,
                    n_found=processor.n_found,
                    rejected_at=refusal.stage,
                    reason=refusal.reason,
                    captured_log=captured_log.getvalue(),
                )
        packed = pack(still.experiment, still.reflections, still.other_crystals)
        return StillOutcome(index, packed, processor.n_found, lattices, captured_log=captured_log.getvalue())

    def _process(self, index: int, processor: Any) -> tuple[IndexedStill, tuple[int, ...]]:
        from dxtbx.model import ExperimentList

        refuse_damaged(self.source, index)
        experiments = ExperimentList([still_for_dials(self.source.experiments[index])])
        try:
            processor.process_experiments(Path(self.source.names[index]).stem, experiments)
        # DIALS raises whatever its parts do: RuntimeError, AssertionError, Sorry, IndexError ...
        except Exception as error:
            raise_if_short(error, self.source.geometry(index).n_pixels)
            if processor.step == SPOTS:
                raise spot_finding_failure(self.source, index, error) from error
            what = "" if processor.step != "refinement" else "refinement failed: "
            stage = INDEXING if processor.step == "refinement" else processor.step
            raise ImageRejected(stage, f"{what}{in_one_line(error)} ({processor.n_found} spots found)") from error
        return self._best(index, processor)

    def _best(self, index: int, processor: Any) -> tuple[IndexedStill, tuple[int, ...]]:
        limits = processor.params.dispatch.hit_finder
        if processor.indexed is None:
            least, most = limits.minimum_number_of_reflections, limits.maximum_number_of_reflections
            if most is not None and processor.n_found > most:
                raise ImageRejected(SPOTS, f"{processor.n_found} spots found, at most {most} allowed")
            raise ImageRejected(SPOTS, f"{processor.n_found} spots found, {least} needed")
        experiments, integrated = processor.all_indexed_experiments, None
        if processor.params.dispatch.integrate:
            experiments = processor.all_integrated_experiments
            integrated = processor.all_integrated_reflections
            if len(experiments) == 0:
                raise ImageRejected(INTEGRATION, f"no reflection of {processor.n_found} spots was integrated")
        return best_lattice(index, experiments, processor.indexed, integrated, self.shoeboxes)


def _recorder() -> type:
    """Return a `Processor` that remembers how far it came and what it indexed.

    Made inside a function because importing DIALS's program takes a second.
    """
    from dials.command_line.stills_process import Processor

    class Recorder(Processor):
        """A Processor whose results stay within reach."""

        step = SPOTS
        n_found = 0
        indexed = None

        def find_spots(self, experiments: ExperimentList) -> flex.reflection_table:
            observed = super().find_spots(experiments)
            self.n_found = len(observed)
            return observed

        def index(
            self, experiments: ExperimentList, reflections: flex.reflection_table
        ) -> tuple[ExperimentList, flex.reflection_table]:
            self.step = INDEXING
            return super().index(experiments, reflections)

        def refine(
            self, experiments: ExperimentList, centroids: flex.reflection_table
        ) -> tuple[ExperimentList, flex.reflection_table]:
            self.step = "refinement"
            experiments, self.indexed = super().refine(experiments, centroids)
            return experiments, self.indexed

        def integrate(self, experiments: ExperimentList, indexed: flex.reflection_table) -> flex.reflection_table:
            self.step = INTEGRATION
            return super().integrate(experiments, indexed)

    return Recorder
