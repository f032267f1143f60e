"""Every export, opened by a program that knows nothing of ours."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import gemmi
import h5py
import meshio
import mrcfile
import numpy as np
import pytest
from dials.array_family import flex

from diffuse_framework.adapters.models.symmetry import point_group_hall, symmetry_of
from diffuse_framework.algorithms.symmetry import asymmetric_box, fold
from diffuse_framework.command_line.export import run
from diffuse_framework.io.results import write_grid, write_map
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import reciprocal_basis
from diffuse_framework.model.maps import AbsoluteMap, MergedMap

CELL = (12.0, 12.0, 15.0, 90.0, 90.0, 120.0)
DIVISIONS = (2, 2, 3)


@pytest.fixture(scope="module")
def merged() -> MergedMap:
    """A map of P3221 with random values, one voxel in ten missing."""
    symmetry = symmetry_of("P3221")
    count, low, high = asymmetric_box(symmetry, DIVISIONS, reciprocal_basis(CELL), 2.0)
    size = tuple(int(n) for n in high - low + 1)
    grid = VoxelGrid(CELL, symmetry, DIVISIONS, tuple(int(n) for n in low), size, 2.0, np.inf, count)
    voxel = np.arange(grid.size)
    index = grid.index_of(voxel)
    rng = np.random.default_rng(3)
    inside = (fold(index, symmetry, DIVISIONS)[0] == index).all(axis=1) & (rng.random(len(voxel)) > 0.1)
    voxel = voxel[inside & (np.linalg.norm(grid.q_of(voxel), axis=1) <= 0.5)]
    n = len(voxel)
    values, ones = rng.normal(50, 10, n), np.ones(n)
    return MergedMap(grid, voxel, values, rng.random(n) + 1, ones.astype(int), ones.astype(int), ones, values, ones)


@pytest.fixture(scope="module")
def folder(merged, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("map")
    write_map(folder, AbsoluteMap(merged, merged.intensity, merged.variance, 1.0, 0.0, "relative"))
    write_grid(folder / "global_voxel_grid_definition.json", merged.grid)
    run(
        [
            str(folder / "voxel_data_relative.npz"),
            "formats=ccp4+mtz+mtz_integer+nexus+npz+refl+vtk+text+pdf",
            f"output.prefix={folder / 'out'}",
        ]
    )
    return folder


def equivalents(merged: MergedMap, hkl: np.ndarray) -> np.ndarray:
    """Return the map's values at fractional indices (n, 3), NaN where it has none."""
    index = np.rint(hkl * np.array(DIVISIONS)).astype(np.int64)
    at = fold(index, merged.grid.symmetry, DIVISIONS)[0] - np.array(merged.grid.index_min)
    box = np.full(merged.grid.size, np.nan)
    box[merged.voxel] = merged.intensity
    inside = ((at >= 0) & (at < np.array(merged.grid.dimensions))).all(axis=1)
    values = np.full(len(at), np.nan)
    values[inside] = box[np.ravel_multi_index(tuple(at[inside].T), merged.grid.dimensions)]
    return values


def check(merged: MergedMap, hkl: np.ndarray, found: np.ndarray, missing=np.nan) -> None:
    expected = equivalents(merged, hkl)
    expected = np.where(np.isfinite(expected), expected, missing)
    assert np.allclose(found, expected, rtol=1e-6, equal_nan=True)
    assert np.isfinite(found).sum() >= len(merged)


def test_mtz_of_the_supercell(merged, folder):
    mtz = gemmi.read_mtz_file(str(folder / "out_supercell.mtz"))
    assert mtz.spacegroup.hm == "P 3 2 1"
    assert mtz.cell.a == pytest.approx(24) and mtz.cell.c == pytest.approx(45)
    # All but the origin, whose d is infinite.
    origin = (merged.grid.index_of(merged.voxel) == 0).all(axis=1)
    assert mtz.nreflections == len(merged) - origin.sum()
    hkl = np.array(mtz.make_miller_array()) / np.array(DIVISIONS)
    assert np.allclose(mtz.column_with_label("I").array, equivalents(merged, hkl), rtol=1e-6)
    resolution = mtz.make_d_array()
    assert np.allclose(1 / resolution, np.linalg.norm(hkl @ reciprocal_basis(CELL).T, axis=1), rtol=1e-4)
    assert "supercell of 2 x 2 x 3" in mtz.history[0]
    sigma = np.sort(np.sqrt(merged.variance[~origin]))
    assert np.allclose(np.sort(np.array(mtz.column_with_label("SIGI").array)), sigma, rtol=1e-6)


