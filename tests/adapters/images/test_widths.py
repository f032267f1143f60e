"""Images of no width that dxtbx of DIALS 3.30 joins into sweeps, on every road by which images come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dials.util.options import ArgumentParser, flatten_experiments
from dxtbx import flumpy
from dxtbx.format.image import ImageBool
from dxtbx.imageset import ImageSetFactory
from dxtbx.model import Crystal, Experiment, ExperimentList, Scan
from dxtbx.model.experiment_list import ExperimentListFactory
from iotbx.phil import parse
from scitbx.array_family import flex

from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.adapters.images.sequences import SequenceSource
from diffuse_framework.adapters.images.widths import with_header_widths
from diffuse_framework.command_line.shared.arguments import parse_arguments
from diffuse_framework.simulate.cbf import write_cbf
from diffuse_framework.simulate.detector import header_beam, pilatus

GEOMETRY = pilatus((1, 1), 100.0, header_beam(1.0)).geometry


def write(folder: Path, angles: list[tuple[float, float]]) -> list[str]:
    """Write tiny images that start and turn as `angles` say; the counts of each are its number."""
    (panel,) = GEOMETRY.panels
    paths = []
    for number, (start, width) in enumerate(angles):
        path = folder / f"a_{number + 1:05d}.cbf"
        write_cbf(path, path.name, np.full(panel.shape, number, np.int32), GEOMETRY, 0.1 + number, start, width)
        paths.append(str(path))
    return paths


def sweep(paths: list[str], first: int, n_images: int, start: float, width: float) -> Experiment:
    """Return a sweep of some of the files, whatever their headers say."""
    (model, *_) = images_from_files(paths[:1])
    scan = Scan((first, first + n_images - 1), (start, width))
    scan.set_exposure_times(flex.double(0.1 + number for number in range(first - 1, first + n_images - 1)))
    imageset = ImageSetFactory.make_sequence(
        model.imageset.get_template(),
        list(range(first, first + n_images)),
        format_class=model.imageset.get_format_class(),
        beam=model.beam,
        detector=model.detector,
        goniometer=model.goniometer,
        scan=scan,
    )
    return Experiment(
        imageset=imageset, beam=model.beam, detector=model.detector, goniometer=model.goniometer, scan=scan
    )


def joined_in_pairs(paths: list[str], step: float) -> ExperimentList:
    """Return what dxtbx of 3.30 makes of images of no width, `step` degrees from one to the next."""
    parts = []
    for first in range(1, len(paths) + 1, 2):
        n_images = min(2, len(paths) + 1 - first)
        parts.append(sweep(paths, first, n_images, (first - 1) * step, step if n_images == 2 else 0.0))
    return ExperimentList(parts)


def assert_one_series_of_stills(experiments: ExperimentList, n_images: int) -> None:
    assert len(experiments) == n_images
    assert len(experiments.imagesets()) == 1
    assert [experiment.scan.get_oscillation()[1] for experiment in experiments] == [0.0] * n_images
    source = open_source(experiments)
    assert not isinstance(source, SequenceSource)
    assert [source.read(number).counts[0].max() for number in range(n_images)] == list(range(n_images))
    assert [source.exposure_s(number) for number in range(n_images)] == pytest.approx(np.arange(n_images) + 0.1)


@pytest.mark.parametrize("step", [1.0, -0.25, 0.01])
@pytest.mark.parametrize("n_images", [2, 3, 6])
def test_files_of_no_width_are_stills_whatever_their_angles(tmp_path, n_images, step):
    paths = write(tmp_path, [(number * step, 0.0) for number in range(n_images)])
    assert_one_series_of_stills(images_from_files(paths), n_images)


@pytest.mark.parametrize("n_images", [2, 5])
def test_files_that_the_parser_of_dials_reads_are_stills_too_and_stdout_is_ours(tmp_path, n_images, capsys):
    paths = write(tmp_path, [(number * 0.5, 0.0) for number in range(n_images)])
    parser = ArgumentParser(phil=parse(""), read_experiments=True, read_experiments_from_images=True)
    params, _ = parse_arguments(parser, paths)
    assert_one_series_of_stills(with_header_widths(flatten_experiments(params.input.experiments)), n_images)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("n_images", [2, 5])
def test_pairs_in_a_file_of_experiments_are_taken_apart(tmp_path, n_images):
    paths = write(tmp_path, [(float(number), 0.0) for number in range(n_images)])
    joined_in_pairs(paths, 1.0).as_file(str(tmp_path / "imported.expt"))
    again = ExperimentListFactory.from_json_file(str(tmp_path / "imported.expt"))
    assert len(again) == (n_images + 1) // 2
    assert_one_series_of_stills(with_header_widths(again), n_images)


def test_a_mask_stays_with_pairs_that_are_taken_apart(tmp_path):
    paths = write(tmp_path, [(float(number), 0.0) for number in range(2)])
    experiments = joined_in_pairs(paths, 1.0)
    mask = np.ones(GEOMETRY.panels[0].shape, bool)
    mask[10:20] = False
    experiments[0].imageset.external_lookup.mask.data = ImageBool(flumpy.from_numpy(mask))
    trusted = open_source(experiments).trusted_pixels(1)
    assert not trusted[0][10:20].any() and trusted[0][5, 5]


def test_a_sweep_between_stills_stays_one(tmp_path):
    paths = write(tmp_path, [(0.0, 0.0), (1.0, 0.0), (2.0, 0.5), (2.5, 0.5), (7.0, 0.0), (8.0, 0.0)])
    parts = [sweep(paths, 1, 2, 0.0, 1.0), sweep(paths, 3, 2, 2.0, 0.5), sweep(paths, 5, 2, 7.0, 1.0)]
    found = with_header_widths(ExperimentList(parts))
    assert [experiment.scan.get_image_range() for experiment in found] == [(1, 1), (2, 2), (3, 4), (5, 5), (6, 6)]
    assert [experiment.scan.get_oscillation()[1] for experiment in found] == pytest.approx([0, 0, 0.5, 0, 0])


def test_sweeps_that_were_said_to_be_sweeps_stay_as_they_are(tmp_path):
    paths = write(tmp_path, [(float(number), 0.0) for number in range(4)])
    shifted, long, indexed = (
        ExperimentList([sweep(paths, *scan)]) for scan in ((1, 2, -0.5, 1.0), (1, 4, 0.0, 1.0), (1, 2, 0.0, 1.0))
    )
    indexed[0].crystal = Crystal((10, 0, 0), (0, 11, 0), (0, 0, 12), space_group_symbol="P1")
    for experiments in (shifted, long, indexed):
        assert with_header_widths(experiments) is experiments
        assert isinstance(open_source(experiments), SequenceSource)
