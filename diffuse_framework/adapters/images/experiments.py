"""Indexed images: between DIALS's experiment lists and reflection tables and our `Experiment`."""

from __future__ import annotations

import copy
import json
import logging
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cctbx import sgtbx
from dxtbx import flumpy
from dxtbx import model as dxtbx_model
from dxtbx.model.scan import ScanFactory

from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.models.geometry import geometry_of
from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.errors import DataError
from diffuse_framework.model.conventions import INDEXED, REFLECTIONS
from diffuse_framework.model.experiment import BraggSpots, CrystalHints, Experiment, Image, Rejected, no_spots

logger = logging.getLogger(__name__)

# Full width at half maximum of a normal distribution of unit standard deviation.
_FWHM = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True, eq=False)
class IndexedStill:
    """One indexed image as DIALS objects.

    Attributes:
        source_index: its number in the source.
        experiment: a dxtbx experiment with beam, detector and crystal; its image set is not
            used, the source has it.
        reflections: the reflection table of this image alone, None where there is none.
        other_crystals: dxtbx crystals of its other lattices.
        indexed_by: name of the indexer where a run has several, else "".
    """

    source_index: int
    experiment: Any
    reflections: Any = None
    other_crystals: tuple[Any, ...] = ()
    indexed_by: str = ""


def still_for_dials(experiment: Any) -> Any:
    """Return a copy of a source's experiment that DIALS may change and takes for a still."""
    still = copy.deepcopy(experiment)
    still.crystal = None
    # DIALS 3.12 indexes by the image set's own models, not the experiment's, and crashes on
    # an image set of one image that still has the scan of a longer series.
    still.imageset.set_scan(None)
    still.imageset.set_goniometer(None)
    still.imageset.set_beam(still.beam)
    still.imageset.set_detector(still.detector)
    still.identifier = identifier_of(experiment)
    return still


def identifier_of(experiment: Any) -> str:
    """Return an identifier that is unique to an image and the same in every run."""
    imageset = experiment.imageset
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{imageset.get_path(0)}#{imageset.indices()[0]}"))


def build_experiment(
    source: DxtbxSource, stills: Iterable[IndexedStill], rejected: Iterable[Rejected], hints: CrystalHints
) -> tuple[Experiment, tuple[IndexedStill, ...]]:
    """Return the experiment of indexed stills, and those stills that are in it.

    An image whose crystal disagrees with the symmetry of the data set is rejected: the
    symmetry is the user's, or that of most images where the user gave none.

    Args:
        source: all images.
        stills: the indexed ones.
        rejected: images rejected before.
        hints: what the user knows of the crystal.

    Raises:
        ConfigError: the user's space group is none.
    """
    stills = sorted(stills, key=lambda still: still.source_index)
    rejected = list(rejected)
    group = common_group(stills, hints)
    shared = SharedModels()
    geometries: list[Any] = []
    numbers: dict[tuple[int, int], int] = {}
    images, kept = [], []
    for still in stills:
        name = source.names[still.source_index]
        complaint = misfit(still.experiment.crystal, group, hints)
        if complaint:
            rejected.append(Rejected(name, "indexing", complaint))
            continue
        beam, detector = shared.models(still.experiment)
        key = (id(beam), id(detector))
        if key not in numbers:
            numbers[key] = len(geometries)
            geometries.append(geometry_of(beam, detector))
        images.append(
            Image(
                name=name,
                source_index=still.source_index,
                geometry=numbers[key],
                exposure_s=source.exposure_s(still.source_index),
                setting_matrix=np.array(still.experiment.crystal.get_A()).reshape(3, 3),
                mosaic_width_deg=mosaic_width_deg(still.experiment),
                spots=spots_of(still.reflections, detector),
                other_lattices=tuple(np.array(crystal.get_A()).reshape(3, 3) for crystal in still.other_crystals),
                indexed_by=still.indexed_by,
            )
        )
        kept.append(still)
    order = {name: number for number, name in enumerate(source.names)}
    rejected.sort(key=lambda item: order[item.name])
    experiment = Experiment(tuple(geometries), symmetry_of(group), tuple(images), tuple(rejected))
    return experiment, tuple(kept)


