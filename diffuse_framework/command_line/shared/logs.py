"""Logging as DIALS programs do it: plain lines on the terminal, the same and more in a file."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import h5py
import numba
import numpy
from dials.util.version import dials_version
from tqdm import tqdm

from diffuse_framework import __version__
from diffuse_framework.errors import DataError
from diffuse_framework.host.registry import Registry
from diffuse_framework.io.atomic import reason

logger = logging.getLogger("diffuse_framework")

PROGRESS = "diffuse_framework.progress"
OURS = ("diffuse_framework", "diffuse_plugins")
# What these say is for the log file: a line or more for every image.
LIBRARIES = ("dials", "dxtbx", "cctbx", "rstbx", "xfel", "py.warnings")


def start_logs(verbosity: int, path: Path | None, packages: Iterable[str] = ()) -> None:
    """Send our messages and those of plugin packages to the terminal and to a file.

    Args:
        verbosity: 0 for the main steps, 1 or more for details.
        path: of the log file, None for no file.
        packages: top-level names of plugin packages.

    Raises:
        DataError: the log file can't be written.
    """
    terminal = AroundBars(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = []
    if path is not None:
        try:
            if path.is_symlink():
                # Else what it points to would be written over.
                path.unlink()
            handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
        except OSError as error:
            raise DataError(f"can't write the log {path}: {reason(error)}") from error
        handlers[0].setFormatter(logging.Formatter("%(message)s"))
    for handler in (terminal, *handlers):
        handler.addFilter(WarningsOnce())
    level = logging.DEBUG if verbosity else logging.INFO
    for name in {*OURS, *packages}:
        _set(name, level, [terminal, *handlers])
    # On a terminal a bar says it already.
    _set(PROGRESS, logging.INFO, handlers if sys.stderr.isatty() else [terminal, *handlers])
    for name in LIBRARIES:
        _set(name, logging.INFO, handlers or [logging.NullHandler()])
    logging.captureWarnings(True)
    # A log that can't be written, on a full disk say, must not hide the message that says why.
    logging.raiseExceptions = False


class WarningsOnce(logging.Filter):
    """Lets a warning that was said word by word before pass no more; a run of hundreds of images repeats some."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record."""
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        if text in self._said:
            return False
        self._said.add(text)
        return True


class AroundBars(logging.StreamHandler):
    """Writes lines without tearing a progress bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take the bar away, write, and draw it again."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def _set(name: str, level: int, handlers: list[logging.Handler]) -> None:
    logger = logging.getLogger(name)
    logger.handlers = list(handlers)
    logger.setLevel(level)
    logger.propagate = False


def log_start(changed_parameters: str, registry: Registry) -> None:
    """Log versions, the parameters that differ from the defaults, and plugins that failed to load."""
    packages = sorted({(plugin.package, plugin.version) for plugin in registry.plugins.values()})
    logger.info("diffuse_framework %s on %s", __version__, dials_version())
    logger.debug("Plugins of %s", ", ".join(f"{name} {version}" for name, version in packages))
    for failed in registry.failed:
        logger.warning(
            "Plugin %s of %s %s did not load: %s", failed.entry_point, failed.package, failed.version, failed.error
        )
    if changed_parameters.strip():
        logger.info("\nParameters that differ from the defaults:\n\n%s\n", changed_parameters.strip())


def run_description(changed_parameters: str, registry: Registry) -> dict[str, Any]:
    """Return what ``summary.json`` keeps of a run: when, with which parameters and versions."""
    packages = {plugin.package: plugin.version for plugin in registry.plugins.values()}
    return {
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "changed_parameters": changed_parameters.strip(),
        "versions": {
            "diffuse_framework": __version__,
            "dials": dials_version(),
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            "numba": numba.__version__,
            "h5py": h5py.__version__,
            **packages,
        },
    }
