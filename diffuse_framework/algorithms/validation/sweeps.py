"""Which sweeps of a turning crystal can be trusted: steady orientations, the right sense of turning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.algorithms.masking.shapes import centring_conditions
from diffuse_framework.algorithms.rotation import misorientation_deg, unrotated
from diffuse_framework.algorithms.validation.bright_pixels import BrightPixels, Rings, agreement
from diffuse_framework.model.experiment import Experiment, Image, Rejected
from diffuse_framework.model.lattice import cell_of_matrix
from diffuse_framework.model.source import Frame

# Why a sweep is rejected; the caller says what to do about each.
UNSTEADY, REVERSED, DRIFTS, MISPLACED = "unsteady", "reversed", "drifts", "misplaced"
# The score of the first image below which there is nothing to compare with.
_TELLING = 0.3


@dataclass(frozen=True)
class SweepLimits:
    """What a sweep may deviate by.

    Attributes:
        max_misorientation_deg: rms angle between the crystal on its images and on the first of them,
            the goniometer's own rotation taken off.
        min_bright: score of the bright pixels of the last image (`bright_pixels.agreement`); 0 makes no use of it.
    """

    max_misorientation_deg: float = 2.0
    min_bright: float = 0.2


@dataclass(frozen=True, eq=False)
class SweepCheck:
    """What was measured on one sweep.

    Attributes:
        first, last: names of its images.
        n_images: number of images.
        crystal: number of the crystal.
        rms_misorientation_deg, max_misorientation_deg: from the first image, goniometer taken off.
        max_drift: largest relative change of a cell length over the sweep.
        bright: agreement of the first, middle and last image; None where there were too few bright pixels.
        complaint: why it is rejected, "" where it is not.
    """

    first: str
    last: str
    n_images: int
    crystal: int | None
    rms_misorientation_deg: float
    max_misorientation_deg: float
    max_drift: float
    bright: tuple[BrightPixels | None, ...]
    complaint: str


def validate_sweeps(
    experiment: Experiment, read: Callable[[int], Frame], limits: SweepLimits, advice: Mapping[str, str]
) -> tuple[Experiment, tuple[SweepCheck, ...]]:
    """Return the experiment without the sweeps that fail, and what was measured; stills are left alone.

    Args:
        experiment: indexed images.
        read: reads an image by its number in the source.
        limits: what a sweep may deviate by.
        advice: what to try, by the cause of a rejection: `UNSTEADY`, `REVERSED`, `DRIFTS` or `MISPLACED`.
    """
    sweeps: dict[int, list[Image]] = defaultdict(list)
    for image in experiment.images:
        if image.rotation is not None:
            sweeps[image.rotation.sweep].append(image)
    checks = {number: _check(experiment, images, read, limits, advice) for number, images in sweeps.items()}
    rejected = {
        image.name: checks[number].complaint
        for number, images in sweeps.items()
        for image in images
        if checks[number].complaint
    }
    kept = tuple(image for image in experiment.images if image.name not in rejected)
    rejected_here = tuple(Rejected(name, "validation", reason) for name, reason in rejected.items())
    return replace(experiment, images=kept, rejected=experiment.rejected + rejected_here), tuple(checks.values())


def _check(
    experiment: Experiment,
    images: list[Image],
    read: Callable[[int], Frame],
    limits: SweepLimits,
    advice: Mapping[str, str],
) -> SweepCheck:
    crystals = [unrotated(image) for image in images]
    angles = np.array([misorientation_deg(crystals[0], crystal) for crystal in crystals])
    lengths = np.array([cell_of_matrix(crystal)[:3] for crystal in crystals])
    rms = float(np.sqrt((angles**2).mean()))
    bright: tuple[BrightPixels | None, ...] = ()
    if limits.min_bright > 0:
        conditions = centring_conditions(experiment.symmetry.space_group)
        rings: dict[int, Rings] = {}
        found = []
        for number in dict.fromkeys((0, len(images) // 2, len(images) - 1)):
            image = images[number]
            if image.geometry not in rings:
                rings = {image.geometry: Rings.of(experiment.geometry_of(image))}
            found.append(agreement(read(image.source_index), image, rings[image.geometry], conditions))
        bright = tuple(found)
    if rms > limits.max_misorientation_deg:
        cause = UNSTEADY
        complaint = (
            f"the crystal's orientation varies by {rms:.2f} degrees (rms) over the sweep, at most "
            f"{limits.max_misorientation_deg:g} are allowed"
        )
    else:
        cause, complaint = _wrong_turn(bright, limits.min_bright)
    if complaint and cause in advice:
        complaint = f"{complaint}: {advice[cause]}"
    return SweepCheck(
        first=images[0].name,
        last=images[-1].name,
        n_images=len(images),
        crystal=images[0].crystal,
        rms_misorientation_deg=rms,
        max_misorientation_deg=float(angles.max()),
        max_drift=float(np.ptp(lengths, axis=0).max() / lengths.mean()),
        bright=bright,
        complaint=complaint,
    )


def _wrong_turn(bright: tuple[BrightPixels | None, ...], lowest: float) -> tuple[str, str]:
    """Say why bright pixels are not where the crystal has reflections: cause and sentence, "" where they are."""
    scores = [found for found in bright if found is not None]
    if not scores or min(found.score for found in scores) >= lowest:
        return "", ""
    worst = min(scores, key=lambda found: found.score)
    start = (
        f"only {worst.near:.0%} of the bright pixels of an image of its sweep are near reciprocal lattice points, "
        f"{worst.chance:.0%} are by chance"
    )
    if worst.reversed_score > max(2 * worst.score, lowest):
        return REVERSED, f"{start}; {worst.reversed_near:.0%} would be if the crystal turned the other way"
    if scores[0].score > max(_TELLING, lowest):
        return DRIFTS, f"{start}, and {scores[0].near:.0%} on its first image"
    return MISPLACED, start
