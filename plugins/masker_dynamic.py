"""Hot, dead and negative pixels, found by looking at a sample of the images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.factors import polarization, solid_angle
from diffuse_framework.algorithms.geometry import of_pixels, scattering_vectors
from diffuse_framework.algorithms.masking.bad_pixels import (
    DEAD,
    HOT,
    INVALID,
    NEGATIVE,
    UNDECIDED,
    UNJUDGED,
    Criteria,
    PixelHistory,
    are_single,
    block_levels,
    bright_above,
    bright_pixels,
    photons_of,
)
from diffuse_framework.algorithms.masking.levels import Levels, brightness_of, mean_levels
from diffuse_framework.algorithms.masking.shadow import find_shadow, ring_levels, ring_width
from diffuse_framework.algorithms.masking.shapes import (
    NEAR,
    centring_conditions,
    near_lattice,
    paint_around,
    predicted_spots,
    within_range,
)
from diffuse_framework.errors import DataError
from diffuse_framework.model.conventions import DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import Experiment, Image, no_spots
from diffuse_framework.model.geometry import Geometry, Panel
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

PHIL = """
n_images = 20
  .type = int(value_min=1, allow_none=False)
  .help = "Images to read first, spread evenly over the data set. More follow, as many again at a time, as long as"
          "more than one pixel in a thousand was usable on fewer than min_images of them."
max_images = 200
  .type = int(value_min=1, allow_none=False)
  .help = "Largest number of images to read."
min_images = 5
  .type = int(value_min=2, allow_none=False)
  .help = "With fewer images no pixel is marked: a few images can't tell a bad pixel from chance. A pixel is"
          "judged by as many on which it is no part of a reflection."
unjudged = *mask keep
  .type = choice
  .help = "What becomes of pixels that could be used on some images, but on too few to judge them."
false_alarm = 1e-9
  .type = float(value_min=1e-30, value_max=1e-3, allow_none=False)
  .help = "Upper bound on the probability that counting noise alone marks a good pixel."
hot_factor = 1.5
  .type = float(value_min=1.1, allow_none=False)
  .help = "A hot pixel counts more than this times what the pixels around it do, even without its"
          "largest counts."
dead_factor = 0.1
  .type = float(value_min=0, value_max=0.5, allow_none=False)
  .help = "A dead pixel counts less than this times what the pixels around it do. Dead pixels can"
          "only be told where the sample holds about 40 photons a pixel."
spikes = False
  .type = bool
  .help = "Take out pixels that are bright on a single image and alone, away from reciprocal lattice points: cosmic"
          "rays, and hot pixels that flicker. Masker bragg does so too (masker.bragg.unpredicted); for runs without it."
shadow = True
  .type = bool
  .help = "Take out the shadow of the beam stop and of its arm: pixels that count less than half of what others"
          "of their resolution do, on all images together, and the dim edge around them."
shadow_margin = 2
  .type = int(value_min=0, allow_none=False)
  .help = "Pixels around the shadow that are taken out too."
bragg_radius = 3.0
  .type = float(value_min=0, allow_none=False)
  .help = "Pixels this near to a predicted reflection are not judged on that image, in pixels."
bragg_width = 0.002
  .type = float(value_min=0, allow_none=False)
  .help = "Distance from the Ewald sphere at which reflections are predicted, in 1/angstrom."