class SharedModels:
    """Gives one object for all beams, and one for all detectors, that are equal number by number."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def models(self, experiment: Any) -> tuple[Any, Any]:
        """Return the beam and the detector that stand for those of `experiment`."""
        return self._shared(experiment.beam), self._shared(experiment.detector)

    def _shared(self, model: Any) -> Any:
        return self._known.setdefault(json.dumps(model.to_dict(), sort_keys=True), model)


def common_group(indexed: Iterable[Any], hints: CrystalHints) -> Any:
    """Return the user's space group, or that of most crystals; `indexed` have an `experiment` each."""
    if hints.space_group is not None:
        return hints.space_group
    symbols = Counter(_symbol(item.experiment.crystal.get_space_group()) for item in indexed)
    return symbols.most_common(1)[0][0] if symbols else "P1"


def _symbol(group: Any) -> str:
    return sgtbx.space_group_info(group=group).type().lookup_symbol()


def misfit(crystal: Any, group: Any, hints: CrystalHints) -> str:
    """Return why a crystal can't be part of a data set of that space group, "" where it can."""
    if hints.space_group is None:
        found = _symbol(crystal.get_space_group())
        return "" if found == group else f"indexed in {found}, most images in {group}"
    cell = crystal.get_unit_cell()
    if sgtbx.space_group_info(group).group().is_compatible_unit_cell(cell, 0.01, 1.0):
        return ""
    values = " ".join(f"{value:.2f}" for value in cell.parameters())
    return f"its cell {values} can't be that of {group}"


def mosaic_width_deg(experiment: Any) -> float:
    """Return the full width of the mosaic spread, 0 where DIALS has no angle for it.

    Stills are indexed with half the width of a top-hat distribution. Ellipsoid models that
    rotate with the reflection have standard deviations; the others have a size in 1/angstrom.
    Rotations have a standard deviation too: sigma_m of their profile, or the mosaicity of XDS.
    """
    crystal, profile = experiment.crystal, experiment.profile
    if experiment.scan is not None and hasattr(profile, "sigma_m"):
        return float(_FWHM * np.median(profile.sigma_m()))
    if hasattr(crystal, "get_mosaicity") and crystal.get_mosaicity() > 0:
        return float(_FWHM * crystal.get_mosaicity())
    if hasattr(crystal, "get_half_mosaicity_deg") and crystal.get_half_mosaicity_deg() > 0:
        return 2 * crystal.get_half_mosaicity_deg()
    mosaicity = getattr(profile, "mosaicity", None)
    if mosaicity is None:
        return 0.0
    angles = [value for key, value in mosaicity().items() if key.startswith("angular")]
    return float(_FWHM * max(angles, default=0.0))


