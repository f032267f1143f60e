"""Hot, dead and negative pixels, found by looking at a sample of the images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.masking.bad_pixels import (
    DEAD,
    HOT,
    NEGATIVE,
    UNDECIDED,
    Criteria,
    PixelHistory,
    block_levels,
    photons_of,
)
from diffuse_framework.algorithms.masking.shapes import (
    centring_conditions,
    paint_around,
    predicted_spots,
    within_range,
)
from diffuse_framework.errors import DataError
from diffuse_framework.model.conventions import DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import Experiment, Image, no_spots
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

PHIL = """
n_images = 20
  .type = int(value_min=1, allow_none=False)
  .help = "Images to look at, spread evenly over the data set."
min_images = 5
  .type = int(value_min=2, allow_none=False)
  .help = "With fewer images no pixel is marked: a few images can't tell a bad pixel from chance."
false_alarm = 1e-9
  .type = float(value_min=1e-30, value_max=1e-3, allow_none=False)
  .help = "Upper bound on the probability that counting noise alone marks a good pixel."
hot_factor = 3.0
  .type = float(value_min=1.5, allow_none=False)
  .help = "A hot pixel counts more than this times what the pixels around it do, even without its"
          "largest counts."
dead_factor = 0.1
  .type = float(value_min=0, value_max=0.5, allow_none=False)
  .help = "A dead pixel counts less than this times what the pixels around it do. Dead pixels can"
          "only be told where the sample holds about 40 photons a pixel."
bragg_radius = 5.0
  .type = float(value_min=0, allow_none=False)
  .help = "Pixels this near to a predicted reflection are not judged on that image, in pixels."
bragg_width = 0.004
  .type = float(value_min=0, allow_none=False)
  .help = "Distance from the Ewald sphere at which reflections are predicted, in 1/angstrom."
