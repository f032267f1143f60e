"""Stage 1: from images to crystal orientations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.source import ImageSource
from diffuse_framework.stages.work import Mapper

__all__ = ["Indexer"]


class Indexer(Protocol):
    """Finds the crystal's orientation on every image."""

    name: ClassVar[str]
    phil: ClassVar[str]

    @classmethod
    def from_params(cls, params: Any) -> Indexer:
        """Return the indexer that the parameters describe.

        Raises:
            ConfigError: parameters that contradict each other.
        """

    def index(self, source: ImageSource, hints: CrystalHints, folder: Path, mapper: Mapper) -> Experiment:
        """Return the indexed images; those that can't be indexed are in its `rejected`.

        Args:
            source: all images.
            hints: unit cell and space group, where the user knows them.
            folder: where ``indexed.expt`` and ``indexed.refl`` are left.
            mapper: spreads work on single images.

        Raises:
            DataError: not one image could be indexed; the message says what to try.
        """
