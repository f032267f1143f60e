"""Images through dxtbx: the `ImageSource` of real data."""

from __future__ import annotations

import bz2
import copy
import gzip
import logging
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from dxtbx import flumpy
from dxtbx.format.image import ImageBool
from dxtbx.imageset import ImageSetFactory
from dxtbx.model import Experiment, ExperimentList

from diffuse_framework.adapters.guards.memory import raise_if_short
from diffuse_framework.adapters.images.checksums import Compared, damage_of, stamp_of
from diffuse_framework.adapters.images.hdf5 import Series, is_hdf5, series_of, what_is_missing
from diffuse_framework.adapters.models.geometry import geometry_of
from diffuse_framework.errors import DataError, GeometryError, UnreadableImage, in_one_line
from diffuse_framework.model.experiment import Rejected
from diffuse_framework.model.geometry import Geometry, with_read_noise
from diffuse_framework.model.source import Frame

logger = logging.getLogger(__name__)

# Files of fewer images are not worth finding out whether there is a shorter way to them than through dxtbx.
_LONG_SERIES = 10
# Of a mini-CBF file, the lines of text before its pixels.
_CBF_HEADER_BYTES = 8192
_OPENERS: dict[str, Any] = {".cbf": open, ".cbf.gz": gzip.open, ".cbf.bz2": bz2.open}


