"""What indexer.plugin=Auto stands for, once the images are there to tell."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffuse_framework.adapters.images.open import all_have_crystals
from diffuse_framework.adapters.images.sequences import SequenceSource
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.errors import PluginError
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.source import ImageSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AutomaticIndexer:
    """Takes orientations that come with the input, and indexes by the kind of the images where there are none.

    Attributes:
        choose: makes the indexer of a name (`stages.indexer.Indexer`).
    """

    name: ClassVar[str] = "Auto"
    phil: ClassVar[str] = ""
    choose: Callable[[str], Any]

    @classmethod
    def from_params(cls, params: Any) -> AutomaticIndexer:
        """Refuse: it is made with what chooses an indexer.

        Raises:
            PluginError: always.
        """
        raise PluginError("the automatic indexer is chosen by indexer.plugin=Auto")

    def index(self, source: ImageSource, hints: CrystalHints, folder: Path, mapper: Any) -> Experiment:
        """Index with the indexer that suits the images.

        Raises:
            DataError: see the indexers.
        """
        name, why = _suitable(source, self.choose("given"))
        logger.info("Indexer: %s, for %s", name, why)
        return self.choose(name).index(source, hints, folder, mapper)


def _suitable(source: ImageSource, given: Any) -> tuple[str, str]:
    """Return the name of the indexer that suits the images, and why."""
    if given.crystals:
        return "given", "indexer.given.crystals is set"
    if isinstance(source, DxtbxSource) and all_have_crystals(source):
        return "given", "the input has crystals"
    if isinstance(source, SequenceSource):
        return "dials_sequence", "the images are rotations"
    # It indexes as many of the real stills it was tried on as dials_stills, and can leave integration out.
    return "dials_ssx", "the images are stills"
