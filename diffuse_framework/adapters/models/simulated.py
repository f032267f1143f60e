"""What a simulation needs from cctbx, and its true models as DIALS files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from cctbx import sgtbx
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model import Crystal, Detector, MosaicCrystalSauter2014

from diffuse_framework.adapters.images.open import images_from_files
from diffuse_framework.algorithms.rotation import crossings, unrotated
from diffuse_framework.model.experiment import BraggSpots, Experiment


class Extinctions:
    """Which reflections a space group extinguishes."""

    def __init__(self, space_group: sgtbx.space_group | str) -> None:
        """Take a `cctbx.sgtbx.space_group` or a symbol."""
        if isinstance(space_group, str):
            space_group = sgtbx.space_group_info(space_group).group()
        self._space_group = space_group

    def __call__(self, hkl: np.ndarray) -> np.ndarray:
        """Return True (n,) for the extinct among integers (n, 3)."""
        indices = flex.miller_index([tuple(map(int, row)) for row in hkl])
        return flumpy.to_numpy(self._space_group.is_sys_absent(indices)).astype(bool)


def write_models(
    paths: list[Path],
    truth: Experiment,
    width: float,
    writing: Callable[[Path], AbstractContextManager[Path]],
    experiments_path: Path,
    reflections_path: Path,
) -> None:
    """Write the true models and the reflections that the images excite.

    Args:
        paths: the image files, in the order of `truth.images`.
        truth: what a perfect indexer finds.
        width: distance from the Ewald sphere, 1/angstrom, to which the size of lattice points excites.
        writing: a context manager that takes a path and gives the one to write to.
        experiments_path, reflections_path: .expt and .refl.

    Raises:
        DataError: images that dxtbx can't read, or a file that can't be written.
    """
    # As imported, with scans of no width: they hold the exposure times.
    experiments = images_from_files([str(path) for path in paths])
    beam, detector = experiments[0].beam, experiments[0].detector
    beam.set_polarization_fraction(truth.geometries[0].beam.polarization_fraction)
    table = flex.reflection_table()
    for number, (experiment, image) in enumerate(zip(experiments, truth.images, strict=True)):
        crystal = MosaicCrystalSauter2014(Crystal(_matrix(image.setting_matrix), truth.symmetry.space_group))
        crystal.set_half_mosaicity_deg(image.mosaic_width_deg / 2)
        # Sauter et al. (2014), Acta Cryst. D70, 3299: the half width is 1 / (2 D) in reciprocal space.
        crystal.set_domain_size_ang(1 / (2 * width))
        experiment.crystal = crystal
        experiment.beam, experiment.detector = beam, detector
        experiment.identifier = str(number)
        table.extend(_reflections(image.spots, number, detector))
        table.experiment_identifiers()[number] = str(number)
    with writing(experiments_path) as unfinished:
        experiments.as_json(str(unfinished))
    with writing(reflections_path) as unfinished:
        table.as_file(str(unfinished))


def write_sweep_models(
    paths: list[Path],
    truth: Experiment,
    writing: Callable[[Path], AbstractContextManager[Path]],
    experiments_path: Path,
    reflections_path: Path,
) -> None:
    """Write the true models of rotation images, crystals that slip as scan-varying, and the reflections.

    Args:
        paths: the image files, in the order of `truth.images`.
        truth: what a perfect indexer finds.
        writing: a context manager that takes a path and gives the one to write to.
        experiments_path, reflections_path: .expt and .refl.

    Raises:
        DataError: images that dxtbx can't read, or a file that can't be written.
    """
    experiments = images_from_files([str(path) for path in paths])
    table = flex.reflection_table()
    start = 0
    for number, experiment in enumerate(experiments):
        images = truth.images[start : start + experiment.scan.get_num_images()]
        start += len(images)
        beam, detector = experiment.beam, experiment.detector
        beam.set_polarization_fraction(truth.geometries[0].beam.polarization_fraction)
        settings = np.array([unrotated(image) for image in images])
        crystal = Crystal(_matrix(settings[len(settings) // 2]), truth.symmetry.space_group)
        if np.ptp(settings, axis=0).max() > 1e-9:
            # Halfway between the middles of images, and continued at both ends.
            ends = [(3 * settings[0] - settings[1]) / 2, *(settings[1:] + settings[:-1]) / 2]
            ends.append((3 * settings[-1] - settings[-2]) / 2)
            crystal.set_A_at_scan_points([_matrix(end) for end in ends])
        experiment.crystal = crystal
        experiment.identifier = str(number)
        first, width = experiment.scan.get_array_range()[0], experiment.scan.get_oscillation()[1]
        for frame, image in enumerate(images):
            rows = _reflections(image.spots, number, detector)
            q = image.spots.hkl @ image.setting_matrix.T
            assert image.rotation is not None
            angles, _ = crossings(q, truth.geometries[image.geometry].beam, image.rotation)
            z = first + frame + 0.5 + np.degrees(angles) / width
            for column in ("xyzcal.px", "xyzobs.px.value"):
                values = flumpy.to_numpy(rows[column]).copy()
                values[:, 2] = z
                rows[column] = _vectors(values)
            seen = flumpy.from_numpy(np.isfinite(image.spots.observed_px).all(axis=1))
            table.extend(rows.select(seen))
        table.experiment_identifiers()[number] = str(number)
    with writing(experiments_path) as unfinished:
        experiments.as_json(str(unfinished))
    with writing(reflections_path) as unfinished:
        table.as_file(str(unfinished))


def _matrix(setting: np.ndarray) -> tuple[float, ...]:
    return tuple(map(float, setting.ravel()))


def _reflections(spots: BraggSpots, number: int, detector: Detector) -> flex.reflection_table:
    """Return the reflections of one image as DIALS leaves them after integrating a still."""
    n = len(spots)
    table = flex.reflection_table()
    table["id"] = flex.int(n, number)
    table["panel"] = flumpy.from_numpy(spots.panel.astype(np.uint64))
    table["miller_index"] = flex.miller_index([tuple(map(int, row)) for row in spots.hkl])
    seen = np.isfinite(spots.observed_px).all(axis=1)
    observed = np.where(seen[:, None], spots.observed_px, 0.0)
    table["xyzcal.px"] = _with_z(spots.predicted_px)
    table["xyzobs.px.value"] = _with_z(observed)
    table["xyzobs.px.variance"] = _with_z(np.where(seen[:, None], 0.1, 0.0) * np.ones((n, 2)))
    predicted_mm, observed_mm = np.zeros((n, 2)), np.zeros((n, 2))
    s1 = np.zeros((n, 3))
    for row in range(n):
        panel = detector[int(spots.panel[row])]
        predicted_mm[row] = panel.pixel_to_millimeter(tuple(map(float, spots.predicted_px[row])))
        s1[row] = panel.get_lab_coord(tuple(map(float, predicted_mm[row])))
        if seen[row]:
            observed_mm[row] = panel.pixel_to_millimeter(tuple(map(float, observed[row])))
    table["xyzcal.mm"] = _with_z(predicted_mm)
    table["xyzobs.mm.value"] = _with_z(observed_mm)
    table["s1"] = _vectors(s1 / np.linalg.norm(s1, axis=1, keepdims=True))
    table["intensity.sum.value"] = flumpy.from_numpy(spots.intensity.copy())
    table["intensity.sum.variance"] = flumpy.from_numpy(spots.variance.copy())
    table["partiality"] = flumpy.from_numpy(spots.partiality.copy())
    table["flags"] = flex.size_t(n, 0)
    flags = table.flags
    table.set_flags(flex.bool(n, True), flags.predicted | flags.integrated_sum)
    table.set_flags(flumpy.from_numpy(seen), flags.strong | flags.indexed | flags.used_in_refinement)
    return table


def _with_z(px: np.ndarray) -> flex.vec3_double:
    return _vectors(np.column_stack([px, np.zeros(len(px))]))


def _vectors(values: np.ndarray) -> flex.vec3_double:
    return flumpy.vec_from_numpy(np.ascontiguousarray(values, float))
