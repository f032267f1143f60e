"""From what the user names on the command line to an image source."""

from __future__ import annotations

import glob
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dxtbx.format.Format import Format
from dxtbx.imageset import ImageSetFactory
from dxtbx.model import Experiment, ExperimentList, Scan
from dxtbx.model.beam import BeamFactory
from dxtbx.model.detector import DetectorFactory
from dxtbx.model.experiment_list import ExperimentListFactory
from dxtbx.model.goniometer import GoniometerFactory
from dxtbx.model.scan import ScanFactory
from scitbx.array_family import flex

from diffuse_framework.adapters.guards.pickles import refuse_pickles
from diffuse_framework.adapters.images.checksums import damage_of
from diffuse_framework.adapters.images.detection import DETECT, STILL_WIDTH_DEG, STILLS, choose_kind, detect
from diffuse_framework.adapters.images.duplicates import REFUSE, without_duplicates
from diffuse_framework.adapters.images.expt_files import experiments_from_file
from diffuse_framework.adapters.images.hdf5 import what_is_missing
from diffuse_framework.adapters.images.photons import set_estimates, warn_of_photons
from diffuse_framework.adapters.images.scans import one_scan_a_template
from diffuse_framework.adapters.images.sequences import SequenceSource
from diffuse_framework.adapters.images.source import DxtbxSource, exposure_of
from diffuse_framework.adapters.images.widths import with_header_widths
from diffuse_framework.errors import ConfigError, DataError, GeometryError, in_one_line
from diffuse_framework.model.experiment import Rejected

logger = logging.getLogger(__name__)


@contextmanager
def quiet_dxtbx() -> Iterator[None]:
    """Hold back what dxtbx prints: of stills that it can't join, of divisions by their width, of its progress."""
    printed = io.StringIO()
    # dxtbx of DIALS 3.30 draws a bar of the files it has read on stdout; this variable is its only switch.
    banner = os.environ.get("DIALS_NOBANNER")
    os.environ["DIALS_NOBANNER"] = "1"
    try:
        with warnings.catch_warnings(), redirect_stdout(printed):
            warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)
            yield
    finally:
        if banner is None:
            del os.environ["DIALS_NOBANNER"]
        else:
            os.environ["DIALS_NOBANNER"] = banner
        kept = [line for line in printed.getvalue().splitlines(True) if "dxtbx Internal Error" not in line]
        sys.stdout.write("".join(kept))


def images_from_files(paths: list[str]) -> ExperimentList:
    """Return experiments for image files.

    Raises:
        DataError: files dxtbx can't read as images; pickles, whatever their names.
    """
    refuse_pickles(paths)
    unhandled: list[str] = []
    try:
        with quiet_dxtbx(), one_scan_a_template():
            experiments = ExperimentListFactory.from_filenames(paths, unhandled=unhandled)
    # What a damaged header makes of format classes: KeyError, ValueError, UnicodeDecodeError ...
    except Exception as error:
        if len(paths) > 1:
            for path in paths:
                # The one that is damaged says so by its name.
                images_from_files([path])
        raise DataError(
            what_is_missing(paths[0]) or f"{paths[0]} can't be read; it is cut short or damaged ({in_one_line(error)})"
        ) from error
    if unhandled:
        raise DataError(f"{unhandled[0]} is not an image that dxtbx can read")
    return with_header_widths(experiments)


@dataclass(frozen=True)
class UnreadableFile:
    """A file whose images can't be read, and why."""

    path: str
    reason: str


def unreadable_files(paths: list[str]) -> tuple[UnreadableFile, ...]:
    """Return those of image files whose header can't be read, with the reason."""
    found = []
    for path in paths:
        try:
            images_from_files([path])
        except DataError as error:
            found.append(UnreadableFile(path, damage_of(path) or str(error).removeprefix(f"{path} ")))
    return tuple(found)


def left_out_of(paths: list[str]) -> tuple[UnreadableFile, ...]:
    """Return the files that can't be read where others of the same name but for numbers can: they are images too."""
    unreadable = unreadable_files(paths)
    readable = {_series_name(path) for path in set(paths) - {item.path for item in unreadable}}
    return unreadable if all(_series_name(item.path) in readable for item in unreadable) else ()


def _series_name(path: str) -> str:
    return re.sub(r"\d+", "#", Path(path).name)


