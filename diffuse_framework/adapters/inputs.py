"""From what the user names on the command line to an image source."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from dxtbx.model import ExperimentList
from dxtbx.model.beam import BeamFactory
from dxtbx.model.detector import DetectorFactory
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.adapters.images import DxtbxSource
from diffuse_framework.errors import DataError, GeometryError

logger = logging.getLogger(__name__)

# Degrees; some beamlines write a tiny width into the headers of stills.
STILL_WIDTH_DEG = 1e-4


def images_from_files(paths: list[str]) -> ExperimentList:
    """Return experiments for image files.

    Raises:
        DataError: files dxtbx can't read as images.
    """
    unhandled: list[str] = []
    experiments = ExperimentListFactory.from_filenames(paths, unhandled=unhandled)
    if unhandled:
        raise DataError(f"{unhandled[0]} is not an image that dxtbx can read")
    return experiments


def open_source(
    experiments: ExperimentList,
    reflections: tuple[Any, ...] = (),
    reference_geometry: Path | None = None,
    overrides: Any = None,
) -> DxtbxSource:
    """Return the source of all images, with the geometry the user wants.

    Args:
        experiments: imported images, or indexed experiments.
        reflections: reflection tables that belong to them.
        reference_geometry: an .expt file whose beam and detector replace the headers'.
        overrides: extracted `dials.util.options.geometry_phil_scope`, single values that
            replace both.

    Raises:
        DataError: no images.
        GeometryError: rotation images, two detectors, or a reference that doesn't fit.
    """
    if len(experiments) == 0:
        raise DataError("no images: give image files, a template like img_####.cbf, or an .expt file")
    _refuse_rotations(experiments)
    if reference_geometry is not None:
        _adopt_geometry(experiments, Path(reference_geometry))
    if overrides is not None:
        _override(experiments, overrides)
    return DxtbxSource(experiments, reflections)


def all_have_crystals(source: DxtbxSource) -> bool:
    """Whether every image of the source comes with an orientation."""
    return all(experiment.crystal is not None for experiment in source.experiments)


def _refuse_rotations(experiments: ExperimentList) -> None:
    for experiment in experiments:
        scan = experiment.scan
        if scan is not None and scan.get_oscillation()[1] > STILL_WIDTH_DEG:
            raise GeometryError(
                f"{experiment.imageset.get_path(0)} rotates by {scan.get_oscillation()[1]:g} degrees an image: only "
                "stills can be processed"
            )


def _adopt_geometry(experiments: ExperimentList, path: Path) -> None:
    try:
        reference = ExperimentListFactory.from_json_file(str(path), check_format=False)
    except FileNotFoundError as error:
        raise DataError(f"input.reference_geometry: there is no file {path}") from error
    # Whatever can be wrong with a text file: dxtbx raises KeyError, ValueError, RuntimeError, its own ...
    except Exception as error:
        raise DataError(f"input.reference_geometry: {path} is not an .expt file ({error})") from error
    if len(reference.detectors()) != 1 or len(reference.beams()) != 1:
        raise GeometryError(
            f"input.reference_geometry: {path} holds {len(reference.detectors())} detectors and "
            f"{len(reference.beams())} beams; give a file with one of each"
        )
    beam, detector = reference.beams()[0], reference.detectors()[0]
    wanted = [panel.get_image_size() for panel in detector]
    for experiment in experiments:
        found = [panel.get_image_size() for panel in experiment.detector]
        if found != wanted:
            raise GeometryError(
                f"input.reference_geometry: {path} has panels of {wanted} pixels, {experiment.imageset.get_path(0)} "
                f"has {found}"
            )
        experiment.beam, experiment.detector = beam, detector
    logger.info("Beam and detector are those of %s", path)


def _override(experiments: ExperimentList, overrides: Any) -> None:
    """Apply single values; the factories of dxtbx change the models in place and leave the rest."""
    try:
        for beam in experiments.beams():
            BeamFactory.from_phil(overrides, beam)
        for detector in experiments.detectors():
            DetectorFactory.from_phil(overrides, detector, experiments[0].beam)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise GeometryError(f"the values of geometry.* can't be applied: {error}") from error
