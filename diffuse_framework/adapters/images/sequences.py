"""Sweeps of rotation images: between DIALS's experiments and our images."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dxtbx import flumpy
from dxtbx.model import Experiment as DxtbxExperiment
from dxtbx.model import ExperimentList

from diffuse_framework.adapters.images.experiments import (
    SharedModels,
    common_group,
    foreground_by_frame,
    identifier_of,
    misfit,
    mosaic_width_deg,
    reset_ids,
    save_pair,
    spots_of,
    with_predicted_px,
)
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.models.geometry import geometry_of
from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.rotation import turn
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import (
    BraggSpots,
    CrystalHints,
    Experiment,
    Image,
    Rejected,
    Rotation,
    no_spots,
)
from diffuse_framework.model.source import ImageSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sweep:
    """One run of images of a turning crystal.

    Attributes:
        name: of its files.
        experiment: dxtbx experiment with image sequence, beam, detector, goniometer and scan.
        members: numbers of the input experiments on it; one for each lattice.
        first: source index of its first image.
        n_images: number of images.
    """

    name: str
    experiment: Any
    members: tuple[int, ...]
    first: int
    n_images: int


class SequenceSource(DxtbxSource):
    """Rotation images that dxtbx can read: single images to read, and sweeps to index.

    Attributes:
        inputs: the experiments as they came, to which `reflections` belong.
        sweeps: the runs of images; experiments on the same images share one.
    """

    def __init__(self, experiments: Any, reflections: tuple[Any, ...] = (), read_noise: tuple[float, ...] = ()) -> None:
        """Find the sweeps.

        Raises:
            DataError: there is no image.
            GeometryError: images of different detectors.
        """
        lattices: dict[tuple, list[int]] = defaultdict(list)
        for number, experiment in enumerate(experiments):
            first = _first_image(experiment)
            key = (
                experiment.imageset.get_path(first),
                experiment.imageset.indices()[first],
                experiment.scan.get_num_images(),
            )
            lattices[key].append(number)
        super().__init__(
            ExperimentList([experiments[numbers[0]] for numbers in lattices.values()]), reflections, read_noise
        )
        self.inputs = experiments
        sweeps, start = [], 0
        for numbers in lattices.values():
            experiment = experiments[numbers[0]]
            n_images = experiment.scan.get_num_images()
            low, high = self.names[start], self.names[start + n_images - 1]
            name = low if n_images == 1 else f"{low} ... {high}"
            sweeps.append(Sweep(name, experiment, tuple(numbers), start, n_images))
            start += n_images
        self.sweeps = tuple(sweeps)

    def __getstate__(self) -> dict[str, Any]:
        # A worker only reads images.
        return super().__getstate__() | {"inputs": None, "sweeps": ()}


def middle_angles_deg(source: ImageSource) -> list[float | None]:
    """Return the goniometer's angle at the middle of each image of a source, None for stills."""
    if not isinstance(source, SequenceSource):
        return [None] * len(source)
    angles: list[float | None] = []
    for sweep in source.sweeps:
        start, width = sweep.experiment.scan.get_oscillation()
        angles += [start + (number + 0.5) * width for number in range(sweep.n_images)]
    return angles


def _first_image(experiment: Any) -> int:
    """Number of the experiment's first image in its image set, from 0."""
    if len(experiment.imageset) == experiment.scan.get_num_images():
        return 0
    return experiment.scan.get_array_range()[0] - experiment.imageset.get_array_range()[0]


@dataclass(frozen=True, eq=False)
class IndexedSweep:
    """An indexed sweep as DIALS objects.

    Attributes:
        sweep: its number in the source.
        experiment: a dxtbx experiment with beam, detector, goniometer, scan and crystal.
        reflections: the reflection table of this sweep alone, None where there is none.
        crystal: number of the crystal; sweeps that share one were indexed together.
        others: experiments of the other lattices of the sweep.
    """

    sweep: int
    experiment: Any
    reflections: Any = None
    crystal: int = 0
    others: tuple[Any, ...] = ()


