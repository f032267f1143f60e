from __future__ import annotations

import dataclasses
import pickle

import pytest
from iotbx.phil import parse

from diffuse_framework.config.scope import DEFAULTS, SEVERAL, build_scope
from diffuse_framework.config.selection import select, select_steps
from diffuse_framework.errors import ConfigError, PluginError
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Plugin, Registry


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def extracted(registry, text=""):
    return build_scope(registry).fetch(parse(text)).extract()


def test_the_defaults_make_a_run(registry):
    automatic = object()
    steps = select_steps(registry, extracted(registry), automatic)
    assert steps.indexer is automatic
    assert [masker.name for masker in steps.maskers] == DEFAULTS["masker"].split()


def test_every_definition_has_type_and_help(registry):
    for definition in build_scope(registry).all_definitions():
        if definition.path.startswith("geometry."):
            continue
        assert definition.object.help, f"{definition.path} has no help"
        assert definition.object.type is not None, f"{definition.path} has no type"


# Parameters that plugins can't do without.
NEEDED = "corrector.background.constant = 1"


def test_every_default_plugin_parses_its_defaults_pickles_and_is_frozen(registry):
    params = extracted(registry, NEEDED)
    for plugin in registry.plugins.values():
        made = plugin.factory.from_params(getattr(getattr(params, plugin.stage), plugin.name))
        assert repr(pickle.loads(pickle.dumps(made))) == repr(made)
        if dataclasses.fields(made):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(made, dataclasses.fields(made)[0].name, None)


def test_several_maskers_keep_the_order_they_are_named_in(registry):
    params = extracted(registry, "masker.plugins = bragg trusted")
    assert [masker.name for masker in select(registry, params, "masker")] == ["bragg", "trusted"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("scaler.plugin = per_imge", PluginError, "did you mean 'per_image'"),
        ("masker.plugins = trusted trusted", ConfigError, "trusted twice"),
        ("scaler.plugin = None", ConfigError, "names no plugin"),
        ("grid.hkl.d_min = 4\ngrid.hkl.d_max = 2", ConfigError, "d_min=4"),
    ],
)
def test_a_choice_that_cannot_be_is_explained(registry, text, error, message):
    with pytest.raises(error, match=message):
        select_steps(registry, extracted(registry, text), "given")


def test_names_in_quotes_are_a_list_too(registry):
    params = extracted(registry, 'masker.plugins = "bragg trusted"')
    assert [masker.name for masker in select(registry, params, "masker")] == ["bragg", "trusted"]


def test_no_plugin_of_several_is_a_choice(registry):
    assert select(registry, extracted(registry, "corrector.plugins = None"), "corrector") == ()


def test_a_plugin_whose_parameters_do_not_parse_is_listed_as_failed():
    class Bad:
        """Has bad parameters."""

        name, phil = "bad", "width = 1\n.type = no_such_type"
        from_params = None

    registry = Registry()
    registry.add(Plugin("scaler", "bad", Bad, "acme", "2"))
    build_scope(registry)
    assert registry.failed[0].package == "acme" and not registry.plugins


def test_each_stage_has_a_default():
    assert set(DEFAULTS) == set(STAGES) and set(SEVERAL) <= set(STAGES)
