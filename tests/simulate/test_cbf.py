"""mini-CBF files as dxtbx reads them back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

pytest.importorskip("dxtbx")

from diffuse_framework.adapters.images.open import images_from_files
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.tables.attenuation import sensor_mu_per_mm
from diffuse_framework.errors import ConfigError
from diffuse_framework.simulate.cbf import compress, write_cbf
from diffuse_framework.simulate.detector import Sensor, header_beam, one_panel, pilatus
from diffuse_framework.simulate.experiment import SimulationSettings, simulate
from diffuse_framework.simulate.images import ModuleSource


@settings(deadline=None)
@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2), elements=st.integers(-(2**31), 2**31 - 1)))
def test_compressed_values_come_back(values):
    # A step of more than four bytes can't be written; no photon count needs one.
    values = values // 2
    _check_compression(values)


@pytest.mark.parametrize("step", [0, 1, 127, 128, 129, 255, 256, 32767, 32768, 32769, 65536, 2**30])
def test_steps_at_the_ends_of_each_width_come_back(step):
    _check_compression(np.array([[0, step, 0, -step, -1]], np.int32))


def _check_compression(values):
    from dxtbx import flumpy
    from dxtbx.ext import uncompress

    slow, fast = values.shape
    back = flumpy.to_numpy(uncompress(packed=compress(values), fast=fast, slow=slow))
    np.testing.assert_array_equal(back, values)


def detectors():
    """Return detectors that a header can describe."""
    beam = header_beam(0.9763)
    silicon = Sensor("Si", 0.32, sensor_mu_per_mm("Si", 0.9763))
    cadmium = Sensor("CdTe", 1.0, sensor_mu_per_mm("CdTe", 0.9763))
    return {
        "100K": pilatus((1, 1), 123.456789, beam, (211.37, 88.123456), silicon),
        "300K": pilatus((1, 3), 100.0, beam, None, silicon),
        "CdTe": pilatus((1, 1), 80.1, beam, None, cadmium),
        "plain": one_panel((150, 90), 55.5, beam, (-10.25, 200.5), silicon, pixel_mm=0.075),
        "no sensor": one_panel((150, 90), 55.5, beam, None, None),
    }


@pytest.mark.parametrize("kind", detectors())
def test_files_give_back_counts_and_geometry(kind, tmp_path):
    detector = detectors()[kind]
    simulation = simulate(
        SimulationSettings(n_images=2, cell=(20, 22, 24, 90, 90, 90), detector=detector, exposure_s=0.0125)
    )
    paths = []
    for index, name in enumerate(simulation.source.names):
        paths.append(tmp_path / name)
        frame = simulation.source.read(index)
        write_cbf(paths[-1], name, frame.counts[0], detector.geometry, 0.0125)
    source = DxtbxSource(images_from_files([str(path) for path in paths]))
    assert source.names == simulation.source.names
    for index in range(2):
        np.testing.assert_array_equal(source.read(index).counts[0], simulation.source.read(index).counts[0])
        assert source.exposure_s(index) == pytest.approx(0.0125)
    check_geometry(source.geometry(0), detector.geometry)


def check_geometry(found, wanted):
    """Compare all that dxtbx takes from a header."""
    np.testing.assert_allclose(found.beam.s0, wanted.beam.s0, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(found.beam.polarization_normal, wanted.beam.polarization_normal)
    assert found.beam.polarization_fraction == pytest.approx(wanted.beam.polarization_fraction)
    for a, b in zip(found.panels, wanted.panels, strict=True):
        assert (a.shape, a.parallax, a.gain, a.pedestal) == (b.shape, b.parallax, b.gain, b.pedestal)
        np.testing.assert_allclose(a.origin_mm, b.origin_mm, rtol=1e-9)
        np.testing.assert_allclose(a.fast_axis, b.fast_axis, atol=1e-15)
        np.testing.assert_allclose(a.slow_axis, b.slow_axis, atol=1e-15)
        np.testing.assert_allclose(a.pixel_size_mm, b.pixel_size_mm, rtol=1e-12)
        assert a.thickness_mm == pytest.approx(b.thickness_mm)
        assert a.mu_per_mm == pytest.approx(b.mu_per_mm)
        assert a.material == b.material
        assert -1 < a.trusted_range[0] <= 0
        assert a.trusted_range[1] == pytest.approx(b.trusted_range[1], abs=1.1)


def test_dxtbx_splits_files_into_the_modules_of_module_source(tmp_path):
    detector = pilatus((2, 1), 60.0, header_beam(1.0), None, Sensor(mu_per_mm=sensor_mu_per_mm("Si", 1.0)))
    whole = simulate(SimulationSettings(n_images=1, cell=(20, 22, 24, 90, 90, 90), detector=detector)).source
    path = tmp_path / "sim_00001.cbf"
    write_cbf(path, path.name, whole.read(0).counts[0], detector.geometry, 0.1)
    from dxtbx import flumpy
    from dxtbx.format.FormatCBFMiniPilatus import FormatCBFMiniPilatus

    from diffuse_framework.adapters.models.geometry import geometry_of

    image = FormatCBFMiniPilatus(str(path), multi_panel=True)
    found = geometry_of(image.get_beam(), image.get_detector())
    ours = ModuleSource(whole)
    check_geometry(found, ours.geometry(0))
    for a, b in zip(image.get_raw_data(), ours.read(0).counts, strict=True):
        np.testing.assert_array_equal(flumpy.to_numpy(a), b)


def test_geometry_that_no_header_holds_is_refused(tmp_path):
    whole = simulate(SimulationSettings(n_images=1, cell=(20, 22, 24, 90, 90, 90))).source
    parts = ModuleSource(whole)
    with pytest.raises(ConfigError, match="panel"):
        write_cbf(tmp_path / "x.cbf", "x.cbf", parts.read(0).counts[0], parts.geometry(0), 0.1)
