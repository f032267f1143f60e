"""HDF5 images as file writers of EIGER detectors leave them: read whole, read right, or refused by name."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffuse_framework.adapters.images import hdf5
from diffuse_framework.adapters.images import source as images
from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.command_line import process
from diffuse_framework.command_line.simulate import run as simulate_images
from diffuse_framework.errors import DataError
from diffuse_framework.io.sums_store import StoredSums
from diffuse_framework.model.source import Frame
from diffuse_framework.model.voxels import COLUMNS
from diffuse_framework.simulate.detector import header_beam, one_panel
from diffuse_framework.simulate.nxmx import SeriesWriter

pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")

N = 12
# An EIGER 1M.
SIZE, MODULE, GAP = (1030, 1065), 514, 37


def frames(dtype=np.uint32, n: int = N) -> list[np.ndarray]:
    """Counts (slow, fast), -1 in the gap between modules, one hot pixel with too many photons."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(1.0, (n, *SIZE[::-1])).astype(np.int32)
    counts[:, MODULE : MODULE + GAP] = -1
    counts[:, 5, 7] = np.iinfo(dtype).max // 2
    return list(counts)


def writer(dtype=np.uint32, **settings) -> SeriesWriter:
    geometry = one_panel(SIZE, 150.0, header_beam(1.0), pixel_mm=0.075).geometry
    starts = tuple(float(n) for n in range(N))
    return SeriesWriter(
        geometry, 0.1, nullcontext, hdf5.bitshuffle_lz4(), starts, 1.0, dtype=dtype, **({"per_file": 5} | settings)
    )


@pytest.fixture
def series(tmp_path) -> Path:
    """A master and three files of pixels."""
    writer()(tmp_path / "x_master.h5", frames())
    return tmp_path / "x_master.h5"


def source_of(*paths: Path):
    return open_source(images_from_files([str(path) for path in paths]))


def with_links(master: Path) -> None:
    """Make the master one of DECTRIS's first file writers: no NXmx, and a link to each file of pixels."""
    with h5py.File(master, "r+") as file:
        entry, detector = file["entry"], file["entry/instrument/detector"]
        for name in ("definition", "data/data", "sample/depends_on", "sample/transformations"):
            del entry[name]
        for name in ("depends_on", "module", "transformations", "saturation_value"):
            del detector[name]
        del entry["data"].attrs["signal"]
        for number in range(1, 4):
            name = f"data_{number:06d}"
            entry[f"data/{name}"] = h5py.ExternalLink(f"x_{name}.h5", "/entry/data/data")
        entry["sample/goniometer/omega_range_average"] = 1.0
        del detector["description"]
        detector["description"] = np.bytes_("Dectris Eiger 1M")
        detector["detector_number"] = np.bytes_("E-02-0001")
        detector["detectorSpecific/countrate_correction_count_cutoff"] = 900_000
        for name in ("x_pixel_size", "y_pixel_size"):
            detector[name] = 0.075e-3
            detector[name].attrs["units"] = "m"
        detector["geometry/orientation/value"] = np.array([-1.0, 0, 0, 0, -1, 0])
        detector["geometry/translation/distances"] = np.array([0.038, 0.04, -0.15])


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("links", [False, True])
def test_the_short_way_gives_what_dxtbx_gives(tmp_path, dtype, links):
    """Also where a pixel is bad, over each border between files, and in a worker."""
    master = tmp_path / "x_master.h5"
    written = frames(dtype)
    writer(dtype)(master, written)
    if links:
        with_links(master)
    source = source_of(master)
    assert len(source) == N and source.exposure_s(3) == pytest.approx(0.1)
    through_dxtbx = [source.experiments[n].imageset.get_raw_data(0)[0].as_numpy_array() for n in range(N)]
    first = source.read(0)
    assert source._agreed == {str(master)}
    worker = pickle.loads(pickle.dumps(source))
    for n in (0, 4, 5, 9, 10, 11):
        for reader in (source, worker):
            (found,) = reader.read(n).counts
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, through_dxtbx[n])
        good = written[n] >= 0
        good[5, 7] = False
        np.testing.assert_array_equal(found[good], written[n][good])
        low, high = source.geometry(n).panels[0].trusted_range
        untrusted = (found < max(low, 0)) | (found > high)
        trusted_by_mask = source.trusted_pixels(n)[0]
        assert not (trusted_by_mask & ~untrusted)[written[n] < 0].any()
    assert isinstance(first, Frame)


