"""Orientations from indexed .expt and .refl files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.adapters.images.experiments import build_experiment, save_indexed
from diffuse_framework.adapters.images.sequences import SequenceSource, build_sequence_experiment, save_sweeps
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.indexing.given import given_stills, given_sweeps
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

PHIL = """
crystals = None
  .type = path
  .help = "An .expt file (dials.import_xds makes one from files of XDS) whose crystal is that of all rotation"
          "images, at angle 0 of their goniometer; with as many crystals as there are sweeps, of one sweep"
          "each. The crystals of the input are then ignored."
"""


@dataclass(frozen=True)
class GivenIndexer:
    """Crystals of the .expt files and reflections of the .refl files in the input; nothing is indexed."""

    name: ClassVar[str] = "given"
    interface: ClassVar[int] = 2
    phil: ClassVar[str] = PHIL
    crystals: Path | None = None

    @classmethod
    def from_params(cls, params: Any) -> GivenIndexer:
        """Return the indexer."""
        return cls(Path(params.crystals) if params.crystals else None)

    def index(self, source: DxtbxSource, hints: CrystalHints, folder: Path, mapper: Mapper) -> Experiment:
        """Return the images that came with a crystal; see `diffuse_framework.stages.indexer`.

        Raises:
            ConfigError: crystals of a sweep for stills.
            DataError: no image has a crystal, or reflections that don't belong to the images.
        """
        if isinstance(source, SequenceSource):
            return self._sweeps(source, hints, folder)
        if self.crystals is not None:
            raise ConfigError("indexer.given.crystals is for rotation images: stills have a crystal each")
        stills, rejected = given_stills(source)
        experiment, kept = build_experiment(source, stills, rejected, hints)
        for item in experiment.rejected:
            logger.info("Rejected %s at %s: %s", item.name, item.stage, item.reason)
        if not kept:
            reasons = {item.reason for item in experiment.rejected}
            raise DataError(
                f"no image of the input can be used ({'; '.join(sorted(reasons))}): give indexed.expt and "
                "indexed.refl, or choose an indexer, for example indexer.plugin=dials_ssx"
            )
        without = sum(len(image.spots) == 0 for image in experiment.images)
        logger.info("%d images came with a crystal, %d of them without reflections", len(kept), without)
        save_indexed(source, kept, folder)
        return experiment

    def _sweeps(self, source: SequenceSource, hints: CrystalHints, folder: Path) -> Experiment:
        sweeps, rejected = given_sweeps(source, self.crystals)
        experiment, kept = build_sequence_experiment(source, sweeps, rejected, hints)
        if not kept:
            reasons = {item.reason for item in experiment.rejected}
            raise DataError(
                f"no sweep of the input can be used ({'; '.join(sorted(reasons))}): give refined.expt and "
                "integrated.refl, or indexer.given.crystals, or choose an indexer, for example "
                "indexer.plugin=dials_sequence"
            )
        for indexed in kept:
            varying = indexed.experiment.crystal.num_scan_points > 0
            logger.info(
                "%s: crystal %d, %s, %d reflections",
                source.sweeps[indexed.sweep].name,
                indexed.crystal,
                "varies over the scan" if varying else "the same on all images",
                0 if indexed.reflections is None else len(indexed.reflections),
            )
        save_sweeps(source, kept, folder)
        return experiment


@hookimpl
def diffuse_indexers() -> list[type]:
    """Offer the indexer."""
    return [GivenIndexer]
