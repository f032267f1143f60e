"""The photons of an image count once, by whatever names it comes."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from diffuse_framework.adapters.images.duplicates import duplicates_of

MAKE = {"symbolic link": os.symlink, "hard link": os.link, "copy": shutil.copy}


@pytest.mark.parametrize("way", MAKE)
def test_another_name_of_a_file(tmp_path, way):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"x_{number}.cbf" for number in range(4)]
    for path in paths[:3]:
        path.write_bytes(rng.bytes(20000))
    MAKE[way](paths[1], paths[3])
    assert duplicates_of(map(str, paths)) == {str(paths[3]): str(paths[1])}


def test_files_of_one_size_that_differ_in_the_middle(tmp_path):
    data = bytes(100_000)
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.img"
        path.write_bytes(data[:50_000] + bytes([number]) + data[50_001:])
        paths.append(str(path))
    assert duplicates_of(paths) == {}
