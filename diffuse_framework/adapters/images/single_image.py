"""One image and the models that belong to it, for looking at what was done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffuse_framework.adapters.images.detection import STILL_WIDTH_DEG
from diffuse_framework.adapters.images.expt_files import experiments_from_file
from diffuse_framework.adapters.images.open import images_from_files
from diffuse_framework.adapters.images.sequences import orientations
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.models.geometry import geometry_of
from diffuse_framework.errors import DataError
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.source import Frame


def read_image(image: Path, experiments: Path) -> tuple[Frame, Geometry, np.ndarray | None]:
    """Read an image, and its models from an .expt file.

    Of a file of several experiments the one of that image is taken.

    Returns:
        The raw values, beam and detector, and A = U B (3, 3) where there is a crystal.

    Raises:
        DataError: a file that can't be read, or models of another image.
    """
    if not Path(image).is_file():
        raise DataError(f"there is no file {image}")
    frame = DxtbxSource(images_from_files([str(image)])).read(0)
    model = _experiment_of(Path(image), Path(experiments))
    geometry = geometry_of(model.beam, model.detector)
    found, wanted = [values.shape for values in frame.counts], [panel.shape for panel in geometry.panels]
    if found != wanted:
        raise DataError(f"{image} has panels of {found} (slow, fast) pixels, {experiments} says {wanted}")
    matrix = None if model.crystal is None else np.array(model.crystal.get_A()).reshape(3, 3)
    return frame, geometry, matrix


def _experiment_of(image: Path, path: Path) -> Any:
    experiments = experiments_from_file(path, check_format=False)
    if len(experiments) == 1:
        return experiments[0]
    for experiment in experiments:
        if image.name in (Path(name).name for name in experiment.imageset.paths()):
            return experiment
    raise DataError(f"none of the {len(experiments)} experiments in {path} is of {image.name}")


def image_paths(experiments: Path) -> list[Path]:
    """Return the image files of each experiment of an .expt file, in order.

    Raises:
        DataError: the file can't be read.
    """
    found = experiments_from_file(experiments, check_format=False)
    return [Path(name) for experiment in found for name in experiment.imageset.paths()]


def crystal_rotations(experiments: Path) -> list[np.ndarray]:
    """Return U (3, 3) of each image with a crystal: laboratory = U times the crystal's Cartesian frame.

    Raises:
        DataError: the file can't be read.
    """
    found = experiments_from_file(experiments, check_format=False)
    rotations = []
    for experiment in found:
        crystal = experiment.crystal
        if crystal is None:
            continue
        scan, goniometer = experiment.scan, experiment.goniometer
        if scan is None or goniometer is None or abs(scan.get_oscillation()[1]) <= STILL_WIDTH_DEG:
            rotations.append(np.array(crystal.get_U()).reshape(3, 3))
        else:
            settings, _ = orientations(experiment)
            rotations += list(settings @ np.linalg.inv(np.array(crystal.get_B()).reshape(3, 3)))
    return rotations