def test_mtz_of_integer_hkl(merged, folder):
    mtz = gemmi.read_mtz_file(str(folder / "out_integer.mtz"))
    assert mtz.cell.a == pytest.approx(12)
    hkl = np.array(mtz.make_miller_array())
    assert np.allclose(mtz.column_with_label("I").array, equivalents(merged, hkl), rtol=1e-6)
    index = merged.grid.index_of(merged.voxel)
    lattice = (index % np.array(DIVISIONS) == 0).all(axis=1) & (index != 0).any(axis=1)
    assert mtz.nreflections == lattice.sum()


def test_ccp4_map(merged, folder):
    with mrcfile.open(folder / "out.ccp4") as file:
        assert file.header.mode == 2 and file.header.ispg == 1
        values = np.array(file.data).transpose()
        start = np.array([file.header[f"n{axis}start"] for axis in "xyz"])
        edges = np.array([file.header.cella[axis] for axis in "xyz"])
        angles = [file.header.cellb[name] for name in ("alpha", "beta", "gamma")]
        label = bytes(file.header.label[0]).decode()
        assert (file.header.mx, file.header.my, file.header.mz) == values.shape
    axes = [first + np.arange(n) for first, n in zip(start, values.shape, strict=True)]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    check(merged, hkl.reshape(-1, 3) / np.array(DIVISIONS), values.ravel(), missing=0)
    # One voxel is a*/2 = 1/(2 a sin 120) long, at 100 angstrom per 1/angstrom, and a* and b* make 60 degrees.
    assert edges[0] / values.shape[0] == pytest.approx(100 / (2 * 12 * np.sin(np.radians(120))), rel=1e-5)
    assert angles == pytest.approx([90, 90, 60], abs=1e-3)
    assert "100 A = 1 1/A" in label
    with mrcfile.open(folder / "out.ccp4", permissive=False) as file:
        assert mrcfile.validate(file._iostream.name)
    same = gemmi.read_ccp4_map(str(folder / "out.ccp4"))
    assert np.array_equal(np.array(same.grid), values)


def nxdata(path: Path):
    """Follow NeXus' attributes to the default signal and its axes, as any reader does."""
    with h5py.File(path) as file:
        entry = file[file.attrs["default"]]
        assert entry.attrs["NX_class"] == "NXentry"
        data = entry[entry.attrs["default"]]
        assert data.attrs["NX_class"] == "NXdata"
        signal = data[data.attrs["signal"]]
        return signal[()], [data[name][()] for name in data.attrs["axes"]], signal.attrs["units"]


@pytest.mark.parametrize("name", ["out_box.nxs", "voxel_data_relative.nxs"])
def test_nexus(merged, folder, name):
    values, axes, units = nxdata(folder / name)
    assert units == "relative"
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    found = values.ravel()
    known = np.isfinite(found)
    assert np.allclose(found[known], equivalents(merged, hkl[known]), rtol=1e-6)
    assert known.sum() >= len(merged)


def test_npz(merged, folder):
    with np.load(folder / "out_box.npz") as file:
        hkl = np.stack(np.meshgrid(file["h"], file["k"], file["l"], indexing="ij"), -1).reshape(-1, 3)
        check(merged, hkl, file["I_merged_relative"].ravel())
        assert file["I_merged_relative_errors"].shape == file["I_merged_relative"].shape


def test_vtk(merged, folder):
    mesh = meshio.read(folder / "out.vtk")
    hkl = mesh.points @ np.linalg.inv(reciprocal_basis(CELL)).T
    check(merged, hkl, mesh.point_data["I_merged_relative"].ravel().astype(float))


def test_text(merged, folder):
    table = np.loadtxt(folder / "out.txt")
    assert len(table) == len(merged)
    assert np.allclose(table[:, 3], equivalents(merged, table[:, :3]), rtol=1e-8)


def test_reflection_table(merged, folder):
    table = flex.reflection_table.from_file(str(folder / "out.refl"))
    hkl = np.array(table["hkl_fractional"])
    assert np.allclose(np.array(table["miller_index"]), hkl * np.array(DIVISIONS))
    assert np.allclose(np.array(table["intensity.sum.value"]), equivalents(merged, hkl))
    q = np.linalg.norm(hkl @ reciprocal_basis(CELL).T, axis=1)
    assert np.allclose(np.array(table["d"])[q > 0], 1 / q[q > 0])


def test_transform(merged, folder):
    real = gemmi.read_ccp4_map(str(folder / "out_delta_pdf.ccp4"))
    assert real.grid.unit_cell.a == pytest.approx(24) and real.grid.unit_cell.gamma == pytest.approx(120)
    values, axes, units = nxdata(folder / "out_delta_pdf.nxs")
    assert units == "(relative) / angstrom^3"
    origin = tuple(int(np.abs(axis).argmin()) for axis in axes)
    assert values[origin] == pytest.approx(real.grid.get_value(0, 0, 0), rel=1e-5)
    # x is in fractions of the crystal's cell: the supercell's is two of them.
    at = tuple(o + 2 for o in origin)
    x = np.array([axis[i] for axis, i in zip(axes, at, strict=True)]) / np.array(DIVISIONS)
    assert values[at] == pytest.approx(real.grid.interpolate_value(gemmi.Fractional(*x)), rel=1e-4)


