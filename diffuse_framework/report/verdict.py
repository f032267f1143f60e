"""The verdict on a map: one sentence, and each thing to look at with its number and what to type next.

The thresholds are those of `report.limits`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from diffuse_framework.algorithms.judging import SURE, Evidence, gather_evidence
from diffuse_framework.algorithms.statistics import half_maps, shell_statistics
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums
from diffuse_framework.report.checks import BAD, GOOD, LOOK
from diffuse_framework.report.limits import LEAST_CC, grade
from diffuse_framework.report.summary import N_SHELLS

__all__ = ["Judgement", "Point", "Verdict", "has_signal", "judge", "log_verdict", "verdict", "verdict_text"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One thing to look at.

    Attributes:
        grade: "look" or "bad".
        what: in words, with its number.
        do: the command or parameter to type next, or what to look at.
    """

    grade: str
    what: str
    do: str


@dataclass(frozen=True)
class Verdict:
    """What a map is worth.

    Attributes:
        grade: "good", "look" or "bad".
        sentence: all in one.
        points: the things to look at, the worst first.
        evidence: the numbers behind.
    """

    grade: str
    sentence: str
    points: tuple[Point, ...]
    evidence: Evidence

    def to_plain(self) -> dict[str, Any]:
        """Return it as ``summary.json`` holds it."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Judgement:
    """A verdict with the statistics that it rests on, as `shell_statistics` returns them."""

    verdict: Verdict
    statistics: dict[str, Any]


def judge(
    merged: MergedMap,
    sums: VoxelSums,
    scales: Scales,
    merge: Callable[[VoxelSums, Scales], MergedMap],
    seed: int = 0,
    warned: Sequence[str] = (),
) -> Judgement:
    """Judge a map by all there is: two more merges give its halves.

    Args:
        merged: the map.
        sums: of its images.
        scales: of its images.
        merge: the merger that made it.
        seed: of the random numbers that split the images into halves.
        warned: what the run warned of.
    """
    halves = None
    if len(sums.image_names) > 1:
        halves = half_maps(sums, scales, np.random.default_rng(seed), partial(_slim, merge), counting_only=True)
        halves = halves if len(halves[0]) and len(halves[1]) else None
    statistics = shell_statistics(merged, halves, N_SHELLS)
    evidence = gather_evidence(merged, halves, statistics, scales, LEAST_CC)
    return Judgement(verdict(evidence, merged.grid.divisions, sums.image_names, warned), statistics)


def _slim(merge: Callable[[VoxelSums, Scales], MergedMap], sums: VoxelSums, scales: Scales) -> MergedMap:
    """Merge, and keep what halves are compared by: three large maps are in memory together."""
    nothing = np.zeros(0)
    return replace(
        merge(sums, scales),
        multiplicity=nothing,
        pixels=nothing,
        total_intensity=nothing,
        total_variance=nothing,
        bragg_voxel=nothing,
        bragg_intensity=nothing,
        bragg_variance=nothing,
    )


def verdict(
    evidence: Evidence, divisions: tuple[int, ...], image_names: tuple[str, ...], warned: Sequence[str] = ()
) -> Verdict:
    """Put evidence into words.

    Args:
        evidence: on the map.
        divisions: of its grid.
        image_names: of its images.
        warned: what the run warned of.
    """
    found = [
        _signal(evidence, divisions),
        _counting(evidence),
        _completeness(evidence, divisions),
        _multiplicity(evidence, divisions),
        _nodes(evidence),
        _apart(evidence),
        _rejected(evidence),
        _chi_squared(evidence),
        _negative(evidence),
        _scale_ratio(evidence, image_names),
        _drift(evidence),
        _warned(warned),
    ]
    points = sorted((point for point in found if point), key=lambda point: point.grade != BAD)
    grades = {point.grade for point in points}
    worst = BAD if BAD in grades else LOOK if LOOK in grades else GOOD
    return Verdict(worst, f"{_headline(evidence)}; {_number_of(points)}", tuple(points), evidence)


def has_signal(evidence: Evidence) -> bool:
    """Return whether halves of the data agree on anything but the radial mean."""
    cc = evidence.cc_anisotropic
    return cc is not None and cc * evidence.common**0.5 > SURE


def _headline(evidence: Evidence) -> str:
    if evidence.halves is None or evidence.cc_anisotropic is None:
        return "whether there is anisotropic signal can't be told: no two halves of the images share voxels"
    numbers = f"CC1/2 {evidence.cc_anisotropic:.2f}"
    if evidence.cc_counting is not None:
        numbers += f", counting allows {evidence.cc_counting:.2f}"
    if not has_signal(evidence):
        return f"NO anisotropic signal ({numbers}): this map shows nothing but its radial mean"
    if evidence.resolution is None:
        return f"hardly any anisotropic signal, and no shell of resolution has it by itself ({numbers})"
    return f"anisotropic signal to {evidence.resolution:.2f} A ({numbers})"


def _number_of(points: list[Point]) -> str:
    if not points:
        return "nothing to look at"
    bad = sum(point.grade == BAD for point in points)
    return f"{len(points)} thing{'s' if len(points) > 1 else ''} to look at" + (f", {bad} of them bad" if bad else "")


def _signal(e: Evidence, divisions: tuple[int, ...]) -> Point | None:
    if e.halves is None or e.cc_anisotropic is None:
        return Point(BAD, "Halves of the images share no voxels: nothing says whether the map repeats", "add images")
    if has_signal(e) and e.resolution is not None:
        return None
    coarser = _coarser(divisions)
    advice = f"{coarser} (photons of several voxels together), and more images" if coarser else "add images"
    if not has_signal(e):
        chance = 1 / max(e.common, 1) ** 0.5
        what = f"Halves of the images agree by {e.cc_anisotropic:.3f} where chance gives 0 +- {chance:.3f}"
        return Point(BAD, what, advice + "; if there are photons enough, the orientations are wrong")
    return Point(BAD, f"CC1/2 of {e.cc_anisotropic:.2f} over all, in no shell above {LEAST_CC:g} beyond chance", advice)


def _counting(e: Evidence) -> Point | None:
    if e.cc_anisotropic is None or not e.cc_counting or not has_signal(e):
        return None
    share = (e.cc_anisotropic + 2 / e.common**0.5) / e.cc_counting
    level = grade("cc_of_counting", share)
    what = (
        f"Halves agree worse than photons allow: CC1/2 {e.cc_anisotropic:.2f}, counting alone gives {e.cc_counting:.2f}"
    )
    return _point(level, what, "scaler.plugin=smooth scaler.smooth.offset.refine=True (scales, background)")


def _completeness(e: Evidence, divisions: tuple[int, ...]) -> Point | None:
    level = grade("completeness", e.completeness)
    what = f"{e.completeness:.1%} of the asymmetric unit was observed"
    advice = "add images in other orientations"
    if e.complete_to is not None and e.completeness < 0.5:
        advice += f", or cut the map to what is half complete: grid.hkl.d_min={e.complete_to:.2f}"
    elif coarser := _coarser(divisions):
        advice += f", or take larger voxels: {coarser}"
    return _point(level, what, advice)


def _multiplicity(e: Evidence, divisions: tuple[int, ...]) -> Point | None:
    what = f"{e.few:.1%} of the voxels were seen fewer than 3 times (median {e.multiplicity:.0f})"
    coarser = _coarser(divisions)
    return _point(grade("few", e.few), what, "add images" + (f", or take larger voxels: {coarser}" if coarser else ""))


def _nodes(e: Evidence) -> Point | None:
    if e.nodes is None:
        return None
    level, scatter = grade("nodes", e.nodes.above), e.nodes.scatter
    what = f"{e.nodes.above:.2%} of {e.nodes.observed} voxels on Bragg positions are above 3 times their shell's median"
    if scatter is not None:
        what += f", and differ between halves {scatter:.1f} times as much as the others"
        # A halo is the same in both halves; what a mask has left of peaks isn't.
        if grade("node_scatter", scatter) == GOOD and level == BAD:
            level = LOOK
    return _point(level, what, "masker.bragg.share=0.01 (feet of peaks go, real halos stay)")


def _apart(e: Evidence) -> Point | None:
    if e.halves is None:
        return None
    what = f"{e.halves.apart} voxels ({e.halves.share:.2%}) differ between halves by more than 6 sigma"
    advice = "look at the images (diffuse.report): zingers, ice, peaks of another lattice do this"
    return _point(grade("apart", e.halves.share), what, advice)


def _rejected(e: Evidence) -> Point | None:
    if e.rejected is None:
        return None
    what = f"Scaling rejected {e.rejected:.2%} of the observations as outliers"
    advice = "masker.bragg.share=0.01, if voxels on Bragg positions lose most; zingers, ice, other lattices do this too"
    return _point(grade("rejected", e.rejected), what, advice)


def _chi_squared(e: Evidence) -> Point | None:
    if e.chi_squared is None:
        return None
    value = e.chi_squared
    if value < 1:
        what = f"Chi squared per observation is {value:.2f}: images agree better than photons can"
        gain = f"detector.gain={value:.2g} (times the gain so far), if counts aren't photons"
        return _point(grade("chi_squared_low", value), what, gain)
    what = f"Chi squared per observation is {value:.3g}: images differ by more than photons let them"
    advice = (
        "scaler.plugin=smooth (absorption, background, outliers); or, where counts aren't photons, "
        f"detector.gain={value:.2g} (times the gain so far)"
    )
    return _point(grade("chi_squared_high", value), what, advice)


def _negative(e: Evidence) -> Point | None:
    what = f"{e.negative:.2%} of the voxels are below zero by 5 sigma or more"
    advice = "corrector.plugins='solid_angle polarization efficiency air' (no background: was it subtracted twice?)"
    return _point(grade("negative", e.negative), what, advice)


def _scale_ratio(e: Evidence, names: tuple[str, ...]) -> Point | None:
    name = names[e.scales.farthest]
    what = f"Scales of images differ by a factor of {e.scales.ratio:.3g}, {name} being the farthest off"
    return _point(grade("scale_ratio", e.scales.ratio), what, f"diffuse.report --image {name}, and leave it out")


def _drift(e: Evidence) -> Point | None:
    factor = max(e.scales.drift, 1 / e.scales.drift)
    what = f"Scales drift by a factor of {e.scales.drift:.3g} from the first image to the last"
    advice = "scaler.plugin=smooth scaler.smooth.resolution.refine=True (radiation damage), or fewer images"
    return _point(grade("drift", factor), what, advice)


def _warned(sentences: Sequence[str]) -> Point | None:
    if not sentences:
        return None
    n = len(sentences)
    what = f"The run warned: {sentences[0]}" if n == 1 else f"The run warned of {n} things, first: {sentences[0]}"
    return Point(LOOK, what, "look for what the log says before, and mend it")


def _point(level: str, what: str, advice: str) -> Point | None:
    return None if level == GOOD else Point(level, what, advice)


def _coarser(divisions: tuple[int, ...]) -> str:
    """Return the parameter of larger voxels; nothing where they can't be larger."""
    if max(divisions) == 1:
        return ""
    return f"grid.hkl.divisions={','.join(str(max(n - 1, 1)) for n in divisions)}"


def verdict_text(found: Verdict) -> str:
    """Return the points as lines."""
    return "\n".join(f"[{point.grade.upper():4}] {point.what}\n       try: {point.do}" for point in found.points)


def log_verdict(found: Verdict) -> None:
    """Log the points, and the sentence last: as a warning where anything is bad."""
    if found.points:
        logger.info("%s", verdict_text(found))
    logger.log(logging.WARNING if found.grade == BAD else logging.INFO, "Verdict: %s", found.sentence)