class DxtbxSource:
    """Still images that dxtbx can read, with the models that came with them.

    Attributes:
        experiments: one dxtbx experiment per image, each on an image set of its own without
            scan or goniometer; with a crystal where the input was already indexed.
        reflections: reflection tables that came with the input.
        without_exposure: names of images whose exposure time nothing tells; 1 second is taken.
        left_out: images that were named too, and could not be opened.
    """

    left_out: tuple[Rejected, ...] = ()

    def __init__(self, experiments: Any, reflections: tuple[Any, ...] = (), read_noise: tuple[float, ...] = ()) -> None:
        """Split `experiments` into single stills.

        Raises:
            DataError: there is no image, one without beam or detector, or a part of an HDF5 file is missing.
            GeometryError: images of different detectors.
        """
        self.experiments, exposures_s = _single_stills(experiments)
        self.reflections = reflections
        self.names = _unique_names(self.experiments)
        if not self.names:
            raise DataError("no images: give image files, a template like img_####.cbf, or an .expt file")
        self._exposures_s, self.without_exposure = _exposures_s(self.names, exposures_s, self.experiments)
        self._refuse_repeats()
        self._refuse_bare()
        self._refuse_two_detectors()
        self._series = _series_of_files(self.experiments)
        # Files of which dxtbx and `Series.read` gave the same image.
        self._agreed: set[str] = set()
        self._model_numbers = _model_numbers(self.experiments)
        self._geometries: dict[tuple[int, int], Geometry] = {}
        self._read_noise = read_noise
        self._compared = Compared(len(self))
        self._opened = tuple(self.stamp(index) for index in range(len(self)))
        for index in range(len(self)):
            # A beam or detector that can't be is refused before any work is done.
            self.geometry(index)

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        experiments, masks = _without_masks(self.experiments)
        return self.__dict__ | {"_geometries": {}, "reflections": (), "experiments": experiments, "_masks": masks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        masks = state.pop("_masks")
        self.__dict__.update(state)
        for mask, numbers in masks:
            for number in numbers:
                self.experiments[number].imageset.external_lookup.mask.data = mask

    def read(self, index: int) -> Frame:
        """Read one image.

        Raises:
            UnreadableImage: the file is missing, truncated or corrupt.
        """
        imageset = self.experiments[index].imageset
        path, number = imageset.get_path(0), imageset.indices()[0]
        series = self._series.get(path)
        if index not in self._compared:
            self.check_bytes(index)
            self._compared.add(index)
        try:
            if series is not None and path in self._agreed:
                frame = Frame(self.names[index], (series.read(number),))
                self._refuse_other(index)
                return frame
            panels = _by_dxtbx(imageset, self.geometry(index).n_pixels)
            if series is not None and series.plain:
                if len(panels) == 1 and np.array_equal(series.read(number), panels[0]):
                    self._agreed.add(path)
                else:
                    logger.debug("%s is read by dxtbx alone", path)
                    self._series[path] = replace(series, plain=False)
        except (_Unreadable, OSError, KeyError, RuntimeError) as error:
            raise UnreadableImage(
                what_is_missing(path, number + 1)
                or f"{path}: can't read the image; it is cut short or damaged ({in_one_line(error)})"
            ) from error
        self._refuse_other(index)
        return Frame(self.names[index], panels)

    def note_compared(self, index: int) -> None:
        """Note that an indexer has compared the bytes of an image with their checksum, perhaps in a run before."""
        self._compared.add(index)

    def _refuse_other(self, index: int) -> None:
        """Refuse an image that is not the one that was opened: its orientation would be that of the other."""
        if self.stamp(index) != self._opened[index]:
            raise UnreadableImage(
                f"{self.experiments[index].imageset.get_path(0)} was written anew while it was processed; the next run "
                "indexes it"
            )

    def check_bytes(self, index: int) -> None:
        """Compare the bytes of one image with the checksum that its file carries.

        Raises:
            UnreadableImage: they are others, the file is cut short, empty or missing.
        """
        path = self.experiments[index].imageset.get_path(0)
        try:
            damage = damage_of(path)
        except OSError as error:
            damage = error.strerror or str(error)
        if damage:
            raise UnreadableImage(f"{path}: can't read the image; it is cut short or damaged ({damage})")

    def geometry(self, index: int) -> Geometry:
        """Beam and detector of one image; images that share models share the object."""
        key = self._model_numbers[index]
        if key not in self._geometries:
            experiment = self.experiments[index]
            geometry = geometry_of(experiment.beam, experiment.detector)
            self._geometries[key] = with_read_noise(geometry, self._read_noise)
        return self._geometries[key]

    def exposure_s(self, index: int) -> float:
        """Exposure time in seconds, 1 where the header gives none."""
        return self._exposures_s[index]

    def stamp(self, index: int) -> str:
        """Path, size, time and ends of the file of one image, and its number in it.

        In the head of a CBF file is the checksum of its pixels.
        """
        imageset = self.experiments[index].imageset
        path, number = imageset.get_path(0), imageset.indices()[0]
        series = self._series.get(path)
        files = [path]
        if series is not None and series.parts and series.part(number).path != path:
            files.append(series.part(number).path)
        try:
            found = [stamp_of(file) for file in files]
        except OSError:
            return f"{path} is not there"
        return " ".join([f"{path}#{number}", *found])

    def trusted_pixels(self, index: int) -> tuple[np.ndarray, ...] | None:
        """The mask of `dials.apply_mask` or of the image format, and untrusted rectangles of the panels.

        Raises:
            DataError: a mask of other panels than the detector's.
        """
        experiment = self.experiments[index]
        masks = [
            flumpy.to_numpy(panel.get_untrusted_rectangle_mask()).copy() if len(panel.get_mask()) else None
            for panel in experiment.detector
        ]
        lookup = experiment.imageset.external_lookup.mask.data
        if lookup.empty() and all(mask is None for mask in masks):
            return None
        shapes = [panel.get_image_size()[::-1] for panel in experiment.detector]
        result = [np.ones(shape, bool) if mask is None else mask for mask, shape in zip(masks, shapes, strict=True)]
        if not lookup.empty():
            applied = [flumpy.to_numpy(lookup.tile(number).data()) for number in range(lookup.n_tiles())]
            if [mask.shape for mask in applied] != shapes:
                raise DataError(
                    f"{self.names[index]}: the mask applied to it has panels of {[mask.shape for mask in applied]} "
                    f"(slow, fast) pixels, the detector has {shapes}"
                )
            result = [mask & other for mask, other in zip(result, applied, strict=True)]
        return tuple(result)

    def _refuse_repeats(self) -> None:
        """Refuse an image that is there twice, unless as several lattices, which an indexer tells apart."""
        where = Counter((e.imageset.get_path(0), e.imageset.indices()[0]) for e in self.experiments)
        bare = {e.imageset.get_path(0) for e in self.experiments if e.crystal is None}
        repeated = [path for (path, _), n in where.items() if n > 1 and path in bare]
        if repeated:
            raise DataError(
                f"{len(repeated)} images are given more than once, for example {repeated[0]}; its photons must count "
                "once"
            )

    def _refuse_bare(self) -> None:
        for name, experiment in zip(self.names, self.experiments, strict=True):
            if experiment.beam is None or experiment.detector is None:
                raise DataError(f"{name} can't be used: its header says nothing of beam and detector")

    def _refuse_two_detectors(self) -> None:
        shapes: dict[tuple, str] = {}
        for name, experiment in zip(self.names, self.experiments, strict=True):
            shapes.setdefault(tuple(panel.get_image_size() for panel in experiment.detector), name)
        if len(shapes) > 1:
            found = "; ".join(f"{name}: {_describe(shape)}" for shape, name in list(shapes.items())[:3])
            raise GeometryError(f"images of {len(shapes)} detectors in one run ({found}); process them apart")


class _Unreadable(Exception):
    """dxtbx can't read an image."""


def _by_dxtbx(imageset: Any, n_pixels: int) -> tuple[np.ndarray, ...]:
    """Return the panels of an image set of one image, which have so many pixels."""
    try:
        panels = tuple(flumpy.to_numpy(panel) for panel in imageset.get_raw_data(0))
    # Format classes raise whatever their decoder does: OSError, RuntimeError, AssertionError ...
    except Exception as error:
        raise_if_short(error, n_pixels)
        raise _Unreadable(in_one_line(error)) from error
    # The image set would keep the image, and there is one image set per image.
    imageset.clear_cache()
    return panels


def _series_of_files(experiments: ExperimentList) -> dict[str, Series]:
    """Return what each HDF5 file consists of, `plain` where a shorter way than through dxtbx is worth trying.

    Raises:
        DataError: files or decompressors that aren't there.
    """
    last: dict[str, int] = {}
    formats: dict[str, Any] = {}
    for experiment in experiments:
        path = experiment.imageset.get_path(0)
        last[path] = max(last.get(path, 0), experiment.imageset.indices()[0])
        formats[path] = experiment.imageset.get_format_class()
    found = {path: series_of(path, number + 1) for path, number in last.items() if is_hdf5(path)}
    if not found:
        return {}
    # Here, for it loads dxtbx.nexus and all its units: a third of a second.
    from dxtbx.format.FormatNXmx import FormatNXmx

    return {
        path: replace(
            series,
            plain=series.plain and last[path] + 1 >= _LONG_SERIES,
            # What older readers of dxtbx do with the highest counts is another thing.
            bits=series.bits if issubclass(formats[path], FormatNXmx) else 0,
            clips=not issubclass(formats[path], FormatNXmx),
        )
        for path, series in found.items()
        if series is not None
    }


def _without_masks(experiments: ExperimentList) -> tuple[ExperimentList, list[tuple[Any, list[int]]]]:
    """Return the same experiments without masks of pixels, and each mask with the numbers of those it belongs to.

    All images of a file share one mask in memory; pickled, each would take its own copy along.
    """
    masks: dict[tuple, tuple[Any, list[int]]] = {}
    bare = ExperimentList()
    for number, experiment in enumerate(experiments):
        mask = experiment.imageset.external_lookup.mask.data
        if not mask.empty():
            key = tuple(mask.tile(tile).data().id() for tile in range(mask.n_tiles()))
            masks.setdefault(key, (mask, []))[1].append(number)
            experiment = copy.copy(experiment)
            experiment.imageset = experiment.imageset[0:1]
            experiment.imageset.external_lookup.mask.data = ImageBool()
        bare.append(experiment)
    return bare, list(masks.values())


def _model_numbers(experiments: ExperimentList) -> list[tuple[int, int]]:
    """Number the beam and detector of each experiment; Python wrappers of one model may differ."""
    numbers = np.zeros((len(experiments), 2), int)
    for number, beam in enumerate(experiments.beams()):
        numbers[list(experiments.where(beam=beam)), 0] = number
    for number, detector in enumerate(experiments.detectors()):
        numbers[list(experiments.where(detector=detector)), 1] = number
    return [tuple(pair) for pair in numbers.tolist()]


def _describe(shape: tuple) -> str:
    fast, slow = shape[0]
    return f"{len(shape)} panel{'s' if len(shape) > 1 else ''} of {fast} x {slow} pixels"


def _single_stills(experiments: Any) -> tuple[ExperimentList, tuple[float, ...]]:
    stills = ExperimentList()
    exposures_s = []
    for experiment in experiments:
        # Zero-width images come as sequences; a still is an image set without scan.
        imageset = ImageSetFactory.imageset_from_anyset(experiment.imageset)
        scan = experiment.scan
        numbers = range(len(imageset))
        if scan is not None and len(imageset) != scan.get_num_images():
            # Every experiment of a zero-width series shares the image set of the whole series.
            start = scan.get_array_range()[0] - experiment.imageset.get_array_range()[0]
            numbers = range(start, start + scan.get_num_images())
        for number in numbers:
            stills.append(
                Experiment(
                    imageset=imageset[number : number + 1],
                    beam=experiment.beam,
                    detector=experiment.detector,
                    crystal=experiment.crystal,
                    # Identifiers are unique in a list: that of a sweep stays with the sweep.
                    identifier=experiment.identifier if len(numbers) == 1 else "",
                )
            )
            exposures_s.append(exposure_of(scan, number - numbers.start))
    return stills, tuple(exposures_s)


def exposure_of(scan: Any, number: int) -> float:
    """Return the exposure time of an image of a scan in seconds, NaN where unknown.

    Newer DIALS asserts where a scan has none.
    """
    try:
        seconds = scan.get_exposure_times()[number] if scan is not None else np.nan
    except (AssertionError, RuntimeError, IndexError):
        seconds = np.nan
    return float(seconds) if np.isfinite(seconds) and seconds > 0 else np.nan


def _exposures_s(
    names: tuple[str, ...], of_scans: tuple[float, ...], experiments: ExperimentList
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the exposure time of each image in seconds, and the names of those for which 1 is a guess.

    dxtbx takes the period of a mini-CBF header, which is the time from one image to the next; its exposure time is
    taken where a scan has that period, or where there is no scan.
    """
    found, guessed = [], []
    for name, seconds, experiment in zip(names, of_scans, experiments, strict=True):
        times = _header_times_s(experiment.imageset.get_path(0))
        if times and (np.isnan(seconds) or np.isclose(seconds, times[1], rtol=1e-6)):
            seconds = times[0]
        if np.isnan(seconds):
            guessed.append(name)
            seconds = 1.0
        found.append(seconds)
    return tuple(found), tuple(guessed)


def _header_times_s(path: str) -> tuple[float, float] | None:
    """Return exposure time and period of a mini-CBF header in seconds, None where it has not both."""
    opened = next((_OPENERS[ending] for ending in _OPENERS if path.endswith(ending)), None)
    if opened is None:
        return None
    try:
        with opened(path, "rb") as file:
            header = file.read(_CBF_HEADER_BYTES)
    except (OSError, EOFError):
        return None
    found = [re.search(rb"#\s*Exposure_%s[ =:]+([0-9.eE+-]+)" % word, header) for word in (b"time", b"period")]
    try:
        time, period = (float(match[1]) for match in found if match)
    except ValueError:
        return None
    return (time, period) if 0 < time <= period else None


def _unique_names(experiments: ExperimentList) -> tuple[str, ...]:
    """File names, with the image's number where a file holds several, and folders where names repeat."""
    paths = [experiment.imageset.get_path(0) for experiment in experiments]
    # Several lattices of an image are one image.
    per_file = Counter(path for path, _ in {(e.imageset.get_path(0), e.imageset.indices()[0]) for e in experiments})
    repeated = {name for name, n in Counter(Path(path).name for path in per_file).items() if n > 1}
    names = []
    for path, experiment in zip(paths, experiments, strict=True):
        name = str(path) if Path(path).name in repeated else Path(path).name
        if per_file[path] > 1:
            name += f"#{experiment.imageset.indices()[0] + 1}"
        names.append(name)
    return tuple(names)
