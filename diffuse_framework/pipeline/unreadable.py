"""Images that can't be read, found during accumulation: rejected, as those that an indexer finds are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from diffuse_framework.errors import DataError, UnreadableImage
from diffuse_framework.model.experiment import Experiment, Image, Rejected
from diffuse_framework.model.source import ImageSource
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Read:
    """Reads one image; pickles."""

    source: ImageSource

    def __call__(self, image: Image) -> str:
        """Return why `image` can't be read, "" where it can."""
        try:
            self.source.read(image.source_index)
        except UnreadableImage as error:
            return str(error)
        return ""


Result = TypeVar("Result")


def left_out_of(source: ImageSource) -> tuple[Rejected, ...]:
    """Return the files that a source was given and could not open, where it is one that knows."""
    return getattr(source, "left_out", ())


def on_readable(
    step: Callable[[Experiment], Result], source: ImageSource, experiment: Experiment, mapper: Mapper
) -> Result:
    """Return what `step` makes of an experiment, without the images that can't be read where it meets one.

    Raises:
        DataError: no image can be read; what else `step` raises passes through.
    """
    try:
        return step(experiment)
    except UnreadableImage as error:
        return step(_without_unreadable(source, experiment, mapper, error))


def _without_unreadable(
    source: ImageSource, experiment: Experiment, mapper: Mapper, first: UnreadableImage
) -> Experiment:
    """Return the experiment without the images that can't be read: all are tried, where there is one there may be many.

    Raises:
        UnreadableImage: `first`, the failure that led here, where all can be read now.
        DataError: none can.
    """
    reasons = list(mapper.map(_Read(source), experiment.images))
    if not any(reasons):
        raise first
    rejected = [
        Rejected(image.name, "reading", reason)
        for image, reason in zip(experiment.images, reasons, strict=True)
        if reason
    ]
    for item in rejected:
        logger.warning("Rejected %s at reading: %s", item.name, item.reason)
    kept = tuple(image for image, reason in zip(experiment.images, reasons, strict=True) if not reason)
    if not kept:
        raise DataError(f"none of {len(reasons)} images can be read (for example {first})")
    return replace(experiment, images=kept, rejected=(*experiment.rejected, *rejected))
