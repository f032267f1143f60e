"""Parameter files run nothing: PHIL evaluates numbers and types as Python, and imports what a file names."""

from __future__ import annotations

import ast
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import libtbx.phil

from diffuse_framework.errors import ConfigError

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: float(base) ** float(exponent),
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_LONGEST = 1000
# Of `math`: what a few letters of have work for hours.
_ENDLESS = frozenset({"factorial", "comb", "perm", "prod"})


@cache
def evaluate_numbers_only() -> None:
    """Have PHIL take numbers, arithmetic and functions of `math`, and no other Python, from this process's start on.

    ``.call`` of a scope, which names a function to run, is refused; types are imported from packages that are there.
    """
    own_import = libtbx.phil.import_python_object

    def import_known(import_path: str, *args: Any, **kwargs: Any) -> Any:
        if import_path.partition(".")[0] not in sys.modules:
            raise ImportError(f"a parameter file does not import {import_path}")
        return own_import(import_path, *args, **kwargs)

    def refuse_call(full_path: str, words: Any, cache: Any) -> None:
        if not libtbx.phil.is_plain_none(words=words):
            raise RuntimeError(f"scope {full_path!r}: .call is not followed{words[0].where_str()}")

    # Functions of the module find these before Python's own.
    libtbx.phil.eval = evaluate
    libtbx.phil.import_python_object = import_known
    libtbx.phil.scope_extract_call_proxy = refuse_call


def evaluate(text: str, names: Mapping[str, Any], others: Mapping[str, Any] | None = None) -> Any:
    """Return the value of an expression of numbers, text, and calls of the functions in `names` and `others`.

    Raises:
        ValueError: anything else.
        SyntaxError: no expression.
    """
    if len(text) > _LONGEST:
        raise ValueError("the expression is too long")
    known = {name: value for name, value in names.items() if not name.startswith("_") and name not in _ENDLESS}
    known |= dict(others or {})
    return _value(ast.parse(text.strip(), mode="eval").body, known)


def _value(node: ast.AST, known: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(name) if name in known:
            return known[name]
        case ast.Name("True" | "False" | "None" as name):
            return {"True": True, "False": False, "None": None}[name]
        case ast.UnaryOp() if type(node.op) in _UNARY:
            return _UNARY[type(node.op)](_value(node.operand, known))
        case ast.BinOp() if type(node.op) in _BINARY:
            left, right = _value(node.left, known), _value(node.right, known)
            if not isinstance(left, int | float) or not isinstance(right, int | float):
                raise ValueError("arithmetic is of numbers")
            return _BINARY[type(node.op)](left, right)
        case ast.Tuple(items) | ast.List(items):
            return tuple(_value(item, known) for item in items)
        case ast.Call(ast.Name(name), args, keywords) if name in known and callable(known[name]):
            # Named ones: **mapping has no name.
            options = {str(item.arg): _value(item.value, known) for item in keywords}
            return known[name](*(_value(item, known) for item in args), **options)
    raise ValueError(f"{type(node).__name__} is no number")


def refuse_includes(path: str, text: str) -> None:
    """Refuse a user's parameter file that includes others: DIALS leaves that line out without a word.

    ``include scope`` would also import a module, which is to run it.

    Raises:
        ConfigError: it does.
        RuntimeError: the text is not PHIL.
    """
    for include in _includes(libtbx.phil.parse(text)):
        where = include.where_str.partition("line ")[2].rstrip(")")
        words = " ".join(str(word) for word in include.words)
        raise ConfigError(
            f"{path}, line {where}: 'include {words}' is not followed in a user's file; name the other file beside "
            "this one instead"
        )


def _includes(scope: Any) -> Iterator[Any]:
    for item in scope.objects:
        if item.is_definition:
            if item.name == "include" and not item.is_disabled:
                yield item
        else:
            yield from _includes(item)
