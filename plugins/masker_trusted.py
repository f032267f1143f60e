"""Pixels that no image can use: out of the trusted range, behind the beamstop, or named by the user."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.masking.shapes import (
    ice_rings,
    in_border,
    in_circle,
    in_polygon,
    in_rectangle,
    in_resolution,
    within_range,
)
from diffuse_framework.algorithms.validation.raw_values import lower_end, noise_of_dim_pixels
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.conventions import DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import Experiment, Image
from diffuse_framework.model.geometry import Geometry, Panel
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.services.masks import read_mask
from diffuse_framework.stages.work import Mapper

logger = logging.getLogger(__name__)

# Of the pixels that could be used, those that a trusted range may cut off at its lower end.
_MOST_CUT = 0.01
# Share of pixels below zero photons from which read noise is missed.
_MANY_NEGATIVE = 1e-3

_SHAPES = """
    panel = None
      .type = int(value_min=0)
      .help = "Number of the panel, from 0; the first panel where it is not given."
              "Without a shape the whole panel is left out."
    circle = None
      .type = floats(size=3)
      .help = "Centre and radius in pixels: fast, slow, radius."
    rectangle = None
      .type = ints(size=4)
      .help = "Pixels x0 to x1 along fast and y0 to y1 along slow, x1 and y1 not included: x0,x1,y0,y1."
    polygon = None
      .type = floats
      .help = "Corners in pixels, at least three: fast1,slow1,fast2,slow2,..."
"""

PHIL = f"""
border = 0
  .type = int(value_min=0, allow_none=False)
  .help = "Rows and columns left out along each edge of every panel, in pixels."
d_min = None
  .type = float(value_min=0)
  .help = "Pixels of higher resolution (smaller d) are left out, in angstrom."
d_max = None
  .type = float(value_min=0)
  .help = "Pixels of lower resolution (larger d) are left out, in angstrom."
resolution_range = None
  .type = floats(size=2)
  .multiple = True
  .help = "A range of resolution to leave out, such as a powder ring: two values of d in angstrom."
          "May be given several times."
