"""Orientations and reflections that came with the input."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

from diffuse_framework.adapters.experiments import IndexedStill
from diffuse_framework.adapters.images import DxtbxSource
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Refused

logger = logging.getLogger(__name__)


def given_stills(source: DxtbxSource) -> tuple[list[IndexedStill], list[Refused]]:
    """Return the images that have a crystal, with their reflections, and those that have none.

    Of an image with several lattices the one with the most reflections is kept.

    Raises:
        DataError: reflections that don't belong to the experiments.
    """
    tables = _tables(source)
    lattices: dict[tuple[str, int], list[IndexedStill]] = defaultdict(list)
    for index, experiment in enumerate(source.experiments):
        imageset = experiment.imageset
        lattices[imageset.get_path(0), imageset.indices()[0]].append(
            IndexedStill(index, experiment, tables[index])
        )
    stills, refused = [], []
    for found in lattices.values():
        name = source.names[found[0].source_index]
        found = [still for still in found if still.experiment.crystal is not None]
        if not found:
            refused.append(Refused(name, "indexing", "the input has no crystal for it"))
            continue
        found.sort(key=_n_reflections, reverse=True)
        if len(found) > 1:
            logger.info(
                "%s has %d lattices; kept the one with %d reflections, left out those with %s",
                name,
                len(found),
                _n_reflections(found[0]),
                ", ".join(str(_n_reflections(still)) for still in found[1:]),
            )
        stills.append(found[0])
    return stills, refused


def _n_reflections(still: IndexedStill) -> int:
    return 0 if still.reflections is None else len(still.reflections)


def _tables(source: DxtbxSource) -> list[Any]:
    """Return the reflections of each experiment, None where it has none."""
    if not source.reflections:
        return [None] * len(source)
    identifiers = [experiment.identifier for experiment in source.experiments]
    if all(table.experiment_identifiers() for table in source.reflections) and all(identifiers):
        found = _by_identifier(source, identifiers)
    else:
        found = _by_number(source)
    if not any(table is not None and len(table) for table in found):
        raise DataError(
            "the .refl file has no reflections of the images in the .expt file; give the pair of one run"
        )
    return found


def _by_identifier(source: DxtbxSource, identifiers: list[str]) -> list[Any]:
    rows = {}
    for table in source.reflections:
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


def _by_number(source: DxtbxSource) -> list[Any]:
    """Take reflections without identifiers by their id; that works for one file only."""
    if len(source.reflections) > 1:
        raise DataError(
            f"{len(source.reflections)} .refl files without experiment identifiers can't be told apart; "
            "combine them with dials.combine_experiments"
        )
    (table,) = source.reflections
    if len(table) == 0:
        return [None] * len(source)
    if "id" not in table:
        raise DataError("the .refl file does not say to which experiment its reflections belong")
    largest = max(table["id"])
    if largest >= len(source):
        raise DataError(
            f"the .refl file has reflections of {largest + 1} experiments, the .expt file has {len(source)}; "
            "give the pair of one run"
        )
    return [table.select(table["id"] == number) for number in range(len(source))]
