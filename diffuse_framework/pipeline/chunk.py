"""A few images at a time: read, mask, correct, locate, accumulate."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np

from diffuse_framework.algorithms.geometry import pixel_q
from diffuse_framework.errors import DataError
from diffuse_framework.fingerprint import code_versions, fingerprint
from diffuse_framework.model.conventions import DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.mask import PixelMask, all_diffuse, combine
from diffuse_framework.model.pixels import Background, CorrectedPixels, PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.model.voxels import SumsTable, concatenate
from diffuse_framework.stages.accumulator import Accumulator, ImageAdder
from diffuse_framework.stages.corrector import Corrector
from diffuse_framework.stages.masker import Masker

PixelWriter = Callable[[int, Image, PixelMask, Callable[[], CorrectedPixels]], None]
"""Called with each image's number, the image, its mask and a function that makes its corrected pixels."""


class ChunkWork:
    """Everything a worker needs to turn image numbers into sums; pickles without what it can remake."""

    def __init__(
        self,
        source: ImageSource,
        experiment: Experiment,
        grid: VoxelGrid,
        maskers: tuple[Masker, ...],
        correctors: tuple[Corrector, ...],
        accumulator: Accumulator,
        write_pixels: PixelWriter | None = None,
    ) -> None:
        self._source = source
        self._experiment = experiment
        self._grid = grid
        self._maskers = maskers
        self._correctors = correctors
        self._accumulator = accumulator
        self._write_pixels = write_pixels
        # What each worker makes for itself: scratch memory, and the tables of the last geometry
        # (images of one geometry follow each other).
        self._adder: ImageAdder | None = None
        self._tables: dict[int, tuple[PixelTable, PixelMask]] = {}
        self._common: str | None = None
        self._geometry_keys: dict[int, str] = {}
        # Forked workers then share the tables of the first geometry, mostly the only one.
        if experiment.images:
            self._of_geometry(experiment.images[0])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_adder": None, "_tables": {}}

    def key(self, numbers: range) -> str:
        """Return a name for all that the sums of the images `numbers` depend on."""
        if self._common is None:
            self._common = fingerprint(
                code_versions(), self._grid, self._maskers, self._correctors, self._accumulator, self._write_pixels
            )
        return fingerprint(self._common, [self._key_of(number) for number in numbers])

    def is_complete(self, numbers: range) -> bool:
        """Whether the files of the images `numbers` are there, where a writer knows which it writes."""
        wrote = getattr(self._write_pixels, "wrote", None)
        return wrote is None or all(wrote(number, self._experiment.images[number]) for number in numbers)

    def _key_of(self, number: int) -> tuple[Any, ...]:
        image = self._experiment.images[number]
        if image.geometry not in self._geometry_keys:
            self._geometry_keys[image.geometry] = fingerprint(
                self._experiment.geometry_of(image), self._source.trusted_pixels(image.source_index)
            )
        return number, self._source.stamp(image.source_index), image, self._geometry_keys[image.geometry]

    def __call__(self, numbers: range) -> SumsTable:
        """Return the sums of the images `numbers` of the experiment."""
        self._adder = self._adder or self._accumulator.adder(self._grid)
        with closing(self._frames(numbers)) as frames:
            return concatenate(
                [self._add(number, frame, self._adder) for number, frame in zip(numbers, frames, strict=True)]
            )

    def _frames(self, numbers: range) -> Generator[Frame, None, None]:
        """Yield the images one by one; while one is accumulated the next is read.

        The loops over pixels let other threads run, so a second core or a slow disk is made use of. The
        thread lives no longer than the chunk: processes are forked in between.
        """
        indices = [self._experiment.images[number].source_index for number in numbers]
        if len(indices) < 2:
            yield from map(self._source.read, indices)
            return
        with ThreadPoolExecutor(1, "reader") as reader:
            coming = reader.submit(self._source.read, indices[0])
            for index in indices[1:]:
                frame = coming.result()
                coming = reader.submit(self._source.read, index)
                yield frame
            yield coming.result()

    def _add(self, number: int, frame: Frame, adder: ImageAdder) -> SumsTable:
        image = self._experiment.images[number]
        geometry = self._experiment.geometry_of(image)
        pixels, static_mask = self._of_geometry(image)
        _check_shapes(frame, geometry)
        masks = (masker.image_mask(frame, image, geometry, pixels) for masker in self._maskers)
        mask = combine([static_mask, *(mask for mask in masks if mask is not None)])
        background = add_backgrounds([c.background(image, geometry) for c in self._correctors])
        if self._write_pixels:
            self._write_pixels(
                number,
                image,
                mask,
                lambda: corrected_pixels(image, frame, mask, background, pixels, geometry),
            )
        return adder.add(number, image, frame, mask, background, pixels, geometry)

    def _of_geometry(self, image: Image) -> tuple[PixelTable, PixelMask]:
        """What images of one geometry share."""
        if image.geometry not in self._tables:
            geometry = self._experiment.geometry_of(image)
            pixels = pixel_table(geometry, self._correctors)
            masks = [masker.static_mask(geometry, pixels) for masker in self._maskers]
            trusted = self._source.trusted_pixels(image.source_index)
            if trusted is not None:
                masks.append(PixelMask(tuple(np.where(panel, DIFFUSE, UNTRUSTED) for panel in trusted)))
            mask = combine([all_diffuse(geometry), *(mask for mask in masks if mask is not None)])
            self._tables = {image.geometry: (pixels, mask)}
        return self._tables[image.geometry]


