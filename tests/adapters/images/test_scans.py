"""Images whose numbers go on in another folder or under another name."""

from __future__ import annotations

import shutil
from contextlib import nullcontext

import pytest
from dials.util.options import ArgumentParser, flatten_experiments
from iotbx.phil import parse

from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.command_line.shared.arguments import parse_arguments
from diffuse_framework.simulate.cbf import ImageWriter
from diffuse_framework.simulate.experiment import RotationSettings, SimulationSettings, simulate


def typed(paths):
    """The experiments of images on a command line, as DIALS imports them."""
    parser = ArgumentParser(phil=parse("x=1\n.type=int"), read_experiments=True, read_experiments_from_images=True)
    params, _ = parse_arguments(parser, paths)
    return flatten_experiments(params.input.experiments)


@pytest.mark.parametrize("read", [images_from_files, typed])
@pytest.mark.parametrize("rotation", [None, RotationSettings(width_deg=1.0)], ids=["stills", "sweep"])
@pytest.mark.parametrize("other", ["b/sim_00003.cbf", "a/then_00003.cbf"])
def test_an_image_is_read_from_the_file_that_was_given(tmp_path, read, rotation, other):
    """dxtbx takes it for the next of the scan before, and reads the file that the template of that has."""
    simulation = simulate(SimulationSettings(n_images=4, rotation=rotation, seed=5))
    write = ImageWriter(simulation.source, tmp_path, nullcontext)
    for number in range(4):
        write(number)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for number in (1, 2):
        shutil.copy(tmp_path / f"sim_{number:05d}.cbf", tmp_path / "a")
    shutil.copy(tmp_path / "sim_00003.cbf", tmp_path / other)
    # The third of its folder, and another image than the one that is given.
    shutil.copy(tmp_path / "sim_00004.cbf", tmp_path / "a" / "sim_00003.cbf")
    files = [str(tmp_path / "a" / f"sim_{number:05d}.cbf") for number in (1, 2)] + [str(tmp_path / other)]
    experiments = read(files)
    paths = {path for experiment in experiments for path in experiment.imageset.paths()}
    assert paths == set(files)
    source = open_source(experiments)
    read_back = [source.read(number).counts[0] for number in range(len(source))]
    expected = [simulation.source.read(number).counts[0] for number in range(3)]
    assert all((image == truth).all() for image, truth in zip(read_back, expected, strict=True))
