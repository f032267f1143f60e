"""Sweeps processed by XDS."""

from __future__ import annotations

import numpy as np
import pytest
from dxtbx.model.experiment_list import ExperimentListFactory
from dxtbx.serialize import xds

from diffuse_framework.adapters.images.open import open_source
from diffuse_framework.adapters.images.sequences import orientations
from diffuse_framework.adapters.images.xds import read_xds
from diffuse_framework.algorithms.rotation import misorientation_deg
from diffuse_framework.command_line.simulate import run as simulate
from diffuse_framework.errors import DataError


def test_geometry_and_crystal_of_xds_are_taken(tmp_path):
    simulate(
        [
            "images=4",
            "rotation.width=1",
            "rotation.start=30",
            "detector.model=300K",
            "mp.nproc=1",
            f"output.directory={tmp_path}/sim",
        ]
    )
    (true,) = ExperimentListFactory.from_json_file(str(tmp_path / "sim/truth.expt"))
    folder = tmp_path / "xds"
    folder.mkdir()
    writer = xds.to_xds(true.imageset)
    (folder / "XDS.INP").write_text(writer.XDS_INP())
    axes = true.crystal.get_real_space_vectors()
    (folder / "XPARM.XDS").write_text(writer.xparm_xds(*axes, true.crystal.get_space_group().type().number()))
    experiments, table = read_xds(folder)
    assert table is None
    source = open_source(experiments)
    assert len(source) == 4
    # XDS has a frame of its own: the lattice is compared in that of the detector.
    (found,) = experiments
    settings, rotations = orientations(found)
    expected, _ = orientations(true)
    frame = np.array(found.goniometer.get_rotation_axis())
    assert np.allclose(frame, true.goniometer.get_rotation_axis(), atol=1e-6)
    assert [rotation.angle_deg for rotation in rotations] == pytest.approx([30.5, 31.5, 32.5, 33.5])
    for first, second in zip(settings, expected, strict=True):
        assert misorientation_deg(first, second) < 0.01


def test_a_folder_without_xds_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="must hold XDS.INP and one of XDS_ASCII.HKL"):
        read_xds(tmp_path)