def build_sequence_experiment(
    source: SequenceSource, sweeps: Iterable[IndexedSweep], rejected: Iterable[Rejected], hints: CrystalHints
) -> tuple[Experiment, tuple[IndexedSweep, ...]]:
    """Return the experiment of all images of indexed sweeps, and those sweeps that are in it.

    A sweep whose crystal disagrees with the symmetry of the data set is rejected with all its images.

    Args:
        source: all images.
        sweeps: the indexed ones.
        rejected: images rejected before.
        hints: what the user knows of the crystal.

    Raises:
        ConfigError: the user's space group is none.
        DataError: models that do not fit the images.
    """
    sweeps = sorted(sweeps, key=lambda sweep: sweep.sweep)
    rejected = list(rejected)
    group = common_group(sweeps, hints)
    shared = SharedModels()
    geometries: list[Any] = []
    numbers: dict[tuple[int, int], int] = {}
    images, kept = [], []
    for indexed in sweeps:
        sweep = source.sweeps[indexed.sweep]
        names = source.names[sweep.first : sweep.first + sweep.n_images]
        complaint = misfit(indexed.experiment.crystal, group, hints)
        if complaint:
            rejected += [Rejected(name, "indexing", complaint) for name in names]
            continue
        beam, detector = shared.models(indexed.experiment)
        key = (id(beam), id(detector))
        if key not in numbers:
            numbers[key] = len(geometries)
            geometries.append(geometry_of(beam, detector))
        settings, rotations = orientations(indexed.experiment, indexed.sweep)
        if len(settings) != sweep.n_images:
            raise DataError(
                f"{sweep.name} has {sweep.n_images} images, its scan {len(settings)}: give the .expt file of "
                "these images"
            )
        others = [orientations(other, indexed.sweep)[0] for other in indexed.others]
        spots = spots_by_frame(indexed.reflections, indexed.experiment)
        width = mosaic_width_deg(indexed.experiment)
        images += [
            Image(
                name=name,
                source_index=sweep.first + frame,
                geometry=numbers[key],
                exposure_s=source.exposure_s(sweep.first + frame),
                setting_matrix=settings[frame],
                mosaic_width_deg=width,
                spots=spots[frame],
                rotation=rotations[frame],
                crystal=indexed.crystal,
                other_lattices=tuple(matrices[frame] for matrices in others),
            )
            for frame, name in enumerate(names)
        ]
        kept.append(indexed)
    order = {name: number for number, name in enumerate(source.names)}
    rejected.sort(key=lambda item: order[item.name])
    experiment = Experiment(tuple(geometries), symmetry_of(group), tuple(images), tuple(rejected))
    return experiment, tuple(kept)


def orientations(experiment: Any, sweep: int = 0) -> tuple[np.ndarray, list[Rotation]]:
    """Return the setting matrices (n, 3, 3) at the middle of each image of a scan, and the rotations.

    A = S R(phi) F A(phi), with goniometer and crystal that vary over the scan taken halfway between
    the beginning and the end of an image.

    Args:
        experiment: dxtbx experiment with goniometer, scan and crystal.
        sweep: number for the rotations.

    Raises:
        DataError: a crystal that varies over other images than those of the scan.
    """
    goniometer, scan, crystal = experiment.goniometer, experiment.scan, experiment.crystal
    n_images = scan.get_num_images()
    start, width = scan.get_oscillation()
    angles = start + width * (np.arange(n_images) + 0.5)
    fixed = np.array(goniometer.get_fixed_rotation()).reshape(3, 3)
    datum = np.array(goniometer.get_rotation_axis_datum())
    setting = _at_middles(
        goniometer.get_setting_rotation,
        goniometer.get_setting_rotation_at_scan_point,
        goniometer.num_scan_points,
        n_images,
        "goniometer",
    )
    own = _at_middles(crystal.get_A, crystal.get_A_at_scan_point, crystal.num_scan_points, n_images, "crystal")
    if experiment.beam.num_scan_points > 0:
        logger.warning("The beam varies over the scan; its mean direction is taken")
    matrices = setting @ turn(datum / np.linalg.norm(datum), np.radians(angles)) @ fixed @ own
    axes = setting @ datum
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    rotations = [Rotation(axis, float(angle), float(width), sweep) for axis, angle in zip(axes, angles, strict=True)]
    return matrices, rotations


