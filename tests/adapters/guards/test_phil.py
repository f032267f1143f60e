"""Parameter files run nothing and leave nothing out in silence."""

from __future__ import annotations

import math

import pytest
from iotbx.phil import parse

from diffuse_framework.adapters.guards.phil import evaluate, refuse_includes
from diffuse_framework.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        (" 1/3 ", 1 / 3),
        ("2**0.5", math.sqrt(2)),
        ("-sqrt(2) * pi", -math.sqrt(2) * math.pi),
        ("(1, 2.5)", (1, 2.5)),
        ("1e-3", 1e-3),
        ("inf", math.inf),
    ],
)
def test_numbers_and_arithmetic(text, value):
    assert evaluate(text, math.__dict__) == value
    master = parse("x = None\n .type = float")
    if not isinstance(value, tuple):
        assert master.fetch(parse(f'x = "{text}"')).extract().x == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch sprung')",
        "().__class__.__base__.__subclasses__()",
        "[x for x in (1, 2)]",
        "(lambda: 1)()",
        "open('sprung', 'w')",
        "sqrt.__self__",
        "'a' * 10**9",
        "9**9**9**9**9",
        "factorial(10**9)",
        "1 if 1 else 2",
        "__loader__",
        "1" + "+1" * 1000,
    ],
)
def test_nothing_else_is_evaluated(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OverflowError)):
        evaluate(text, math.__dict__)
    for kind in ("float", "int", "floats", "ints"):
        with pytest.raises(RuntimeError):
            parse(f"x = None\n .type = {kind}").fetch(parse(f'x = "{text}"')).extract()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n  .type = float(value_min=__import__('os').system('touch sprung'))",
        "x = 1\n  .type = trap.thing",
        "x\n  .call = trap.thing\n{\n  y = 1\n}",
        "x\n  .call = libtbx.easy_run.call\n{\n  y = 1\n}",
    ],
)
def test_neither_types_nor_calls_of_a_file_run(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trap.py").write_text("open('sprung', 'w').close()\n")
    with pytest.raises((RuntimeError, ImportError)):
        parse(text).extract()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("include file a.phil", 1),
        ("x = 1\n  include scope a.b", 2),
        ("x = 1; include file a.phil", 1),
        ("a {\n  b { include file a.phil\n }\n}", 2),
        ("a { b = 2\n\n include scope os.path\n}", 3),
    ],
)
def test_an_include_is_refused_wherever_it_stands(text, line):
    with pytest.raises(ConfigError, match=f"my.phil, line {line}: 'include"):
        refuse_includes("my.phil", text)


@pytest.mark.parametrize("text", ["include = 1", "# include file x", 'x = "include file y"', "x = include file y"])
def test_a_word_include_elsewhere_is_no_include(text):
    refuse_includes("my.phil", "x = 1" if text == "include = 1" else text)