def test_options(folder):
    out = folder / "options"
    run(
        [
            str(folder / "voxel_data_relative.nxs"),
            "formats=text",
            "isotropic=remove",
            "d_min=3",
            "d_max=6",
            f"output.prefix={out}",
        ]
    )
    table = np.loadtxt(f"{out}.txt")
    q = np.linalg.norm(table[:, :3] @ reciprocal_basis(CELL).T, axis=1)
    assert q.max() <= 1 / 3 and q.min() >= 1 / 6
    assert abs(table[:, 3].mean()) < 2
    assert "isotropic part removed" in Path(f"{out}.txt").read_text().split("\n")[0]


def test_half_maps_come_along(merged, folder, tmp_path):
    arrays = dict(np.load(folder / "voxel_data_relative.npz"))
    arrays["I_merged_relative_half1"] = arrays["I_merged_relative"] + 1
    np.savez(tmp_path / "voxel_data_relative.npz", **arrays)
    write_grid(tmp_path / "global_voxel_grid_definition.json", merged.grid)
    run([str(tmp_path / "voxel_data_relative.npz"), "formats=mtz+ccp4"])
    mtz = gemmi.read_mtz_file(str(tmp_path / "voxel_data_relative_supercell.mtz"))
    difference = np.array(mtz.column_with_label("I_1").array) - np.array(mtz.column_with_label("I").array)
    assert np.allclose(difference, 1, atol=1e-4)
    assert (tmp_path / "voxel_data_relative_I_merged_relative_half1.ccp4").exists()


def test_merging_writes_half_maps_that_come_along(merged, tmp_path):
    seen = np.arange(len(merged)) % 2 == 0
    columns = (
        "voxel",
        "intensity",
        "variance",
        "multiplicity",
        "pixels",
        "counts",
        "total_intensity",
        "total_variance",
    )
    first = replace(merged, **{name: getattr(merged, name)[seen] for name in columns})
    halves = first, replace(merged, intensity=merged.intensity + 1)
    final = AbsoluteMap(merged, merged.intensity, merged.variance, 1.0, 0.0, "relative")
    write_map(tmp_path, final, halves)
    write_grid(tmp_path / "global_voxel_grid_definition.json", merged.grid)
    run([str(tmp_path / "voxel_data_relative.npz"), "formats=mtz"])
    mtz = gemmi.read_mtz_file(str(tmp_path / "voxel_data_relative_supercell.mtz"))
    whole, one, two, sigma = (np.array(mtz.column_with_label(n).array) for n in ("I", "I_1", "I_2", "SIGI_2"))
    assert np.isnan(one).any()
    assert np.nanmax(np.abs(one - whole)) < 1e-4
    assert np.allclose(two - whole, 1, atol=1e-4)
    assert np.allclose(sigma, np.array(mtz.column_with_label("SIGI").array))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["formats=text"], "no map"),
        (["input.column=nothing"], "I_merged_relative"),
        (["d_min=0.5", "d_max=0.6"], "no voxel"),
        (["d_min=5", "d_max=4"], "below"),
        (["input.grid=/nowhere.json"], "nowhere.json"),
    ],
)
def test_mistakes_have_one_line(folder, args, message, capsys):
    files = [] if message == "no map" else [str(folder / "voxel_data_relative.npz")]
    with pytest.raises(SystemExit) as stopped:
        run([*files, *args])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("number", range(1, 231))
def test_every_space_group_has_a_supercell_group_that_gemmi_knows(number):
    from cctbx import sgtbx

    info = sgtbx.space_group_info(number=number)
    found = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(point_group_hall(str(info))))
    assert found is not None and found.is_symmorphic() and found.centring_type() == "P"
    assert len(found.operations().sym_ops) == info.group().order_p()


def test_other_files_are_refused(tmp_path, folder):
    (tmp_path / "x.npz").write_text("no")
    for path in (tmp_path / "x.npz", folder / "out_box.npz", folder / "out_box.nxs"):
        with pytest.raises(SystemExit):
            run([str(path)])


def test_the_folder_of_a_run_will_do(folder, tmp_path, capsys):
    shutil.copy(folder / "voxel_data_relative.npz", tmp_path)
    shutil.copy(folder / "global_voxel_grid_definition.json", tmp_path)
    run([str(tmp_path), "formats=ccp4"])
    assert list(tmp_path.glob("*.ccp4")) + list(tmp_path.glob("*.mrc"))
