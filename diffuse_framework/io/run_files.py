"""What is read back from the JSON files of a run: numbers where numbers should be, before pages and texts use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffuse_framework.errors import DataError
from diffuse_framework.io import filenames
from diffuse_framework.io.inputs import read_json

# A name that ends in "?" may be missing, a value that does may be null; "*" is any name, a list is of any length, a
# tuple of its own. What isn't named here is let pass: others may add to these files.
_NUMBER, _POSITIVE, _TEXT = "number", "number above 0", "text"
_MAYBE = "number?"
_CELL = (_POSITIVE,) * 6
_SHELL = {
    "d_max": _MAYBE,
    "d_min": _MAYBE,
    "voxels": _MAYBE,
    "completeness": _MAYBE,
    "multiplicity": _MAYBE,
    "intensity": _MAYBE,
    "intensity_over_sigma": _MAYBE,
    "cc_half?": _MAYBE,
    "cc_half_between?": _MAYBE,
    "cc_half_between_counting?": _MAYBE,
}
_SUMMARY = {
    "images?": {
        "given": _NUMBER,
        "used": _NUMBER,
        "rejected": _NUMBER,
        "rejected_images?": [{"name": _TEXT, "stage": _TEXT, "reason": _TEXT}],
    },
    "unit_cell?": {"median": _CELL, "standard_deviation": (_NUMBER,) * 6, "space_group": _TEXT},
    "spots?": [{"image": _TEXT, "cell": _CELL, "observed": _NUMBER, "rms_px": _MAYBE}],
    "verdict?": {"grade": _TEXT, "sentence": _TEXT, "points?": [{"grade": _TEXT, "what": _TEXT, "do": _TEXT}]},
    "map?": {
        "voxels_in_asymmetric_unit": _NUMBER,
        "voxels_observed": _NUMBER,
        "completeness": _NUMBER,
        "pixels": _NUMBER,
        "photons": _NUMBER,
        "counts_per_pixel": _NUMBER,
        "multiplicity_mean": _MAYBE,
        "intensity_over_sigma_median": _MAYBE,
        "shells?": [_SHELL],
    },
    "parts?": [{"name": _TEXT, "seconds": _NUMBER, "peak_mib": _NUMBER}],
    "run?": {"finished?": _TEXT, "changed_parameters?": _TEXT, "versions?": {"*": _TEXT}},
}
_STATISTICS = {"shells?": [_SHELL]}
_ABSOLUTE = {
    "method?": _TEXT,
    "estimates?": {"*": {"k?": _MAYBE, "q?": [_NUMBER], "k_of_q?": [_MAYBE]}},
    "profile?": {"q": [_NUMBER], "total_relative": [_MAYBE], "sum_f0_squared": [_NUMBER], "incoherent": [_NUMBER]},
}
_SHAPES: dict[str, Any] = {
    filenames.SUMMARY: _SUMMARY,
    filenames.STATISTICS: _STATISTICS,
    filenames.ABSOLUTE_SCALE: _ABSOLUTE,
}
# Larger ones are no numbers any more once they are multiplied.
_LARGEST = 1e300


def read_run_file(path: Path) -> dict[str, Any]:
    """Return the content of ``summary.json``, ``merging_statistics.json`` or ``absolute_scale.json``.

    Raises:
        DataError: it can't be read, or holds something else where a number, a text or a list should be.
    """
    content = read_json(path)
    check_run_file(path, content, _SHAPES[path.name])
    if path.name == filenames.ABSOLUTE_SCALE:
        curves = {f"estimates.{method}": curve for method, curve in (content.get("estimates") or {}).items()}
        for where, curve in (curves | {"profile": content.get("profile") or {}}).items():
            if len({len(values) for values in curve.values() if isinstance(values, list)}) > 1:
                raise _other(path, where, "lists of one length", curve)
    return content


def check_summary(path: Path, content: dict[str, Any]) -> None:
    """Check what a file holds that has the parts of ``summary.json`` under another name.

    Raises:
        DataError: see `read_run_file`.
    """
    check_run_file(path, content, _SUMMARY)


def check_run_file(path: Path, content: Any, shape: Any, where: str = "") -> None:
    """Check content against a shape, as they stand above.

    Raises:
        DataError: something else is there.
    """
    match shape:
        case dict():
            if not isinstance(content, dict):
                raise _other(path, where, "an object of names and values", content)
            for name, inner in shape.items():
                _check_named(path, content, name, inner, where)
        case list() | tuple():
            n = len(shape) if isinstance(shape, tuple) else None
            if not isinstance(content, list) or (n is not None and len(content) != n):
                raise _other(path, where, "a list" if n is None else f"a list of {n}", content)
            for number, item in enumerate(content):
                check_run_file(path, item, shape[0], f"{where}[{number}]")
        case _ if content is None and shape.endswith("?"):
            pass
        case "text":
            if not isinstance(content, str):
                raise _other(path, where, "a text", content)
        case _:
            is_number = isinstance(content, int | float) and not isinstance(content, bool)
            if not is_number or not abs(content) < _LARGEST or (shape == _POSITIVE and not content > 0):
                raise _other(path, where, f"a {shape.rstrip('?')}", content)


def _check_named(path: Path, content: dict[str, Any], name: str, shape: Any, where: str) -> None:
    if name == "*":
        for key, item in content.items():
            check_run_file(path, item, shape, f"{where}.{key}".lstrip("."))
        return
    key = name.rstrip("?")
    if name != key and content.get(key) is None:
        return
    if key not in content:
        raise DataError(f"{path}: {where or 'it'} has no {key!r}: it was changed, or made by another program")
    check_run_file(path, content[key], shape, f"{where}.{key}".lstrip("."))


def _other(path: Path, where: str, wanted: str, found: Any) -> DataError:
    match found:
        case None:
            text = "empty"
        case list():
            text = f"a list of {len(found)}"
        case dict():
            text = "an object"
        case str():
            text = "a text"
        case _:
            text = str(found)[:20]
    return DataError(
        f"{path}: {where or 'it'} is {text} where {wanted} should be; run diffuse.process again, or remove the file"
    )