def readable_images(paths: list[str]) -> tuple[ExperimentList, tuple[UnreadableFile, ...]]:
    """Return experiments for those of image files that can be read, and the other files.

    Raises:
        DataError: none can, or a file that is no image.
    """
    try:
        return images_from_files(paths), ()
    except DataError:
        unreadable = left_out_of(paths)
        if not unreadable:
            raise
        names = {item.path for item in unreadable}
        return images_from_files([path for path in paths if path not in names]), unreadable


def can_be_read(path: str) -> bool:
    """Whether the last image of a file, which may still be growing, can be read to its end now."""
    # dxtbx keeps the content of the last file it opened; opening another, of no length, makes it forget.
    Format.get_cache_controller().check("", io.BytesIO)
    try:
        source = DxtbxSource(images_from_files([path]))
        source.read(len(source) - 1)
    # What a half-written file makes of a reader: DataError, and whatever format classes raise on a header.
    except Exception as error:
        logger.debug("%s is not complete: %s", path, error)
        return False
    return True


def files_of(patterns: list[str]) -> list[str]:
    """Return the files that paths, patterns with ``*`` and templates with ``#`` stand for, in order.

    Raises:
        DataError: one stands for none.
    """
    files = []
    for pattern in patterns:
        if Path(pattern).exists():
            files.append(pattern)
            continue
        found = sorted(glob.glob(pattern.replace("#", "[0-9]")))
        if not found:
            raise DataError(f"no file matches {pattern}")
        files += found
    return files


@dataclass(frozen=True)
class PanelValues:
    """What a user says of all panels; None, or nothing, where the headers are right.

    Attributes:
        gain, pedestal: photons = (raw value - pedestal) / gain.
        trusted_range: lowest and highest raw value.
        read_noise: of a pixel, photons: one value for all panels, or one for each.
        estimate: "gain", "pedestal" or both: taken from the images.
    """

    gain: float | None = None
    pedestal: float | None = None
    trusted_range: tuple[float, float] | None = None
    read_noise: tuple[float, ...] = ()
    estimate: tuple[str, ...] = ()


def _set_panels(experiments: Any, values: PanelValues) -> None:
    """Write the values to the models of dxtbx, so that DIALS knows them too; it has no place for a read noise."""
    if values.trusted_range is not None and not values.trusted_range[0] < values.trusted_range[1]:
        low, high = values.trusted_range
        raise ConfigError(f"detector.trusted_range={low:g},{high:g} is empty: give the lower end first")
    for detector in experiments.detectors():
        for panel in detector:
            if values.gain is not None:
                panel.set_gain(values.gain)
            if values.pedestal is not None:
                panel.set_pedestal(values.pedestal)
            if values.trusted_range is not None:
                panel.set_trusted_range(values.trusted_range)


def open_source(
    experiments: Any,
    reflections: tuple[Any, ...] = (),
    reference_geometry: Path | None = None,
    overrides: Any = None,
    kind: str = DETECT,
    unreadable: tuple[UnreadableFile, ...] = (),
    duplicates: str = REFUSE,
    panels: PanelValues = PanelValues(),
) -> DxtbxSource:
    """Return the source of all images, with the geometry the user wants.

    Args:
        experiments: imported images, or indexed experiments.
        reflections: reflection tables that belong to them.
        reference_geometry: an .expt file whose beam, detector and, for rotations, goniometer
            replace the headers'.
        overrides: extracted `dials.util.options.geometry_phil_scope`, single values that
            replace all.
        kind: "stills", "rotation", or "detect" to find out.
        unreadable: files that were left out.
        duplicates: what to do about images that are there under two names, "refuse" or "drop".
        panels: what replaces the headers' values of all panels.

    Returns:
        A `SequenceSource` for rotations.

    Raises:
        DataError: no images, or one that is there twice.
        GeometryError: stills and rotations together, two detectors, or a geometry that doesn't fit.
    """
    if len(experiments) == 0:
        raise DataError("no images: give image files, a template like img_####.cbf, or an .expt file")
    experiments, bare = _with_models(experiments)
    unreadable = (*unreadable, *bare)
    experiments = without_duplicates(experiments, duplicates)
    # Those that the parser of DIALS has read, and those of .expt files.
    experiments = with_header_widths(experiments)
    if reference_geometry is not None:
        _adopt_geometry(experiments, Path(reference_geometry))
    if overrides is not None:
        experiments = _override(experiments, overrides)
    _set_panels(experiments, panels)
    make: type[DxtbxSource] = DxtbxSource
    if choose_kind(detect(experiments), kind) != STILLS:
        _refuse_widthless(experiments)
        make = SequenceSource
    source = make(experiments, reflections, panels.read_noise)
    if panels.estimate:
        set_estimates(source, panels.estimate, experiments)
        source = make(experiments, reflections, panels.read_noise)
    else:
        warn_of_photons(source)
    if source.without_exposure:
        logger.warning(
            "Nothing tells the exposure time of %d of %d images, for example %s: 1 second is taken. If they were "
            "exposed differently from others, or from background images, intensities are wrong by that factor",
            len(source.without_exposure),
            len(source),
            source.without_exposure[0],
        )
    source.left_out = tuple(Rejected(Path(item.path).name, "opening", item.reason) for item in unreadable)
    for item in source.left_out:
        logger.warning("Rejected %s at opening: %s", item.name, item.reason)
    return source


