"""How much memory this machine has left for a run, and what sets the limit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Room:
    """Memory that can still be taken.

    Attributes:
        n_bytes: how much.
        what: sets the limit, in words.
        hard: whether going beyond it fails for certain; memory that others use may become free.
        each: whether it is the limit of a single process, and not of all together.
    """

    n_bytes: int
    what: str
    hard: bool
    each: bool


def rooms(root: Path = Path("/")) -> tuple[Room, ...]:
    """Return the limits there are; none on systems that don't tell.

    Args:
        root: where /proc and /sys are.
    """
    return tuple(_rooms(root))


def _rooms(root: Path) -> Iterator[Room]:
    if resource is not None:
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        used = _kib(root / "proc/self/status", "VmSize")
        if limit != resource.RLIM_INFINITY and used is not None:
            yield Room(max(limit - used, 0), "the limit of address space, ulimit -v", True, True)
    free = _kib(root / "proc/meminfo", "MemAvailable")
    if free is not None:
        yield Room(free, "memory that is free", False, False)
    left = [left for left in _cgroups(root)]
    if left:
        yield Room(min(left), "the memory limit of this job or container", True, False)


def _kib(path: Path, name: str) -> int | None:
    """Return the bytes of a line ``name: n kB`` of a file of /proc."""
    found = re.search(rf"^{name}:\s*(\d+) kB", _text(path), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _cgroups(root: Path) -> Iterator[int]:
    """Yield what each group of processes that this one belongs to has left, of both versions of cgroups."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, place = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":
            top, limit, used = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top, limit, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = Path(os.path.normpath(top / place.lstrip("/")))
        for group in (folder, *folder.parents):
            if not group.is_relative_to(top):
                break
            most, now = _text(group / limit).strip(), _text(group / used).strip()
            # Without a limit "max", or a number beyond any machine's memory.
            if most.isdigit() and now.isdigit() and int(most) < 1 << 60:
                kept = re.search(r"^(?:total_)?inactive_file (\d+)", _text(group / "memory.stat"), re.MULTILINE)
                yield max(int(most) - int(now) + (int(kept[1]) if kept else 0), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
