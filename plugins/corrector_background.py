"""Photons that do not come from the crystal: a constant, a map, or a series of images without it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from scipy import ndimage

from diffuse_framework import hookimpl
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.pixels import Background
from diffuse_framework.services.images import files_of, middle_angles_deg, open_images, open_stills

PHIL = """
constant = 0.0
  .type = float(value_min=0, allow_none=False)
  .help = "Background in photons per pixel and second, the same everywhere."
sigma = 0.0
  .type = float(value_min=0, allow_none=False)
  .help = "Standard uncertainty of the constant, in photons per pixel and second."
map {
  file = None
    .type = path
    .help = "Photons per pixel of an exposure without crystal: an image, or an array of shape"
            "(slow, fast) or (panel, slow, fast) as .npy, .npz or .h5. The last two name it counts,"
            "and may hold variance and exposure_time. Without a variance that of counting is taken."
  exposure_time = None
    .type = float(value_min=0)
    .help = "Exposure time of the map in seconds, instead of that of the file. A sum of images has"
            "the sum of their times."
}
series {
  images = None
    .type = path
    .multiple = True
    .help = "Images without crystal (air, capillary, loop), or a template such as empty_####.cbf. They are"
            "averaged pixel by pixel and subtracted with their exposure time and their own variance."
  range = 10.0
    .type = float(value_min=0.001, allow_none=False)
    .help = "Range of the rotation angle, in degrees, over which images are averaged: the background of"
            "each image comes from those of its own range, or of the nearest that has some."
}
"""

# Ranges of a series that a worker keeps; images follow each other in angle.
_KEPT_RANGES = 2
# Pixels along fast and slow over which the expectation of a count is averaged.
_NEIGHBOURHOOD = 9


@dataclass(frozen=True, eq=False)
class BackgroundMap:
    """A background as measured.

    Attributes:
        counts, variance: one (slow, fast) float32 array per panel, photons.
        exposure_s: of the measurement.
    """

    counts: tuple[np.ndarray, ...]
    variance: tuple[np.ndarray, ...]
    exposure_s: float


@dataclass(frozen=True)
class BackgroundCorrector:
    """Subtracts a constant, a map, and a series of images without crystal, scaled to the exposure time."""

    name: ClassVar[str] = "background"
    phil: ClassVar[str] = PHIL
    constant: float = 0.0
    sigma: float = 0.0
    map_file: Path | None = None
    map_exposure_s: float | None = None
    series_images: tuple[str, ...] = ()
    series_range_deg: float = 10.0

    @classmethod
    def from_params(cls, params: Any) -> BackgroundCorrector:
        """Return the corrector that the parameters describe, its map read.

        Raises:
            ConfigError: no background at all, or a map whose exposure time is unknown.
            DataError: a map that can't be read.
        """
        images = files_of([str(path) for path in params.series.images or [] if path is not None])
        if not (params.constant or params.sigma or params.map.file or images):
            raise ConfigError(
                "corrector 'background' has nothing to subtract: set series.images=, constant= or map.file="
            )
        if params.map.exposure_time is not None and not params.map.exposure_time > 0:
            raise ConfigError(f"map.exposure_time={params.map.exposure_time:g} must be above 0 seconds")
        corrector = cls(
            constant=params.constant,
            sigma=params.sigma,
            map_file=Path(params.map.file).absolute() if params.map.file else None,
            map_exposure_s=params.map.exposure_time,
            series_images=tuple(str(Path(path).absolute()) for path in images),
            series_range_deg=params.series.range,
        )
        # Read now, so that a bad file stops the run before the slow steps.
        _ = corrector.map, corrector.series
        return corrector

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as parameters: a worker reads the map itself."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def map(self) -> BackgroundMap | None:
        """The map of `map_file`, None where there is none.

        Raises:
            ConfigError: its exposure time is unknown.
            DataError: it can't be read.
        """
        return None if self.map_file is None else read_map(self.map_file, self.map_exposure_s)

    @cached_property
    def series(self) -> BackgroundSeries | None:
        """The images without crystal, None where there are none.

        Raises:
            DataError: images that can't be read.
        """
        return BackgroundSeries(self.series_images, self.series_range_deg) if self.series_images else None

    def factor(self, geometry: Geometry) -> tuple[np.ndarray, ...] | None:
        """Return None: a background is no factor."""
        return None

    def background(self, image: Image, geometry: Geometry) -> Background:
        """Return the background's photons and their variance for the exposure of `image`.

        Raises:
            DataError: a map of another detector.
        """
        seconds = image.exposure_s
        shapes = tuple(panel.shape for panel in geometry.panels)
        counts = tuple(np.full(shape, self.constant * seconds, np.float32) for shape in shapes)
        variance = tuple(np.full(shape, (self.sigma * seconds) ** 2, np.float32) for shape in shapes)
        parts = [Background(counts, variance)]
        if self.map is not None:
            parts.append(self._of_map(self.map, image, shapes))
        if self.series is not None:
            parts.append(self.series.background(image, geometry))
        return Background(
            tuple(np.sum(panels, axis=0) for panels in zip(*(part.counts for part in parts), strict=True)),
            tuple(np.sum(panels, axis=0) for panels in zip(*(part.variance for part in parts), strict=True)),
        )

    def _of_map(self, measured: BackgroundMap, image: Image, shapes: tuple[tuple[int, int], ...]) -> Background:
        found = tuple(panel.shape for panel in measured.counts)
        if found != shapes:
            raise DataError(
                f"the background map {self.map_file} has panels of {found} (slow, fast) pixels, the detector "
                f"of {image.name} has {shapes}"
            )
        scale = np.float32(image.exposure_s / measured.exposure_s)
        return Background(
            tuple(scale * panel for panel in measured.counts),
            tuple(scale**2 * panel for panel in measured.variance),
        )


class BackgroundSeries:
    """Images without crystal, averaged over ranges of the angle of rotation as they are asked for."""

    def __init__(self, images: tuple[str, ...], range_deg: float) -> None:
        """Open the images.

        Raises:
            DataError: images that can't be read.
        """
        self._source = open_images(images)
        self._range_deg = range_deg
        numbers = range(len(self._source))
        angles = middle_angles_deg(self._source)
        self._bins = np.array([self._bin(angles[number]) for number in numbers])
        self._kept: dict[int, tuple[BackgroundMap, Geometry]] = {}

    def _bin(self, angle_deg: float | None) -> int:
        """Number of the range of an angle; 0 for stills."""
        return 0 if angle_deg is None else int((angle_deg % 360.0) // self._range_deg)

    def background(self, image: Image, geometry: Geometry) -> Background:
        """Return the background of one image, from the series' images nearest in angle.

        Raises:
            DataError: images of another detector, or that can't be read.
        """
        wanted = self._bin(None if image.rotation is None else image.rotation.angle_deg)
        around = int(np.ceil(360.0 / self._range_deg))
        apart = np.abs(self._bins - wanted)
        if image.rotation is None:
            chosen = self._bins * 0
            nearest = 0
        else:
            apart = np.minimum(apart, around - apart)
            nearest = int(self._bins[np.argmin(apart)])
            chosen = self._bins
        measured = self._average(np.flatnonzero(chosen == nearest), nearest, geometry)
        scale = np.float32(image.exposure_s / measured.exposure_s)
        return Background(
            tuple(scale * panel for panel in measured.counts),
            tuple(scale**2 * panel for panel in measured.variance),
        )

    def _average(self, numbers: np.ndarray, key: int, geometry: Geometry) -> BackgroundMap:
        if key in self._kept and self._kept[key][1] is geometry:
            return self._kept[key][0]
        counts = [np.zeros(panel.shape) for panel in geometry.panels]
        seconds = [np.zeros(panel.shape) for panel in geometry.panels]
        total_s = 0.0
        for number in numbers:
            frame, exposure_s = self._source.read(int(number)), self._source.exposure_s(int(number))
            total_s += exposure_s
            _check_panels(frame.name, [values.shape for values in frame.counts], geometry)
            for panel, values, summed, time in zip(geometry.panels, frame.counts, counts, seconds, strict=True):
                low, high = panel.trusted_range
                good = (values >= low) & (values <= high)
                summed[good] += (values[good] - panel.pedestal) / panel.gain
                time[good] += exposure_s
        maps = [_filled(n, t, total_s) for n, t in zip(counts, seconds, strict=True)]
        measured = BackgroundMap(tuple(values for values, _ in maps), tuple(variance for _, variance in maps), total_s)
        # Images come in the order of their angles: old ranges are not needed again.
        self._kept = dict([*self._kept.items(), (key, (measured, geometry))][-_KEPT_RANGES:])
        return measured


def _filled(counts: np.ndarray, seconds: np.ndarray, total_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Photons of a sum of images and their variance, both for the time `total_s`.

    A pixel's own count is no good estimate of its variance where it is small: the expectation is taken
    from the pixel's neighbourhood. Pixels that no image can trust get that expectation too.
    """
    near_counts = ndimage.uniform_filter(counts, _NEIGHBOURHOOD, mode="nearest")
    near_seconds = ndimage.uniform_filter(seconds, _NEIGHBOURHOOD, mode="nearest")
    rate = np.divide(near_counts, near_seconds, out=np.zeros_like(counts), where=near_seconds > 1e-9)
    seen = seconds > 0
    scale = np.divide(total_s, seconds, out=np.zeros_like(counts), where=seen)
    values = np.where(seen, counts * scale, rate * total_s)
    variance = np.where(seen, rate * seconds * scale**2, rate * total_s)
    return values.astype(np.float32), np.maximum(variance, 0).astype(np.float32)


