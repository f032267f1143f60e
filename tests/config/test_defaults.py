"""A default that stands in the PHIL text of a plugin and in its dataclass is one default."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass

import pytest
from iotbx.phil import parse

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.adapters.tables.attenuation import sensor_mu_per_mm
from diffuse_framework.command_line import export
from diffuse_framework.config.scope import build_scope
from diffuse_framework.host.loader import load_registry
from diffuse_framework.io.export.export import ExportOptions
from diffuse_framework.simulate.parameters import PHIL as SIMULATION_PHIL
from diffuse_framework.simulate.parameters import settings_of

REGISTRY = load_registry()
# Without these a plugin has nothing to do, and says so.
NEEDED = {("corrector", "background"): "corrector.background.constant = 0.5"}


def differences(found, where=""):
    """What a dataclass, or one within it, holds that its own default is not."""
    wrong = []
    for field in fields(found):
        value, path = getattr(found, field.name), f"{where}{field.name}"
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        if is_dataclass(value):
            wrong += differences(value, f"{path}.")
        elif default is not MISSING and value != default:
            wrong.append(f"{path}: {value!r} by its parameters, {default!r} by its class")
    return wrong


@pytest.mark.parametrize("plugin", REGISTRY.plugins.values(), ids=lambda plugin: f"{plugin.stage}-{plugin.name}")
def test_a_plugin_of_default_parameters_is_that_of_its_class(plugin):
    needed = NEEDED.get((plugin.stage, plugin.name), "")
    params = build_scope(REGISTRY).fetch(parse(needed)).extract()
    found = plugin.factory.from_params(getattr(getattr(params, plugin.stage), plugin.name, None))
    given = [line.split(" = ")[0].split(".")[-1] for line in needed.splitlines()]
    assert [wrong for wrong in differences(found) if wrong.split(":")[0] not in given] == []


def test_the_options_of_an_export_are_those_of_its_class():
    assert differences(export._options(export.phil_scope.extract())) == []


def test_a_simulation_of_default_parameters_is_that_of_its_class():
    params = parse(SIMULATION_PHIL).extract()
    settings = settings_of(params, symmetry_of(str(params.crystal.space_group)), sensor_mu_per_mm)
    # Correlation lengths have no default there: they follow the cell.
    assert [wrong for wrong in differences(settings) if not wrong.startswith("diffuse.correlation_")] == []


def test_a_default_that_stands_twice_and_differs_is_seen():
    assert differences(ExportOptions(window="hann")) == ["window: 'hann' by its parameters, 'gaussian' by its class"]
