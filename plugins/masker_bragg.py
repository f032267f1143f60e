"""Bragg peaks, masked around every predicted reflection as far as they reach, and where they were not predicted."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.geometry import highest_resolution, q_at_px
from diffuse_framework.algorithms.masking.bad_pixels import (
    are_single,
    block_levels,
    bright_above,
    bright_pixels,
    filled,
    photons_of,
)
from diffuse_framework.algorithms.masking.leaks import Leaks, add_leaks, leaks_around, needed_growth, nothing_leaked
from diffuse_framework.algorithms.masking.levels import Levels, mean_levels
from diffuse_framework.algorithms.masking.reflections import (
    Predicted,
    bin_of,
    may_show,
    paint_ellipses,
    photon_sums,
    predict,
    radial_directions,
    shows,
    stand_out,
)
from diffuse_framework.algorithms.masking.shapes import (
    NEAR,
    centring_conditions,
    near_lattice,
    paint_around,
    paint_panels,
    within_range,
)
from diffuse_framework.algorithms.masking.spots import (
    REACH,
    Measured,
    SpotModel,
    add_measured,
    measure,
    nothing_measured,
    spot_model,
)
from diffuse_framework.model.conventions import BRAGG, DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import Experiment, Image, no_spots
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

PHIL = """
share = 0.05
  .type = float(value_min=0.001, value_max=1, allow_none=False)
  .help = "A peak is masked as far as it exceeds this share of the diffuse scattering around it."
n_images = 12
  .type = int(value_min=1, allow_none=False)
  .help = "Images on which size and shape of peaks are measured, spread evenly over the data set."
unpredicted = True
  .type = bool
  .help = "Mask peaks that were not predicted, too: pixels that stand out from what is around them. Single ones away"
          "from the lattice, cosmic rays and pixels that flicker, are not trusted at all."
radius = None
  .type = float(value_min=0.5)
  .help = "Pixels whose centre is this near to a predicted reflection are masked, in pixels. Where it is not given"
          "the size of each peak is taken from the data."
shape = *disk box
  .type = choice
  .help = "With a radius: a disk of that radius, or a box of twice the radius on a side."
excitation_error = None
  .type = float(value_min=0)
  .help = "Reflections this far from the Ewald sphere still show, in 1/angstrom: for the size of"
          "mosaic blocks, the divergence and the bandwidth of the beam. Where it is not given it is taken from"
          "the data, by resolution; where they don't tell, 0.004 for stills and 0.002 for rotations."
mosaic_width = None
  .type = float(value_min=0)
  .help = "With an excitation error: full width of the mosaic spread in degrees; that of each image where it is"
          "not given."
d_min = None
  .type = float(value_min=0)
  .help = "Reflections of higher resolution are too weak to mask, in angstrom; all on the detector"
          "are masked where it is not given."
"""

_CROWDED = 0.5
_STILL_WIDTH, _ROTATION_WIDTH = 0.004, 0.002
_RADIUS = 6.0
# Distance from the sphere up to which reflections are searched when their excitation error is measured.
_STILL_WIDEST, _ROTATION_WIDEST = 0.008, 0.005
# A guard whose leak can't be mended warns.
_LEAKS = 0.05


@dataclass(frozen=True, eq=False)
class _Levels:
    """Reads one image of the sample for its levels, in a worker."""

    source: ImageSource
    geometries: tuple[Geometry, ...]
    conditions: np.ndarray

    def __call__(self, image: Image) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Return of each panel the means of its blocks and its bright pixels."""
        geometry = self.geometries[image.geometry]
        frame = self.source.read(image.source_index)
        predicted = predict(image, geometry, 0.001, self.conditions, 0.0)
        means, bright = [], []
        for number, (values, panel) in enumerate(zip(frame.counts, geometry.panels, strict=True)):
            classes = within_range(values, *panel.trusted_range)
            paint_around(classes, predicted.px[predicted.panel == number], 3.0)
            mean = block_levels(photons_of(values, classes, panel.gain, panel.pedestal))[0]
            means.append(mean)
            limits = bright_above(filled(mean), noise=panel.read_noise**2)
            bright.append(bright_pixels(values, limits, panel.gain, panel.pedestal, panel.trusted_range[1]))
        return tuple(means), tuple(bright)


