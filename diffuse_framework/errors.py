"""The errors a user can cause or mend; a command prints them as one line.

Each message says what is wrong, where, and what to try.
"""

from __future__ import annotations

__all__ = ["ConfigError", "DataError", "DiffuseError", "GeometryError", "PluginError"]


class DiffuseError(Exception):
    """Anything the user can mend; never raised for a mistake in this code."""


class ConfigError(DiffuseError):
    """A parameter that can't be used, or parameters that contradict each other."""


class PluginError(DiffuseError):
    """A plugin that isn't there, doesn't load, or clashes with another."""


class GeometryError(DiffuseError):
    """Beam, detector, crystal or grid that don't fit together."""


class DataError(DiffuseError):
    """Files or images that can't be read, or hold nothing to go on with."""


class UnreadableImage(DataError):
    """One image can't be read: it is rejected, and the others are processed."""
