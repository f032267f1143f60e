"""Which plugin is called what, and whose it is."""

from __future__ import annotations

import difflib
import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffuse_framework.errors import PluginError

# PHIL reads these words as values of its own.
_PHIL_WORDS = ("none", "auto", "true", "false")


@dataclass(frozen=True)
class Plugin:
    """One plugin that loaded.

    Attributes:
        stage: for example "scaler".
        name: how PHIL selects it.
        factory: the class.
        package, version: of the distribution that ships it.
    """

    stage: str
    name: str
    factory: Any
    package: str
    version: str

    @property
    def summary(self) -> str:
        """First line of the class's docstring."""
        return (self.factory.__doc__ or "").strip().split("\n")[0]


@dataclass(frozen=True)
class PluginRecord:
    """What a file says of the plugin that made its content.

    Attributes:
        stage, name: of the plugin.
        interface: of its stage, for which it was written.
        package: top-level Python package of its class.
    """

    stage: str
    name: str
    interface: int
    package: str

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {"stage": self.stage, "plugin": self.name, "interface": self.interface, "package": self.package}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> PluginRecord:
        """Return the record that `to_plain` wrote.

        Raises:
            KeyError, TypeError: it is none.
        """
        return cls(str(plain["stage"]), str(plain["plugin"]), int(plain["interface"]), str(plain["package"]))


def record_of(stage: str, plugin: Any) -> PluginRecord:
    """Return what a file says of a plugin, or of any object that does its work."""
    factory = type(plugin)
    name = getattr(plugin, "name", factory.__name__)
    return PluginRecord(stage, name, getattr(plugin, "interface", 1), factory.__module__.split(".")[0])


@dataclass(frozen=True)
class FailedPlugin:
    """An entry point that did not load.

    Attributes:
        entry_point: its name.
        package, version: of the distribution that ships it.
        error: in one line.
    """

    entry_point: str
    package: str
    version: str
    error: str


@dataclass
class Registry:
    """All plugins by stage and name, and those that failed."""

    plugins: dict[tuple[str, str], Plugin] = field(default_factory=dict)
    failed: list[FailedPlugin] = field(default_factory=list)
    _first_of: dict[tuple[str, str], Plugin] = field(default_factory=dict, init=False, repr=False)

    def add(self, plugin: Plugin) -> None:
        """Add a plugin. Of one name in two packages neither can be chosen: both are among the failed then.

        Raises:
            PluginError: a name that PHIL can't hold.
        """
        key = plugin.stage, plugin.name
        if not _usable(plugin.name):
            raise PluginError(
                f"{plugin.package}: {plugin.name!r} can't name a {plugin.stage}; use a lower-case identifier "
                f"other than {', '.join(_PHIL_WORDS)}"
            )
        first = self._first_of.get(key) or self.plugins.get(key)
        if first is not None:
            clash = (
                f"two packages offer a {plugin.stage} called {plugin.name!r}, {first.package} and {plugin.package}: "
                "uninstall one of them"
            )
            for each in (first, plugin) if self.plugins.pop(key, None) else (plugin,):
                self.failed.append(FailedPlugin("_".join(key), each.package, each.version, clash))
            return
        self._first_of[key] = self.plugins[key] = plugin

    def of_stage(self, stage: str) -> list[Plugin]:
        """Return the plugins of one stage, by name."""
        return [self.plugins[key] for key in sorted(self.plugins) if key[0] == stage]

    def modules(self) -> set[str]:
        """Return the top-level Python packages that plugins come from, for their loggers."""
        return {plugin.factory.__module__.split(".")[0] for plugin in self.plugins.values()}

    def find(self, stage: str, name: str) -> Plugin:
        """Return one plugin.

        Raises:
            PluginError: there is none of that name; the message lists those there are.
        """
        if (stage, name) in self.plugins:
            return self.plugins[stage, name]
        names = [plugin.name for plugin in self.of_stage(stage)]
        for failure in self.failed:
            if failure.entry_point == f"{stage}_{name}":
                raise PluginError(
                    f"{stage} {name!r} of {failure.package} {failure.version} did not load: {failure.error}"
                )
        close = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise PluginError(f"there is no {stage} called {name!r}{hint} (there are: {', '.join(names) or 'none'})")


def _usable(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.isidentifier()
        and name == name.lower()
        and not keyword.iskeyword(name)
        and name not in _PHIL_WORDS
    )