def _at_middles(static: Any, at_point: Any, n_points: int, n_images: int, what: str) -> np.ndarray:
    """Matrices (n, 3, 3) of a model at the middle of each image; it varies where it has scan points."""
    if n_points == 0:
        return np.broadcast_to(np.array(static()).reshape(3, 3), (n_images, 3, 3))
    if n_points != n_images + 1:
        raise DataError(
            f"the {what} varies over {n_points - 1} images, the scan has {n_images}; cut both with dials.slice_sequence"
        )
    points = np.array([at_point(number) for number in range(n_points)]).reshape(-1, 3, 3)
    return (points[:-1] + points[1:]) / 2


def spots_by_frame(table: Any, experiment: Any) -> list[BraggSpots]:
    """Return the Bragg reflections of a sweep, on the images on which DIALS predicts their centres.

    Raises:
        DataError: the table has no predicted positions, or names panels the detector lacks.
    """
    from dials.array_family import flex

    n_images = experiment.scan.get_num_images()
    if table is None or len(table) == 0:
        return [no_spots()] * n_images
    table = with_predicted_px(table, experiment.detector, experiment.scan)
    if "xyzcal.px" not in table:
        spots_of(table, experiment.detector)
    table = _predicted(table)
    if len(table) == 0:
        return [no_spots()] * n_images
    first = experiment.scan.get_array_range()[0]
    z = flumpy.to_numpy(table["xyzcal.px"])[:, 2]
    frames = np.clip(np.floor(z).astype(int) - first, 0, n_images - 1)
    foreground = foreground_by_frame(table, experiment.detector, first, n_images)
    if "shoebox" in table:
        table = copy.copy(table)
        del table["shoebox"]
    order = np.argsort(frames, kind="stable")
    table = table.select(flex.size_t(order.tolist()))
    ends = np.searchsorted(frames[order], np.arange(n_images + 1))
    return [
        spots_of(table[int(low) : int(high)], experiment.detector, pixels)
        for low, high, pixels in zip(ends[:-1], ends[1:], foreground, strict=True)
    ]


def _predicted(table: Any) -> Any:
    """Return the rows that have a prediction; dials.integrate also hands on spots that have none."""
    from dials.array_family import flex

    if "flags" in table:
        return table.select(table.get_flags(table.flags.predicted))
    # From INTEGRATE.HKL of XDS, where all rows are integrated. DIALS 3.30 sets flags, 3.12 leaves zeros where XDS
    # observed nothing.
    table = copy.copy(table)
    table["flags"] = flex.size_t(len(table), 0)
    flags = table.flags
    table.set_flags(flex.bool(len(table), True), flags.predicted | flags.integrated_prf)
    table.set_flags(table["xyzobs.px.value"].norms() > 0, flags.indexed)
    return table


def save_sweeps(source: SequenceSource, sweeps: Iterable[IndexedSweep], folder: Path) -> None:
    """Write ``indexed.expt`` and ``indexed.refl``, which DIALS and indexer `given` read.

    Raises:
        DataError: they can't be written; files of that name from before are still there.
    """
    from dials.array_family import flex

    experiments = ExperimentList()
    reflections = flex.reflection_table()
    for number, indexed in enumerate(sweeps):
        sweep = source.sweeps[indexed.sweep]
        identifier = identifier_of(source.experiments[sweep.first])
        experiments.append(
            DxtbxExperiment(
                imageset=sweep.experiment.imageset,
                beam=indexed.experiment.beam,
                detector=indexed.experiment.detector,
                goniometer=indexed.experiment.goniometer,
                scan=indexed.experiment.scan,
                crystal=indexed.experiment.crystal,
                profile=indexed.experiment.profile,
                identifier=identifier,
            )
        )
        if indexed.reflections is not None:
            table = copy.deepcopy(indexed.reflections)
            reset_ids(table, number, identifier)
            if "imageset_id" in table:
                table["imageset_id"] = flex.int(len(table), number)
            reflections.extend(table)
    save_pair(experiments, reflections, folder)
