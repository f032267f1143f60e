"""Sweeps processed by XDS."""

from __future__ import annotations

import numpy as np
import pytest
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory
from dxtbx.serialize import xds

from diffuse_framework.adapters.images.open import open_source
from diffuse_framework.adapters.images.sequences import orientations, spots_by_frame
from diffuse_framework.adapters.images.xds import read_xds
from diffuse_framework.algorithms.rotation import misorientation_deg
from diffuse_framework.command_line.simulate import run as simulate
from diffuse_framework.errors import DataError


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """True models of a sweep of four images, and the folder they are in."""
    folder = tmp_path_factory.mktemp("sim")
    simulate(
        [
            "images=4",
            "rotation.width=1",
            "rotation.start=30",
            "detector.model=300K",
            "mp.nproc=1",
            f"output.directory={folder}",
        ]
    )
    (true,) = ExperimentListFactory.from_json_file(str(folder / "truth.expt"))
    return true, folder


def assert_is_the_true_lattice(found, true):
    # XDS has a frame of its own: the lattice is compared in that of the detector.
    settings, rotations = orientations(found)
    expected, _ = orientations(true)
    frame = np.array(found.goniometer.get_rotation_axis())
    assert np.allclose(frame, true.goniometer.get_rotation_axis(), atol=1e-6)
    assert [rotation.angle_deg for rotation in rotations] == pytest.approx([30.5, 31.5, 32.5, 33.5])
    for first, second in zip(settings, expected, strict=True):
        assert misorientation_deg(first, second) < 0.01


def test_geometry_and_crystal_of_xds_are_taken(simulated, tmp_path):
    true, _ = simulated
    writer = xds.to_xds(true.imageset)
    (tmp_path / "XDS.INP").write_text(writer.XDS_INP())
    axes = true.crystal.get_real_space_vectors()
    (tmp_path / "XPARM.XDS").write_text(writer.xparm_xds(*axes, true.crystal.get_space_group().type().number()))
    experiments, table = read_xds(tmp_path)
    assert table is None
    assert len(open_source(experiments)) == 4
    assert_is_the_true_lattice(experiments[0], true)


def integrate_hkl(true, reflections, unobserved: int) -> str:
    """Return the text of INTEGRATE.HKL; XDS gives zeros for where it observed the last `unobserved` reflections."""
    writer = xds.to_xds(true.imageset)
    # The axes of XPARM.XDS, which are in the frame of XDS.
    lines = writer.xparm_xds(*true.crystal.get_real_space_vectors(), 1).splitlines()
    a, b, c = lines[4:7]
    (nx, ny), (qx, qy) = writer.detector_size, writer.pixel_size

    def numbers(values) -> str:
        return " ".join(f"{value:.6f}" for value in values)

    header = [
        "OUTPUT_FILE=INTEGRATE.HKL    DATE= 1-Jan-2020",
        "SPACE_GROUP_NUMBER=    1",
        f"UNIT_CELL_CONSTANTS= {numbers(true.crystal.get_unit_cell().parameters())}",
        f"NAME_TEMPLATE_OF_DATA_FRAMES={true.imageset.get_template().replace('#', '?')}",
        "DETECTOR=PILATUS",
        f"NX= {nx}  NY= {ny}    QX= {qx}  QY= {qy}",
        f"STARTING_FRAME= {writer.starting_frame}",
        f"STARTING_ANGLE= {writer.starting_angle}",
        f"OSCILLATION_RANGE= {writer.oscillation_range}",
        f"ROTATION_AXIS= {numbers(writer.rotation_axis)}",
        f"X-RAY_WAVELENGTH= {writer.wavelength}",
        f"INCIDENT_BEAM_DIRECTION= {numbers(writer.beam_vector)}",
        f"DIRECTION_OF_DETECTOR_X-AXIS= {numbers(writer.detector_x_axis)}",
        f"DIRECTION_OF_DETECTOR_Y-AXIS= {numbers(writer.detector_y_axis)}",
        f"ORGX= {writer.detector_origin[0]}  ORGY= {writer.detector_origin[1]}",
        f"DETECTOR_DISTANCE= {writer.detector_distance}",
        f"UNIT_CELL_A-AXIS= {a}",
        f"UNIT_CELL_B-AXIS= {b}",
        f"UNIT_CELL_C-AXIS= {c}",
        "BEAM_DIVERGENCE_E.S.D.= 0.05",
        "REFLECTING_RANGE_E.S.D.= 0.1",
        "MINPK= 75.0",
        "CUT= 2.0",
        "VARIANCE_MODEL= 1.0 0.0001",
        "END_OF_HEADER",
    ]
    rows = []
    for number, (hkl, calculated) in enumerate(zip(reflections["miller_index"], reflections["xyzcal.px"], strict=True)):
        observed = (0.0, 0.0, 0.0) if number >= len(reflections) - unobserved else calculated
        rest = "0.0 0.0 0.0 0.0 0.0"
        rows.append(
            f"{' '.join(map(str, hkl))} 100.0 12.0 {numbers(calculated)} 0.5 100.0 90 50 {numbers(observed)} {rest}"
        )
    return "\n".join([*(f"!{line}" for line in header), *rows, "!END_OF_DATA", ""])


def test_reflections_of_integrate_hkl_are_taken(simulated, tmp_path):
    true, folder = simulated
    reflections = flex.reflection_table.from_file(str(folder / "truth.refl"))
    (tmp_path / "XDS.INP").write_text(xds.to_xds(true.imageset).XDS_INP())
    (tmp_path / "INTEGRATE.HKL").write_text(integrate_hkl(true, reflections, unobserved=5))
    experiments, table = read_xds(tmp_path)
    assert_is_the_true_lattice(experiments[0], true)
    assert list(table["miller_index"]) == list(reflections["miller_index"])
    spots = spots_by_frame(table, experiments[0])
    assert sum(len(of_image.hkl) for of_image in spots) == len(reflections) > 20
    predicted, observed = (
        np.concatenate([getattr(s, f"{name}_px") for s in spots]) for name in ("predicted", "observed")
    )
    # A reflection that XDS did not observe has no observed position: not that of the corner, nor the predicted one.
    seen = np.isfinite(observed).all(axis=1)
    assert (~seen).sum() == 5
    np.testing.assert_allclose(observed[seen], predicted[seen], atol=1e-4)
    # Counts without the correction of Lorentz' factor that XDS has made: 100 / 0.5.
    assert np.concatenate([s.intensity for s in spots]) == pytest.approx(200.0)


def test_a_folder_without_xds_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="must hold XDS.INP and one of XDS_ASCII.HKL"):
        read_xds(tmp_path)