def spots_of(table: Any, detector: Any, foreground: np.ndarray | None = None) -> BraggSpots:
    """Return the Bragg reflections of one image from its reflection table.

    Rows that were neither indexed nor predicted are left out.

    Args:
        table: reflections of the image.
        detector: of dxtbx.
        foreground: (m, 3) pixels of peaks; None takes them from the table's shoeboxes.

    Raises:
        DataError: the table has no predicted positions, or names panels the detector lacks.
    """
    nothing = no_spots() if foreground is None else replace(no_spots(), foreground=foreground)
    if table is None or len(table) == 0:
        return nothing
    table = with_predicted_px(table, detector)
    if "miller_index" not in table or "xyzcal.px" not in table:
        raise DataError(
            "the reflections have no Miller indices or no predicted positions: give those of dials.index, "
            "dials.refine or dials.integrate, not those of dials.find_spots"
        )
    hkl = np.rint(flumpy.to_numpy(table["miller_index"].as_vec3_double())).astype(np.int32)
    indexed = hkl.any(axis=1)
    table = table.select(flumpy.from_numpy(indexed))
    if len(table) == 0:
        return nothing
    panel = flumpy.to_numpy(table["panel"]).astype(np.int32)
    if panel.max() >= len(detector):
        raise DataError(
            f"the reflections are on panel {panel.max()}, but the detector has {len(detector)}: they belong "
            "to other images"
        )
    flags = flumpy.to_numpy(table["flags"]).astype(np.int64) if "flags" in table else np.zeros(len(table), np.int64)
    found = flags & (int(table.flags.strong) | int(table.flags.indexed)) != 0
    # Those of dials.predict were never observed.
    observed = np.full((len(table), 2), np.nan)
    if "xyzobs.px.value" in table:
        observed[found] = flumpy.to_numpy(table["xyzobs.px.value"])[found, :2]
    intensity, variance, integrated = _intensities(table, flags)
    partiality = np.full(len(table), np.nan)
    if "partiality" in table:
        partiality[integrated] = flumpy.to_numpy(table["partiality"])[integrated]
    return BraggSpots(
        hkl=hkl[indexed],
        intensity=intensity,
        variance=variance,
        partiality=partiality,
        panel=panel,
        observed_px=observed,
        predicted_px=flumpy.to_numpy(table["xyzcal.px"])[:, :2].copy(),
        foreground=_foreground(table, detector) if foreground is None else foreground,
    )


def with_predicted_px(table: Any, detector: Any, scan: Any = None) -> Any:
    """Return a table with predicted positions in pixels, from those in mm and radians where it has no others.

    The same table comes back where there is nothing to do.

    Args:
        table: reflections.
        detector: of dxtbx.
        scan: of dxtbx, None for a still.
    """
    from dials.array_family import flex

    if table is None or len(table) == 0 or "xyzcal.px" in table or not {"xyzcal.mm", "panel"} <= set(table.keys()):
        return table
    table = copy.copy(table)
    panel = flumpy.to_numpy(table["panel"]).astype(int)
    mm = flumpy.to_numpy(table["xyzcal.mm"])
    px = np.zeros((len(table), 3))
    for number in np.unique(panel):
        if number >= len(detector):
            # `spots_of` says so.
            continue
        rows = panel == number
        found = detector[int(number)].millimeter_to_pixel(flumpy.vec_from_numpy(np.ascontiguousarray(mm[rows, :2])))
        px[rows, :2] = flumpy.to_numpy(found)
    if scan is not None:
        start, width = scan.get_oscillation()
        px[:, 2] = scan.get_array_range()[0] + (np.degrees(mm[:, 2]) - start) / width
    table["xyzcal.px"] = flex.vec3_double(px)
    return table