"""

_NAMES = {HOT: "hot", DEAD: "dead or stuck", NEGATIVE: "negative"}


# More than this share of pixels unjudged asks for more images.
_UNJUDGED = 1e-3


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
        found = [
            predicted_spots(
                lattice.setting_matrix,
                geometry,
                0.0,
                self.width,
                image.mosaic_width_deg,
                self.conditions,
                self.radius,
                image.rotation,
            )
            for lattice in image.each_lattice()
        ]
        panel_number, px = (np.concatenate(parts) for parts in zip(*found, strict=True))
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
    """Removes pixels that count far more or far less than they should, on nearly all images or alone on one."""

    name: ClassVar[str] = "dynamic"
    phil: ClassVar[str] = PHIL
    n_images: int = 20
    max_images: int = 200
    min_images: int = 5
    mask_unjudged: bool = True
    criteria: Criteria = Criteria()
    spikes: bool = False
    shadow: bool = True
    shadow_margin: int = 2
    bragg_radius: float = 3.0
    bragg_width: float = 0.002
    space_group: str = "P1"
    bad: np.ndarray | None = None
    """(n, 3) integers (panel, slow, fast) once `prepare` has looked."""
    shaded: np.ndarray | None = None
    """(n, 3) integers (panel, slow, fast) of the pixels in shadows."""
    levels: Levels | None = None
    """What pixels should count."""

    @classmethod
    def from_params(cls, params: Any) -> DynamicMasker:
        """Return the masker that the parameters describe."""
        return cls(
            n_images=params.n_images,
            max_images=max(params.max_images, params.n_images),
            min_images=params.min_images,
            mask_unjudged=params.unjudged == "mask",
            criteria=Criteria(params.false_alarm, params.hot_factor, params.dead_factor),
            spikes=params.spikes,
            shadow=params.shadow,
            shadow_margin=params.shadow_margin,
            bragg_radius=params.bragg_radius,
            bragg_width=params.bragg_width,
        )

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> DynamicMasker:
        """Read a sample of the indexed images and return a masker that knows the bad pixels and the shadow.

        Raises:
            DataError: an image can't be read, or images of different detectors.
        """
        space_group = experiment.symmetry.space_group
        n_first = min(self.n_images, len(experiment.images))
        if n_first < self.min_images:
            logger.info(
                "Dynamic mask: no pixel marked; %d image%s can't tell a bad pixel from chance (min_images=%d)",
                n_first,
                "" if n_first == 1 else "s",
                self.min_images,
            )
            return replace(self, space_group=space_group, bad=np.zeros((0, 3), np.int32))
        look = _Look(
            source=source,
            geometries=experiment.geometries,
            conditions=centring_conditions(space_group),
            radius=self.bragg_radius,
            width=self.bragg_width,
        )
        sample = _Sample(experiment, self.min_images)
        for batch in _batches(experiment.images_by_name(), self.n_images, self.max_images):
            sample.add(mapper.map(look, batch), batch)
            if sample.n_unjudged <= _UNJUDGED * sample.n_seen:
                break
        verdicts = sample.verdicts(self.criteria)
        shadows = sample.shadows(self.shadow_margin) if self.shadow else [np.zeros(v.shape, bool) for v in verdicts]
        marked = [(v >= HOT) & (v <= NEGATIVE) & ~dark for v, dark in zip(verdicts, shadows, strict=True)]
        if self.mask_unjudged:
            marked = [bad | (v == UNJUDGED) for bad, v in zip(marked, verdicts, strict=True)]
        self._log(sample, verdicts, shadows, len(experiment.images))
        return replace(
            self,
            space_group=space_group,
            bad=_places(marked),
            shaded=_places(shadows),
            levels=sample.levels(),
        )

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return untrusted for bad pixels and shadows; None where there are none."""
        out = [places for places in (self.bad, self.shaded) if places is not None and len(places)]
        if not out:
            return None
        panels = tuple(np.full(panel.shape, DIFFUSE) for panel in geometry.panels)
        for places in out:
            for number, classes in enumerate(panels):
                here = places[places[:, 0] == number]
                classes[here[:, 1], here[:, 2]] = UNTRUSTED
        return PixelMask(panels)

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return untrusted for single bright pixels away from the lattice of `image`; None where there are none."""
        if not self.spikes or self.levels is None:
            return None
        brightness = self.levels.brightness(frame.counts, geometry.panels)
        found = [
            self._spikes(values, panel, blocks * brightness, image, q)
            for values, panel, blocks, q in zip(
                frame.counts, geometry.panels, self.levels.panels, pixels.q, strict=True
            )
        ]
        if not any(len(places) for places in found):
            return None
        panels = tuple(np.full(panel.shape, DIFFUSE) for panel in geometry.panels)
        for classes, places in zip(panels, found, strict=True):
            classes[places[:, 0], places[:, 1]] = UNTRUSTED
        return PixelMask(panels)

    def _spikes(self, values: np.ndarray, panel: Panel, levels: np.ndarray, image: Image, q: np.ndarray) -> np.ndarray:
        """Return single bright pixels (n, 2) (slow, fast) of a panel that no reflection explains."""
        noise = panel.read_noise**2
        limits = bright_above(levels, noise=noise)
        places = bright_pixels(values, limits, panel.gain, panel.pedestal, panel.trusted_range[1])
        meaning = (panel.gain, panel.pedestal, panel.trusted_range, noise)
        places = places[are_single(values, places, levels, *meaning)]
        if not len(places):
            return places
        vectors = q[places[:, 0], places[:, 1]].astype(float)
        return places[~near_lattice(vectors, image, centring_conditions(self.space_group), NEAR)]

    def _log(self, sample: _Sample, verdicts: list[np.ndarray], shadows: list[np.ndarray], n_images: int) -> None:
        counts = [(name, sum(np.count_nonzero(v == kind) for v in verdicts)) for kind, name in _NAMES.items()]
        logger.info(
            "Dynamic mask: %s of %d usable pixels, from %d of %d images",
            ", ".join(f"{count} {name}" for name, count in counts),
            sample.n_seen,
            sample.n_images,
            n_images,
        )
        dim = sum(np.count_nonzero(h.seen & (v == UNDECIDED)) for h, v in zip(sample.histories, verdicts, strict=True))
        if dim:
            logger.info("Dynamic mask: %d pixels are too dim to tell whether they are dead", dim)
        unjudged = sum(np.count_nonzero(v == UNJUDGED) for v in verdicts)
        if unjudged:
            logger.info(
                "Dynamic mask: %d pixels could be judged on fewer than %d images and are %s (masker.dynamic.unjudged)",
                unjudged,
                self.min_images,
                "masked" if self.mask_unjudged else "kept",
            )
        if self.shadow:
            shaded = sum(np.count_nonzero(shadow) for shadow in shadows)
            logger.info("Dynamic mask: %s", _shadow_words(shadows) if shaded else "no shadow of a beam stop was found")


class _Sample:
    """What is kept of the images that were read."""

    def __init__(self, experiment: Experiment, min_images: int) -> None:
        self._experiment, self._min_images = experiment, min_images
        self.histories: list[PixelHistory] = []
        self.n_images = 0
        self._shapes: list[tuple[int, ...]] = []
        self._first: Image | None = None
        self._blocks: list[tuple[np.ndarray, ...]] = []
        self._totals: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []

    def add(self, samples: Iterator[tuple[PanelSample, ...]], images: list[Image]) -> None:
        """Add images.

        Raises:
            DataError: images of different detectors.
        """
        for image, panels in zip(images, samples, strict=True):
            found = [panel.photons.shape for panel in panels]
            if not self.histories:
                self._shapes, self._first = found, image
                self.histories = [PixelHistory(shape, len(images), self._min_images) for shape in found]
                self._totals = [np.zeros(shape, np.float32) for shape in found]
                self._weights = [np.zeros(shape, np.float32) for shape in found]
            if found != self._shapes:
                assert self._first is not None
                raise DataError(f"{image.name} has panels of {found} pixels, {self._first.name} of {self._shapes}")
            means = tuple(panel.mean for panel in panels)
            self._blocks.append(means)
            bright = brightness_of(means)
            known = np.concatenate([mean[np.isfinite(mean)] for mean in means])
            largest = min(4 * float(known.max(initial=0)) + 20, 32767)
            for n, panel in enumerate(panels):
                self.histories[n].add(panel.photons, panel.mean, panel.variance)
                valid = panel.photons != INVALID
                self._totals[n] += np.where(valid, np.minimum(panel.photons, np.int16(largest)), np.int16(0))
                self._weights[n] += np.where(valid, np.float32(bright), np.float32(0))
            self.n_images += 1

    @property
    def n_unjudged(self) -> int:
        """Pixels that could be used, but were usable on too few images."""
        return sum(history.n_unjudged for history in self.histories)

    @property
    def n_seen(self) -> int:
        """Pixels that can be judged."""
        return sum(int(np.count_nonzero(history.seen)) for history in self.histories)

    def verdicts(self, criteria: Criteria) -> list[np.ndarray]:
        """Return the verdict (slow, fast) on the pixels of each panel."""
        return [history.judge(criteria) for history in self.histories]

    def levels(self) -> Levels:
        """Return what pixels should count."""
        return mean_levels(self._blocks)

    def shadows(self, margin: int) -> list[np.ndarray]:
        """Return True (slow, fast) in the shadows on each panel."""
        assert self._first is not None
        geometry = self._experiment.geometry_of(self._first)
        rings, totals = [], []
        step = ring_width(geometry)
        for panel, total in zip(geometry.panels, self._totals, strict=True):
            length = of_pixels(panel, lambda mm: np.linalg.norm(scattering_vectors(mm, geometry.beam), axis=-1))
            rings.append((length / step).astype(np.int32))
            factor = of_pixels(panel, lambda mm: polarization(mm, geometry.beam))
            factor *= of_pixels(panel, partial(solid_angle, panel=panel))
            totals.append(total / (factor / factor.mean()).astype(np.float32))
        noise = [self.n_images * panel.read_noise**2 for panel in geometry.panels]
        expected = ring_levels(totals, self._weights, rings, max(noise))
        return [
            find_shadow(total, weight, expected, ring, margin, of_panel)
            for total, weight, ring, of_panel in zip(totals, self._weights, rings, noise, strict=True)
        ]


def _places(marked: list[np.ndarray]) -> np.ndarray:
    """Return (n, 3) integers (panel, slow, fast) of the pixels marked on each panel."""
    found = [np.insert(np.argwhere(panel), 0, number, axis=1) for number, panel in enumerate(marked)]
    return np.concatenate(found).astype(np.int32)


def _shadow_words(shadows: list[np.ndarray]) -> str:
    words = []
    for number, shadow in enumerate(shadows):
        if shadow.any():
            slow, fast = np.nonzero(shadow)
            words.append(
                f"{len(slow)} pixels lie in a shadow, fast {fast.min()} to {fast.max()} and slow {slow.min()} to "
                f"{slow.max()}{f' of panel {number}' if len(shadows) > 1 else ''}"
            )
    more = f", and on {len(words) - 3} more panels" if len(words) > 3 else ""
    return "; ".join(words[:3]) + more


def _batches(images: tuple[Image, ...], n_first: int, most: int) -> Iterator[list[Image]]:
    """Yield images without their spots, each batch evenly spread over those that were not there before."""
    left = np.arange(len(images))
    taken = 0
    while len(left) and taken < most:
        size = min(n_first, len(left), most - taken)
        chosen = np.unique(np.linspace(0, len(left) - 1, size).round().astype(int))
        yield [replace(images[number], spots=no_spots()) for number in left[chosen]]
        taken += len(chosen)
        left = np.delete(left, chosen)


@hookimpl
def diffuse_maskers() -> list[type]:
    """Offer the masker."""
    return [DynamicMasker]
