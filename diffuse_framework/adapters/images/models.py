"""The models and reflections of single images, in files of their own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from dxtbx import flumpy
from dxtbx.model import Experiment as DxtbxExperiment
from dxtbx.model import ExperimentList

from diffuse_framework.adapters.guards.pickles import refuse_pickle
from diffuse_framework.adapters.images.experiments import identifier_of, reset_ids, writing_whole
from diffuse_framework.adapters.images.sequences import SequenceSource
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.errors import DataError


def save_imported(source: DxtbxSource, path: Path) -> None:
    """Write the images of a source as DIALS imports them, without crystals; sweeps as sweeps.

    Raises:
        DataError: the file can't be written.
    """
    experiments = ExperimentList()
    if isinstance(source, SequenceSource):
        for sweep in source.sweeps:
            one = copy.copy(sweep.experiment)
            one.crystal, one.profile = None, None
            one.identifier = identifier_of(source.experiments[sweep.first])
            experiments.append(one)
    else:
        for original in source.experiments:
            experiments.append(
                DxtbxExperiment(
                    imageset=original.imageset,
                    beam=original.beam,
                    detector=original.detector,
                    identifier=identifier_of(original),
                )
            )
    with writing_whole(path) as temporary:
        experiments.as_file(str(temporary))


class ImageModels:
    """Takes single images out of ``indexed.expt`` and ``indexed.refl``.

    Args:
        experiments_path, reflections_path: the files.

    Raises:
        DataError: files that can't be read.
    """

    def __init__(self, experiments_path: Path, reflections_path: Path) -> None:
        from dials.array_family import flex
        from dxtbx.model.experiment_list import ExperimentListFactory

        try:
            self._experiments = ExperimentListFactory.from_json_file(str(experiments_path), check_format=False)
            refuse_pickle(reflections_path)
            self._reflections = flex.reflection_table.from_file(str(reflections_path))
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"can't read {experiments_path} and {reflections_path}: {error}") from error

    def save(self, number: int, frame: int | None, folder: Path) -> None:
        """Write one image under the names that the visual checks use.

        ``strong.refl`` has the spots that were found and indexed, ``indexed_initial.refl`` too, and
        ``indexed_refined_detector.refl`` also the reflections that were predicted and integrated.

        Args:
            number: of the experiment in the file.
            frame: of the image in that experiment's sweep, from 0; None for a still.
            folder: where to.

        Raises:
            DataError: files that can't be written.
        """
        one = self._experiments[number : number + 1]
        table = self._reflections.select(self._reflections["id"] == number)
        if frame is not None:
            one, table = _one_image(one, table, frame)
        reset_ids(table, 0, one[0].identifier)
        found = table.get_flags(table.flags.strong) | table.get_flags(table.flags.indexed)
        spots = table.select(found)
        for name, content in (
            ("strong.refl", spots),
            ("indexed_initial.refl", spots),
            ("indexed_initial.expt", one),
            ("indexed_refined_detector.refl", table),
            ("indexed_refined_detector.expt", one),
        ):
            with writing_whole(folder / name) as temporary:
                content.as_file(str(temporary))


def _one_image(one: Any, table: Any, frame: int) -> tuple[Any, Any]:
    """Cut a sweep to one image, and its reflections to those that are centred there."""
    from dials.array_family import flex
    from dials.util.slice import slice_experiments

    first, last = one[0].scan.get_image_range()
    if len(table):
        # Spots that DIALS hands on without a prediction are where they were seen.
        z = flumpy.to_numpy(table["xyzobs.px.value"])[:, 2]
        if "xyzcal.px" in table:
            predicted = flumpy.to_numpy(table.get_flags(table.flags.predicted))
            z = np.where(predicted, flumpy.to_numpy(table["xyzcal.px"])[:, 2], z)
        # DIALS counts frames from 0 and images from 1; a peak may be centred just before or after the sweep.
        frames = np.clip(np.floor(z).astype(int) - (first - 1), 0, last - first)
        table = table.select(flex.bool((frames == frame).tolist()))
    image = first + frame
    return slice_experiments(one, [(image, image)]), table