"""

_NAMES = {HOT: "hot", DEAD: "dead or stuck", NEGATIVE: "negative"}


@dataclass(frozen=True)
class PanelSample:
    """One panel of one image of the sample.

    Attributes:
        photons: (slow, fast) int16 of `algorithms.bad_pixels.photons_of`.
        mean, variance: of its blocks.
    """

    photons: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, eq=False)
class _Look:
    """Reads one image of the sample, in a worker."""

    source: ImageSource
    geometries: tuple[Geometry, ...]
    conditions: np.ndarray
    radius: float
    width: float

    def __call__(self, image: Image) -> tuple[PanelSample, ...]:
        """Return the photons of `image` away from its reflections, and their levels."""
        geometry = self.geometries[image.geometry]
        frame = self.source.read(image.source_index)
        panel_number, px = predicted_spots(
            image.setting_matrix,
            geometry,
            0.0,
            self.width,
            image.mosaic_width_deg,
            self.conditions,
            self.radius,
        )
        samples = []
        for number, (values, panel) in enumerate(zip(frame.counts, geometry.panels, strict=True)):
            classes = within_range(values, *panel.trusted_range)
            if self.radius > 0:
                paint_around(classes, px[panel_number == number], self.radius)
            photons = photons_of(values, classes, panel.gain, panel.pedestal)
            samples.append(PanelSample(photons, *block_levels(photons)))
        return tuple(samples)


@dataclass(frozen=True, eq=False)
class DynamicMasker:
    """Removes pixels that count far more or far less than their surroundings on nearly all images."""

    name: ClassVar[str] = "dynamic"
    phil: ClassVar[str] = PHIL
    n_images: int = 20
    min_images: int = 5
    criteria: Criteria = Criteria()
    bragg_radius: float = 5.0
    bragg_width: float = 0.004
    bad: np.ndarray | None = None
    """(n, 3) integers (panel, slow, fast) once `prepare` has looked."""

    @classmethod
    def from_params(cls, params: Any) -> DynamicMasker:
        """Return the masker that the parameters describe."""
        return cls(
            n_images=params.n_images,
            min_images=params.min_images,
            criteria=Criteria(params.false_alarm, params.hot_factor, params.dead_factor),
            bragg_radius=params.bragg_radius,
            bragg_width=params.bragg_width,
        )

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> DynamicMasker:
        """Look at a sample of the indexed images and return a masker that knows the bad pixels.

        Raises:
            DataError: an image can't be read, or images of different detectors.
        """
        sample = _spread(experiment.images, self.n_images)
        if len(sample) < self.min_images:
            logger.info(
                "Dynamic mask: no pixel marked; %d image%s can't tell a bad pixel from chance (min_images=%d)",
                len(sample),
                "" if len(sample) == 1 else "s",
                self.min_images,
            )
            return replace(self, bad=np.zeros((0, 3), np.int32))
        look = _Look(
            source=source,
            geometries=experiment.geometries,
            conditions=centring_conditions(experiment.symmetry.space_group),
            radius=self.bragg_radius,
            width=self.bragg_width,
        )
        histories = _histories(mapper.map(look, sample), sample)
        verdicts = [history.judge(self.criteria) for history in histories]
        found = [
            np.insert(np.argwhere((verdict >= HOT) & (verdict <= NEGATIVE)), 0, number, axis=1)
            for number, verdict in enumerate(verdicts)
        ]
        _log(histories, verdicts, len(sample), len(experiment.images))
        return replace(self, bad=np.concatenate(found).astype(np.int32))

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return untrusted for the bad pixels; None where there are none."""
        if self.bad is None or len(self.bad) == 0:
            return None
        panels = tuple(np.full(panel.shape, DIFFUSE) for panel in geometry.panels)
        for number, classes in enumerate(panels):
            here = self.bad[self.bad[:, 0] == number]
            classes[here[:, 1], here[:, 2]] = UNTRUSTED
        return PixelMask(panels)

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return None: bad pixels are the same on all images."""
        return None


def _spread(images: tuple[Image, ...], n_images: int) -> list[Image]:
    """Return up to `n_images` images, evenly spaced, without their spots."""
    numbers = np.unique(np.linspace(0, len(images) - 1, min(n_images, len(images))).round().astype(int))
    return [replace(images[number], spots=no_spots()) for number in numbers]


def _histories(samples: Iterator[tuple[PanelSample, ...]], images: list[Image]) -> list[PixelHistory]:
    """Return the sums of each panel over all samples.

    Raises:
        DataError: images of different detectors.
    """
    histories: list[PixelHistory] = []
    shapes: list[tuple[int, ...]] = []
    for image, panels in zip(images, samples, strict=True):
        found = [panel.photons.shape for panel in panels]
        if not histories:
            shapes = found
            histories = [PixelHistory(shape, len(images)) for shape in shapes]
        if found != shapes:
            raise DataError(f"{image.name} has panels of {found} pixels, {images[0].name} of {shapes}")
        for history, panel in zip(histories, panels, strict=True):
            history.add(panel.photons, panel.mean, panel.variance)
    return histories


def _log(histories: list[PixelHistory], verdicts: list[np.ndarray], n_sample: int, n_images: int) -> None:
    counts = [(name, sum(np.count_nonzero(v == kind) for v in verdicts)) for kind, name in _NAMES.items()]
    seen = [history.seen for history in histories]
    dim = sum(np.count_nonzero(s & (v == UNDECIDED)) for s, v in zip(seen, verdicts, strict=True))
    logger.info(
        "Dynamic mask: %s of %d pixels seen, from %d of %d images",
        ", ".join(f"{count} {name}" for name, count in counts),
        sum(np.count_nonzero(s) for s in seen),
        n_sample,
        n_images,
    )
    if dim:
        logger.info("Dynamic mask: %d pixels are too dim to tell whether they are dead", dim)


@hookimpl
def diffuse_maskers() -> list[type]:
    """Offer the masker."""
    return [DynamicMasker]
