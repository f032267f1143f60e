"""The file of the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffuse_framework.errors import DataError
from diffuse_framework.simulate import truth as truth_file
from diffuse_framework.simulate.detector import header_beam, one_panel
from diffuse_framework.simulate.experiment import SimulationSettings, simulate

pytest.importorskip("h5py")


def test_truth_comes_back(tmp_path):
    detector = one_panel((100, 80), 20.0, header_beam(1.1))
    simulation = simulate(
        SimulationSettings(n_images=3, cell=(20, 22, 24, 90, 90, 90), detector=detector, offset=0.3, seed=8)
    )
    path = tmp_path / "truth.h5"
    simulation.truth.save(path)
    found, wanted = truth_file.load(path), simulation.truth
    assert found.names == wanted.names
    assert found.bragg == wanted.bragg
    assert found.intensity.parameters == wanted.intensity.parameters
    assert found.intensity.cell == wanted.intensity.cell
    for name in ("scales", "offsets", "setting_matrices", "exposure_s", "photons_per_unit", "seed"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.intensity.symmetry.space_group == "P212121"
    hkl = np.random.default_rng(0).uniform(-5, 5, (100, 3))
    np.testing.assert_array_equal(found.intensity.diffuse(hkl), wanted.intensity.diffuse(hkl))
    # Whoever has the truth and the detector has the images.
    again = replace(simulation.source, truth=found)
    np.testing.assert_array_equal(again.read(1).counts[0], simulation.source.read(1).counts[0])


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.h5"
    path.write_text("not HDF5")
    with pytest.raises(DataError, match="other.h5"):
        truth_file.load(path)
    with pytest.raises(DataError, match="nothing.h5"):
        truth_file.load(tmp_path / "nothing.h5")
