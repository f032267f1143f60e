"""Each broken plugin is caught by the contract kit, and the message names its fault."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from pathlib import Path

import pytest

from diffuse_framework.testing import conformance
from diffuse_framework.testing.checks import BrokenContract
from diffuse_framework.testing.conformance import conformance_tests

HERE = Path(__file__).parent


def load():
    """The module of broken plugins, under a name by which pickle finds it again."""
    spec = importlib.util.spec_from_file_location("broken_plugins", HERE / "broken_plugins.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("broken_plugins", module)
    if sys.modules["broken_plugins"] is module:
        spec.loader.exec_module(module)
    return sys.modules["broken_plugins"]


plugins = load()


@pytest.mark.parametrize("stage", plugins.SOUND)
def test_what_is_broken_below_is_sound_before(stage):
    conformance_tests(stage, plugins.SOUND[stage], max_examples=10)()


@pytest.mark.parametrize(("stage", "factory", "message"), plugins.BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_a_broken_plugin_is_caught_and_told_what_is_wrong(stage, factory, message):
    test = conformance_tests(stage, factory, max_examples=40)
    with pytest.raises(BrokenContract, match=message) as caught:
        test()
    assert str(caught.value).startswith(f"{factory.name} ({factory.__name__}): ")


def test_a_fault_that_shows_only_once_is_told_too(monkeypatch):
    """Hypothesis repeats a data set that failed; a plugin of chance may pass then, and its fault is told."""
    checks = itertools.count()

    def fails_once(plugin, data):
        if next(checks) == 0:
            raise BrokenContract("sound (SoundReindexer): another answer")
        return True

    monkeypatch.setitem(conformance._CASES, "reindexer", fails_once)
    with pytest.raises(BrokenContract, match="another answer"):
        conformance_tests("reindexer", plugins.SOUND["reindexer"], max_examples=2)()


def test_the_documentation_lists_them():
    page = (HERE.parents[1] / "docs" / "contract_kit.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert {factory.__name__ for _, factory, _ in plugins.BROKEN} == listed
