"""Orientations and reflections that came with the input."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.adapters.images.experiments import IndexedStill
from diffuse_framework.adapters.images.sequences import IndexedSweep, SequenceSource
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Rejected

if TYPE_CHECKING:
    from dials.array_family import flex
    from dxtbx.model import Crystal, ExperimentList

logger = logging.getLogger(__name__)


def given_stills(source: DxtbxSource) -> tuple[list[IndexedStill], list[Rejected]]:
    """Return the images that have a crystal, with their reflections, and those that have none.

    An image with several lattices is mapped with the one with the most reflections; the others are kept for the masks.

    Raises:
        DataError: reflections that don't belong to the experiments.
    """
    tables = _tables(source.experiments, source.reflections)
    lattices: dict[tuple[str, int], list[IndexedStill]] = defaultdict(list)
    for index, experiment in enumerate(source.experiments):
        imageset = experiment.imageset
        lattices[imageset.get_path(0), imageset.indices()[0]].append(IndexedStill(index, experiment, tables[index]))
    stills, rejected, several = [], [], []
    for found in lattices.values():
        name = source.names[found[0].source_index]
        found = [still for still in found if still.experiment.crystal is not None]
        if not found:
            rejected.append(Rejected(name, "indexing", "the input has no crystal for it"))
            continue
        found.sort(key=_n_reflections, reverse=True)
        if len(found) > 1:
            several.append(len(found))
            logger.debug("%s has %d lattices, with %s reflections", name, len(found), list(map(_n_reflections, found)))
        stills.append(replace(found[0], other_crystals=tuple(still.experiment.crystal for still in found[1:])))
    if several:
        logger.info(
            "%d of %d images have several lattices, %d in all: each is mapped with the one with most reflections, and "
            "the Bragg peaks of all are masked",
            len(several),
            len(lattices),
            sum(several),
        )
        if not source.reflections:
            logger.warning(
                "Without reflections it can't be told which lattice of an image dominates: the first is taken. Give "
                "the .refl file too"
            )
    return stills, rejected


def given_sweeps(source: SequenceSource, crystals: Path | None = None) -> tuple[list[IndexedSweep], list[Rejected]]:
    """Return the sweeps that have a crystal, with their reflections, and the images of those that have none.

    A sweep with several lattices is mapped with the one with the most reflections; the others are kept for the masks.

    Args:
        source: rotation images.
        crystals: an .expt file with one crystal, for all sweeps, or with one for each.

    Raises:
        DataError: reflections that don't belong to the experiments, or crystals that can't be read.
    """
    others = None if crystals is None else _crystals_of(crystals, len(source.sweeps))
    tables = _tables(source.inputs, source.reflections)
    models = [_number(source.inputs, number) for number in range(len(source.inputs))]
    found, rejected = [], []
    for number, sweep in enumerate(source.sweeps):
        if others is not None:
            experiment = copy.copy(sweep.experiment)
            experiment.crystal = others[number % len(others)]
            found.append(IndexedSweep(number, experiment, None, number % len(others)))
            continue
        lattices = [
            IndexedSweep(number, source.inputs[member], tables[member], models[member])
            for member in sweep.members
            if source.inputs[member].crystal is not None
        ]
        if not lattices:
            names = source.names[sweep.first : sweep.first + sweep.n_images]
            rejected += [Rejected(name, "indexing", "the input has no crystal for it") for name in names]
            continue
        lattices.sort(key=_n_reflections, reverse=True)
        if len(lattices) > 1:
            logger.info(
                "%s has %d lattices: mapped with the one with %d reflections, the Bragg peaks of all are masked",
                sweep.name,
                len(lattices),
                _n_reflections(lattices[0]),
            )
        found.append(replace(lattices[0], others=tuple(other.experiment for other in lattices[1:])))
    return found, rejected


def _number(experiments: ExperimentList, member: int) -> int:
    """Number of the crystal of an experiment; Python wrappers of one model may differ."""
    crystal = experiments[member].crystal
    return -1 if crystal is None else min(experiments.where(crystal=crystal))


def _crystals_of(path: Path, n_sweeps: int) -> list[Crystal]:
    try:
        crystals = ExperimentListFactory.from_json_file(str(path), check_format=False).crystals()
    except FileNotFoundError as error:
        raise DataError(f"indexer.given.crystals: there is no file {path}") from error
    # Whatever can be wrong with a text file: dxtbx raises KeyError, ValueError, RuntimeError, its own ...
    except Exception as error:
        raise DataError(f"indexer.given.crystals: {path} is not an .expt file ({error})") from error
    if len(crystals) not in (1, n_sweeps):
        raise DataError(
            f"indexer.given.crystals: {path} has {len(crystals)} crystals, the images are {n_sweeps} sweeps; give a "
            "file with one crystal, or with one for each sweep"
        )
    return list(crystals)


def _n_reflections(still: IndexedStill | IndexedSweep) -> int:
    return 0 if still.reflections is None else len(still.reflections)


def _tables(
    experiments: ExperimentList, reflections: tuple[flex.reflection_table, ...]
) -> list[flex.reflection_table | None]:
    """Return the reflections of each experiment, None where it has none."""
    if not reflections:
        return [None] * len(experiments)
    identifiers = [experiment.identifier for experiment in experiments]
    if all(table.experiment_identifiers() for table in reflections) and all(identifiers):
        found = _by_identifier(reflections, identifiers)
    else:
        found = _by_number(reflections, len(experiments))
    if not any(table is not None and len(table) for table in found):
        raise DataError("the .refl file has no reflections of the images in the .expt file; give the pair of one run")
    return found


def _by_identifier(
    reflections: tuple[flex.reflection_table, ...], identifiers: list[str]
) -> list[flex.reflection_table | None]:
    rows = {}
    for table in reflections:
        for number, identifier in table.experiment_identifiers():
            rows[identifier] = table.select(table["id"] == number)
    unknown = set(rows) - set(identifiers)
    if unknown and len(unknown) == len(rows):
        raise DataError(
            "none of the experiments in the .refl file is in the .expt file: their identifiers differ; give "
            "the pair of one run"
        )
    if unknown:
        logger.info("The .refl file has reflections of %d more experiments, which are left out", len(unknown))
    return [rows.get(identifier) for identifier in identifiers]


def _by_number(
    reflections: tuple[flex.reflection_table, ...], n_experiments: int
) -> list[flex.reflection_table | None]:
    """Take reflections without identifiers by their id; that works for one file only."""
    if len(reflections) > 1:
        raise DataError(
            f"{len(reflections)} .refl files without experiment identifiers can't be told apart; "
            "combine them with dials.combine_experiments"
        )
    (table,) = reflections
    if len(table) == 0:
        return [None] * n_experiments
    if "id" not in table:
        raise DataError("the .refl file does not say to which experiment its reflections belong")
    largest = max(table["id"])
    if largest >= n_experiments:
        raise DataError(
            f"the .refl file has reflections of {largest + 1} experiments, the .expt file has {n_experiments}; "
            "give the pair of one run"
        )
    return [table.select(table["id"] == number) for number in range(n_experiments)]