ice_rings {{
  filter = False
    .type = bool
    .help = "Leave out the powder rings of hexagonal ice."
  width = 0.002
    .type = float(value_min=1e-6, allow_none=False)
    .help = "Width of each ring in 1/d^2, in 1/angstrom^2."
  d_min = 1.0
    .type = float(value_min=0.3, allow_none=False)
    .help = "Rings of higher resolution are kept, in angstrom."
}}
mask {{
  file = None
    .type = path
    .help = "A mask file of DIALS (dials.generate_mask or the image viewer): its pixels are left out too."
}}
beamstop
  .multiple = True
  .help = "Shadow of the beamstop and its holder. May be given several times."
{{{_SHAPES}}}
untrusted
  .multiple = True
  .help = "A region to leave out, as in dials.generate_mask. May be given several times."
{{{_SHAPES}
    pixel = None
      .type = ints(size=2, value_min=0)
      .help = "A single pixel, in the order of dials.generate_mask: slow,fast."
}}
"""


@dataclass(frozen=True)
class Region:
    """A shape on one panel, in the numbers of its parameter.

    Attributes:
        scope: "beamstop" or "untrusted".
        panel: its number.
        shape: "panel", "circle", "rectangle", "polygon" or "pixel".
        numbers: as given.
    """

    scope: str
    panel: int
    shape: str
    numbers: tuple[float, ...] = ()

    def __str__(self) -> str:
        values = ",".join(f"{number:g}" for number in self.numbers)
        return f"masker.trusted.{self.scope}.{self.shape}={values or self.panel} (panel {self.panel})"

    def pixels(self, shape: tuple[int, int]) -> np.ndarray:
        """Return True (slow, fast) for the region's pixels on a panel of `shape`.

        Raises:
            ConfigError: the region holds no pixel of the panel.
        """
        if self.shape == "panel":
            return np.ones(shape, bool)
        if self.shape == "circle":
            inside = in_circle(shape, *self.numbers)
        elif self.shape == "rectangle":
            inside = in_rectangle(shape, *(int(number) for number in self.numbers))
        elif self.shape == "pixel":
            slow, fast = (int(number) for number in self.numbers)
            inside = in_rectangle(shape, fast, fast + 1, slow, slow + 1)
        else:
            inside = in_polygon(shape, np.reshape(self.numbers, (-1, 2)))
        if not inside.any():
            raise ConfigError(
                f"{self} holds no pixel: the panel has {shape[1]} (fast) x {shape[0]} (slow) pixels, numbered from 0"
            )
        return inside


@dataclass(frozen=True)
class TrustedMasker:
    """Removes values out of the trusted range, beamstop, panel borders, regions and resolution ranges."""

    name: ClassVar[str] = "trusted"
    phil: ClassVar[str] = PHIL
    regions: tuple[Region, ...] = ()
    border: int = 0
    d_min: float = 0.0
    d_max: float = np.inf
    resolution_ranges: tuple[tuple[float, float], ...] = ()
    mask_file: Path | None = None

    @classmethod
    def from_params(cls, params: Any) -> TrustedMasker:
        """Return the masker that the parameters describe.

        Raises:
            ConfigError: shapes or limits that can't be meant.
        """
        d_min = params.d_min or 0.0
        d_max = params.d_max or np.inf
        if d_min >= d_max:
            raise ConfigError(f"d_min={d_min:g} must be smaller than d_max={d_max:g}")
        ranges = [tuple(sorted(pair)) for pair in params.resolution_range if pair is not None]
        for low, high in ranges:
            if not 0 < low < high:
                raise ConfigError(f"resolution_range={low:g},{high:g} is empty: give two values of d above 0")
        if params.ice_rings.filter:
            ranges += ice_rings(params.ice_rings.d_min, params.ice_rings.width)
        regions = [region for entry in params.beamstop for region in _regions("beamstop", entry)]
        regions += [region for entry in params.untrusted for region in _regions("untrusted", entry)]
        return cls(
            regions=tuple(regions),
            border=params.border,
            d_min=d_min,
            d_max=d_max,
            resolution_ranges=tuple(ranges),
            mask_file=Path(params.mask.file).absolute() if params.mask.file else None,
        )

    def prepare(self, source: ImageSource, experiment: Experiment, mapper: Mapper) -> TrustedMasker:
        """Check regions and mask file against every detector, and the lower end of the trusted range against images.

        Returns itself.

        Raises:
            ConfigError: a region on no panel, or without a pixel; a trusted range that cuts noise off.
            DataError: a mask file that can't be read or does not fit.
        """
        shapes = {tuple(panel.shape for panel in geometry.panels) for geometry in experiment.geometries}
        for panels in sorted(shapes):
            self._named_pixels(panels)
        _check_lower_end(source, experiment)
        return self

    def static_mask(self, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return what the parameters name; None where they name nothing."""
        if self == TrustedMasker():
            return None
        named = self._named_pixels(tuple(panel.shape for panel in geometry.panels))
        classes = []
        limited = self.d_min > 0 or np.isfinite(self.d_max)
        for out, q in zip(named, pixels.q, strict=True):
            if limited or self.resolution_ranges:
                q_length = np.linalg.norm(q, axis=-1)
                out |= ~in_resolution(q_length, self.d_min, self.d_max)
                for low, high in self.resolution_ranges:
                    out |= in_resolution(q_length, low, high)
            classes.append(np.where(out, UNTRUSTED, DIFFUSE))
        mask = PixelMask(tuple(classes))
        logger.debug(
            "Trusted mask: %d of %d pixels are left out of every image",
            mask.count(UNTRUSTED),
            geometry.n_pixels,
        )
        return mask

    def image_mask(self, frame: Frame, image: Image, geometry: Geometry, pixels: PixelTable) -> PixelMask | None:
        """Return untrusted where raw values lie outside the panel's trusted range or are not numbers."""
        return PixelMask(
            tuple(
                within_range(values, *panel.trusted_range)
                for values, panel in zip(frame.counts, geometry.panels, strict=True)
            )
        )

    def _named_pixels(self, shapes: tuple[tuple[int, int], ...]) -> list[np.ndarray]:
        """Return True (slow, fast) per panel where border, regions or mask file leave a pixel out."""
        out = [in_border(shape, self.border) for shape in shapes]
        for number, panel in enumerate(out):
            if self.border and panel.all():
                raise ConfigError(f"masker.trusted.border={self.border} leaves no pixel of panel {number}")
        for region in self.regions:
            if region.panel >= len(shapes):
                raise ConfigError(
                    f"{region}: the detector has {len(shapes)} panel{'s' if len(shapes) > 1 else ''}, numbered from 0"
                )
            out[region.panel] |= region.pixels(shapes[region.panel])
        if self.mask_file is not None:
            used = read_mask(self.mask_file)
            found = tuple(panel.shape for panel in used)
            if found != shapes:
                raise DataError(
                    f"the mask file {self.mask_file} has {_describe(found)}, the detector has {_describe(shapes)}"
                )
            for panel, use in zip(out, used, strict=True):
                panel |= ~use
        return out


