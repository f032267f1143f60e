"""Stills and rotations told apart, and headers that lie."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from dials.util.options import geometry_phil_scope
from libtbx.phil import parse

from diffuse_framework.adapters.images.detection import choose_kind, detect
from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.adapters.images.sequences import SequenceSource
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.errors import GeometryError
from diffuse_framework.simulate.cbf import write_cbf
from diffuse_framework.simulate.detector import header_beam, pilatus

GEOMETRY = pilatus((1, 1), 100.0, header_beam(1.0)).geometry


def write(folder: Path, stem: str, angles: list[tuple[float, float]]) -> list[str]:
    """Write tiny images that start and turn as `angles` say."""
    folder.mkdir(exist_ok=True)
    (panel,) = GEOMETRY.panels
    paths = []
    for number, (start, width) in enumerate(angles):
        path = folder / f"{stem}_{number + 1:05d}.cbf"
        write_cbf(path, path.name, np.full(panel.shape, number, np.int32), GEOMETRY, 0.1, start, width)
        paths.append(str(path))
    return paths


def overrides(text: str):
    """Values of the geometry scope."""
    return geometry_phil_scope.fetch(parse(text)).extract().geometry


@pytest.mark.parametrize(
    ("angles", "kind", "reason"),
    [
        ([(0.5 * n, 0.5) for n in range(4)], "rotation", "0.5 degrees an image, from 0 to 2 degrees"),
        ([(0.0, 0.0)] * 3, "stills", "the headers say 0 degrees an image"),
        ([(0.0, 1e-6)] * 3, "stills", "degrees an image"),
        ([(30.0, 0.1)] * 3, "stills", "all 3 begin at 30 degrees: the crystal was not turned"),
        ([(30.0, 0.1)], "rotation", "0.1 degrees an image, from 30 to 30.1 degrees"),
    ],
    ids=["rotation", "stills", "tiny width", "one angle", "one image"],
)
def test_data_sets_are_taken_for_what_they_are(tmp_path, angles, kind, reason, caplog):
    experiments = images_from_files(write(tmp_path, "a", angles))
    (found,) = detect(experiments)
    assert (found.kind, found.n_images) == (kind, len(angles))
    assert reason in found.reason
    with caplog.at_level(logging.INFO, "diffuse_framework"):
        source = open_source(experiments)
    assert isinstance(source, SequenceSource) == (kind == "rotation")
    assert isinstance(source, DxtbxSource)
    assert reason in caplog.text
    assert len(source) == len(angles)
    assert [source.read(number).counts[0].max() for number in range(len(source))] == list(range(len(angles)))


def test_stills_and_rotations_together_are_refused_with_a_list(tmp_path):
    paths = write(tmp_path, "turned", [(0.0, 0.5), (0.5, 0.5)]) + write(tmp_path, "still", [(0.0, 0.0)] * 2)
    with pytest.raises(GeometryError) as caught:
        open_source(images_from_files(paths))
    assert "turned_#####.cbf (2 images): rotation" in str(caught.value)
    assert "still_#####.cbf (2 images): stills" in str(caught.value)


def test_many_data_sets_of_one_kind_take_one_line(tmp_path, caplog):
    experiments = images_from_files(write(tmp_path / "0", "a", [(0.0, 0.0)]))
    for number in range(1, 20):
        experiments.extend(images_from_files(write(tmp_path / f"{number}", "a", [(0.0, 0.0)])))
    with caplog.at_level(logging.INFO, "diffuse_framework"):
        assert choose_kind(detect(experiments)) == "stills"
    (line,) = caplog.messages
    assert "(20 images): stills: the headers say 0 degrees an image" in line and len(line) < 120


def test_the_choice_can_be_overridden(tmp_path):
    paths = write(tmp_path, "a", [(0.5 * n, 0.5) for n in range(3)])
    assert not isinstance(open_source(images_from_files(paths), kind="stills"), SequenceSource)
    stills = write(tmp_path, "b", [(0.0, 0.0)] * 3)
    with pytest.raises(GeometryError, match="Give geometry.scan.oscillation=start,width"):
        open_source(images_from_files(stills), kind="rotation")


def test_stills_at_different_angles_may_be_rotations(tmp_path, caplog):
    experiments = images_from_files(write(tmp_path, "a", [(float(n), 0.0) for n in range(4)]))
    with caplog.at_level(logging.WARNING, "diffuse_framework"):
        assert choose_kind(detect(experiments)) == "stills"
    assert "taken at 0 to 3 degrees" in caplog.text
    assert "give geometry.scan.oscillation=start,1" in caplog.text


def test_a_scan_given_by_hand_makes_a_sweep(tmp_path):
    experiments = images_from_files(write(tmp_path, "a", [(float(n), 0.0) for n in range(4)]))
    text = "geometry.scan.oscillation=-0.5,1\ngeometry.goniometer.axis=0,1,0\n"
    text += "geometry.beam.polarization_fraction=0.9"
    source = open_source(experiments, overrides=overrides(text))
    assert isinstance(source, SequenceSource)
    (sweep,) = source.sweeps
    assert sweep.experiment.scan.get_oscillation() == pytest.approx((-0.5, 1.0))
    assert sweep.experiment.goniometer.get_rotation_axis() == pytest.approx((0, 1, 0))
    assert sweep.experiment.imageset.get_scan().get_num_images() == 4
    assert source.geometry(0).beam.polarization_fraction == pytest.approx(0.9)
    assert [source.exposure_s(number) for number in range(4)] == pytest.approx([0.1] * 4)


def test_two_sweeps_are_two(tmp_path):
    paths = write(tmp_path / "x", "a", [(n * 0.5, 0.5) for n in range(3)])
    paths += write(tmp_path / "y", "a", [(90 + n, 1.0) for n in range(2)])
    source = open_source(images_from_files(paths))
    assert [(sweep.first, sweep.n_images) for sweep in source.sweeps] == [(0, 3), (3, 2)]
    assert len(set(source.names)) == 5
