"""One hook per stage: each returns the plugin classes a module offers."""

from __future__ import annotations

import pluggy

hookspec = pluggy.HookspecMarker("diffuse_framework")

# In the order in which a run comes to them.
STAGES = (
    "indexer",
    "validator",
    "masker",
    "corrector",
    "grid",
    "accumulator",
    "reindexer",
    "scaler",
    "merger",
    "absolute_scaler",
)


@hookspec
def diffuse_indexers() -> list[type]:
    """Return classes that follow `stages.indexer.Indexer`."""


@hookspec
def diffuse_validators() -> list[type]:
    """Return classes that follow `stages.validator.Validator`."""


@hookspec
def diffuse_maskers() -> list[type]:
    """Return classes that follow `stages.masker.Masker`."""


@hookspec
def diffuse_correctors() -> list[type]:
    """Return classes that follow `stages.corrector.Corrector`."""


@hookspec
def diffuse_grids() -> list[type]:
    """Return classes that follow `stages.grid.Grid`."""


@hookspec
def diffuse_accumulators() -> list[type]:
    """Return classes that follow `stages.accumulator.Accumulator`."""


@hookspec
def diffuse_reindexers() -> list[type]:
    """Return classes that follow `stages.reindexer.Reindexer`."""


@hookspec
def diffuse_scalers() -> list[type]:
    """Return classes that follow `stages.scaler.Scaler`."""


@hookspec
def diffuse_mergers() -> list[type]:
    """Return classes that follow `stages.merger.Merger`."""


@hookspec
def diffuse_absolute_scalers() -> list[type]:
    """Return classes that follow `stages.absolute_scaler.AbsoluteScaler`."""