@dataclass(frozen=True, eq=False)
class _Peaks:
    """Measures the peaks of one image, in a worker."""

    source: ImageSource
    geometries: tuple[Geometry, ...]
    conditions: np.ndarray
    levels: Levels
    faults: tuple[np.ndarray, ...]
    d_min: float

    def __call__(self, image: Image) -> Measured:
        geometry = self.geometries[image.geometry]
        frame = self.source.read(image.source_index)
        predicted = predict(image, geometry, _widest(image), self.conditions, REACH, self.d_min)
        blocks = self.levels.on(frame.counts, geometry.panels)
        return measure(
            predicted, frame.counts, geometry, blocks, self.faults, 1 / highest_resolution(geometry), _widest(image)
        )


@dataclass(frozen=True, eq=False)
class _Guard:
    """Measures what leaks past the mask of one image, in a worker."""

    source: ImageSource
    geometries: tuple[Geometry, ...]
    masker: BraggMasker

    def __call__(self, image: Image) -> Leaks:
        geometry = self.geometries[image.geometry]
        frame = self.source.read(image.source_index)
        mask = self.masker.image_mask(frame, image, geometry, PixelTable((), ()))
        assert mask is not None and self.masker.levels is not None
        blocks = self.masker.levels.on(frame.counts, geometry.panels)
        return leaks_around(frame.counts, mask.panels, geometry, blocks, 1 / highest_resolution(geometry))


