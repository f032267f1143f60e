"""Maps read from every format: what was exported comes back, and so does what others write."""

from __future__ import annotations

import struct
from pathlib import Path

import gemmi
import h5py
import numpy as np
import pytest

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.command_line.export import run as export
from diffuse_framework.errors import ConfigError, DataError, DiffuseError
from diffuse_framework.io.maps.hints import MapHints
from diffuse_framework.io.maps.read import read_pair, read_voxel_map
from diffuse_framework.io.maps.write import write_voxel_map
from diffuse_framework.model.voxel_map import VoxelMap
from support.maps import all_voxels, drawn_map, true_map

CELL = (20.0, 20.0, 26.0, 90.0, 90.0, 90.0)


@pytest.fixture(scope="module")
def one() -> VoxelMap:
    """A map of P4 with one voxel in ten missing."""
    grid, voxel = all_voxels("P4", CELL, (2, 2, 3), 3.0)
    seen = np.random.default_rng(0).random(len(voxel)) > 0.1
    return drawn_map(grid, voxel, true_map(grid, voxel), 1).select(seen)


@pytest.fixture(scope="module")
def folder(one, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("map")
    path = write_voxel_map(folder, one)
    formats = "ccp4+mtz+nexus+npz+lunus+cxidb+eryx"
    export([str(path), f"formats={formats}", f"output.prefix={folder / 'out'}"])
    export([str(path), "formats=mtz", "mtz.columns=mdx2", f"output.prefix={folder / 'mdx2'}"])
    export([str(path), "formats=mtz", "mtz.expand_to_p1=True", f"output.prefix={folder / 'p1'}"])
    return folder


def check_same(read: VoxelMap, one: VoxelMap, rtol: float = 1e-5) -> None:
    """Check that a map read back holds the same intensity wherever both have one, and misses at most the origin."""
    index = read.grid.index_of(read.voxel)
    folded, _ = fold(index, one.grid.symmetry, one.grid.divisions)
    place = folded - np.array(one.grid.index_min)
    numbers = np.ravel_multi_index(tuple(place.T), one.grid.dimensions)
    assert len(np.setdiff1d(one.voxel, numbers)) <= 1
    assert len(np.setdiff1d(numbers, one.voxel)) == 0
    at = np.searchsorted(one.voxel, numbers)
    np.testing.assert_allclose(read.intensity, one.intensity[at], rtol=rtol)
    if read.sigma is not None and one.sigma is not None:
        np.testing.assert_allclose(read.sigma, one.sigma[at], rtol=rtol)
    if read.halves is not None and one.halves is not None:
        np.testing.assert_allclose(read.halves, one.halves[:, at], rtol=rtol)


@pytest.mark.parametrize(
    ("name", "errors", "halves"),
    [
        (".", True, True),
        ("voxel_data_relative.npz", True, True),
        ("voxel_data_relative.nxs", True, False),
        ("out_supercell.mtz", True, True),
        ("mdx2_supercell.mtz", True, True),
        ("p1_supercell.mtz", True, True),
        ("out_box.npz", True, False),
        ("out_box.nxs", True, False),
        ("out_cxidb.h5", True, False),
        ("out.ccp4", False, False),
        ("out.lat", False, False),
        ("out_eryx.npy", False, False),
    ],
)
def test_what_is_exported_is_read_back(folder, one, name, errors, halves):
    read = read_voxel_map(folder / name, MapHints(like=one.grid))
    assert read.grid.divisions == one.grid.divisions
    assert (read.sigma is not None) == errors
    assert (read.halves is not None) == halves
    check_same(read, one)


def test_a_pair_is_read_with_the_crystal_of_the_one_that_knows_it(folder, one):
    for first, second in (("out.lat", "."), (".", "out.lat")):
        a, b = read_pair(folder / first, folder / second)
        np.testing.assert_allclose(a.grid.cell, b.grid.cell, rtol=1e-6)
        check_same(a, one)
        check_same(b, one)


def test_mdx2_finds_its_names_and_its_symmetry(folder, one):
    mtz = gemmi.read_mtz_file(str(folder / "mdx2_supercell.mtz"))
    labels = [column.label for column in mtz.columns]
    assert labels[3:5] == ["IMEAN", "SIGIMEAN"]
    assert {"IMEAN_half1", "IMEAN_half2"} <= set(labels)
    assert mtz.spacegroup.number == gemmi.find_spacegroup_by_name("P 4/m").number
    np.testing.assert_allclose(mtz.cell.parameters[:3], (40, 40, 78))


def test_a_map_expanded_to_p1_holds_one_of_each_friedel_pair(folder, one):
    mtz = gemmi.read_mtz_file(str(folder / "p1_supercell.mtz"))
    assert mtz.spacegroup.number == 1
    hkl = np.asarray(mtz)[:, :3].astype(int)
    both = np.concatenate([hkl, -hkl])
    assert len(np.unique(both, axis=0)) == 2 * len(hkl)
    operators = one.grid.symmetry.operators
    expected = {tuple(o @ i) for o in operators for i in one.grid.index_of(one.voxel)} - {(0, 0, 0)}
    assert len(expected) == 2 * len(hkl)


def test_lunus_reads_the_lattice_by_the_description_of_its_format(folder, one):
    raw = (folder / "out.lat").read_bytes()
    nx, ny, nz, *limits = struct.unpack("<3I6f", raw[:36])
    values = np.frombuffer(raw, "<f4", -1, 36).reshape(nz, ny, nx)
    steps = [(high - low) / (n - 1) for low, high, n in zip(limits[::2], limits[1::2], (nx, ny, nz), strict=True)]
    np.testing.assert_allclose(steps, [1 / 40, 1 / 40, 1 / 78], rtol=1e-5)
    origin = [int(-low / step + 0.5) for low, step in zip(limits[::2], steps, strict=True)]
    row = len(one) // 2
    h, k, l = (n + o for n, o in zip(one.grid.index_of(one.voxel[[row]])[0], origin, strict=True))
    assert values[l, k, h] == pytest.approx(one.intensity[row])
    assert (values == -32768.0).any()


def test_mdx_lib_reads_the_layout_of_cxidb_128(folder, one):
    with h5py.File(folder / "out_cxidb.h5") as file:
        group = file["/maps/processed/variational"]
        size, ori, delta = (group.attrs[f"grid_{name}"] for name in ("size", "ori", "delta"))
        assert group["I"].shape == tuple(size[::-1])
        assert group["I"].dtype == np.float32
        np.testing.assert_allclose(delta, [1 / 2, 1 / 2, 1 / 3])
        assert ori[2] == 0
        row = len(one) // 2
        i, j, k = np.rint((one.grid.hkl_of(one.voxel[[row]])[0] - ori) / delta).astype(int)
        assert group["I"][k, j, i] == pytest.approx(one.intensity[row])
        assert group["sigma"][k, j, i] == pytest.approx(one.sigma[row])
        assert file["crystal"].attrs["a"] == pytest.approx(20.0)
        assert file["crystal"].attrs["spaceGroupNumber"] == 75


def test_eryx_reads_an_array_centred_on_the_origin_with_whole_indices_at_its_ends(folder, one):
    values = np.load(folder / "out_eryx.npy")
    assert all((n - 1) % (2 * d) == 0 for n, d in zip(values.shape, one.grid.divisions, strict=True))
    row = len(one) // 2
    at = one.grid.index_of(one.voxel[[row]])[0] + np.array(values.shape) // 2
    assert values[tuple(at)] == pytest.approx(one.intensity[row])


def write_mtz(path: Path, cell, space_group: str, index, columns: dict[str, tuple[str, np.ndarray]]) -> Path:
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup(space_group)
    mtz.set_cell_for_all(gemmi.UnitCell(*cell))
    mtz.add_dataset("model")
    for label, (kind, _) in columns.items():
        mtz.add_column(label, kind)
    mtz.set_data(np.column_stack([index, *(values for _, values in columns.values())]).astype(np.float32))
    mtz.write_to_file(str(path))
    return path


def test_the_first_intensity_of_an_mtz_file_of_another_program_is_its_map(tmp_path, one):
    grid, voxel = all_voxels("P1", CELL, (1, 1, 1), 4.0)
    index = grid.index_of(voxel)
    use = (index != 0).any(axis=1)
    values = true_map(grid, voxel)[use]
    columns = {"FC": ("F", values * 3), "IDIFF": ("J", values), "OTHER": ("J", values * 2)}
    path = write_mtz(tmp_path / "diffuse.mtz", CELL, "P 1", index[use], columns)
    read = read_voxel_map(path, MapHints(like=one.grid))
    assert read.grid.divisions == (1, 1, 1)
    assert read.sigma is None
    np.testing.assert_allclose(read.intensity, values, rtol=1e-6)
    assert read_voxel_map(path, MapHints(column="OTHER")).intensity == pytest.approx(2 * values)
    only_f = write_mtz(tmp_path / "f.mtz", CELL, "P 1", index[use], {"F": ("F", values)})
    assert len(read_voxel_map(only_f)) == use.sum()


def test_the_divisions_of_a_supercell_follow_from_the_cell_of_the_other_map(tmp_path, one):
    grid, voxel = all_voxels("P4", CELL, (2, 2, 3), 4.0)
    index = grid.index_of(voxel)
    cell = (40.0, 40.0, 78.0, 90.0, 90.0, 90.0)
    path = write_mtz(tmp_path / "super.mtz", cell, "P 4/m", index[1:], {"IMEAN": ("J", true_map(grid, voxel)[1:])})
    assert read_voxel_map(path, MapHints(like=one.grid)).grid.divisions == (2, 2, 3)
    assert read_voxel_map(path).grid.divisions == (1, 1, 1)
    assert read_voxel_map(path, MapHints(divisions=(2, 2, 3))).grid.cell[:3] == pytest.approx(CELL[:3])


def test_an_absolute_map_is_read_and_written_as_one(tmp_path, one):
    from dataclasses import replace

    absolute = replace(one, units="electron units per unit cell", pixels=np.full(len(one), 3))
    write_voxel_map(tmp_path, absolute)
    assert not (tmp_path / "voxel_data_relative.npz").exists()
    read = read_voxel_map(tmp_path)
    assert read.units == "electron units per unit cell"
    assert (read.pixels == 3).all()
    check_same(read, one)


def test_files_that_are_no_maps_are_refused_in_one_line(tmp_path, folder, one):
    cases: dict[str, bytes] = {
        "a.lat": b"\0" * 50,
        "b.mtz": b"MTZ nonsense",
        "c.ccp4": b"x" * 2000,
        "d.h5": b"no hdf5",
        "e.npz": b"no zip",
        "f.npy": b"\x93NUMPY but not",
        "g.txt": b"1 2 3",
        "h.nxs": b"",
        "i.lat": struct.pack("<3I6f", 2, 2, 2, 0, 0, 0, 0, 0, 0) + b"\0" * 32,
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_voxel_map(tmp_path / name, MapHints(like=one.grid))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with h5py.File(tmp_path / "sums.h5", "w") as file:
        file.attrs["format"] = "diffuse_framework sums 2"
    with pytest.raises(DataError, match="holds sums, not a map: give its folder"):
        read_voxel_map(tmp_path / "sums.h5")
    with pytest.raises(DataError, match="give input.unit_cell"):
        read_voxel_map(folder / "out.lat")
    with pytest.raises(DataError, match="no whole numbers"):
        read_voxel_map(folder / "out.lat", MapHints(unit_cell=(27.0, 27.0, 33.0, 90.0, 90.0, 90.0)))
    with pytest.raises(DataError, match="give input.divisions"):
        read_voxel_map(folder / "out_eryx.npy", MapHints(unit_cell=CELL))
    with pytest.raises(DataError, match="no file or folder"):
        read_voxel_map(tmp_path / "nothing")
    with pytest.raises(DataError, match="not the output folder"):
        read_voxel_map(tmp_path)
    with pytest.raises(ConfigError, match="not a space group"):
        read_voxel_map(folder / "out.lat", MapHints(unit_cell=CELL, space_group="P7"))
    with pytest.raises(DiffuseError, match="no column X"):
        read_voxel_map(folder / "out_supercell.mtz", MapHints(column="X"))


def test_lattices_need_right_angles(tmp_path, capsys):
    grid, voxel = all_voxels("P3", (20.0, 20.0, 26.0, 90.0, 90.0, 120.0), (2, 2, 2), 4.0)
    path = write_voxel_map(tmp_path, VoxelMap(grid, voxel, true_map(grid, voxel), np.ones(len(voxel))))
    with pytest.raises(SystemExit):
        export([str(path), "formats=lunus"])
    assert "right angles" in capsys.readouterr().err


def test_symmetry_of_p1_is_what_a_box_without_any_has(folder, one):
    read = read_voxel_map(folder / "out.lat", MapHints(like=one.grid))
    assert read.grid.symmetry.laue_group == symmetry_of("P1").laue_group
    told = read_voxel_map(folder / "out.lat", MapHints(like=one.grid, space_group="P4"))
    assert told.grid.symmetry.laue_group == "4/m"
    check_same(told, one)