def _check_lower_end(source: ImageSource, experiment: Experiment) -> None:
    """Refuse a trusted range that cuts the noise of dim pixels; warn of noise that no parameter tells.

    Raises:
        ConfigError: more than `_MOST_CUT` of the pixels that could be used lie below the range.
    """
    if not experiment.images:
        return
    by_name = experiment.images_by_name()
    images = [by_name[number] for number in sorted({0, len(by_name) // 2})]
    frames = [source.read(image.source_index) for image in images]
    name, panels = frames[0].name, experiment.geometry_of(images[0]).panels
    ends, n_negative = [], 0
    for number, panel in enumerate(panels):
        values = frames[0].counts[number]
        used = [within_range(frame.counts[number], *panel.trusted_range) == DIFFUSE for frame in frames]
        ends.append(lower_end(values, panel.trusted_range, used[1] if len(frames) > 1 else None))
        n_negative += np.count_nonzero(used[0] & (values < panel.pedestal))
    n_cut, n_used = sum(end.n_cut for end in ends), sum(end.n_used for end in ends)
    low, high = panels[0].trusted_range
    if n_cut > _MOST_CUT * (n_cut + n_used):
        depth = np.sqrt(sum(end.n_cut * end.rms**2 for end in ends) / n_cut)
        raise ConfigError(
            f"{name}: {100 * n_cut / (n_cut + n_used):.1f} % of the pixels lie just below the trusted range, which "
            f"starts at {round(low, 6):.10g}: leaving them out makes every mean too high. Set detector.trusted_range="
            f"{np.floor(low - 10 * depth):.10g},{round(high, 6):.10g}"
        )
    if n_negative > _MANY_NEGATIVE * n_used and not any(panel.read_noise for panel in panels):
        logger.warning(
            "%s: %.1f %% of the pixels hold less than no photon: the detector is read with noise that no error knows "
            "of. Set detector.read_noise=%.2g (of the dimmest parts of that image, in photons of the gain given)",
            name,
            100 * n_negative / n_used,
            _read_noise(frames[0], panels),
        )


def _read_noise(frame: Frame, panels: tuple[Panel, ...]) -> float:
    """Return the median of what the panels of one image show, photons.

    Where less than counting is left of the scatter, gain or pedestal are wrong: then the values below zero speak.
    """
    found, below = [], []
    for values, panel in zip(frame.counts, panels, strict=True):
        use = within_range(values, *panel.trusted_range) == DIFFUSE
        photons = (np.where(use, values, panel.pedestal) - panel.pedestal) / panel.gain
        found.append(noise_of_dim_pixels(photons, use))
        below.append(-photons[photons < 0])
    return float(np.median(found)) or float(np.median(np.concatenate(below))) / 0.6745


def _describe(shapes: tuple[tuple[int, ...], ...]) -> str:
    sizes = sorted({f"{shape[1]} x {shape[0]}" for shape in shapes})
    return f"{len(shapes)} panel{'s' if len(shapes) > 1 else ''} of {' or '.join(sizes)} pixels (fast x slow)"


def _regions(scope: str, entry: Any) -> list[Region]:
    """Return the regions of one scope of parameters; none where nothing was given.

    Raises:
        ConfigError: a shape that can't be meant.
    """
    panel = 0 if entry.panel is None else entry.panel
    regions = []
    for shape in ("circle", "rectangle", "polygon", "pixel"):
        numbers = getattr(entry, shape, None)
        if numbers:
            region = Region(scope, panel, shape, tuple(numbers))
            _check(region)
            regions.append(region)
    if not regions and entry.panel is not None:
        regions = [Region(scope, panel, "panel")]
    return regions


def _check(region: Region) -> None:
    numbers = region.numbers
    if region.shape == "circle" and not numbers[2] > 0:
        raise ConfigError(f"{region}: the radius must be above 0")
    if region.shape == "rectangle" and not (numbers[0] < numbers[1] and numbers[2] < numbers[3]):
        raise ConfigError(f"{region} is empty: give x0,x1,y0,y1 with x0 < x1 and y0 < y1")
    if region.shape == "polygon" and (len(numbers) % 2 or len(numbers) < 6):
        raise ConfigError(f"{region}: give at least three corners, two numbers each")


@hookimpl
def diffuse_maskers() -> list[type]:
    """Offer the masker."""
    return [TrustedMasker]
