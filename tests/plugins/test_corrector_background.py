from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iotbx.phil import parse

from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.experiment import Image
from diffuse_framework.simulate.cbf import write_cbf
from diffuse_framework.simulate.detector import header_beam, pilatus
from diffuse_framework.testing.fakes import geometry
from diffuse_plugins.corrector_background import BackgroundCorrector

MODEL = geometry(2)
COUNTS = np.random.default_rng(0).poisson(4.0, (2, 60, 50)).astype(np.int32)


def image(exposure_s: float) -> Image:
    return Image("a.cbf", 0, 0, exposure_s, np.eye(3))


def make(text: str) -> BackgroundCorrector:
    return BackgroundCorrector.from_params(parse(BackgroundCorrector.phil).fetch(parse(text)).extract())


def write(path, **arrays) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values


@settings(deadline=None)
@given(rate=st.floats(0, 1e4), sigma=st.floats(1e-3, 10), seconds=st.floats(1e-3, 100))
def test_a_constant_grows_with_the_exposure_time(rate, sigma, seconds):
    background = make(f"constant={rate!r}\nsigma={sigma!r}").background(image(seconds), MODEL)
    for counts, variance in zip(background.counts, background.variance, strict=True):
        assert counts.shape == variance.shape == (60, 50)
        assert counts.dtype == variance.dtype == np.float32
        assert np.allclose(counts, rate * seconds, rtol=1e-6)
        assert np.allclose(variance, (sigma * seconds) ** 2, rtol=1e-6)
    assert make("constant=1").factor(MODEL) is None


@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
def test_a_map_is_scaled_to_the_exposure_of_the_image(tmp_path, kind):
    path = tmp_path / f"dark.{kind}"
    if kind == "npy":
        np.save(path, COUNTS)
        corrector = make(f"map.file={path}\nmap.exposure_time=4\nconstant=2")
    else:
        write(path, counts=COUNTS, exposure_time=4.0)
        corrector = make(f"map.file={path}\nconstant=2")
    background = corrector.background(image(1.0), MODEL)
    assert np.allclose(np.stack(background.counts), COUNTS / 4 + 2, rtol=1e-6)
    # Counts as measured vary like counts: variance / 4^2.
    assert np.allclose(np.stack(background.variance), COUNTS / 16, rtol=1e-6)


def test_a_variance_of_its_own_and_another_exposure_time_are_taken(tmp_path):
    write(tmp_path / "dark.npz", counts=COUNTS / 10, variance=COUNTS / 1000 + 1, exposure_time=4.0)
    background = make(f"map.file={tmp_path}/dark.npz\nmap.exposure_time=2").background(image(1.0), MODEL)
    assert np.allclose(np.stack(background.counts), COUNTS / 20, rtol=1e-6)
    assert np.allclose(np.stack(background.variance), (COUNTS / 1000 + 1) / 4, rtol=1e-6)


def test_a_worker_reads_the_map_itself(tmp_path):
    write(tmp_path / "dark.npz", counts=COUNTS, exposure_time=1.0)
    corrector = make(f"map.file={tmp_path}/dark.npz")
    sent = pickle.dumps(corrector)
    assert len(sent) < 1000
    again = pickle.loads(sent).background(image(1.0), MODEL)
    assert np.array_equal(np.stack(again.counts), COUNTS)


def test_the_map_is_left_alone(tmp_path):
    write(tmp_path / "dark.npz", counts=COUNTS, exposure_time=1.0)
    corrector = make(f"map.file={tmp_path}/dark.npz\nconstant=1")
    first, second = (corrector.background(image(1.0), MODEL) for _ in range(2))
    assert np.array_equal(first.counts[0], second.counts[0])


def test_an_image_is_read_in_photons_with_its_own_exposure_time(tmp_path):
    model = pilatus((1, 1), 100.0, header_beam(1.0)).geometry
    shape = model.panels[0].shape
    counts = np.random.default_rng(1).poisson(3.0, shape).astype(np.int32)
    counts[3, :5] = -1
    write_cbf(tmp_path / "dark_00001.cbf", "dark_00001", counts, model, 0.5)
    background = make(f"map.file={tmp_path}/dark_00001.cbf").background(image(1.0), model)
    assert np.allclose(background.counts[0], 2 * np.maximum(counts, 0))
    assert np.allclose(background.variance[0], 4 * np.maximum(counts, 0))


def test_nothing_to_subtract_is_refused():
    with pytest.raises(ConfigError, match="constant= or map.file="):
        make("")


def test_an_exposure_time_that_is_not_known_is_asked_for(tmp_path):
    np.save(tmp_path / "dark.npy", COUNTS)
    with pytest.raises(ConfigError, match="dark.npy.*map.exposure_time="):
        make(f"map.file={tmp_path}/dark.npy")
    with pytest.raises(ConfigError, match="map.exposure_time=0"):
        make(f"map.file={tmp_path}/dark.npy\nmap.exposure_time=0")


def test_a_map_of_another_detector_is_named(tmp_path):
    np.save(tmp_path / "dark.npy", COUNTS[0])
    corrector = make(f"map.file={tmp_path}/dark.npy\nmap.exposure_time=1")
    with pytest.raises(DataError, match=r"dark.npy .*\(60, 50\).* a.cbf"):
        corrector.background(image(1.0), MODEL)


def bad_files(folder) -> set[str]:
    np.save(folder / "nan.npy", np.full((3, 3), np.nan))
    np.save(folder / "text.npy", np.array([["a", "b"]]))
    np.save(folder / "object.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    np.save(folder / "line.npy", np.ones(5))
    write(folder / "names.npz", other=COUNTS)
    write(folder / "shapes.npz", counts=COUNTS, variance=COUNTS[0])
    write(folder / "negative.npz", counts=COUNTS, variance=-COUNTS - 1)
    write(folder / "names.h5", other=COUNTS)
    for name in ("cut.npy", "cut.npz", "cut.h5", "cut.cbf"):
        (folder / name).write_bytes(b"\x93NUMPY nothing of the kind")
    (folder / "empty.npy").write_bytes(b"")
    return {path.name for path in folder.iterdir()} | {"absent.npy", "absent.h5", "absent.cbf"}


def test_files_that_hold_no_map_are_named(tmp_path):
    for name in sorted(bad_files(tmp_path)):
        with pytest.raises(DataError, match=name):
            make(f"map.file={tmp_path}/{name}\nmap.exposure_time=1")
