"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diffuse_framework.errors import ConfigError, DataError

# Names that `writing`, `make_folder` and the adapters give to files until they are whole.
_TEMPORARY = re.compile(r"\.(?:.*\.)?diffuse-(\d+)\.part(?:\.\w+)?")

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or set output.directory to another disk",
    errno.EDQUOT: "your disk quota is used up; free some space or set output.directory to another disk",
    errno.EROFS: "the file system is read-only; set output.directory to another folder",
    errno.EACCES: "no permission to write there; set output.directory to another folder",
    errno.EPERM: "no permission to write there; set output.directory to another folder",
}


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file beside `path` that takes its place when all went well.

    Raises:
        DataError: it can't be written; what was there before is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.diffuse-{os.getpid()}.part")
    try:
        yield temporary
        # On the disk before it has the name: a power cut must not leave an empty file under it.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"can't write {path}: {reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """Return in words why a file could not be written, and what to try."""
    if error.errno is None:
        # HDF5 wraps the system's error in text.
        number = next((n for n in _REASONS if f"errno = {n}," in str(error)), None)
    else:
        number = error.errno
    return _REASONS.get(number or 0, error.strerror or str(error))


# Left free for logs and the files of other programs.
_SPARE_BYTES = 1 << 20


def require_space(path: Path, n_bytes: int) -> None:
    """Check that the disk of `path` has room for `n_bytes`.

    HDF5 does not survive a disk that fills up while it writes: neither does the file, nor
    always the process. It is asked for less than there is.

    Raises:
        DataError: it has not.
    """
    free = shutil.disk_usage(Path(path).parent).free
    if free < n_bytes + _SPARE_BYTES:
        raise DataError(f"can't write {path}: {_REASONS[errno.ENOSPC]} ({n_bytes / 2**20:.1f} MiB needed)")


def make_folder(path: Path) -> Path:
    """Make a folder and check that files can be written into it.

    Raises:
        DataError: it can't be made, or not be written to.
    """
    path = Path(path)
    probe = path / f".diffuse-{os.getpid()}.part"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"diffuse")
        probe.unlink()
    except OSError as error:
        probe_left = probe.exists() if path.is_dir() else False
        if probe_left:
            probe.unlink(missing_ok=True)
        raise DataError(f"can't write to folder {path}: {reason(error)}") from error
    return path


def file_in(folder: Path, name: str) -> Path:
    """Return the path of a file of that name in `folder`.

    Raises:
        ConfigError: a name that leads out of the folder.
    """
    if name != Path(name).name or name in ("", ".", ".."):
        raise ConfigError(f"{name!r} must be the plain name of a file, which is then written to {folder}")
    return Path(folder) / name


@contextmanager
def only_run_in(folder: Path) -> Iterator[Path]:
    """Keep other runs out of a folder, and give it; when this process ends, however it does, the system lets them in.

    Raises:
        DataError: another run is at work there.
    """
    path = Path(folder) / ".lock"
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another diffuse.process is at work in {folder}: wait for it, or set output.directory to another "
                "folder"
            ) from error
        except OSError:
            # Some network file systems know no locks.
            pass
        _locks.add(lock.fileno())
        _let_go_in_children()
        # What a run that was killed was writing.
        _remove_left_overs(Path(folder))
        try:
            yield Path(folder)
        finally:
            _locks.discard(lock.fileno())
            path.unlink(missing_ok=True)


def _remove_left_overs(folder: Path) -> None:
    """Remove the temporary files of processes that are gone: by our own name alone, in folders that runs make."""
    own = [path for path in folder.iterdir() if path.is_dir() and (path.suffix == ".parts" or path.name == "images")]
    for place in [folder, *own]:
        for path in place.glob(".*.part*"):
            named = _TEMPORARY.fullmatch(path.name)
            if named and path.is_file() and not _runs(int(named[1])):
                with suppress(OSError):
                    path.unlink()


def _runs(number: int) -> bool:
    """Whether there is another process of that number."""
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    try:
        # On Linux: one that has ended, and that nobody asked how.
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return True


# Open files that lock folders.
_locks: set[int] = set()


@cache
def _let_go_in_children() -> None:
    """Have forked processes close locks: a worker that outlives the run must not keep the next one out."""

    def close() -> None:
        nothing = os.open(os.devnull, os.O_RDONLY)
        while _locks:
            # Not closed: the file's own object, which is there in the child too, will.
            os.dup2(nothing, _locks.pop())
        os.close(nothing)

    os.register_at_fork(after_in_child=close)


def write_figure(path: Path, figure: Any) -> None:
    """Write a matplotlib figure in the format that the ending of `path` names.

    Raises:
        DataError: it can't be written.
    """
    with writing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=120)


def write_text(path: Path, text: str) -> None:
    """Write text, ending with one line break.

    Raises:
        DataError: it can't be written.
    """
    with writing(path) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON; numpy numbers and arrays become numbers and lists, NaN becomes null."""
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
