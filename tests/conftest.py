"""Settings for all tests, and real images for those that are marked real_data."""

from __future__ import annotations

import bz2
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from support.browser import find_browser

pytest_plugins = ["support.skips"]

# The first example of a test may compile numba kernels. Draws are the same each time, so that a change is judged and
# not the luck of its draws; --hypothesis-profile=explore draws anew, to look for what nobody thought of.
settings.register_profile("diffuse", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("diffuse")

DATA_SET = "thaumatin_grid_scan"


def need_program(found: bool, what: str) -> None:
    """Skip a test for want of a program, or fail it where all must run (DIFFUSE_TEST_ALL, as in .ci/run)."""
    if found:
        return
    if os.environ.get("DIFFUSE_TEST_ALL"):
        pytest.fail(f"there is no {what}")
    pytest.skip(f"there is no {what}")


@pytest.fixture(scope="session")
def browser() -> None:
    """Let a test run only where a browser can be had."""
    need_program(find_browser() is not None, "browser: install chromium (Debian: apt-get install chromium)")


@pytest.fixture(scope="session")
def zsh() -> None:
    """Let a test run only where there is a zsh."""
    need_program(shutil.which("zsh") is not None, "zsh (Debian: apt-get install zsh)")


@pytest.fixture(scope="session")
def thaumatin_images(tmp_path_factory) -> Callable[..., list[str]]:
    """Return a function that takes image numbers, 1 to 19, and gives the paths of those CBF files.

    They are 19 stills of thaumatin on a PILATUS3 6M from the DIALS project's test data: the
    last four are blank. Each is unpacked once, when first asked for.
    """
    packed = _data_folder()
    folder = tmp_path_factory.mktemp(DATA_SET)

    def paths(*numbers: int) -> list[str]:
        found = []
        for number in numbers:
            path = folder / f"thau_3_2_{number:04d}.cbf"
            if not path.exists():
                path.write_bytes(bz2.decompress((packed / f"{path.name}.bz2").read_bytes()))
            found.append(str(path))
        return found

    return paths


def _data_folder() -> Path:
    root = os.environ.get("DIALS_DATA")
    if root and (Path(root) / DATA_SET).is_dir():
        return Path(root) / DATA_SET
    message = (
        f"no real images: set DIALS_DATA to a folder that holds {DATA_SET} (fetched by "
        f"`dials.data get {DATA_SET}` of the package dials_data)"
    )
    try:
        from dials_data.download import DataFetcher
    except ImportError:
        pytest.skip(message)
    found = DataFetcher(read_only=True)(DATA_SET)
    if not found:
        pytest.skip(message)
    return Path(found)


@pytest.fixture(scope="session")
def snase(tmp_path_factory) -> tuple[list[str], str]:
    """Ten CCD images of staphylococcal nuclease, unpacked, and the file of a refined geometry and crystal.

    Their headers call them stills at phi = 0, 1, ... 9; each is a rotation of 1 degree centred on its phi.
    """
    root = os.environ.get("DIFFUSE_REAL_DATA")
    packed = Path(root) / "snase" if root else None
    if packed is None or not packed.is_dir():
        pytest.skip("no real rotation images: set DIFFUSE_REAL_DATA to a folder that holds snase/")
    folder = tmp_path_factory.mktemp("snase")
    paths = []
    for path in sorted(packed.glob("*.img.bz2")):
        target = folder / path.stem
        target.write_bytes(bz2.decompress(path.read_bytes()))
        paths.append(str(target))
    return paths, str(packed / "refined_experiments.json")