def _check_panels(name: str, found: list[tuple[int, ...]], geometry: Geometry) -> None:
    expected = [panel.shape for panel in geometry.panels]
    if found != expected:
        raise DataError(
            f"the background image {name} has panels of {found} (slow, fast) pixels, the detector has {expected}"
        )


def read_map(path: Path, exposure_s: float | None = None) -> BackgroundMap:
    """Read a background map.

    Args:
        path: an image, .npy, .npz or .h5.
        exposure_s: replaces the exposure time of the file.

    Raises:
        ConfigError: the exposure time is unknown.
        DataError: the file can't be read, or holds no usable numbers.
    """
    readers = {".npy": _read_npy, ".npz": _read_npz, ".h5": _read_hdf5, ".hdf5": _read_hdf5}
    read = readers.get(path.suffix.lower(), _read_image)
    try:
        counts, variance, own_exposure_s = read(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"can't read the background map {path}: {error}") from error
    seconds = exposure_s or own_exposure_s
    if not seconds or not seconds > 0:
        raise ConfigError(
            f"the exposure time of the background map {path} is unknown: set map.exposure_time=, in seconds"
        )
    for name, panels in (("counts", counts), ("variance", variance)):
        if not all(np.isfinite(panel).all() for panel in panels):
            raise DataError(f"the background map {path} has {name} that are not numbers (NaN or infinite)")
    if any((panel < 0).any() for panel in variance):
        raise DataError(f"the background map {path} has negative variances")
    return BackgroundMap(counts, variance, float(seconds))


