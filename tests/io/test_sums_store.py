from __future__ import annotations

import errno

import numpy as np
import pytest

from diffuse_framework.errors import DataError
from diffuse_framework.io.grid_file import grid_from_numbers, grid_to_numbers
from diffuse_framework.io.sums_store import StoredSums, SumsWriter
from diffuse_framework.io.whole import make_folder, write_json, writing
from diffuse_framework.model.voxels import COLUMN_TYPES, COLUMNS, SumsTable
from diffuse_framework.testing.fakes import orthorhombic_grid


def random_table(seed: int, n_rows: int) -> SumsTable:
    rng = np.random.default_rng(seed)
    return SumsTable(**{name: rng.integers(0, 100, n_rows).astype(COLUMN_TYPES[name]) for name in COLUMNS})


def test_what_is_written_comes_back_table_by_table(tmp_path):
    grid = orthorhombic_grid()
    tables = [random_table(n, size) for n, size in enumerate((10, 0, 100_000, 3))]
    writer = SumsWriter(tmp_path / "sums.h5", grid, ("a", "ü b"))
    for table in tables:
        writer.append(table)
    assert not (tmp_path / "sums.h5").exists(), "a file must not appear before it is whole"
    stored = writer.finish()
    assert stored.image_names == ("a", "ü b")
    assert stored.grid.dimensions == grid.dimensions and stored.grid.cell == grid.cell
    assert (stored.grid.symmetry.operators == grid.symmetry.operators).all()
    for expected, found in zip(tables, stored.tables(), strict=True):
        for name in COLUMNS:
            assert (getattr(expected, name) == getattr(found, name)).all()
            assert getattr(found, name).dtype == COLUMN_TYPES[name]
    assert [p.name for p in tmp_path.iterdir()] == ["sums.h5"]


def test_a_grid_survives_as_numbers():
    grid = orthorhombic_grid()
    again = grid_from_numbers(grid_to_numbers(grid))
    assert grid_to_numbers(again) == grid_to_numbers(grid)


@pytest.mark.parametrize("content", [b"", b"not hdf5", None])
def test_a_file_that_is_no_sums_is_refused(tmp_path, content):
    path = tmp_path / "sums.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"sums\.h5"):
        StoredSums(path)


def test_a_file_cut_short_is_refused(tmp_path):
    writer = SumsWriter(tmp_path / "sums.h5", orthorhombic_grid(), ("a",))
    writer.append(random_table(0, 50_000))
    writer.finish()
    whole = (tmp_path / "sums.h5").read_bytes()
    (tmp_path / "sums.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut short"):
        StoredSums(tmp_path / "sums.h5")


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": np.float32(1.5), "b": np.array([1, 2]), "c": float("nan")})
    before = path.read_text()
    with pytest.raises(DataError, match="disk is full"), writing(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't write to folder"):
        make_folder(tmp_path / "file" / "below")