def test_a_file_of_which_both_ways_differ_is_left_to_dxtbx(series, monkeypatch):
    monkeypatch.setattr(hdf5.Series, "read", lambda self, index: np.zeros(SIZE[::-1], np.int32))
    source = source_of(series)
    for n in range(3):
        assert source.read(n).counts[0].max() > 1
    assert not source._agreed


@pytest.mark.parametrize("kind", ["rotation", "stills"])
def test_the_same_images_as_cbf_and_as_hdf5_make_the_same_sums(tmp_path, kind):
    found = {}
    for form in ("cbf", "nxmx"):
        folder = tmp_path / form
        simulate_images(
            [
                "detector.model=100K",
                "detector.distance=50",
                "crystal.unit_cell=24,27,31,90,90,90",
                f"images={N}",
                f"rotation.width={1 if kind == 'rotation' else 0}",
                "mp.nproc=1",
                f"output.format={form}",
                f"output.directory={folder}",
            ]
        )
        given = [str(folder / "truth.expt"), str(folder / "truth.refl")]
        if kind == "rotation":
            images_of = sorted(map(str, folder.glob("sim_0*.cbf" if form == "cbf" else "*_master.h5")))
            given = [*images_of, f"indexer.given.crystals={folder / 'truth.expt'}"]
        process.run([*given, "mp.nproc=1", f"output.directory={folder / 'out'}"])
        found[form] = list(StoredSums(folder / "out/sums.h5").tables())
    assert len(found["cbf"]) == len(found["nxmx"]) > 1
    for one, other in zip(found["cbf"], found["nxmx"], strict=True):
        assert one.counts.sum() > 1000
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_several_sweeps_are_a_master_each(tmp_path):
    simulate_images(
        [
            "detector.model=100K",
            "images=3",
            "rotation.width=1",
            "rotation.sweeps=2",
            "mp.nproc=1",
            "output.format=nxmx",
            f"output.directory={tmp_path}",
        ]
    )
    source = source_of(*sorted(tmp_path.glob("*_master.h5")))
    assert [sweep.n_images for sweep in source.sweeps] == [3, 3]


def test_a_mask_goes_to_a_worker_once(series):
    """The mask of all images of a file is as large as an image: a thousand of them can't be sent."""
    source = source_of(series)
    mask = source.trusted_pixels(0)[0]
    content = pickle.dumps(source)
    assert len(content) < 1.2 * mask.nbytes
    worker = pickle.loads(content)
    assert all(np.array_equal(worker.trusted_pixels(n)[0], mask) for n in range(N))
    assert np.array_equal(source.trusted_pixels(N - 1)[0], mask), "and the source keeps its own"
    assert len(worker.experiments.detectors()) == 1


def test_an_image_is_stamped_with_the_file_of_its_pixels(series):
    source = source_of(series)
    before = [source.stamp(n) for n in range(N)]
    path = series.with_name("x_data_000002.h5")
    shutil.copy(path, series.with_name("copy"))
    path.unlink()
    shutil.move(series.with_name("copy"), path)
    assert [n for n in range(N) if source.stamp(n) != before[n]] == list(range(5, 10))


def refused(path: Path, n_images: int = N) -> str:
    with pytest.raises(DataError) as error:
        hdf5.series_of(str(path), n_images)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("links", [False, True])
