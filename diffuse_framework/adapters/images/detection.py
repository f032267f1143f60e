"""Stills or rotations: what the headers say, and whether to believe them."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffuse_framework.errors import GeometryError

logger = logging.getLogger(__name__)

# Degrees; some beamlines write a tiny width into the headers of stills.
STILL_WIDTH_DEG = 1e-3
# Degrees by which the angles of two images may differ and be the same.
SAME_ANGLE_DEG = 1e-4

STILLS, ROTATION, DETECT = "stills", "rotation", "detect"
_WORDS = {STILLS: "stills", ROTATION: "a rotation"}
# Data sets of one kind that are named one by one.
_MOST_NAMED = 4


@dataclass(frozen=True)
class DataSet:
    """Images that were taken in one go.

    Attributes:
        name: of its files.
        numbers: of the experiments that use it.
        n_images: number of images.
        kind: `STILLS` or `ROTATION`.
        reason: why it is taken for that.
        hint: what the user may want to know of it, "" for nothing.
    """

    name: str
    numbers: tuple[int, ...]
    n_images: int
    kind: str
    reason: str
    hint: str = ""


def detect(experiments: Any) -> list[DataSet]:
    """Return the data sets of an experiment list, each taken for stills or a rotation."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, imageset in enumerate(experiments.imagesets()):
        groups[number] = list(experiments.where(imageset=imageset))
    if _all_at_one_angle(experiments, groups):
        numbers = tuple(number for group in groups.values() for number in group)
        start, width = experiments[0].scan.get_oscillation()
        return [
            DataSet(
                f"{_name(experiments[0])} and {len(groups) - 1} more",
                numbers,
                len(groups),
                STILLS,
                f"the headers say {width:g} degrees an image, but all {len(groups)} begin at {start:g} "
                "degrees: "
                "the crystal was not turned from one to the next",
            )
        ]
    return [_data_set(experiments, numbers) for numbers in groups.values()]


def choose_kind(data_sets: list[DataSet], wanted: str = DETECT) -> str:
    """Return what all images are taken for, and log why.

    Args:
        data_sets: at least one.
        wanted: `STILLS`, `ROTATION`, or `DETECT` to believe the data sets.

    Raises:
        GeometryError: both kinds, or a rotation without width.
    """
    for alike in _alike(data_sets):
        logger.info("%s: %s: %s", _listed(alike), _WORDS[alike[0].kind], alike[0].reason)
    for data_set in data_sets:
        if data_set.hint and wanted == DETECT:
            logger.warning("%s: %s", data_set.name, data_set.hint)
    kinds = {data_set.kind for data_set in data_sets}
    if wanted != DETECT:
        if kinds != {wanted}:
            logger.info("They are processed as input.kind=%s all the same", wanted)
        return wanted
    if len(kinds) > 1:
        listed = "; ".join(f"{_listed(alike)}: {alike[0].kind}, {alike[0].reason}" for alike in _alike(data_sets))
        raise GeometryError(
            f"stills and rotations in one run: {listed}. Process them apart, or set input.kind=stills or "
            "input.kind=rotation"
        )
    return kinds.pop()


def _alike(data_sets: list[DataSet]) -> list[list[DataSet]]:
    """Put together what is of one kind for one reason: indexed stills are a data set each."""
    groups: dict[tuple[str, str], list[DataSet]] = defaultdict(list)
    for data_set in data_sets:
        groups[data_set.kind, data_set.reason].append(data_set)
    return list(groups.values())


def _listed(alike: list[DataSet]) -> str:
    """Names and number of images of data sets."""
    names = [data_set.name for data_set in alike]
    n_images = sum(data_set.n_images for data_set in alike)
    if len(names) > _MOST_NAMED:
        names = [names[0], "...", names[-1]]
    return f"{', '.join(names)} ({n_images} image{'' if n_images == 1 else 's'})"


def _name(experiment: Any) -> str:
    imageset = experiment.imageset
    template = imageset.get_template() if hasattr(imageset, "get_template") else ""
    return Path(template or imageset.get_path(0)).name


def _all_at_one_angle(experiments: Any, groups: dict[int, list[int]]) -> bool:
    """Whether there are several data sets of one image each, of some width but all at one angle."""
    if len(groups) < 2:
        return False
    starts = []
    for group in groups.values():
        scan = experiments[group[0]].scan
        if scan is None or len(group) > 1 or scan.get_num_images() != 1:
            return False
        start, width = scan.get_oscillation()
        if abs(width) <= STILL_WIDTH_DEG:
            return False
        starts.append(start)
    return max(starts) - min(starts) <= SAME_ANGLE_DEG


def _data_set(experiments: Any, numbers: list[int]) -> DataSet:
    first = experiments[numbers[0]]
    scan = first.scan
    name = _name(first)
    if scan is None or first.goniometer is None:
        n_images = len(first.imageset)
        return DataSet(name, tuple(numbers), n_images, STILLS, "they come without angles")
    start, width = scan.get_oscillation()
    ranges = {experiments[number].scan.get_array_range() for number in numbers}
    n_images = sum(high - low for low, high in ranges)
    if abs(width) <= STILL_WIDTH_DEG:
        return DataSet(
            name,
            tuple(numbers),
            n_images,
            STILLS,
            f"the headers say {width:g} degrees an image",
            _hint(first),
        )
    # Several scans on one image set: parts of one rotation.
    low = min(experiments[number].scan.get_oscillation_range()[0] for number in numbers)
    high = max(experiments[number].scan.get_oscillation_range()[1] for number in numbers)
    return DataSet(
        name,
        tuple(numbers),
        n_images,
        ROTATION,
        f"{width:g} degrees an image, from {low:g} to {high:g} degrees",
    )


def _hint(experiment: Any) -> str:
    """Say that images of no width were taken at different angles, where their headers say so."""
    imageset = experiment.imageset
    if len(imageset) < 2:
        return ""
    ends = [header_oscillation(imageset, number) for number in (0, len(imageset) - 1)]
    if ends[0] is None or ends[1] is None:
        return ""
    first, last = ends[0][0], ends[1][0]
    if abs(last - first) <= SAME_ANGLE_DEG:
        return ""
    step = (last - first) / (len(imageset) - 1)
    return (
        f"stills, say the headers, but taken at {first:g} to {last:g} degrees. If the crystal turned by "
        f"{step:g} "
        f"degrees while each was taken, give geometry.scan.oscillation=start,{step:g}"
    )


def header_oscillation(imageset: Any, number: int) -> tuple[float, float] | None:
    """Return start and width, in degrees, that an image's own header gives; None where it gives none."""
    path = imageset.get_path(number)
    try:
        start, width = imageset.get_format_class().get_instance(path).get_scan().get_oscillation()
    # Formats raise what they like where a header has no angle, or a file can't be read.
    except Exception as error:
        logger.debug("No angle in the header of %s: %s", path, error)
        return None
    return float(start), float(width)
