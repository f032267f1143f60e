"""One Protocol per stage: what a plugin of that kind must offer.

Every plugin is a frozen dataclass with two class variables, ``name`` (how PHIL selects it)
and ``phil`` (the text of its own parameters), and a class method ``from_params`` that turns
the extracted parameters into an object. The object pickles and never changes.
"""

from __future__ import annotations

__all__ = [
    "absolute_scaler",
    "accumulator",
    "corrector",
    "grid",
    "indexer",
    "masker",
    "merger",
    "reindexer",
    "scaler",
    "steps",
    "validator",
    "work",
]