def test_a_file_of_pixels_that_is_missing_is_refused(series, number, links, tmp_path, capsys):
    """HDF5 would give zeros in its place."""
    if links:
        with_links(series)
    series.with_name(f"x_data_{number:06d}.h5").unlink()
    assert f"x_data_{number:06d}.h5 is missing" in refused(series)
    assert "is missing" in said(capsys, series, tmp_path)


def test_a_file_of_pixels_that_is_cut_short_is_refused(series, tmp_path, capsys):
    path = series.with_name("x_data_000002.h5")
    path.write_bytes(path.read_bytes()[:-1000])
    assert "x_data_000002.h5 can't be read; it is cut short" in refused(series)
    assert "x_data_000002.h5 can't be read; it is cut short" in said(capsys, series, tmp_path)


def test_a_master_that_promises_more_images_than_there_are_is_refused(series):
    with h5py.File(series.with_name("x_data_000003.h5"), "r+") as file:
        file["entry/data/data"].resize(1, axis=0)
    assert "holds 1 images, 2 are wanted" in refused(series)


def test_of_links_only_the_last_may_lead_nowhere(series):
    """The first file writers name more files than they write."""
    with_links(series)
    series.with_name("x_data_000003.h5").unlink()
    assert [part.n_images for part in hdf5.series_of(str(series), 10).parts] == [5, 5]
    assert "x_data_000003.h5 is missing" in refused(series)
    writer()(series.with_name("x_master.h5"), frames())
    with_links(series)
    series.with_name("x_data_000002.h5").unlink()
    assert "x_data_000002.h5 is missing" in refused(series, 10)


def test_a_frame_that_is_damaged_is_one_image_that_cant_be_read(series):
    path = series.with_name("x_data_000002.h5")
    with h5py.File(path) as file:
        place = file["entry/data/data"].id.get_chunk_info_by_coord((1, 0, 0))
    content = bytearray(path.read_bytes())
    content[place.byte_offset + 12 : place.byte_offset + place.size] = bytes(b"\xff" * (place.size - 12))
    path.write_bytes(content)
    source = source_of(series)
    for n in (0, 5, 7):
        source.read(n)
    with pytest.raises(DataError, match="can't read the image; it is cut short or damaged"):
        source.read(6)


# DIALS 3.30 can't be imported without hdf5plugin: it gets a module of that name that brings nothing.
WITHOUT_HDF5PLUGIN = """
import sys, types
sys.modules["hdf5plugin"] = None
import diffuse_framework.adapters.images.hdf5
sys.modules["hdf5plugin"] = types.ModuleType("hdf5plugin")
from diffuse_framework.command_line import process
process.run(sys.argv[1:])
"""


def test_a_decompressor_that_is_missing_is_named(series, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HDF5PLUGIN, str(series), f"output.directory={tmp_path / 'out'}"],
        # Nor may HDF5 find it where the system keeps its own.
        env=os.environ | {"HDF5_PLUGIN_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "pip install --no-deps hdf5plugin" in done.stderr, done.stderr
    assert "filter bitshuffle (32008)" in done.stderr


def test_a_file_of_pixels_in_place_of_its_master(series, tmp_path, capsys):
    assert "give the master file" in said(capsys, series.with_name("x_data_000001.h5"), tmp_path)


def said(capsys, master: Path, folder: Path) -> str:
    """Return the one line that diffuse.process ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        process.run([str(master), f"output.directory={folder / 'out'}"])
    line = capsys.readouterr().err
    assert stop.value.code == 1 and line.startswith("Error: ") and line.count("\n") == 1, line
    return line


def test_a_short_series_is_read_by_dxtbx(tmp_path):
    short = images._LONG_SERIES - 1
    replace(writer(), starts_deg=tuple(np.arange(float(short))))(tmp_path / "x_master.h5", frames(n=short))
    source = source_of(tmp_path / "x_master.h5")
    source.read(0)
    assert not source._agreed