_Panels = tuple[np.ndarray, ...]


def _panels(values: Any) -> _Panels:
    """Return float32 panels of an array (slow, fast) or (panel, slow, fast)."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or array.ndim not in (2, 3):
        raise ValueError(f"an array of type {array.dtype} and shape {array.shape} is no map")
    return tuple(np.ascontiguousarray(panel, np.float32) for panel in (array if array.ndim == 3 else array[None]))


def _counting_variance(counts: _Panels) -> _Panels:
    return tuple(np.maximum(panel, 0) for panel in counts)


def _read_npy(path: Path) -> tuple[_Panels, _Panels, float | None]:
    counts = _panels(np.load(path, allow_pickle=False))
    return counts, _counting_variance(counts), None


def _read_npz(path: Path) -> tuple[_Panels, _Panels, float | None]:
    with np.load(path, allow_pickle=False) as file:
        return _from_names(file)


def _read_hdf5(path: Path) -> tuple[_Panels, _Panels, float | None]:
    with h5py.File(path, "r") as file:
        return _from_names({name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)})


def _from_names(arrays: Mapping[str, Any]) -> tuple[_Panels, _Panels, float | None]:
    if "counts" not in arrays:
        raise ValueError(f"it has no array named counts, only {', '.join(arrays) or 'nothing'}")
    counts = _panels(arrays["counts"])
    variance = _panels(arrays["variance"]) if "variance" in arrays else _counting_variance(counts)
    if [panel.shape for panel in variance] != [panel.shape for panel in counts]:
        raise ValueError("its counts and variance differ in shape")
    return counts, variance, float(arrays["exposure_time"]) if "exposure_time" in arrays else None


def _read_image(path: Path) -> tuple[_Panels, _Panels, float | None]:
    """Read an image; pixels out of the trusted range, which no map uses, hold 0."""
    source = open_stills([path])
    counts = []
    for values, panel in zip(source.read(0).counts, source.geometry(0).panels, strict=True):
        low, high = panel.trusted_range
        photons = (values.astype(np.float32) - np.float32(panel.pedestal)) / np.float32(panel.gain)
        counts.append(np.where((values >= low) & (values <= high), photons, np.float32(0)))
    return tuple(counts), _counting_variance(tuple(counts)), source.exposure_s(0)


@hookimpl
def diffuse_correctors() -> list[type]:
    """Offer the corrector."""
    return [BackgroundCorrector]
