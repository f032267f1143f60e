"""What each part of a run costs: CPU seconds of a whole `diffuse.process`, worker processes included.

    .venv/bin/python tests/benchmarks/end_to_end.py [diffuse.process arguments ...]

Without arguments the 19 thaumatin stills of `thaumatin_grid_scan` (set DIALS_DATA) are unpacked, indexed by
DIALS (the 15 that can be) and made into a map to 1.6 angstrom. The share of everything but indexing is the
figure that counts: what diffuse_framework adds to what DIALS takes anyway.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thaumatin import unpack

from diffuse_framework.command_line import process

THAUMATIN = ["crystal.unit_cell=58,58,150,90,90,90", "crystal.space_group=P41212", "grid.hkl.d_min=1.6"]


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


parts: dict[str, float] = {}


class CpuWatch(process.Stopwatch):
    """A stopwatch that notes CPU seconds as well."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Note the CPU seconds of a part of the run."""
        start = cpu_seconds()
        with super().__call__(name):
            yield
        parts[name] = parts.get(name, 0.0) + cpu_seconds() - start


def main() -> None:
    """Run and print."""
    process.Stopwatch = CpuWatch
    loading = cpu_seconds()
    with tempfile.TemporaryDirectory() as name:
        arguments = sys.argv[1:] or [*THAUMATIN, *unpack(Path(name), 19)]
        process.run([*arguments, f"output.directory={name}/out"])
    whole = sum(parts.values())
    for part, seconds in parts.items():
        print(f"cpu_{part.replace(' ', '_')} {seconds:.1f} s ({100 * seconds / whole:.1f} % of the run)")
    print(f"cpu_loading_the_program {loading:.1f} s (numba, DIALS and numpy are imported once)")
    ours = whole - parts["indexing"]
    print(f"share_of_all_but_indexing {100 * ours / whole:.1f} % (limit 15 %; the rest is DIALS)")


if __name__ == "__main__":
    main()
