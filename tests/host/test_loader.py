from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from diffuse_framework import hookimpl
from diffuse_framework.errors import PluginError
from diffuse_framework.host.interfaces import INTERFACES
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


class Distribution:
    def __init__(self, name: str) -> None:
        self.name, self.version = name, "1.0"


def entry(name: str, package: str, monkeypatch, **functions) -> EntryPoint:
    """An entry point of a made-up package whose module holds `functions`."""
    module = types.ModuleType(f"made_up_{package}_{name}")
    for function, body in functions.items():
        setattr(module, function, body)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    point = EntryPoint(name, module.__name__, GROUP)
    vars(point).update(dist=Distribution(package))
    return point


def offering(*classes):
    @hookimpl
    def diffuse_scalers():
        return list(classes)

    return diffuse_scalers


def test_a_plugin_comes_with_its_stage_package_and_version(monkeypatch):
    registry = load_registry([entry("scaler_idle", "acme", monkeypatch, diffuse_scalers=offering(Scaler))])
    plugin = registry.find("scaler", "idle")
    assert (plugin.package, plugin.version, plugin.summary) == ("acme", "1.0", "Does nothing well.")


def test_a_broken_plugin_is_listed_and_stops_only_who_selects_it(monkeypatch):
    good = entry("scaler_idle", "acme", monkeypatch, diffuse_scalers=offering(Scaler))
    broken = EntryPoint("scaler_broken", "no_such_module_anywhere", GROUP)
    vars(broken).update(dist=Distribution("acme"))
    registry = load_registry([broken, good])
    assert registry.find("scaler", "idle")
    assert "no_such_module_anywhere" in registry.failed[0].error
    with pytest.raises(PluginError, match=r"acme 1\.0 did not load.*no_such_module_anywhere"):
        registry.find("scaler", "broken")


def test_packages_with_one_name_are_both_listed_and_stop_only_who_selects_it(monkeypatch):
    other_name = type("Busy", (Scaler,), {"name": "busy"})
    packages = ("acme", "other", "third")
    points = [entry("scaler_idle", package, monkeypatch, diffuse_scalers=offering(Scaler)) for package in packages]
    points.append(entry("scaler_busy", "acme", monkeypatch, diffuse_scalers=offering(other_name)))
    registry = load_registry(points)
    assert registry.find("scaler", "busy")
    assert [failed.package for failed in registry.failed] == list(packages)
    with pytest.raises(PluginError, match="two packages offer a scaler called 'idle', acme and other: uninstall one"):
        registry.find("scaler", "idle")


def test_a_misspelt_hook_is_a_failure(monkeypatch):
    @hookimpl
    def diffuse_scaler():
        return [Scaler]

    registry = load_registry([entry("scaler_idle", "acme", monkeypatch, diffuse_scaler=diffuse_scaler)])
    assert "diffuse_scaler" in registry.failed[0].error


@pytest.mark.parametrize("name", ["none", "auto", "Upper", "with-dash", "class", ""])
def test_names_that_phil_reads_otherwise_are_refused(monkeypatch, name):
    named = type("Named", (Scaler,), {"name": name})
    registry = load_registry([entry("scaler_x", "acme", monkeypatch, diffuse_scalers=offering(named))])
    assert "can't name a scaler" in registry.failed[0].error


def test_a_class_that_is_no_plugin_says_what_it_lacks(monkeypatch):
    registry = load_registry([entry("scaler_x", "acme", monkeypatch, diffuse_scalers=offering(object))])
    assert "object has no name and no phil and no from_params" in registry.failed[0].error


def test_an_unknown_name_lists_those_there_are(monkeypatch):
    registry = load_registry([entry("scaler_idle", "acme", monkeypatch, diffuse_scalers=offering(Scaler))])
    with pytest.raises(PluginError, match="did you mean 'idle'"):
        registry.find("scaler", "ilde")


def test_all_default_plugins_load():
    registry = load_registry()
    assert [failure for failure in registry.failed if failure.package == "diffuse_framework"] == []


def test_every_module_of_the_plugin_folder_has_an_entry_point():
    import diffuse_plugins

    modules = {path.stem for path in Path(diffuse_plugins.__file__).parent.glob("*_*.py")} - {"__init__"}
    registry = load_registry()
    loaded = {plugin.factory.__module__ for plugin in registry.plugins.values()}
    assert {f"diffuse_plugins.{module}" for module in modules} <= loaded