def _with_models(experiments: Any) -> tuple[Any, tuple[UnreadableFile, ...]]:
    """Return the experiments that have a beam and a detector, and the files of the others.

    Raises:
        DataError: none has, or one has no images.
    """
    if any(experiment.imageset is None for experiment in experiments):
        raise DataError("an experiment of the .expt file has no images: its imagesets are not those that it names")
    bare = [experiment for experiment in experiments if experiment.beam is None or experiment.detector is None]
    if not bare:
        return experiments, ()
    files = dict.fromkeys(path for experiment in bare for path in experiment.imageset.paths())
    unreadable = tuple(UnreadableFile(path, "its header says nothing of beam and detector") for path in files)
    if len(bare) == len(experiments):
        raise DataError(f"{unreadable[0].path} can't be read: {unreadable[0].reason}")
    return ExperimentList([experiment for experiment in experiments if experiment not in bare]), unreadable


def all_have_crystals(source: DxtbxSource) -> bool:
    """Whether every image of the source comes with an orientation."""
    return all(experiment.crystal is not None for experiment in source.experiments)


def _refuse_widthless(experiments: Any) -> None:
    for experiment in experiments:
        scan = experiment.scan
        if scan is None or experiment.goniometer is None or abs(scan.get_oscillation()[1]) <= STILL_WIDTH_DEG:
            raise GeometryError(
                f"{experiment.imageset.get_path(0)} can't be processed as a rotation: by its header the "
                "crystal did "
                "not turn. Give geometry.scan.oscillation=start,width (degrees, width of one image)"
            )


def _adopt_geometry(experiments: Any, path: Path) -> None:
    if not path.exists():
        raise DataError(f"input.reference_geometry: there is no file {path}")
    try:
        reference = experiments_from_file(path, check_format=False)
    except DataError as error:
        raise DataError(f"input.reference_geometry: {error}") from error
    if len(reference.detectors()) != 1 or len(reference.beams()) != 1:
        raise GeometryError(
            f"input.reference_geometry: {path} holds {len(reference.detectors())} detectors and "
            f"{len(reference.beams())} beams; give a file with one of each"
        )
    beam, detector = reference.beams()[0], reference.detectors()[0]
    wanted = [panel.get_image_size() for panel in detector]
    for experiment in experiments:
        found = [panel.get_image_size() for panel in experiment.detector]
        if found != wanted:
            raise GeometryError(
                f"input.reference_geometry: {path} has panels of {wanted} pixels, {experiment.imageset.get_path(0)} "
                f"has {found}"
            )
        experiment.beam, experiment.detector = beam, detector
    goniometers = reference.goniometers()
    turning = [experiment for experiment in experiments if experiment.goniometer is not None]
    if len(goniometers) == 1 and turning:
        for experiment in turning:
            experiment.goniometer = goniometers[0]
        logger.info("Beam, detector and goniometer are those of %s", path)
    else:
        logger.info("Beam and detector are those of %s", path)


