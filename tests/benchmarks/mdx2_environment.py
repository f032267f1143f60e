"""An environment of its own for mdx2, which is not one of our requirements, over the system's DIALS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cctbx

VERSION = "1.0.5"
FOLDER = Path(__file__).parents[2] / ".venv" / "mdx2"
_NEEDS = [
    "nexusformat",
    "simple-parsing",
    "docstring-parser",
    "loguru",
    "papermill",
    "numexpr",
    "joblib",
    "colored",
    "hdf5plugin",
    "tenacity",
    "numpy<2",
    "coverage>=7",
]


def programs(folder: Path = FOLDER) -> Path | None:
    """Return the folder of mdx2's programs, installed from PyPI where it is missing; None where that fails."""
    bin_folder = folder / "bin"
    if (bin_folder / "mdx2.integrate").exists():
        return bin_folder
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    pip = [str(bin_folder / "python"), "-m", "pip", "install", "-q"]
    for command in (
        [str(base), "-m", "venv", "--system-site-packages", str(folder)],
        [*pip, "--no-deps", f"mdx2=={VERSION}"],
        [*pip, *_NEEDS],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"mdx2 can't be had here: {' '.join(command)}: {done.stderr.strip()[-300:]}")
            return None
    return bin_folder


def libtbx_build() -> str:
    """Return what LIBTBX_BUILD must be for programs of another environment, "" where nothing is needed."""
    build = Path(sys.base_prefix) / "lib" / "cctbx" / f"python3.{sys.version_info.minor}"
    return str(build) if build.exists() and Path(cctbx.__file__).is_relative_to("/usr") else ""
