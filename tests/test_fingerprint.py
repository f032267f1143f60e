from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffuse_framework
from diffuse_framework.fingerprint import code_versions, fingerprint, source_digest
from diffuse_framework.testing import fakes
from diffuse_framework.testing.strategies import geometries

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


@given(thing=PLAIN)
def test_equal_things_have_one_name_wherever_they_lie(thing):
    assert fingerprint(thing) == fingerprint(pickle.loads(pickle.dumps(thing)))


@given(a=PLAIN, b=PLAIN)
def test_different_things_have_different_names(a, b):
    if repr(a) != repr(b):
        assert fingerprint(a) != fingerprint(b)
        assert fingerprint([a, b]) != fingerprint([b, a])


@given(geometry=geometries())
def test_models_keep_their_name_when_they_travel(geometry):
    assert fingerprint(geometry) == fingerprint(pickle.loads(pickle.dumps(geometry)))
    panel = replace(geometry.panels[0], gain=geometry.panels[0].gain * 2)
    assert fingerprint(geometry) != fingerprint(replace(geometry, panels=(panel, *geometry.panels[1:])))


@dataclass
class Settings:
    width: float = 1.0
    where: Path = Path("a")


class Loose:
    def __init__(self, width):
        self.width = width


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros(3), np.zeros((3, 1))),
        (np.zeros(3), np.zeros(3, np.float32)),
        (np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3)[::-1]),
        (Settings(), Settings(width=2.0)),
        (Settings(), Settings(where=Path("b"))),
        (Loose(1), Loose(2)),
        (Settings(), Loose(1)),
        (partial(max, 1), partial(max, 2)),
        (max, min),
        (Settings, Loose),
        ("1", 1),
        (1, 1.0),
        (True, 1),
        ("ab", ["a", "b"]),
        (["a", "bc"], ["ab", "c"]),
    ],
)
def test_any_difference_counts(a, b):
    assert fingerprint(a) != fingerprint(b)


def test_order_in_memory_does_not():
    ordered = np.arange(12.0).reshape(3, 4)
    assert fingerprint(ordered) == fingerprint(np.asfortranarray(ordered))
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(fakes.orthorhombic_grid()) == fingerprint(fakes.orthorhombic_grid())


def test_an_edited_plugin_is_another(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for text in ("x = 1", "x = 22"):
        (tmp_path / "edited_plugin.py").write_text(f"{text}\nclass Masker:\n    pass\n")
        importlib.invalidate_caches()
        names.append(fingerprint(importlib.import_module("edited_plugin").Masker()))
        del sys.modules["edited_plugin"]
    assert names[0] != names[1]


def test_a_plugin_whose_helper_was_edited_is_another(tmp_path, monkeypatch):
    package = tmp_path / "edited_package"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "masker.py").write_text("from edited_package.deep.rings import WIDTH\nclass Masker:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for width in ("WIDTH = 1", "WIDTH = 22"):
        (package / "deep" / "rings.py").write_text(width)
        importlib.invalidate_caches()
        names.append(fingerprint(importlib.import_module("edited_package.masker").Masker()))
        for name in [name for name in sys.modules if name.startswith("edited_package")]:
            del sys.modules[name]
    assert names[0] != names[1]


def test_every_file_of_ours_counts_and_so_do_the_programs_below():
    ours, plugins, *programs = code_versions()
    assert ours == source_digest("diffuse_framework") and plugins == source_digest("diffuse_plugins")
    assert len({ours, plugins, source_digest("numpy")}) == 3
    assert [program.split()[0] for program in programs] == ["dials", "dxtbx", "numpy", "numba"]


def test_an_edited_file_of_ours_makes_other_sums(tmp_path, monkeypatch):
    copy = tmp_path / "diffuse_framework"
    shutil.copytree(Path(diffuse_framework.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from diffuse_framework.fingerprint import code_versions; print(code_versions()[0])"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def digest() -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout

    before = digest()
    with (copy / "algorithms" / "binning.py").open("a") as file:
        file.write("# edited\n")
    assert before and digest() != before
