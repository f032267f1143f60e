"""Parameters named in part on a command line, and those listed at each expert level."""

from __future__ import annotations

import pytest
from iotbx.phil import parse

from diffuse_framework.command_line import process
from diffuse_framework.command_line.shared.abbreviations import in_full, level_of
from diffuse_framework.config.scope import build_scope
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.loader import load_registry


@pytest.fixture(scope="module")
def scope():
    return build_scope(load_registry())


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("nproc", "mp.nproc"),
        ("d_min", "grid.hkl.d_min"),
        ("divisions", "grid.hkl.divisions"),
        ("gain", "detector.gain"),
        ("space_group", "crystal.space_group"),
        ("bragg.radius", "masker.bragg.radius"),
        ("dials_ssx.d_min", "indexer.dials_ssx.d_min"),
    ],
)
def test_a_word_of_several_means_what_a_first_user_sets(scope, word, path):
    assert in_full(f"{word}=2", scope) == f"{path}=2"
    assert in_full(f"{word} = 2 3", scope) == f"{path} = 2 3"


def test_every_path_means_itself(scope):
    for item in scope.all_definitions():
        assert in_full(f"{item.path}=1", scope) == f"{item.path}=1"


def test_what_only_plugins_share_is_asked_for(scope):
    with pytest.raises(ConfigError, match="scaler.dials_target.outliers.limit, scaler.per_image.outliers.limit"):
        in_full("limit=3", scope)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("space_grup", "crystal.space_group"),
        ("masker.bragg.raduis", "masker.bragg.radius"),
        ("d_mim", "grid.hkl.d_min"),
    ],
)
def test_a_mistyped_word_gets_the_nearest(scope, typed, meant):
    with pytest.raises(ConfigError, match=f"there is no parameter {typed}; did you mean {meant}"):
        in_full(f"{typed}=1", scope)


def test_the_least_expert_of_the_best_matches_wins_as_in_dials():
    scope = parse("a { x = 1\n.type = int\n}\nb\n.expert_level = 1\n{ x = 1\n.type = int\n}\n")
    assert in_full("x=2", scope) == "a.x=2"
    assert [level_of(item) for item in scope.all_definitions()] == [0, 1]


def test_a_plugin_that_has_levels_of_its_own_keeps_them(scope):
    levels = {item.path: level_of(item) for item in scope.all_definitions()}
    assert levels["grid.hkl.divisions"] == 0
    assert levels["grid.hkl.unit_cell"] == 1
    assert levels["mp.chunk"] == 2


def test_what_a_first_user_sets_fits_on_a_page(capsys):
    with pytest.raises(SystemExit):
        process.run(["-c"])
    shown = capsys.readouterr().out
    assert shown.count("\n") < 60
    assert "nproc" in shown and "d_min" in shown and "dials_ssx" not in shown
    with pytest.raises(SystemExit):
        process.run(["-c", "-e", "1"])
    assert "dials_ssx" in capsys.readouterr().out
