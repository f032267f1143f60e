"""Parameters of plugins that a run does not select."""

from __future__ import annotations

import pytest
from iotbx.phil import parse

from diffuse_framework.config.idle import idle_parameters, refuse_idle
from diffuse_framework.config.scope import DEFAULTS, SEVERAL, build_scope
from diffuse_framework.errors import ConfigError
from diffuse_framework.host.loader import load_registry

SCOPE = build_scope(load_registry())
PATHS = [item.path for item in SCOPE.all_definitions()]


def extracted(text: str):
    return SCOPE.fetch(parse(text)).extract()


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        (
            "corrector.background.constant",
            'corrector.plugins="solid_angle polarization efficiency air background" too',
        ),
        ("scaler.smooth.offset.refine", "scaler.plugin is per_image; give scaler.plugin=smooth too"),
        ("absolute_scaler.norman.contents.sequence", "give absolute_scaler.plugin=norman too"),
    ],
)
def test_what_has_no_effect_is_refused_with_what_would_give_it_one(path, advice):
    with pytest.raises(ConfigError, match=f"{path} has no effect: .*{advice}"):
        refuse_idle(extracted(""), [path])


def test_what_the_advice_says_helps():
    refuse_idle(extracted('corrector.plugins="air background"'), ["corrector.background.constant"])
    refuse_idle(extracted("scaler.plugin=smooth"), ["scaler.smooth.offset.refine"])


def test_just_the_parameters_of_what_is_not_selected_are_idle():
    idle = idle_parameters(extracted(""), PATHS)
    for path in PATHS:
        stage, *inner = path.split(".")
        chosen = DEFAULTS.get(stage, "").split()
        expected = len(inner) > 1 and stage in DEFAULTS and chosen != ["Auto"] and inner[0] not in chosen
        assert expected == any(sentence.startswith(f"{path} has no effect") for sentence in idle), path


def test_an_automatic_choice_may_take_any():
    assert not idle_parameters(extracted(""), ["indexer.dials_ssx.min_spots"])
    assert idle_parameters(extracted("indexer.plugin=given"), ["indexer.dials_ssx.min_spots"])


def test_none_selected_is_told_as_one_name():
    stage = SEVERAL[1]
    (sentence,) = idle_parameters(extracted(f'{stage}.plugins=""'), [f"{stage}.bragg.share"])
    assert sentence.endswith(f'give {stage}.plugins="bragg" too')
