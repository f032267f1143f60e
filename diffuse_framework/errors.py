"""The errors a user can cause or mend; a command prints them as one line.

Each message says what is wrong, where, and what to try.
"""

from __future__ import annotations

__all__ = ["ConfigError", "DataError", "DiffuseError", "GeometryError", "PluginError"]


_LONGEST = 400


def in_one_line(error: BaseException) -> str:
    """Return all that an error says in one line, or its kind where it says nothing; tracebacks within are left out."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith(("Traceback", 'File "', "raise ", "^")))
    if not said:
        return type(error).__name__
    return said if len(said) <= _LONGEST else said[:_LONGEST].rpartition(" ")[0] + " ..."


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
