"""What is read back of a run has numbers where numbers should be."""

from __future__ import annotations

import json
import math

import pytest

from diffuse_framework.errors import DataError
from diffuse_framework.io.run_files import read_run_file

CELL = [20.0, 22.0, 24.0, 90.0, 90.0, 90.0]
RIGHT = {
    "images": {"given": 2, "used": 1, "rejected": 1, "rejected_images": [{"name": "a", "stage": "b", "reason": "c"}]},
    "unit_cell": {"median": CELL, "standard_deviation": [0.0] * 6, "space_group": "P1"},
    "spots": [{"image": "a", "cell": CELL, "observed": 3, "rms_px": None}],
    "run": {"versions": {"DIALS": "3.12"}},
    "of another program": [1, {"x": None}],
}


def written(tmp_path, content, name="summary.json"):
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return path


def test_what_a_run_writes_is_read_as_it_is_with_what_others_added(tmp_path):
    assert read_run_file(written(tmp_path, RIGHT)) == RIGHT


@pytest.mark.parametrize("part", RIGHT)
def test_every_part_may_be_missing_or_empty(tmp_path, part):
    for content in ({k: v for k, v in RIGHT.items() if k != part}, RIGHT | {part: None}):
        assert read_run_file(written(tmp_path, content)) == content


@pytest.mark.parametrize(
    ("way", "value", "said"),
    [
        (("images",), [], "images is a list of 0 where an object"),
        (("images", "given"), "2", "images.given is a text where a number"),
        (("images", "given"), True, "images.given is True"),
        (("images", "used"), None, "images.used is empty"),
        (("images", "rejected_images", 0, "name"), 3, r"images.rejected_images\[0\].name is 3 where a text"),
        (("unit_cell", "median"), CELL[:5], "unit_cell.median is a list of 5 where a list of 6"),
        (("spots", 0, "cell", 0), 0, r"spots\[0\].cell\[0\] is 0 where a number above 0"),
        (("spots", 0, "observed"), 10**400, r"spots\[0\].observed"),
        (("spots", 0, "rms_px"), math.inf, r"spots\[0\].rms_px is inf"),
        (("run", "versions", "DIALS"), {}, "run.versions.DIALS is an object where a text"),
    ],
)
def test_what_is_something_else_is_named_with_its_place(tmp_path, way, value, said):
    content = json.loads(json.dumps(RIGHT))
    place = content
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = value
    with pytest.raises(DataError, match=rf"summary.json: {said}") as refusal:
        read_run_file(written(tmp_path, content))
    assert "\n" not in str(refusal.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"spots\[0\] has no 'cell'"):
        read_run_file(written(tmp_path, {"spots": [{"image": "a"}]}))


def test_shells_of_the_statistics_and_curves_of_the_scale(tmp_path):
    with pytest.raises(DataError, match=r"shells\[0\] has no 'd_max'"):
        read_run_file(written(tmp_path, {"shells": [{}]}, "merging_statistics.json"))
    with pytest.raises(DataError, match=r"estimates.norman.q\[1\] is a text"):
        read_run_file(written(tmp_path, {"estimates": {"norman": {"q": [0.1, "x"]}}}, "absolute_scale.json"))
    with pytest.raises(DataError, match="estimates.norman is an object where lists of one length should be"):
        read_run_file(written(tmp_path, {"estimates": {"norman": {"q": [0.1], "k_of_q": []}}}, "absolute_scale.json"))
