"""Whether stills have the orientations that they are said to have: bright pixels on their lattices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diffuse_framework.algorithms.masking.shapes import centring_conditions
from diffuse_framework.algorithms.validation.bright_pixels import (
    BrightPixels,
    Rings,
    Sightings,
    sightings,
    still_agreement,
)
from diffuse_framework.algorithms.validation.displacement import Displacement, displacement
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Experiment, Image, Rejected
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.source import ImageSource

Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

# Images that are looked at first; all are where one of these fails.
SAMPLE = 100
# Share of the images, and fewest of them, on which a pixel that stands alone is bright if it is a faulty one.
_FAULTY_SHARE, _FAULTY_FEWEST = 0.1, 3
_ORDINARY = 500


@dataclass(frozen=True, eq=False)
class OrientationCheck:
    """What was found on stills.

    Attributes:
        names: of the stills looked at.
        found: agreement of each, None where it can't be told.
        failed: names of those that are rejected.
        displacement: of the bright pixels of the others from where reflections are predicted; None where it can't be
            told.
    """

    names: tuple[str, ...]
    found: tuple[BrightPixels | None, ...]
    failed: tuple[str, ...]
    displacement: Displacement | None = None

    @property
    def scores(self) -> np.ndarray:
        """Scores (n,) of the stills of which it can be told."""
        return np.array([found.score for found in self.found if found is not None])


@dataclass(frozen=True, eq=False)
class LookAtStills:
    """Finds the bright pixels of one image after another.

    Attributes:
        source: of the images.
        geometries: of the experiment.
    """

    source: ImageSource
    geometries: tuple[Geometry, ...]
    _rings: dict[int, Rings] = field(default_factory=dict)

    def __call__(self, item: tuple[int, int]) -> Sightings | None:
        """Return the bright pixels of an image, by its number in the source and that of its geometry.

        None is for an image that can't be read: whoever adds it up says so.
        """
        number, geometry = item
        if geometry not in self._rings:
            self._rings.clear()
            self._rings[geometry] = Rings.of(self.geometries[geometry])
        try:
            frame = self.source.read(number)
        except DataError:
            return None
        return sightings(frame, self._rings[geometry], _ORDINARY)


def check_stills(
    experiment: Experiment, source: ImageSource, spread: Spread, lowest: float, advice: str
) -> tuple[Experiment, OrientationCheck]:
    """Return the experiment without the stills whose bright pixels are not on their lattice; rotations are left alone.

    Args:
        experiment: indexed images.
        source: of their pixels.
        spread: calls a function with each of the items, and returns the results in order.
        lowest: score below which a still is rejected.
        advice: what to try, for the reason of a rejection.
    """
    stills = [image for image in experiment.images_by_name() if image.rotation is None]
    numbers = np.unique(np.linspace(0, len(stills) - 1, SAMPLE).astype(int)) if stills else []
    check = _look([stills[number] for number in numbers], experiment, source, spread, lowest)
    if check.failed and len(numbers) < len(stills):
        check = _look(stills, experiment, source, spread, lowest)
    failed = {
        name: found for name, found in zip(check.names, check.found, strict=True) if found and name in set(check.failed)
    }
    rejected = tuple(
        Rejected(
            name,
            "validation",
            f"only {found.near:.0%} of its bright pixels are near reciprocal lattice points, {found.chance:.0%} are by "
            f"chance: {advice}",
        )
        for name, found in failed.items()
    )
    kept = tuple(image for image in experiment.images if image.name not in failed)
    return replace(experiment, images=kept, rejected=experiment.rejected + rejected), check


def _look(
    stills: list[Image], experiment: Experiment, source: ImageSource, spread: Spread, lowest: float
) -> OrientationCheck:
    work = LookAtStills(source, experiment.geometries)
    seen = list(spread(work, [(image.source_index, image.geometry) for image in stills]))
    faulty = _faulty_pixels([sighted for sighted in seen if sighted is not None])
    conditions = centring_conditions(experiment.symmetry.space_group)
    found = tuple(
        None
        if sighted is None
        else still_agreement(
            _without(sighted, faulty),
            (image.setting_matrix, *image.other_lattices),
            experiment.geometry_of(image),
            conditions,
        )
        for image, sighted in zip(stills, seen, strict=True)
    )
    names = tuple(image.name for image in stills)
    failed = tuple(
        name for name, agreed in zip(names, found, strict=True) if agreed is not None and agreed.score < lowest
    )
    good = [
        (image, _without(sighted, faulty).bright)
        for image, sighted in zip(stills, seen, strict=True)
        if sighted is not None and image.name not in failed and not image.other_lattices
    ]
    if not good:
        return OrientationCheck(names, found, failed)
    # Images of one data set share a geometry but for what was refined.
    usual = Counter(image.geometry for image, _ in good).most_common(1)[0][0]
    beside = displacement(
        [bright for image, bright in good if image.geometry == usual],
        [image.setting_matrix for image, _ in good if image.geometry == usual],
        experiment.geometries[usual],
    )
    return OrientationCheck(names, found, failed, beside)


def _faulty_pixels(seen: list[Sightings]) -> set[tuple[int, ...]]:
    """Pixels that stand alone, bright, on many images."""
    places = Counter(tuple(place) for sighted in seen for place in sighted.places[sighted.alone].tolist())
    fewest = max(_FAULTY_FEWEST, _FAULTY_SHARE * len(seen))
    return {place for place, n in places.items() if n >= fewest}


def _without(seen: Sightings, faulty: set[tuple[int, ...]]) -> Sightings:
    good = np.array([tuple(place) not in faulty for place in seen.places.tolist()], bool)
    return replace(seen, places=seen.places[good], alone=seen.alone[good], bright=seen.bright[good])
