"""No pickle is unpickled by DIALS: a pickle is a program, whatever the file that holds it is called.

Two layers. Files that the user names are looked at before DIALS sees them (`refuse_pickle`), so that the message can
say what to do. Whatever reaches DIALS on another way - an image or a mask that an .expt file names, a compressed file,
a format of dxtbx that tries to unpickle - is stopped by the interpreter's own audit event (`stop_unpickling`), which
needs no list of DIALS's functions and so holds for every release.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import pickle
import pickletools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from diffuse_framework.errors import DataError

# Packages that read files for us. What multiprocessing, dask and numba unpickle is our own.
_READERS = ("dxtbx", "dials", "xia2", "xfel", "rstbx", "serialtbx", "iotbx", "simtbx", "scitbx", "cctbx", "mmtbx")
_READING_MODULES = ("libtbx.easy_pickle",)
# Keeps the class of an image's format as a pickle in memory; it reads no file.
_EXEMPT = ("dxtbx.imageset",)

# Of a thread: what another one reads meanwhile is not trusted along with it.
_trusted: ContextVar[bool] = ContextVar("trusted", default=False)

_HEAD_BYTES = 1 << 16
_MOST_INSTRUCTIONS = 2000
# Of pickletools: those that name a function or a class.
_NAMING = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_UNPACKERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open}


def refuse_pickles(paths: Iterable[str | Path]) -> None:
    """Refuse the first of several files that is a pickle.

    Raises:
        DataError: as of `refuse_pickle`.
    """
    for path in paths:
        refuse_pickle(path)


def refuse_pickle(path: str | Path) -> None:
    """Refuse a file that is a pickle by its content, compressed or not; one that can't be read is let pass.

    Raises:
        DataError: it is, and how an old reflection table is converted.
    """
    if not is_pickle(path):
        return
    advice = ""
    if str(path).endswith((".refl", ".pickle")):
        advice = (
            '. If it is an old reflection table that you trust, convert it: dials.python -c "from dials.array_family '
            f"import flex; flex.reflection_table.from_pickle('{path}').as_msgpack_file('new.refl')\""
        )
    raise DataError(f"{path} is a pickle, which is a program: it is not read{advice}")


def is_pickle(path: str | Path) -> bool:
    """Whether the content of a file is a pickle that is of protocol 2 or later, or that names functions or classes."""
    try:
        head = _head(Path(path))
    except (OSError, EOFError, ValueError):
        return False
    if head[:1] == b"\x80":
        # No image format, and no table in msgpack, begins so; 5 is the last protocol there is.
        return len(head) > 1 and 2 <= head[1] <= 9
    names = False
    try:
        for instruction, _, _ in itertools.islice(pickletools.genops(io.BytesIO(head)), _MOST_INSTRUCTIONS):
            names |= instruction.name in _NAMING
    # Of a text or an image: not even the first instructions are any.
    except Exception:
        return False
    return names


def _head(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for magic, unpack in _UNPACKERS.items():
        if head.startswith(magic):
            with unpack(path) as file:
                return file.read(_HEAD_BYTES)
    return head


@cache
def stop_unpickling() -> None:
    """Have the interpreter refuse every name that a pickle asks for while DIALS or dxtbx unpickles.

    It holds for this process from now on, and for those forked from it; a pickle of plain numbers and text, which can
    do nothing, is still read.
    """
    sys.addaudithook(_audit)


@contextmanager
def trusting_pickles() -> Iterator[None]:
    """Have DIALS unpickle what it reads in this block: what the files hold is run, so only your own will do.

    For reflection tables that DIALS wrote until 2018, in a notebook that uses this package too. Other threads, and
    worker processes, go on refusing.
    """
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event != "pickle.find_class" or _trusted.get():
        return
    module = sys._getframe(1).f_globals.get("__name__", "")
    if module in _EXEMPT:
        return
    if module in _READING_MODULES or module.partition(".")[0] in _READERS:
        raise pickle.UnpicklingError(f"a pickle, which is a program, asks for {args[0]}.{args[1]}: it is not read")


def admit_masks(module: str) -> None:
    """Have a module of DIALS read masks, which are pickles, by the reader that runs nothing.

    Args:
        module: its name; one that there is not in this release of DIALS is passed over.
    """
    from importlib import import_module

    try:
        found = import_module(module)
    except ImportError:
        return
    if getattr(found, "pickle", None) is pickle:
        setattr(found, "pickle", _MaskPickle("pickle"))  # noqa: B010


class _MaskPickle(ModuleType):
    """Stands in for `pickle` in a module that reads masks and maps of numbers, and nothing else, by it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pickle, name)

    @staticmethod
    def load(file: Any, **_: Any) -> Any:
        """Return the flex array of each panel.

        Raises:
            DataError: it is no mask, nor a map of numbers.
        """
        # Here, for it imports this package.
        from diffuse_framework.adapters.images.masks import flex_panels

        return flex_panels(file.read(), getattr(file, "name", "a mask"))