def _intensities(table: Any, flags: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Profile-fitted intensities where there are any, else summed ones; and where there are either."""
    intensity, variance = np.full((2, len(table)), np.nan)
    integrated = np.zeros(len(table), bool)
    for kind, flag in (("sum", table.flags.integrated_sum), ("prf", table.flags.integrated_prf)):
        here = flags & int(flag) != 0
        if f"intensity.{kind}.value" in table:
            intensity[here] = flumpy.to_numpy(table[f"intensity.{kind}.value"])[here]
            variance[here] = flumpy.to_numpy(table[f"intensity.{kind}.variance"])[here]
            integrated |= here
    return intensity, variance, integrated


def _foreground(table: Any, detector: Any) -> np.ndarray:
    """Pixels (m, 3) of the foreground of all shoeboxes, each once, as (panel, slow, fast)."""
    if "shoebox" not in table:
        return no_spots().foreground
    found = _foreground_rows(table)
    return _on_panels(found[:, 1:], detector)


def foreground_by_frame(table: Any, detector: Any, first: int, n_images: int) -> list[np.ndarray]:
    """Return pixels (m, 3) of the foreground of shoeboxes, as (panel, slow, fast), of each image of a scan.

    Args:
        table: reflections of the scan.
        detector: of dxtbx.
        first: array index of the first image.
        n_images: number of images.
    """
    if "shoebox" not in table:
        return [no_spots().foreground] * n_images
    found = _foreground_rows(table)
    found = found[np.argsort(found[:, 0], kind="stable")]
    ends = np.searchsorted(found[:, 0] - first, np.arange(n_images + 1))
    return [_on_panels(found[low:high, 1:], detector) for low, high in zip(ends[:-1], ends[1:], strict=True)]


def _foreground_rows(table: Any) -> np.ndarray:
    """Foreground of all shoeboxes, (m, 4) as (frame, panel, slow, fast), with repetitions."""
    from dials.algorithms.shoebox import MaskCode

    bit = int(MaskCode.Foreground)
    parts = [np.zeros((0, 4), np.int32)]
    for box in table["shoebox"]:
        if len(box.mask) == 0:
            continue
        frame, slow, fast = np.nonzero(flumpy.to_numpy(box.mask) & bit)
        x0, _, y0, _, z0, _ = box.bbox
        columns = [frame + z0, np.full(len(slow), box.panel), slow + y0, fast + x0]
        parts.append(np.stack(columns, -1).astype(np.int32))
    return np.concatenate(parts)


def _on_panels(pixels: np.ndarray, detector: Any) -> np.ndarray:
    """Return each of the pixels (m, 3) that is on its panel once."""
    pixels = np.unique(pixels, axis=0)
    sizes = np.array([panel.get_image_size()[::-1] for panel in detector])[pixels[:, 0]]
    return pixels[((pixels[:, 1:] >= 0) & (pixels[:, 1:] < sizes)).all(axis=1)]


def cropped_shoeboxes(table: Any) -> Any:
    """Return a copy of a table whose shoeboxes reach no further than their foreground.

    Shoeboxes of integration are some ten times larger than the peak, for the background.
    """
    from dials.algorithms.shoebox import MaskCode
    from dials.array_family import flex

    bit = int(MaskCode.Foreground)
    boxes = table["shoebox"]
    # Where there is no foreground one pixel is left.
    parts = [_bounds(flumpy.to_numpy(box.mask) & bit) for box in boxes]
    corners = []
    for box, (_, rows, columns) in zip(boxes, parts, strict=True):
        x0, _, y0, _, z0, z1 = box.bbox
        corners.append((x0 + columns.start, x0 + columns.stop, y0 + rows.start, y0 + rows.stop, z0, z1))
    cropped = flex.shoebox(table["panel"], flex.int6(corners), allocate=True)
    for number, (box, part) in enumerate(zip(boxes, parts, strict=True)):
        small = cropped[number]
        for name in ("data", "mask", "background"):
            values = flumpy.to_numpy(getattr(box, name))
            if values.size:
                flumpy.to_numpy(getattr(small, name))[:] = values[part]
        cropped[number] = small
    table = copy.deepcopy(table)
    table["shoebox"] = cropped
    return table


def _bounds(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the slices (z, slow, fast) of the smallest box around all that is not 0."""
    _, slow, fast = np.nonzero(mask)
    if len(slow) == 0:
        return slice(None), slice(0, 1), slice(0, 1)
    return (
        slice(None),
        slice(int(slow.min()), int(slow.max()) + 1),
        slice(int(fast.min()), int(fast.max()) + 1),
    )


def with_observations(integrated: Any, indexed: Any) -> Any:
    """Return integrated reflections with the observed positions of spot finding.

    Integration replaces each observed position by the centre of mass at the prediction, and
    leaves out spots it did not predict; both are brought back.

    Args:
        integrated: reflections of one image.
        indexed: the indexed spots of the same image.
    """
    from dials.array_family import flex

    rows = {hkl: row for row, hkl in enumerate(integrated["miller_index"])}
    matched = [rows.get(hkl, -1) for hkl in indexed["miller_index"]]
    is_matched = flex.bool([row >= 0 for row in matched])
    target = flex.size_t([row for row in matched if row >= 0])
    joined = copy.deepcopy(integrated)
    spots = indexed.select(is_matched)
    for name in ("xyzobs.px.value", "xyzobs.px.variance", "xyzobs.mm.value", "xyzobs.mm.variance"):
        if name in spots and name in joined:
            joined[name].set_selected(target, spots[name])
    found = joined.flags.strong | joined.flags.indexed
    joined.unset_flags(flex.bool(len(joined), True), found)
    joined.set_flags(target, found)
    alone = indexed.select(~is_matched)
    if "shoebox" not in joined:
        del alone["shoebox"]
    joined.extend(_with_columns_of(alone, joined))
    return joined


def _with_columns_of(table: Any, like: Any) -> Any:
    """Return `table` with the columns of `like` only."""
    table = copy.deepcopy(table)
    for name in list(table.keys()):
        if name not in like:
            del table[name]
    return table


def reset_ids(table: Any, number: int, identifier: str) -> None:
    """Make all rows of a table those of experiment `number`."""
    from dials.array_family import flex

    for key in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[key]
    table["id"] = flex.int(len(table), number)
    table.experiment_identifiers()[number] = identifier


def save_indexed(source: DxtbxSource, stills: Iterable[IndexedStill], folder: Path) -> None:
    """Write ``indexed.expt`` and ``indexed.refl``, which DIALS and indexer `given` read.

    Raises:
        DataError: they can't be written; files of that name from before are still there.
    """
    from dials.array_family import flex

    shared = SharedModels()
    experiments = dxtbx_model.ExperimentList()
    reflections = flex.reflection_table()
    for number, still in enumerate(stills):
        original = source.experiments[still.source_index]
        beam, detector = shared.models(still.experiment)
        identifier = identifier_of(original)
        experiments.append(
            dxtbx_model.Experiment(
                imageset=original.imageset,
                beam=beam,
                detector=detector,
                crystal=still.experiment.crystal,
                profile=still.experiment.profile,
                # Of no width, so still a still for DIALS; the one place for an exposure time.
                scan=ScanFactory.make_scan((1, 1), source.exposure_s(still.source_index), (0.0, 0.0), {1: 0.0}),
                identifier=identifier,
            )
        )
        if still.reflections is not None:
            table = copy.deepcopy(still.reflections)
            reset_ids(table, number, identifier)
            if "imageset_id" in table:
                table["imageset_id"] = flex.int(len(table), number)
            reflections.extend(table)
    save_pair(experiments, reflections, folder)


def save_pair(experiments: Any, reflections: Any, folder: Path) -> None:
    """Write ``indexed.expt`` and ``indexed.refl``.

    Raises:
        DataError: they can't be written; files of that name from before are still there.
    """
    # In this order: an .expt file of the same age as its .refl file is a complete pair.
    for name, write in ((REFLECTIONS, reflections.as_file), (INDEXED, experiments.as_file)):
        with writing_whole(Path(folder) / name) as temporary:
            write(str(temporary))


@contextmanager
def writing_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path, with the same ending, that takes the place of `path` when all went well."""
    temporary = path.with_name(f".{path.stem}.diffuse-{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    # DIALS's writers raise RuntimeError where C++ streams fail.
    except (OSError, RuntimeError) as error:
        # libtbx puts the system's words on the last line of an error of its own.
        why = getattr(error, "strerror", None) or (str(error).splitlines() or ["unknown error"])[-1].strip()
        raise DataError(f"can't write {path}: {why}") from error
    finally:
        temporary.unlink(missing_ok=True)
