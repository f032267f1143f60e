from __future__ import annotations

import errno
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.engine.processes import process_engine
from diffuse_framework.errors import DataError
from diffuse_framework.fingerprint import fingerprint
from diffuse_framework.io.atomic import make_folder, write_json, writing
from diffuse_framework.io.grid_file import grid_from_numbers, grid_to_numbers
from diffuse_framework.io.sums_store import StoredSums, SumsWriter, parts_folder
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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sums.h5", "sums.parts"]
    assert len(list((tmp_path / "sums.parts").iterdir())) == len(tables), "and no temporary file"


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


@pytest.fixture
def stored(tmp_path) -> StoredSums:
    writer = SumsWriter(tmp_path / "sums.h5", orthorhombic_grid(), ("a",))
    writer.append(random_table(0, 50_000))
    return writer.finish()


def test_sums_of_another_format_say_so(stored):
    with h5py.File(stored.path, "r+") as file:
        file.attrs["format"] = "diffuse_framework sums 2"
    with pytest.raises(DataError, match="sums 2, written by another version.*run diffuse.process again"):
        StoredSums(stored.path)


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def test_a_file_cut_short_is_refused(stored):
    cut(stored.path)
    with pytest.raises(DataError, match="cut short"):
        StoredSums(stored.path)


def test_a_part_cut_short_is_refused(stored):
    (part,) = parts_folder(stored.path).iterdir()
    cut(part)
    with pytest.raises(DataError, match="cut short or damaged.*run diffuse.process again"):
        list(StoredSums(stored.path).tables())


def test_a_part_that_is_missing_is_said(stored):
    (part,) = parts_folder(stored.path).iterdir()
    part.unlink()
    with pytest.raises(DataError, match=f"needs its part {part.name}.*keep them together"):
        StoredSums(stored.path)


def test_a_name_that_leads_elsewhere_is_refused(stored, tmp_path):
    (part,) = parts_folder(stored.path).iterdir()
    part.rename(tmp_path / "elsewhere.h5")
    with h5py.File(stored.path, "r+") as file:
        file["parts/file"][0] = "../elsewhere.h5"
    with pytest.raises(DataError, match="needs its part"):
        StoredSums(stored.path)


def test_any_hdf5_reader_finds_the_tables_through_links(stored):
    (table,) = stored.tables()
    with h5py.File(stored.path, "r") as file:
        assert (file["sums/000000/counts"][:] == table.counts).all()


def test_a_stored_table_is_a_table_like_any_other(stored):
    whole = random_table(0, 50_000)
    (table,) = stored.tables()
    assert len(table) == 50_000 and isinstance(table, SumsTable)
    (part,) = parts_folder(stored.path).iterdir()
    changed = replace(table, counts=2 * table.counts)
    travelled = pickle.loads(pickle.dumps(next(stored.tables())))
    some = table.select(np.array([3, 1]))
    part.unlink()
    for name in COLUMNS:
        assert (getattr(travelled, name) == getattr(whole, name)).all()
        assert (getattr(some, name) == getattr(whole, name)[[3, 1]]).all()
        assert (getattr(changed, name) == getattr(whole, name) * (2 if name == "counts" else 1)).all()
    with pytest.raises(AttributeError):
        table.nothing  # noqa: B018


def test_a_column_that_is_damaged_is_said_when_it_is_asked_for(stored):
    (table,) = stored.tables()
    (part,) = parts_folder(stored.path).iterdir()
    cut(part)
    with pytest.raises(DataError, match="cut short or damaged"):
        table.counts  # noqa: B018


@dataclass
class Tables:
    """Work that gives the table of a number, and notes how often it was asked."""

    log: Path
    version: int = 0

    def key(self, number: int) -> str:
        return fingerprint(self.version, number)

    def is_complete(self, number: int) -> bool:
        return True

    def __call__(self, number: int) -> SumsTable:
        with self.log.open("a") as log:
            log.write(f"{number}\n")
        return random_table(number, 100 + number)

    def asked(self) -> list[int]:
        found = [int(line) for line in self.log.read_text().split()] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return found


def collected(folder: Path, work: Tables, n: int, fan_in: int = 64, mapper=None) -> StoredSums:
    writer = SumsWriter(folder / "sums.h5", orthorhombic_grid(), ("a",), fan_in)
    writer.collect(work, list(range(n)), mapper or SerialEngine())
    return writer.finish()


def rows(sums: StoredSums) -> list[list[int]]:
    return [table.voxel.tolist() for table in sums.tables()]


def test_what_an_earlier_run_finished_is_not_made_again(tmp_path):
    work = Tables(tmp_path / "log")
    whole = rows(collected(tmp_path / "whole", work, 7))
    assert work.asked() == list(range(7))
    collected(tmp_path, work, 4)
    assert work.asked() == [0, 1, 2, 3]
    assert rows(collected(tmp_path, work, 7)) == whole
    assert work.asked() == [4, 5, 6]


def test_a_damaged_part_is_made_again(tmp_path):
    work = Tables(tmp_path / "log")
    whole = rows(collected(tmp_path, work, 4))
    cut(parts_folder(tmp_path / "sums.h5") / f"{work.key(2)}.h5")
    work.asked()
    assert rows(collected(tmp_path, work, 4)) == whole
    assert work.asked() == [2]


def test_a_bit_that_turned_is_no_other_value(tmp_path):
    """In any byte of a part: it is made again, said to be damaged, or the values are those that were written."""
    work = Tables(tmp_path / "log")
    whole = rows(collected(tmp_path, work, 2))
    part = parts_folder(tmp_path / "sums.h5") / f"{work.key(1)}.h5"
    data = part.read_bytes()
    rng = np.random.default_rng(0)
    told = 0
    for place, bit in zip(rng.integers(0, len(data), 160), rng.integers(0, 8, 160), strict=True):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        part.write_bytes(bytes(changed))
        try:
            assert rows(StoredSums(tmp_path / "sums.h5")) == whole
        except DataError:
            told += 1
        assert rows(collected(tmp_path, work, 2)) == whole
        part.write_bytes(data)
    assert told > 0


def test_what_was_made_otherwise_is_not_used_and_goes_in_the_end(tmp_path, caplog):
    collected(tmp_path, Tables(tmp_path / "log"), 3)
    other = Tables(tmp_path / "other log", version=1)
    with caplog.at_level("INFO"):
        sums = collected(tmp_path, other, 3)
    assert other.asked() == [0, 1, 2] and "not used" in caplog.text
    folder = parts_folder(sums.path)
    assert len(list(folder.iterdir())) == 6, "until all has ended well, nothing is thrown away"
    sums.prune()
    assert len(list(folder.iterdir())) == 3 and rows(sums)


@pytest.mark.parametrize("mapper", [SerialEngine(), process_engine(2)], ids=["serial", "processes"])
@pytest.mark.parametrize("n", [1, 3, 4, 10, 30])
def test_many_files_are_folded_into_few_and_nothing_else_changes(tmp_path, n, mapper):
    work = Tables(tmp_path / "log")
    expected = rows(collected(tmp_path / "whole", work, n))
    sums = collected(tmp_path, work, n, fan_in=3, mapper=mapper)
    assert len(list(parts_folder(sums.path).iterdir())) <= 3
    assert rows(sums) == expected
    work.asked()
    assert rows(collected(tmp_path, work, n + 1, fan_in=3))[:n] == expected
    assert work.asked() == [n], "folded tables are found again"


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
