"""The plugins chosen for one run, in order."""

from __future__ import annotations

from dataclasses import dataclass

from diffuse_framework.stages.absolute_scaler import AbsoluteScaler
from diffuse_framework.stages.accumulator import Accumulator
from diffuse_framework.stages.corrector import Corrector
from diffuse_framework.stages.grid import Grid
from diffuse_framework.stages.indexer import Indexer
from diffuse_framework.stages.masker import Masker
from diffuse_framework.stages.merger import Merger
from diffuse_framework.stages.reindexer import Reindexer
from diffuse_framework.stages.scaler import Scaler
from diffuse_framework.stages.validator import Validator


@dataclass(frozen=True)
class MergingSteps:
    """What makes a map of sums and scales."""

    merger: Merger
    absolute_scaler: AbsoluteScaler


__all__ = ["MergingSteps", "Steps"]


@dataclass(frozen=True)
class Steps:
    """One plugin per stage; any number of validators, maskers and correctors.

    Attributes:
        parameters: PHIL text of all that were selected by text, as far as it differs from the defaults.
    """

    indexer: Indexer
    validators: tuple[Validator, ...]
    maskers: tuple[Masker, ...]
    correctors: tuple[Corrector, ...]
    grid: Grid
    accumulator: Accumulator
    reindexer: Reindexer
    scaler: Scaler
    merger: Merger
    absolute_scaler: AbsoluteScaler
    parameters: str = ""

    def __repr__(self) -> str:
        named = {field: getattr(self, field) for field in self.__dataclass_fields__ if field != "parameters"}
        return f"Steps({', '.join(f'{field}={_name(plugin)}' for field, plugin in named.items())})"

    @property
    def merging(self) -> MergingSteps:
        """The last two."""
        return MergingSteps(self.merger, self.absolute_scaler)


def _name(plugin: object) -> str:
    """Return the name of a plugin, or of each in a tuple."""
    if isinstance(plugin, tuple):
        return f"({', '.join(map(_name, plugin))})"
    return str(getattr(plugin, "name", type(plugin).__name__))
