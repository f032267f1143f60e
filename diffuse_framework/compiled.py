"""Compiled loops where numba can't keep them: they are compiled anew in each process, and one line says so."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_PROBE_BYTES = 1 << 18


@cache
def go_on_without_cache() -> None:
    """Have numba compile a function that it can't cache; by itself it stops where no folder can be written.

    It keeps loops beside the source, or else in the user's cache folder. Where that takes a file all is well: numba,
    which takes half a second to import, is left alone.
    """
    if _takes_files(_user_folder()):
        return
    from numba.core.caching import FunctionCache
    from numba.core.dispatcher import Dispatcher

    enable, save = Dispatcher.enable_caching, FunctionCache.save_overload

    def enable_caching(self: Any) -> None:
        try:
            enable(self)
        except RuntimeError:
            _tell()

    def save_overload(self: Any, signature: Any, data: Any) -> None:
        try:
            save(self, signature, data)
        # A folder on a disk that is full.
        except OSError:
            _tell()

    setattr(Dispatcher, "enable_caching", enable_caching)  # noqa: B010
    setattr(FunctionCache, "save_overload", save_overload)  # noqa: B010


@cache
def _tell() -> None:
    if multiprocessing.parent_process() is None:
        logger.warning(
            "Compiled loops can't be kept, neither beside the program nor in %s: every start compiles them anew, which "
            "takes up to a minute; NUMBA_CACHE_DIR=FOLDER names a folder for them",
            _user_folder(),
        )


def _user_folder() -> Path:
    """Return where numba keeps what it can't keep beside the source; on Windows it has another."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    if named:
        return Path(named)
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(usual)) / "numba"


def _takes_files(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
    except OSError:
        return False
    return True