@dataclass(frozen=True)
class BraggMasker:
    """Marks Bragg peaks, predicted ones and those that stand out; they go to the second channel."""

    name: ClassVar[str] = "bragg"
    phil: ClassVar[str] = PHIL
    share: float = 0.05
    n_images: int = 12
    unpredicted: bool = True
    radius: float | None = None
    disk: bool = True
    excitation_error: float | None = None
    mosaic_width_deg: float | None = None
    d_min: float = 0.0
    space_group: str = "P1"
    levels: Levels | None = None
    """What pixels count away from peaks, once `prepare` has looked."""
    faults: tuple[np.ndarray, ...] = ()
    """True (slow, fast) for pixels of each panel that are bright too often to be part of peaks."""
    model: SpotModel | None = None
    """How peaks look; None where too few were seen, or where radius and excitation error were given."""

    @classmethod
    def from_params(cls, params: Any) -> BraggMasker:
        """Return the masker that the parameters describe."""
        return cls(
            share=params.share,
            n_images=params.n_images,
            unpredicted=params.unpredicted,
            radius=params.radius,
            disk=params.shape == "disk",
            excitation_error=params.excitation_error,
            mosaic_width_deg=params.mosaic_width,
            d_min=params.d_min or 0.0,
        )

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> BraggMasker:
        """Return a masker that knows the lattice centring and how peaks look, and log how much it takes.

        Raises:
            DataError: an image can't be read.
        """
        masker = replace(self, space_group=experiment.symmetry.space_group, levels=None, model=None)
        measures = self.radius is None or self.excitation_error is None
        if not experiment.images or not (measures or self.unpredicted):
            return masker
        images = experiment.images_by_name()
        numbers = np.unique(np.linspace(0, len(images) - 1, self.n_images).round().astype(int))
        sample = [replace(images[number], spots=no_spots()) for number in numbers]
        look = (source, experiment.geometries)
        conditions = centring_conditions(masker.space_group)
        means, bright = zip(*mapper.map(_Levels(*look, conditions), sample), strict=True)
        shapes = [panel.shape for panel in experiment.geometry_of(sample[0]).panels]
        levels, faults = mean_levels(list(means)), _often_bright(shapes, bright)
        masker = replace(masker, levels=levels, faults=faults)
        if measures:
            peaks = _Peaks(*look, conditions, levels, faults, self.d_min)
            masker = replace(masker, model=self._spot_model(peaks, sample, mapper))
        leaks = nothing_leaked()
        for one in mapper.map(_Guard(*look, masker), sample):
            leaks = add_leaks(leaks, one)
        if masker.model is not None and self.radius is None:
            growth = needed_growth(leaks, self.share)
            if growth.any():
                masker = replace(masker, model=replace(masker.model, grow=growth))
                leaks = nothing_leaked()
                for one in mapper.map(_Guard(*look, masker), sample):
                    leaks = add_leaks(leaks, one)
        masker._log(leaks, sample)
        return masker

    def _spot_model(self, peaks: _Peaks, sample: list[Image], mapper: Mapper) -> SpotModel | None:
        measured = nothing_measured()
        for one in mapper.map(peaks, sample):
            measured = add_measured(measured, one)
        q_max = max(1 / highest_resolution(geometry) for geometry in peaks.geometries)
        return spot_model(measured, q_max, _widest(sample[0]), self.share)

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return None: every image has its own reflections."""
        return None

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return Bragg around the predictions of `image`, and around what stands out of `frame`."""
        predicted = self._predicted(image, geometry).by_lines()
        shapes = [panel.shape for panel in geometry.panels]
        if self.model is None or self.radius is not None:
            radius = _RADIUS if self.radius is None else self.radius
            classes = paint_panels(shapes, predicted.panel, predicted.px, radius, self.disk)
        else:
            classes = tuple(np.full(shape, DIFFUSE) for shape in shapes)
        if self.levels is None:
            return PixelMask(classes)
        blocks = self.levels.on(frame.counts, geometry.panels)
        for number in range(len(classes)):
            if self.model is not None and self.radius is None:
                here = predicted.where(predicted.panel == number)
                always = np.ones(len(here.q), bool)
                if self.excitation_error is None:
                    panel = geometry.panels[number]
                    always = here.off <= self.model.width[bin_of(here.q, self.model.q_max)]
                    meaning = (blocks[number], panel.gain, panel.pedestal, panel.trusted_range, panel.read_noise**2)
                    some = always | may_show(frame.counts[number], self.faults[number], here.px, *meaning)
                    here, always = here.where(some), always[some]
                self._paint(
                    classes[number], frame.counts[number], geometry, number, blocks[number], here, always, self.model
                )
            if self.unpredicted:
                self._paint_found(classes[number], frame.counts[number], image, geometry, number, blocks[number])
        return PixelMask(classes)

    def _predicted(self, image: Image, geometry: Geometry) -> Predicted:
        """Return the reflections of an image that may show."""
        conditions = centring_conditions(self.space_group)
        if self.excitation_error is None and self.model is not None:
            widest = self.model.widest if self.radius is None else float(self.model.width.max())
            predicted = predict(image, geometry, widest, conditions, REACH, self.d_min)
            if self.radius is None:
                return predicted
            return predicted.where(predicted.off <= self.model.width[bin_of(predicted.q, self.model.q_max)])
        mosaic = image.mosaic_width_deg if self.mosaic_width_deg is None else self.mosaic_width_deg
        margin = REACH if self.radius is None else self.radius
        return predict(image, geometry, self._width(image), conditions, margin, self.d_min, mosaic)

    def _width(self, image: Image) -> float:
        """Distance from the Ewald sphere that still excites, 1/angstrom."""
        if self.excitation_error is not None:
            return self.excitation_error
        return _STILL_WIDTH if image.rotation is None else _ROTATION_WIDTH

    def _paint(
        self,
        classes: np.ndarray,
        values: np.ndarray,
        geometry: Geometry,
        number: int,
        blocks: np.ndarray,
        peaks: Predicted,
        always: np.ndarray,
        model: SpotModel,
    ) -> None:
        """Mask peaks of one panel as far as their own photons make them reach; those that don't show if `always`."""
        if not len(peaks.q):
            return
        px, panel = np.ascontiguousarray(peaks.px), geometry.panels[number]
        bins = bin_of(peaks.q, model.q_max)
        meaning = (panel.gain, panel.pedestal, panel.trusted_range, panel.read_noise**2)
        sums = photon_sums(values, self.faults[number], px, blocks, *meaning)
        n, photons, expected, n_ring, in_ring, _ = sums.T
        level = np.where(n_ring > 10, in_ring / np.maximum(n_ring, 1), expected / np.maximum(n, 1))
        level = np.maximum(level, 1e-3)
        excess = photons - level * n
        # Counting and reading, in the core and of the level that is taken from around it.
        of_level = level * n * (1 + n / np.maximum(n_ring, 10))
        noise = of_level * (1 + panel.read_noise**2 / level)
        usual = model.usual[bins] * level
        likely = (excess * usual**2 + usual * noise) / np.maximum(usual**2 + noise, 1e-9)
        likely = np.maximum(likely, excess - 2 * np.sqrt(noise))
        # Where little of the core is seen, at edges and overloads, a peak may be anything.
        known = n > 0.6 * n.max(initial=1)
        bright = np.quantile(likely[known], 0.95) if known.any() else 0.0
        likely = np.where(known, likely, max(bright, 0.0))
        radius = model.radius(peaks.q, likely, level, self.share)
        wanted = always | shows(excess, np.sqrt(np.maximum(photons, 1) + noise - level * n), level * n)
        along = radial_directions(geometry, number, px[wanted])
        paint_ellipses(classes, px[wanted], along, radius[wanted], model.stretch[bins[wanted]], BRAGG)

    def _paint_found(
        self,
        classes: np.ndarray,
        values: np.ndarray,
        image: Image,
        geometry: Geometry,
        number: int,
        blocks: np.ndarray,
    ) -> None:
        """Mask peaks of one panel that stand out and are not masked.

        A single bright pixel away from the lattice is no peak but a cosmic ray or a fault, and is not to be trusted.
        """
        panel = geometry.panels[number]
        meaning = (panel.gain, panel.pedestal, panel.trusted_range, panel.read_noise**2)
        limits = bright_above(blocks, noise=panel.read_noise**2)
        places = bright_pixels(values, limits, panel.gain, panel.pedestal, panel.trusted_range[1])
        slow, fast = places.T
        places = places[(classes[slow, fast] > BRAGG) & ~self.faults[number][slow, fast]]
        places = places[stand_out(values, places, *meaning)]
        if not len(places):
            return
        q = q_at_px(geometry, np.full(len(places), number), places[:, ::-1] + 0.5)
        single = are_single(values, places, blocks, *meaning)
        single[single] = ~near_lattice(q[single], image, centring_conditions(self.space_group), NEAR)
        slow, fast = places[single].T
        classes[slow, fast] = UNTRUSTED
        px, q = places[~single, ::-1] + 0.5, q[~single]
        if self.model is None:
            paint_around(classes, px, self.radius or _RADIUS)
            return
        found = Predicted(np.full(len(px), number), px, np.zeros(len(px)), np.linalg.norm(q, axis=1))
        self._paint(classes, values, geometry, number, blocks, found, np.ones(len(px), bool), self.model)

    def _log(self, leaks: Leaks, sample: list[Image]) -> None:
        """Log size of the peaks, share of pixels masked, indexed spots that the mask holds, and what leaks."""
        model = self.model
        n_sample = len(sample)
        if model is not None:
            some = model.width > 0
            logger.info(
                "Bragg mask: peaks measured on %d strong reflections of %d images; they show up to %s 1/angstrom from "
                "the Ewald sphere, are %s times as long towards the beam as across%s",
                model.n_strong,
                n_sample,
                _range(model.width[some], "%.4f"),
                _range(model.stretch, "%.1f"),
                f", and masks were grown by {_range(model.grow, '%.0f')} pixels for what leaked"
                * bool(model.grow.any()),
            )
        elif self.radius is None or self.excitation_error is None:
            logger.info(
                "Bragg mask: too few strong reflections to measure; radius %g pixels, excitation error %g 1/angstrom",
                _RADIUS if self.radius is None else self.radius,
                self._width(sample[0]),
            )
        share = leaks.masked.sum() / max(leaks.seen.sum(), 1)
        logger.info(
            "Bragg mask: %.1f %% of the pixels of %d images; next to it pixels count %+.1f %% more than further out, "
            "and %.2f %% of the diffuse photons leak",
            100 * share,
            n_sample,
            100 * leaks.beside(),
            100 * leaks.total(),
        )
        if share > _CROWDED:
            logger.warning(
                "The Bragg mask leaves only %.0f %% of the pixels: try a larger masker.bragg.share (now %g), or give "
                "masker.bragg.radius (now %s) and masker.bragg.excitation_error (now %s)",
                100 * (1 - share),
                self.share,
                "from the data" if self.radius is None else f"{self.radius:g}",
                "from the data" if self.excitation_error is None else f"{self.excitation_error:g}",
            )


def _often_bright(shapes: list[tuple[int, int]], bright: tuple[tuple[np.ndarray, ...], ...]) -> tuple[np.ndarray, ...]:
    """Return True (slow, fast) for pixels of each panel that are bright on a quarter of the images, and on three."""
    faults = []
    for number, shape in enumerate(shapes):
        times = np.zeros(shape, np.uint8)
        for image in bright:
            slow, fast = image[number].T
            times[slow, fast] += 1
        faults.append(times >= max(3, -(-len(bright) // 4)))
    return tuple(faults)


def _widest(image: Image) -> float:
    return _STILL_WIDEST if image.rotation is None else _ROTATION_WIDEST


def _range(values: np.ndarray, form: str) -> str:
    """Return the smallest and largest of some values, or the one that they all are."""
    if not len(values):
        return "0"
    low, high = (form % value for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


@hookimpl
def diffuse_maskers() -> list[type]:
    """Offer the masker."""
    return [BraggMasker]
