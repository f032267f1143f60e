from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint

import pytest

from diffuse_framework import hookimpl
from diffuse_framework.errors import PluginError
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.interfaces import INTERFACES, METHODS, interface_of
from diffuse_framework.host.loader import GROUP, load_registry


class Scaler:
    """Does nothing well."""

    name = "idle"
    phil = ""
    interface = INTERFACES["scaler"]

    @classmethod
    def from_params(cls, params):
        return cls()

    def fit(self, sums, experiment):
        raise NotImplementedError

    @classmethod
    def scales_from_plain(cls, plain, image_names, grid):
        raise NotImplementedError


def entry(monkeypatch, **attributes) -> EntryPoint:
    """An entry point of a package "acme" whose scaler has `attributes`."""
    factory = type("AcmeScaler", (Scaler,), attributes)
    module = types.ModuleType("made_up_acme")
    module.diffuse_scalers = hookimpl(specname="diffuse_scalers")(lambda: [factory])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    point = EntryPoint("scaler_idle", module.__name__, GROUP)
    vars(point).update(dist=types.SimpleNamespace(name="acme", version="1.0"))
    return point


def test_every_stage_has_an_interface_with_methods():
    assert tuple(INTERFACES) == STAGES
    assert METHODS["scaler"] == {
        "fit": ("sums", "experiment"),
        "scales_from_plain": ("plain", "image_names", "grid"),
    }
    assert all(METHODS.values())


def test_a_plugin_that_states_the_interface_of_today_loads(monkeypatch):
    assert load_registry([entry(monkeypatch)]).find("scaler", "idle")


def test_a_plugin_that_states_nothing_was_written_for_the_first():
    assert interface_of(object) == 1


@pytest.mark.parametrize(
    ("interface", "advice"),
    [
        (INTERFACES["scaler"] + 1, "install a newer diffuse_framework"),
        (INTERFACES["scaler"] - 1, "install a newer version of the plugin"),
        ("two", "install a newer version of the plugin"),
    ],
)
def test_another_interface_is_told_when_the_plugin_loads(monkeypatch, interface, advice):
    registry = load_registry([entry(monkeypatch, interface=interface)])
    assert f"written for interface {interface} of scaler" in registry.failed[0].error
    with pytest.raises(PluginError, match=advice):
        registry.find("scaler", "idle")


def test_a_method_that_is_missing_is_told_when_the_plugin_loads(monkeypatch):
    registry = load_registry([entry(monkeypatch, fit=None)])
    assert "AcmeScaler is offered as scaler, but has no fit" in registry.failed[0].error
