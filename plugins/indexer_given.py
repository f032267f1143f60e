"""Orientations from indexed .expt and .refl files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.adapters.experiments import build_experiment, save_indexed
from diffuse_framework.adapters.given import given_stills
from diffuse_framework.adapters.images import DxtbxSource
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GivenIndexer:
    """Crystals of the .expt files and reflections of the .refl files in the input; nothing is indexed."""

    name: ClassVar[str] = "given"
    phil: ClassVar[str] = ""

    @classmethod
    def from_params(cls, params: Any) -> GivenIndexer:
        """Return the indexer; it has no parameters."""
        return cls()

    def index(self, source: DxtbxSource, hints: CrystalHints, folder: Path, mapper: Mapper) -> Experiment:
        """Return the images that came with a crystal; see `diffuse_framework.stages.indexer`.

        Raises:
            DataError: no image has a crystal, or reflections that don't belong to the images.
        """
        stills, refused = given_stills(source)
        experiment, kept = build_experiment(source, stills, refused, hints)
        for item in experiment.refused:
            logger.info("Refused %s at %s: %s", item.name, item.stage, item.reason)
        if not kept:
            reasons = {item.reason for item in experiment.refused}
            raise DataError(
                f"no image of the input can be used ({'; '.join(sorted(reasons))}): give indexed.expt and "
                "indexed.refl, or choose an indexer, for example indexer.plugin=dials_ssx"
            )
        without = sum(len(image.spots) == 0 for image in experiment.images)
        logger.info("%d images came with a crystal, %d of them without reflections", len(kept), without)
        save_indexed(source, kept, folder)
        return experiment


@hookimpl
def diffuse_indexers() -> list[type]:
    """Offer the indexer."""
    return [GivenIndexer]