def pixel_table(geometry: Geometry, correctors: tuple[Corrector, ...]) -> PixelTable:
    """Return scattering vectors and the product of the correctors' factors for every pixel."""
    response = [np.ones(panel.shape) for panel in geometry.panels]
    for corrector in correctors:
        factors = corrector.factor(geometry)
        if factors is not None:
            for product, factor in zip(response, factors, strict=True):
                product *= factor
    q = tuple(pixel_q(panel, geometry.beam) for panel in geometry.panels)
    return PixelTable(q, tuple(panel.astype(np.float32) for panel in response))


def add_backgrounds(backgrounds: list[Background | None]) -> Background | None:
    """Return the sum of all backgrounds, None where there is none."""
    present = [background for background in backgrounds if background is not None]
    if not present:
        return None
    counts = tuple(np.sum(panels, axis=0) for panels in zip(*(b.counts for b in present), strict=True))
    variance = tuple(np.sum(panels, axis=0) for panels in zip(*(b.variance for b in present), strict=True))
    return Background(counts, variance)


def corrected_pixels(
    image: Image,
    frame: Frame,
    mask: PixelMask,
    background: Background | None,
    pixels: PixelTable,
    geometry: Geometry,
) -> CorrectedPixels:
    """Return the corrected diffuse pixels of one image, one by one.

    sigma follows from the pixel's own counts, for pictures and tables of single pixels. Sums and maps
    never use it, because it gives zero counts no error.
    """
    parts = []
    for number, (panel, values, use) in enumerate(zip(geometry.panels, frame.counts, mask.diffuse, strict=True)):
        slow, fast = np.nonzero(use)
        photons = (values[use] - panel.pedestal) / panel.gain
        variance = photons.astype(float)
        if background is not None:
            photons = photons - background.counts[number][use]
            variance = variance + background.variance[number][use]
        weight = pixels.response[number][use] * image.exposure_s
        parts.append(
            (
                pixels.q[number][use],
                photons / weight,
                np.sqrt(np.maximum(variance, 0)) / weight,
                np.full(len(slow), number),
                fast,
                slow,
            )
        )
    return CorrectedPixels(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _check_shapes(frame: Frame, geometry: Geometry) -> None:
    found = [values.shape for values in frame.counts]
    expected = [panel.shape for panel in geometry.panels]
    if found != expected:
        raise DataError(
            f"{frame.name}: the image holds panels of {found} (slow, fast) pixels, its geometry says {expected}"
        )