def _override(experiments: Any, overrides: Any) -> ExperimentList:
    """Apply single values; the factories of dxtbx change the models in place and leave the rest."""
    if not _any_value(overrides):
        return experiments
    _refuse_negative(overrides)
    try:
        for beam in experiments.beams():
            BeamFactory.from_phil(overrides, beam)
        for detector in experiments.detectors():
            DetectorFactory.from_phil(overrides, detector, experiments[0].beam)
        for goniometer in experiments.goniometers():
            if goniometer is not None:
                GoniometerFactory.from_phil(overrides, goniometer)
        if overrides.scan.oscillation is None and overrides.scan.image_range is None:
            return experiments
        return _with_scan(experiments, overrides)
    except GeometryError:
        raise
    # The factories raise whatever a value leads to: RuntimeError, Sorry, TypeError, AssertionError ...
    except Exception as error:
        raise GeometryError(f"the values of geometry.* can't be applied: {in_one_line(error)}") from error


def _any_value(scope: Any) -> bool:
    """Whether a scope of geometry parameters, or one within it, asks for something; numbers of panels do not."""
    for name, value in vars(scope).items():
        if name.startswith("_") or name in ("id", "type"):
            continue
        for one in _list(value):
            if _any_value(one) if hasattr(one, "__dict__") else one is not None and one is not False:
                return True
    return False


def _refuse_negative(overrides: Any) -> None:
    """Refuse lengths that are none; dxtbx makes mirror images of some, and ends the interpreter with others."""
    lengths = {"beam.wavelength": [overrides.beam.wavelength], "detector.distance": [overrides.detector.distance]}
    for panel in overrides.detector.panel:
        for name in ("pixel_size", "image_size", "thickness"):
            lengths.setdefault(f"detector.panel.{name}", []).extend(_list(getattr(panel, name, None)))
    for name, values in lengths.items():
        for value in values:
            if isinstance(value, int | float) and not (value > 0 or (name.endswith("thickness") and value == 0)):
                raise GeometryError(f"geometry.{name}={value:g} must be above 0")


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _with_scan(experiments: Any, overrides: Any) -> ExperimentList:
    """Give all images one scan; images of no width, which dxtbx hands out one by one, become a sweep."""
    if len(experiments.imagesets()) > 1:
        raise GeometryError(
            f"geometry.scan describes one sweep, the images are {len(experiments.imagesets())}: process "
            "them one "
            "by one to indexed.expt files, or give an .expt file with the right scans"
        )
    crystals = [crystal for crystal in experiments.crystals() if crystal is not None]
    first, last = experiments[0], experiments[-1]
    if first.scan is not None and abs(first.scan.get_oscillation()[1]) > STILL_WIDTH_DEG:
        for scan in experiments.scans():
            ScanFactory.from_phil(overrides, scan)
        return experiments
    if first.scan is None or first.goniometer is None or overrides.scan.oscillation is None:
        raise GeometryError(
            f"{first.imageset.get_path(0)} has no scan to change; geometry.scan.oscillation=start,width "
            "makes one "
            "where the headers have a goniometer"
        )
    if crystals:
        raise GeometryError("geometry.scan can't make a sweep of stills that have a crystal each")
    image_range = overrides.scan.image_range
    numbers = (first.scan.get_image_range()[0], last.scan.get_image_range()[1])
    wanted: Any = tuple(image_range) if image_range else numbers
    oscillation: Any = tuple(overrides.scan.oscillation)
    scan = Scan(wanted, oscillation)
    if scan.get_num_images() != len(first.imageset):
        raise GeometryError(
            f"geometry.scan has {scan.get_num_images()} images, there are {len(first.imageset)}; images "
            "of a sweep "
            "are numbered without gaps"
        )
    if len(experiments) == scan.get_num_images():
        scan.set_exposure_times(
            flex.double([np.nan_to_num(exposure_of(experiment.scan, 0)) for experiment in experiments])
        )
    imageset = first.imageset
    imageset = ImageSetFactory.make_sequence(
        imageset.get_template(),
        list(range(numbers[0], numbers[1] + 1)),
        format_class=imageset.get_format_class(),
        beam=first.beam,
        detector=first.detector,
        goniometer=first.goniometer,
        scan=scan,
    )
    logger.info("The images are a sweep from %g degrees on, %g degrees each (geometry.scan)", *scan.get_oscillation())
    return ExperimentList(
        [
            Experiment(
                imageset=imageset,
                beam=first.beam,
                detector=first.detector,
                goniometer=first.goniometer,
                scan=scan,
            )
        ]
    )
