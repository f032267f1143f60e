"""Images of no width that dxtbx has joined into sweeps, and their own headers deny it."""

from __future__ import annotations

import logging
from typing import Any

from dxtbx.format.FormatMultiImage import FormatMultiImage
from dxtbx.imageset import ImageSequence, ImageSetFactory
from dxtbx.model import ExperimentList, Scan
from dxtbx.model.experiment_list import ExperimentListFactory
from scitbx.array_family import flex

from diffuse_framework.adapters.images.detection import SAME_ANGLE_DEG, STILL_WIDTH_DEG, header_oscillation
from diffuse_framework.adapters.images.source import exposure_of

logger = logging.getLogger(__name__)

_LOOKUPS = ("mask", "gain", "pedestal", "dx", "dy")


def with_header_widths(experiments: Any) -> Any:
    """Return experiments whose images of no width, by their headers, are one series of stills again.

    dxtbx of DIALS 3.30 joins images of no width at different angles in pairs, each pair as wide an image as the step
    between the two; 3.12 hands them out as stills of one series. A sweep that has a crystal, or that is not such
    a pair, is what it was said to be.

    Args:
        experiments: imported images, or an .expt file that dials.import made of them; the same object comes
            back where nothing was joined.
    """
    is_joined = [_is_joined_pair(experiment) for experiment in experiments]
    if not any(is_joined):
        return experiments
    is_part = [one or _is_widthless(experiment) for one, experiment in zip(is_joined, experiments, strict=True)]
    runs: list[list[int]] = []
    for number in range(len(experiments)):
        last = number - 1
        if runs and is_part[last] and is_part[number] and _goes_on(experiments[last], experiments[number]):
            runs[-1].append(number)
        else:
            runs.append([number])
    result = ExperimentList()
    for run in runs:
        members = [experiments[number] for number in run]
        if any(is_joined[number] for number in run):
            members = _as_stills(members)
            logger.debug("%d images of no width were joined in pairs; they are stills again", len(members))
        for experiment in members:
            result.append(experiment)
    return result


def _is_joined_pair(experiment: Any) -> bool:
    """Whether a scan of two images is the step between two images that, by their headers, have no width."""
    scan, imageset = experiment.scan, experiment.imageset
    if experiment.crystal is not None or scan is None or not _of_files(imageset):
        return False
    if scan.get_num_images() != 2 or len(imageset) != 2:
        return False
    headers = [header_oscillation(imageset, number) for number in range(2)]
    start, width = scan.get_oscillation()
    return all(
        found is not None
        and abs(found[1]) <= STILL_WIDTH_DEG
        and abs(found[0] - (start + number * width)) <= SAME_ANGLE_DEG
        for number, found in enumerate(headers)
    )


def _of_files(imageset: Any) -> bool:
    """Whether images are in a file each, which is where dxtbx joins them."""
    if not isinstance(imageset, ImageSequence):
        return False
    reader = imageset.get_format_class()
    return reader is not None and not issubclass(reader, FormatMultiImage)


def _is_widthless(experiment: Any) -> bool:
    """Whether an experiment without a crystal is of images of no width, in files."""
    scan = experiment.scan
    if experiment.crystal is not None or scan is None or not _of_files(experiment.imageset):
        return False
    return abs(scan.get_oscillation()[1]) <= STILL_WIDTH_DEG


def _goes_on(before: Any, after: Any) -> bool:
    """Whether the images of `after` come next in the series of `before`, on the same instrument."""
    return (
        before.imageset.get_template() == after.imageset.get_template()
        and before.scan.get_image_range()[1] + 1 == after.scan.get_image_range()[0]
        and before.beam == after.beam
        and before.detector == after.detector
        and before.goniometer == after.goniometer
        and before.imageset.external_lookup.mask.filename == after.imageset.external_lookup.mask.filename
    )


def _as_stills(members: list[Any]) -> ExperimentList:
    """Return one experiment of no width an image, all on one image set, of neighbouring parts of a series."""
    first = members[0]
    numbers = (first.scan.get_image_range()[0], members[-1].scan.get_image_range()[1])
    scan = Scan(numbers, (first.scan.get_oscillation()[0], 0.0))
    scan.set_exposure_times(
        flex.double(exposure_of(one.scan, number) for one in members for number in range(one.scan.get_num_images()))
    )
    imageset = ImageSetFactory.make_sequence(
        first.imageset.get_template(),
        list(range(numbers[0], numbers[1] + 1)),
        format_class=first.imageset.get_format_class(),
        beam=first.beam,
        detector=first.detector,
        goniometer=first.goniometer,
        scan=scan,
        format_kwargs=first.imageset.params(),
    )
    for name in _LOOKUPS:
        ours, theirs = (getattr(one.external_lookup, name) for one in (imageset, first.imageset))
        ours.data, ours.filename = theirs.data, theirs.filename
    return ExperimentListFactory.from_imageset_and_crystal(imageset, None)
