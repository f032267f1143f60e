"""The rules that plugins keep, one function per stage.

Each takes a plugin and the data it is tried on (drawn by `testing.strategies`, or your own), and
raises `BrokenContract` with what is wrong, in words for the plugin's author. A plugin may refuse data with
the errors of `diffuse_framework.errors`; any other exception passes through.
"""

from __future__ import annotations

from diffuse_framework.testing.checks.absolute_scaler import check_absolute_scaler
from diffuse_framework.testing.checks.accumulator import check_accumulator
from diffuse_framework.testing.checks.common import BrokenContract, first_difference
from diffuse_framework.testing.checks.corrector import check_corrector
from diffuse_framework.testing.checks.grid import check_grid
from diffuse_framework.testing.checks.indexer import check_indexer
from diffuse_framework.testing.checks.masker import check_masker
from diffuse_framework.testing.checks.merger import check_merger
from diffuse_framework.testing.checks.plugin import check_plugin
from diffuse_framework.testing.checks.reindexer import check_reindexer
from diffuse_framework.testing.checks.scaler import check_scaler
from diffuse_framework.testing.checks.validator import check_validator

__all__ = [
    "BrokenContract",
    "check_absolute_scaler",
    "check_accumulator",
    "check_corrector",
    "check_grid",
    "check_indexer",
    "check_masker",
    "check_merger",
    "check_plugin",
    "check_reindexer",
    "check_scaler",
    "check_validator",
    "first_difference",
]
