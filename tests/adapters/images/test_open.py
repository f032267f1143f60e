"""From files to a source of images: geometry that is replaced, masks that came along."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dials.util.options import geometry_phil_scope
from dxtbx import flumpy
from dxtbx.format.image import ImageBool
from iotbx.phil import parse
from scitbx.array_family import flex

from diffuse_framework.adapters.images.open import PanelValues, all_have_crystals, images_from_files, open_source
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.command_line import simulate
from diffuse_framework.errors import ConfigError, DataError, GeometryError
from diffuse_framework.model.source import Frame


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stills")
    simulate.run([f"output.directory={folder}", "images=3", "mp.nproc=1", "exposure_time=0.25"])
    return sorted(str(path) for path in folder.glob("*.cbf"))


def overrides(text: str):
    return geometry_phil_scope.fetch(parse(text)).extract().geometry


def test_a_source_reads_what_was_written_in_any_process(stills):
    source = open_source(images_from_files(stills))
    assert source.names == ("sim_00001.cbf", "sim_00002.cbf", "sim_00003.cbf")
    assert source.exposure_s(1) == pytest.approx(0.25)
    again = pickle.loads(pickle.dumps(source))
    assert (source.read(2).counts[0] == again.read(2).counts[0]).all()
    assert not all_have_crystals(source)


def test_single_values_replace_those_of_the_headers(stills):
    text = "geometry.beam.wavelength = 1.1\ngeometry.beam.polarization_fraction = 0.9\ngeometry.detector.distance = 123"
    geometry = open_source(images_from_files(stills), overrides=overrides(text)).geometry(2)
    assert geometry.beam.wavelength == pytest.approx(1.1)
    assert geometry.beam.polarization_fraction == pytest.approx(0.9)
    assert geometry.panels[0].origin_mm[2] == pytest.approx(-123)


def test_values_of_all_panels_replace_those_of_the_headers(stills):
    values = PanelValues(gain=2.0, pedestal=3.0, trusted_range=(-50, 1000), read_noise=(0.4,))
    source = open_source(images_from_files(stills), panels=values)
    for one in (source, pickle.loads(pickle.dumps(source))):
        panel = one.geometry(1).panels[0]
        assert (panel.gain, panel.pedestal, panel.read_noise) == (2.0, 3.0, 0.4)
        assert panel.trusted_range == pytest.approx((-50, 1000))
    # What DIALS indexes with.
    assert source.experiments[0].detector[0].get_trusted_range() == (-50, 1000)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (PanelValues(read_noise=(0.1, 0.2)), "detector.read_noise has 2 values, the detector 1 panels"),
        (PanelValues(trusted_range=(10, 10)), "detector.trusted_range=10,10 is empty"),
    ],
)
def test_values_that_fit_no_panel_are_refused(stills, values, message):
    with pytest.raises(ConfigError, match=message):
        open_source(images_from_files(stills), panels=values)


def test_a_reference_geometry_replaces_beam_and_detector(stills, tmp_path):
    reference = images_from_files(stills[:1])
    reference[0].beam.set_wavelength(1.3)
    reference.as_file(str(tmp_path / "reference.expt"))
    source = open_source(images_from_files(stills), reference_geometry=tmp_path / "reference.expt")
    assert [source.geometry(n).beam.wavelength for n in range(3)] == pytest.approx([1.3] * 3)


def test_a_reference_of_another_detector_is_refused(stills, tmp_path):
    reference = images_from_files(stills[:1])
    reference[0].detector[0].set_image_size((100, 200))
    reference.as_file(str(tmp_path / "reference.expt"))
    with pytest.raises(GeometryError, match=r"100, 200"):
        open_source(images_from_files(stills), reference_geometry=tmp_path / "reference.expt")


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_reference_that_is_none_is_refused(stills, tmp_path, content):
    (tmp_path / "reference.expt").write_text(content)
    with pytest.raises((DataError, GeometryError), match=r"reference\.expt"):
        open_source(images_from_files(stills), reference_geometry=tmp_path / "reference.expt")


def test_a_mask_that_was_applied_with_dials_is_used(stills):
    experiments = images_from_files(stills)
    mask = np.ones((619, 487), bool)
    mask[100:120] = False
    for experiment in experiments:
        experiment.imageset.external_lookup.mask.data = ImageBool(flumpy.from_numpy(mask))
    trusted = open_source(experiments).trusted_pixels(1)
    assert not trusted[0][100:120].any()
    assert trusted[0][50, 50]


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "notes.cbf").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.cbf"):
        images_from_files([str(tmp_path / "notes.cbf")])


def as_of_another_period(stills, folder, period_s):
    """The first images again, with the period of a detector that rests between images in their headers."""
    folder.mkdir()
    for path in map(Path, stills[:2]):
        content = path.read_bytes()
        start = content.index(b"# Exposure_period ")
        end = content.index(b" s", start)
        (folder / path.name).write_bytes(content[:start] + b"# Exposure_period %g" % period_s + content[end:])
    return sorted(str(path) for path in folder.glob("*.cbf"))


def test_the_exposure_time_is_not_the_period_from_image_to_image(stills, tmp_path):
    files = as_of_another_period(stills, tmp_path / "resting", 0.5)
    experiments = images_from_files(files)
    source = open_source(experiments)
    assert [source.exposure_s(n) for n in range(2)] == [0.25, 0.25]


def test_an_exposure_time_that_the_user_set_stays(stills, tmp_path):
    experiments = images_from_files(as_of_another_period(stills, tmp_path / "set", 0.5))
    for experiment in experiments:
        experiment.scan.set_exposure_times(flex.double([0.4]))
    assert open_source(experiments).exposure_s(0) == 0.4


def test_experiments_without_scan_have_the_exposure_time_of_their_headers(stills):
    source = open_source(open_source(images_from_files(stills[:2])).experiments)
    assert source.exposure_s(0) == 0.25
    assert source.without_exposure == ()


def test_an_exposure_time_that_is_guessed_is_said(stills, tmp_path, caplog):
    files = []
    for path in map(Path, stills[:2]):
        files.append(tmp_path / path.name)
        files[-1].write_bytes(path.read_bytes())
    experiments = open_source(images_from_files([str(path) for path in files])).experiments
    for path in files:
        path.write_bytes(path.read_bytes().replace(b"# Exposure_time", b"# Exposed_about"))
    with caplog.at_level(logging.WARNING):
        source = open_source(experiments)
    assert source.exposure_s(0) == 1.0
    assert caplog.text.count("exposure time of 2 of 2 images") == 1


class Charge:
    """Reads images as a detector that integrates charge would give them: 20 a photon above 100, with noise of 4."""

    def __init__(self, read):
        self.read = read

    def __call__(self, source, index):
        frame = self.read(source, index)
        rng = np.random.default_rng(index)
        raw = [
            np.where(counts < 0, -1e6, 20.0 * counts + 100 + 4 * rng.normal(size=counts.shape))
            for counts in frame.counts
        ]
        return replace(frame, counts=tuple(raw))


@pytest.fixture
def charged(monkeypatch):
    as_charge = Charge(DxtbxSource.read)
    monkeypatch.setattr(DxtbxSource, "read", lambda self, index: as_charge(self, index))


def test_raw_values_that_are_no_photons_are_warned_of_and_left_alone(stills, charged, caplog):
    caplog.set_level(logging.INFO)
    source = open_source(images_from_files(stills), panels=PanelValues(trusted_range=(-1000, 1e6)))
    said = [record.getMessage() for record in caplog.records if "are not photons" in record.getMessage()]
    assert len(said) == 1
    assert "gain 1 and pedestal 0" in said[0]
    gain = float(said[0].split("detector.gain=")[1].split()[0].rstrip(","))
    pedestal = float(said[0].split("detector.pedestal=")[1].split()[0].rstrip(","))
    assert gain == pytest.approx(20, rel=0.25)
    assert pedestal == pytest.approx(100, abs=12)
    panel = source.geometry(0).panels[0]
    assert (panel.gain, panel.pedestal) == (1, 0)


def test_estimated_values_are_taken_where_they_are_asked_for(stills, charged, caplog):
    caplog.set_level(logging.INFO)
    values = PanelValues(trusted_range=(-1000, 1e6), estimate=("gain", "pedestal"))
    source = open_source(images_from_files(stills), panels=values)
    panel = source.geometry(2).panels[0]
    assert panel.gain == pytest.approx(20, rel=0.25)
    assert panel.pedestal == pytest.approx(100, abs=12)
    # What DIALS indexes with.
    assert source.experiments[0].detector[0].get_gain() == panel.gain
    assert "Estimated from" in caplog.text and "are not photons" not in caplog.text


def test_photons_are_not_warned_of(stills, caplog):
    open_source(images_from_files(stills))
    assert "photons" not in caplog.text


def test_an_estimate_that_images_do_not_allow_is_refused(stills, monkeypatch):
    monkeypatch.setattr(DxtbxSource, "read", lambda self, index: Frame("a", (np.zeros((619, 487)),)))
    with pytest.raises(ConfigError, match=r"detector.gain=estimate: the images have too few smooth parts"):
        open_source(images_from_files(stills), panels=PanelValues(estimate=("gain",)))
