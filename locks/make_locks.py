"""Write what pip brings to a fresh .venv on this system, each file with its SHA-256: ``make lock``.

A lock fits one system, for what its own packages bring pip leaves alone; `install.sh` has its name in $lock.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEADER = "# Made by `make lock` on {system}: what pip brings {what}. `install.sh` takes these files and no others.\n"


def resolved(python: Path, *wanted: str) -> dict[str, str]:
    """Return the lines of a lock for what pip would install, by the names of distributions.

    Args:
        python: of a virtual environment.
        wanted: requirements and options.
    """
    command = [str(python), "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", *wanted]
    report = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    lines = {}
    for item in report["install"]:
        archive = item["download_info"].get("archive_info")
        if archive is None:
            # This project.
            continue
        digest = archive.get("hashes", {}).get("sha256") or archive["hash"].partition("=")[2]
        name = item["metadata"]["name"]
        lines[name.lower()] = f"{name}=={item['metadata']['version']} \\\n    --hash=sha256:{digest}\n"
    return lines


def main() -> None:
    """Write the lock of installing, and those of what developers take besides."""
    name = sys.argv[1]
    constraint = ("--constraint", str(ROOT / ".venv/constraints.txt"))
    with tempfile.TemporaryDirectory() as folder:
        venv = [sys.executable, "-m", "venv", "--system-site-packages", folder]
        # Of a .venv, its own packages would count as the system's.
        subprocess.run([getattr(sys, "_base_executable", sys.executable), *venv[1:]], check=True)
        python = Path(folder, "bin", "python")
        base = resolved(python, *constraint, "setuptools>=77", ".[test]") | resolved(python, "--no-deps", "hdf5plugin")
        locks = {"": ("for install.sh", base)}
        for extra in ("dev", "docs"):
            found = resolved(python, *constraint, "setuptools>=77", f".[test,{extra}]")
            locks[f"-{extra}"] = f"for make {extra}, besides", {key: found[key] for key in set(found) - set(base)}
            conflicts = [key for key in base if key in found and found[key] != base[key]]
            if conflicts:
                sys.exit(f"lock: {extra} needs other versions of {', '.join(conflicts)} than the tests")
    for ending, (what, lines) in locks.items():
        path = ROOT / "locks" / f"{name}{ending}.txt"
        path.write_text(HEADER.format(system=name, what=what) + "".join(lines[key] for key in sorted(lines)))
        print(f"lock: {path.relative_to(ROOT)}, {len(lines)} packages")


if __name__ == "__main__":
    main()
