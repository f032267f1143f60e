"""The rules that plugins keep, one function per stage.

Each takes a plugin and the data it is tried on (drawn by `testing.strategies`, or your own), and
raises `BrokenContract` with what is wrong, in words for the plugin's author. A plugin may refuse data with
the errors of `diffuse_framework.errors`; any other exception passes through.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from iotbx.phil import parse

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.config.scope import build_scope
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import ConfigError, DataError, DiffuseError, GeometryError, PluginError
from diffuse_framework.host.interfaces import INTERFACES, METHODS, interface_of
from diffuse_framework.host.registry import Plugin, Registry
from diffuse_framework.model.conventions import BRAGG, DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import CrystalHints, Experiment, Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.maps import AbsoluteMap, MergedMap
from diffuse_framework.model.mask import PixelMask, combine
from diffuse_framework.model.pixels import Background, PixelTable
from diffuse_framework.model.scales import ImageScales, Scales
from diffuse_framework.model.source import Frame, ImageSource
from diffuse_framework.model.voxels import (
    COLUMN_TYPES,
    COLUMNS,
    SumsInMemory,
    SumsTable,
    VoxelSums,
    concatenate,
)
from diffuse_framework.testing.fakes import orthorhombic_grid


class BrokenContract(AssertionError):
    """A plugin breaks a rule of its stage; the message says which and how to mend it."""


def _require(condition: Any, plugin: Any, message: str) -> None:
    if not condition:
        raise BrokenContract(f"{_title(plugin)}: {message}")


def _title(plugin: Any) -> str:
    factory = plugin if isinstance(plugin, type) else type(plugin)
    return f"{getattr(factory, 'name', None) or '?'} ({factory.__name__})"


# --- what holds for every plugin -------------------------------------------------------------------------


def check_plugin(stage: str, factory: type, parameters: str = "") -> Any:
    """Check what every plugin must offer, and return it made with `parameters`.

    Args:
        stage: for example "scaler".
        factory: the plugin's class.
        parameters: PHIL text in the plugin's own scope, for one that does not work with its defaults.

    Raises:
        BrokenContract: a rule is broken.
    """
    missing = [word for word in ("name", "phil", "from_params", *METHODS[stage]) if not hasattr(factory, word)]
    _require(not missing, factory, f"has no {' and no '.join(missing)}; see diffuse_framework/stages/{stage}.py")
    _require(
        interface_of(factory) == INTERFACES[stage],
        factory,
        f"is written for interface {interface_of(factory)} of {stage}, this is {INTERFACES[stage]}; set "
        f"interface = {INTERFACES[stage]} once the changes in docs/compatibility.md are made",
    )
    _require((factory.__doc__ or "").strip(), factory, "has no docstring; its first line is its description")
    frozen = dataclasses.is_dataclass(factory) and factory.__dataclass_params__.frozen  # type: ignore[attr-defined]
    _require(frozen, factory, "is not a frozen dataclass; write @dataclass(frozen=True) above it")
    for method, wanted in METHODS[stage].items():
        _check_signature(factory, method, wanted)
    plugin = _made(stage, factory, parameters)
    again = _unpickled(plugin)
    _require(
        type(again) is type(plugin) and first_difference(plugin, again) is None,
        plugin,
        "is another object after pickling; workers get it pickled. Keep plain values and arrays as its fields",
    )
    return plugin


def _check_signature(factory: type, method: str, wanted: tuple[str, ...]) -> None:
    try:
        inspect.signature(getattr(factory, method)).bind("self", *wanted)
    except TypeError as error:
        raise BrokenContract(
            f"{_title(factory)}: {method} is called with ({', '.join(wanted)}), but {error}"
        ) from error


def _made(stage: str, factory: Any, parameters: str) -> Any:
    registry = Registry()
    try:
        registry.add(Plugin(stage, factory.name, factory, "", ""))
    except PluginError as error:
        raise BrokenContract(f"{_title(factory)}: {error}") from error
    scope = build_scope(registry)
    if registry.failed:
        raise BrokenContract(f"{_title(factory)}: {registry.failed[0].error}")
    for definition in parse(factory.phil, process_includes=True).all_definitions():
        for attribute in ("type", "help"):
            _require(
                getattr(definition.object, attribute), factory, f"parameter {definition.path} has no .{attribute}"
            )
    inner = f"{stage}.{factory.name} {{\n{parameters}\n}}"
    params = getattr(getattr(scope.fetch(parse(inner)).extract(), stage), factory.name, None)
    try:
        return factory.from_params(params)
    except ConfigError as error:
        raise BrokenContract(
            f"{_title(factory)}: refuses {'these parameters' if parameters else 'its own defaults'} ({error}); give "
            "parameters with which it works"
        ) from error
    except AttributeError as error:
        raise BrokenContract(
            f"{_title(factory)}: from_params asks for a parameter that its phil does not have ({error})"
        ) from error


def _unpickled(plugin: Any) -> Any:
    try:
        return pickle.loads(pickle.dumps(plugin))
    # Pickle raises PicklingError, TypeError, AttributeError, or whatever __reduce__ does.
    except Exception as error:
        raise BrokenContract(
            f"{_title(plugin)}: does not pickle ({type(error).__name__}: {error}); it is sent to worker processes. "
            "Keep plain values and arrays as its fields, open files where they are used, and define it at the top "
            "of a module"
        ) from error


def first_difference(a: Any, b: Any, path: str = "") -> str | None:
    """Return where two objects of the model differ, None where they are equal; NaN equals NaN."""
    if a is b:
        return None
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        same_kind = isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype == b.dtype
        if same_kind and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"):
            return None
        return path or "the array"
    if type(a) is not type(b):
        return path or "the type"
    if dataclasses.is_dataclass(a):
        parts: Iterable = ((f".{f.name}", getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    elif isinstance(a, dict):
        if a.keys() != b.keys():
            return path or "the keys"
        parts = ((f"[{key!r}]", a[key], b[key]) for key in a)
    elif isinstance(a, (tuple, list)):
        if len(a) != len(b):
            return path or "the length"
        parts = ((f"[{n}]", x, y) for n, (x, y) in enumerate(zip(a, b, strict=True)))
    elif isinstance(a, float) and a != a and b != b:
        return None
    elif type(a).__eq__ is object.__eq__:
        # What begins with an underscore may be a cache.
        own = {key: value for key, value in getattr(a, "__dict__", {}).items() if not key.startswith("_")}
        parts = ((f".{key}", value, vars(b).get(key)) for key, value in own.items())
    else:
        return None if a == b else path or "the value"
    for name, x, y in parts:
        found = first_difference(x, y, path + name)
        if found:
            return found
    return None


def _call(plugin: Any, method: str, **arguments: Any) -> Any:
    """Call a method with unpickled (writable) copies of the arguments; neither they nor the plugin may change."""
    given = pickle.loads(pickle.dumps(arguments))
    before = pickle.loads(pickle.dumps((arguments, vars(plugin) if dataclasses.is_dataclass(plugin) else None)))
    result = getattr(plugin, method)(*given.values())
    for name, value in given.items():
        where = first_difference(before[0][name], value, name)
        _require(
            where is None,
            plugin,
            f"{method} changes what it is given: {where}. Others use it too; return a new object, or copy first",
        )
    for name, value in (before[1] or {}).items():
        where = first_difference(value, getattr(plugin, name, None), f"self.{name}")
        _require(
            where is None,
            plugin,
            f"{method} changes the plugin itself: {where}. Workers have copies of their own, and results must "
            "not depend on what was worked on before",
        )
    return result


def _check_arrays(plugin: Any, what: str, arrays: Any, shapes: list[tuple[int, ...]]) -> None:
    found = [np.shape(array) for array in arrays]
    _require(found == shapes, plugin, f"{what} has arrays of shapes {found}, the panels are {shapes} (slow, fast)")


def _finite(plugin: Any, what: str, values: np.ndarray) -> None:
    bad = np.count_nonzero(~np.isfinite(values))
    _require(bad == 0, plugin, f"{what} is NaN or infinite for {bad} of {np.size(values)} values")


# --- 1 indexer -------------------------------------------------------------------------------------------


def check_indexer(indexer: Any, source: ImageSource, hints: CrystalHints, folder: Path) -> bool:
    """Check one indexer on one source.

    Rules: it leaves the source as it is; every image is either indexed or refused with a reason, once;
    images keep the order of the source; orientations, exposures and spots are usable.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    arguments = {"source": source, "hints": hints, "folder": folder, "mapper": SerialEngine()}
    try:
        experiment: Experiment = _call(indexer, "index", **arguments)
    except DataError as error:
        _require(str(error), indexer, "refuses all images without a word; say why, and what to try")
        return False
    say = f"{_title(indexer)}: "
    _require(
        len(experiment.images) > 0,
        indexer,
        "returns an experiment without images; raise DataError with the reason and what to try",
    )
    names = [image.name for image in experiment.images]
    refused = [item.name for item in experiment.refused]
    _require(
        sorted(names + refused) == sorted(source.names),
        indexer,
        f"of {len(source)} images {len(names)} are indexed and {len(refused)} refused; each image must be one of "
        "them, once, under its name in the source",
    )
    for item in experiment.refused:
        _require(item.reason.strip(), indexer, f"{item.name} is refused without a reason")
    _require(
        [source.names[image.source_index] for image in experiment.images] == names
        and [image.source_index for image in experiment.images]
        == sorted(image.source_index for image in experiment.images),
        indexer,
        "images are not in the order of the source, or source_index does not point to the image of that name",
    )
    for image in experiment.images:
        _check_image(say, image, experiment, source)
    operators = {operator.tobytes() for operator in experiment.symmetry.operators}
    products = {
        (a @ b).tobytes() for a in experiment.symmetry.operators for b in experiment.symmetry.operators
    }
    _require(
        products == operators,
        indexer,
        "the symmetry operators are no group; take them from diffuse_framework.adapters.symmetry.symmetry_of",
    )
    return True


def _check_image(say: str, image: Image, experiment: Experiment, source: ImageSource) -> None:
    def require(condition: Any, message: str) -> None:
        if not condition:
            raise BrokenContract(f"{say}{image.name}: {message}")

    require(0 <= image.geometry < len(experiment.geometries), f"there is no geometry number {image.geometry}")
    panels = experiment.geometry_of(image).panels
    shapes = [panel.shape for panel in panels]
    read = [values.shape for values in source.read(image.source_index).counts]
    require(shapes == read, f"its geometry has panels of {shapes} pixels, the image of {read}")
    matrix = np.asarray(image.setting_matrix)
    require(matrix.shape == (3, 3) and np.isfinite(matrix).all(), "setting_matrix is not (3, 3) finite numbers")
    require(
        np.linalg.det(matrix) > 0,
        "setting_matrix is singular or left-handed; it is A = U B with q = A hkl in 1/angstrom",
    )
    require(np.isfinite(image.exposure_s) and image.exposure_s > 0, f"exposure_s is {image.exposure_s}")
    spots = image.spots
    for name in ("intensity", "variance", "partiality", "panel", "observed_px", "predicted_px"):
        require(len(getattr(spots, name)) == len(spots), f"spots.{name} and spots.hkl differ in length")
    require(
        len(spots) == 0 or (spots.panel.min() >= 0 and spots.panel.max() < len(panels)),
        "a spot is on a panel that there is not",
    )
    require(np.isfinite(spots.predicted_px).all(), "spots.predicted_px is not finite")
    require(
        spots.foreground.ndim == 2 and spots.foreground.shape[1] == 3, "spots.foreground is not (m, 3) integers"
    )


# --- 2 masker --------------------------------------------------------------------------------------------


def check_masker(masker: Any, source: ImageSource, experiment: Experiment, pixels: PixelTable) -> bool:
    """Check one masker on the images of one geometry.

    Rules: it says what it removes, in the three classes of `model.conventions`, and never brings a pixel
    back; a prepared masker pickles, and its masks depend on the image alone.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    try:
        prepared = _call(masker, "prepare", source=source, experiment=experiment, mapper=SerialEngine())
    except DiffuseError:
        return False
    _require(
        all(hasattr(prepared, word) for word in ("static_mask", "image_mask")),
        masker,
        f"prepare returns {prepared!r}; return a masker, often self",
    )
    copy = _unpickled(prepared)
    geometry = experiment.geometries[0]
    masks: list[Any] = []
    for worker in (prepared, copy):
        masks.append(_call(worker, "static_mask", geometry=geometry, pixels=pixels))
        for image in experiment.images:
            frame = source.read(image.source_index)
            masks.append(_call(worker, "image_mask", frame=frame, image=image, geometry=geometry, pixels=pixels))
    for mask in masks:
        if mask is not None:
            _check_mask(masker, mask, geometry)
    half = len(masks) // 2
    _require(
        first_difference(masks[:half], masks[half:]) is None,
        masker,
        "gives other masks after pickling, or for the same image again. A mask may depend on the image and on "
        "what prepare saw, on nothing else",
    )
    for image in experiment.images[::-1]:
        frame = source.read(image.source_index)
        again = _call(prepared, "image_mask", frame=frame, image=image, geometry=geometry, pixels=pixels)
        number = 1 + [other.name for other in experiment.images].index(image.name)
        _require(
            first_difference(masks[number], again) is None,
            masker,
            f"the mask of {image.name} depends on which images came before; workers get images in any order",
        )
    return True


def _check_mask(masker: Any, mask: PixelMask, geometry: Geometry) -> None:
    _require(
        isinstance(mask, PixelMask),
        masker,
        f"returns {type(mask).__name__}; return a PixelMask, or None where nothing is removed",
    )
    _check_arrays(masker, "its mask", mask.panels, [panel.shape for panel in geometry.panels])
    before = [
        PixelMask(tuple(np.full(panel.shape, level) for panel in geometry.panels))
        for level in (UNTRUSTED, BRAGG, DIFFUSE)
    ]
    for panel in mask.panels:
        _require(
            panel.dtype == np.uint8,
            masker,
            f"its mask is of type {panel.dtype}; use uint8 with the classes UNTRUSTED, BRAGG and DIFFUSE of "
            "diffuse_framework.model.conventions (a boolean True would mean BRAGG)",
        )
        strange = sorted(set(np.unique(panel).tolist()) - {0, 1, 2})
        _require(
            not strange,
            masker,
            f"unmasks: its mask holds {strange}, which is no class. A masker only takes pixels out; where it has "
            "nothing to say it leaves DIFFUSE (2), and no class brings back what another masker removed",
        )
    for level in before:
        combined = combine([level, mask])
        _require(
            all((a <= b).all() for a, b in zip(combined.panels, level.panels, strict=True)),
            masker,
            "unmasks: a pixel that another masker removed comes back",
        )


# --- 3 corrector -----------------------------------------------------------------------------------------


def check_corrector(corrector: Any, images: tuple[Image, ...], geometry: Geometry) -> bool:
    """Check one corrector on one geometry.

    Rules: factors are finite and positive, one per pixel; backgrounds finite and not negative;
    both depend on their arguments alone.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    shapes: list[tuple[int, ...]] = [panel.shape for panel in geometry.panels]
    copy = _unpickled(corrector)
    try:
        factors = _call(corrector, "factor", geometry=geometry)
    except DiffuseError:
        return False
    if factors is not None:
        _check_arrays(corrector, "factor", factors, shapes)
        for panel, factor in zip(geometry.panels, factors, strict=True):
            _finite(corrector, f"factor on {panel.name}", factor)
            _require(
                (np.asarray(factor) > 0).all(),
                corrector,
                f"factor on {panel.name} is zero or negative. A factor multiplies the expected count; mask pixels "
                "that see nothing with a masker, and return None where there is nothing to correct",
            )
    again = _call(copy, "factor", geometry=geometry)
    _require(first_difference(factors, again) is None, corrector, "factor differs after pickling, or when repeated")
    for image in images:
        background = _call(corrector, "background", image=image, geometry=geometry)
        if background is not None:
            _check_background(corrector, background, shapes)
        again = _call(copy, "background", image=image, geometry=geometry)
        _require(
            first_difference(background, again) is None,
            corrector,
            f"background of {image.name} differs after pickling, or when repeated",
        )
    return True


def _check_background(corrector: Any, background: Background, shapes: list[tuple[int, ...]]) -> None:
    for name in ("counts", "variance"):
        arrays = getattr(background, name)
        _check_arrays(corrector, f"background.{name}", arrays, shapes)
        for array in arrays:
            _finite(corrector, f"background.{name}", array)
            _require((array >= 0).all(), corrector, f"background.{name} is negative; it is expected photons")


# --- 4 grid ----------------------------------------------------------------------------------------------


def check_grid(grid: Any, experiment: Experiment, seed: int = 0) -> bool:
    """Check the grid that a builder makes for one experiment.

    Rules: folding is idempotent, takes symmetry equivalents to one voxel and centres to centres; every
    voxel within the limits has its place in the box, once.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    try:
        built = _call(grid, "build", experiment=experiment)
    except GeometryError:
        return False
    _require(
        built.symmetry.laue_group == experiment.symmetry.laue_group,
        grid,
        f"is of Laue group {built.symmetry.laue_group}, the crystal of {experiment.symmetry.laue_group}",
    )
    _require(0 < built.d_min < built.d_max, grid, f"has d_min={built.d_min} and d_max={built.d_max}")
    _require(
        len(built.dimensions) == 3 and min(built.dimensions) > 0 and len(built.index_min) == 3,
        grid,
        f"has a box of {built.dimensions} voxels from {built.index_min}; three numbers each",
    )
    reach = np.ceil(np.linalg.norm(np.linalg.inv(built.reciprocal_basis), axis=1) / built.d_min).astype(int)
    reach = reach * np.array(built.divisions)
    index = np.random.default_rng(seed).integers(-reach, reach + 1, (400, 3))
    length = np.linalg.norm(index / np.array(built.divisions) @ built.reciprocal_basis.T, axis=1)
    inside = (length <= (1 - 1e-6) / built.d_min) & (length >= (1 + 1e-6) / built.d_max)
    try:
        folded, operator = fold(index, built.symmetry, built.divisions)
    except GeometryError as error:
        raise BrokenContract(
            f"{_title(grid)}: build returns a grid that cannot be folded ({error}); raise GeometryError in build"
        ) from error
    _require(
        (operator >= 0).all(),
        grid,
        f"{np.count_nonzero(operator < 0)} of {len(index)} voxels fold into no asymmetric unit: symmetry.operators "
        "are no Laue group, or asu_matrix does not belong to them",
    )
    again, _ = fold(folded, built.symmetry, built.divisions)
    _require(
        (again == folded).all(),
        grid,
        f"folding is not idempotent: folding again moves {np.count_nonzero((again != folded).any(axis=1))} of "
        f"{len(index)} voxels, so that one intensity has several places",
    )
    numbers = np.array(built.divisions)
    for equivalent in built.symmetry.operators:
        centres = (index / numbers) @ equivalent.T * numbers
        turned = np.rint(centres).astype(np.int64)
        _require(
            np.allclose(centres, turned, atol=1e-6),
            grid,
            f"a symmetry operation maps voxel centres beside centres: divisions {built.divisions} do not have the "
            "symmetry; raise GeometryError and name the axes",
        )
        equal, _ = fold(turned, built.symmetry, built.divisions)
        _require(
            (equal == folded).all(),
            grid,
            f"symmetry equivalents fold to different voxels ({np.count_nonzero((equal != folded).any(axis=1))} of "
            f"{len(index)}): the map would hold one intensity in several places",
        )
    offset = folded[inside] - np.array(built.index_min)
    _require(
        ((offset >= 0) & (offset < np.array(built.dimensions))).all(),
        grid,
        "voxels within the resolution limits lie outside the box: their pixels would be lost. See "
        "algorithms.symmetry.asymmetric_box",
    )
    number = np.ravel_multi_index(tuple(offset.T), built.dimensions)
    _require(
        (built.index_of(number) == folded[inside]).all()
        and np.allclose(built.hkl_of(number) * numbers, folded[inside]),
        grid,
        "index_of and hkl_of do not return the voxel that a number stands for",
    )
    return True


# --- 5 accumulator ---------------------------------------------------------------------------------------


def check_accumulator(
    accumulator: Any,
    experiment: Experiment,
    frames: tuple[Frame, ...],
    grid: Any,
    pixels: PixelTable,
    masks: tuple[PixelMask, ...],
    backgrounds: tuple[Background | None, ...],
) -> bool:
    """Check one accumulator on images whose pixels the grid holds all.

    Rules: no photon is lost or counted twice; sums depend neither on the order of images nor on what was
    added before; sums of the parts of an image add up to those of the whole.

    Returns:
        True: nothing here may be refused.

    Raises:
        BrokenContract: a rule is broken.
    """
    geometry = experiment.geometries[0]
    arguments: list[dict[str, Any]] = [
        {
            "number": number,
            "image": image,
            "frame": frame,
            "mask": mask,
            "background": background,
            "pixels": pixels,
            "geometry": geometry,
        }
        for number, (image, frame, mask, background) in enumerate(
            zip(experiment.images, frames, masks, backgrounds, strict=True)
        )
    ]

    def add(adder: Any, given: dict[str, Any]) -> SumsTable:
        copied = pickle.loads(pickle.dumps(given))
        table = adder.add(*copied.values())
        where = first_difference(given, copied, "")
        _require(where is None, accumulator, f"add changes what it is given: {where}; copy first")
        return table

    adder = accumulator.adder(grid)
    tables = [add(adder, given) for given in arguments]
    for given, table in zip(arguments, tables, strict=True):
        _check_sums_table(accumulator, table, given["number"], grid)
        _check_conserved(accumulator, table, given)
    other = _unpickled(accumulator).adder(grid)
    for given, table in list(zip(arguments, tables, strict=True))[::-1]:
        where = first_difference(table, add(other, given))
        _require(
            where is None,
            accumulator,
            f"the sums of an image depend on which images were added before it, or on pickling: column {where}. "
            "Scratch memory must be empty again when add returns",
        )
    for given, table in zip(arguments, tables, strict=True):
        halves = [add(adder, given | {"mask": half}) for half in _halves(given["mask"])]
        _check_additive(accumulator, table, halves)
    hidden = PixelMask(tuple(np.full(panel.shape, UNTRUSTED) for panel in geometry.panels))
    table = add(adder, arguments[0] | {"mask": hidden})
    _require(
        table.pixels.sum() == 0 and table.counts.sum() == 0 and table.bragg_counts.sum() == 0,
        accumulator,
        "counts untrusted pixels: an image that is masked altogether must leave no sums",
    )
    return True


def _check_sums_table(accumulator: Any, table: SumsTable, number: int, grid: Any) -> None:
    for name in COLUMNS:
        column = getattr(table, name)
        _require(
            column.dtype == COLUMN_TYPES[name] and column.shape == (len(table),),
            accumulator,
            f"column {name} is {column.dtype} of shape {column.shape}; it is {COLUMN_TYPES[name]}, one per row",
        )
        _finite(accumulator, f"column {name}", column)
    _require((table.image == number).all(), accumulator, f"column image is not {number}, the image's number")
    _require(
        len(table) == 0 or (table.voxel.min() >= 0 and table.voxel.max() < grid.size),
        accumulator,
        "column voxel holds numbers outside the grid",
    )
    keys = np.stack([table.panel.astype(np.int64), table.voxel, table.operator.astype(np.int64)])
    order = np.lexsort(keys[::-1])
    _require(
        (order == np.arange(len(table))).all(),
        accumulator,
        "rows do not ascend in panel, voxel and operator",
    )
    for name in ("exposure", "pixels", "bragg_exposure", "bragg_pixels"):
        _require((getattr(table, name) >= 0).all(), accumulator, f"column {name} is negative")


def _expected_sums(given: dict[str, Any]) -> dict[str, float]:
    """What an image's sums must add up to."""
    totals = dict.fromkeys(("counts", "exposure", "pixels", "background"), 0.0)
    totals |= {f"bragg_{name}": 0.0 for name in totals}
    for number, panel in enumerate(given["geometry"].panels):
        values, classes = given["frame"].counts[number], given["mask"].panels[number]
        for prefix, kind in (("", DIFFUSE), ("bragg_", BRAGG)):
            use = classes == kind
            totals[f"{prefix}pixels"] += np.count_nonzero(use)
            totals[f"{prefix}counts"] += ((values[use].astype(float) - panel.pedestal) / panel.gain).sum()
            response = given["pixels"].response[number][use].sum(dtype=float)
            totals[f"{prefix}exposure"] += response * given["image"].exposure_s
            if given["background"] is not None:
                totals[f"{prefix}background"] += given["background"].counts[number][use].sum(dtype=float)
    return totals


def _check_conserved(accumulator: Any, table: SumsTable, given: dict[str, Any]) -> None:
    for name, expected in _expected_sums(given).items():
        values = getattr(table, name).astype(float)
        tolerance = 1e-5 * max(np.abs(values).sum(), abs(expected))
        _require(
            abs(values.sum() - expected) <= tolerance,
            accumulator,
            f"column {name} adds up to {values.sum():.8g}, the pixels of {given['image'].name} to {expected:.8g}: "
            f"{'some are lost' if abs(values.sum()) < abs(expected) else 'some are counted twice'}",
        )


def _halves(mask: PixelMask) -> list[PixelMask]:
    """Two masks with every other pixel untrusted."""
    halves = []
    for parity in (0, 1):
        panels = []
        for panel in mask.panels:
            slow, fast = np.indices(panel.shape)
            panels.append(np.where((slow + fast) % 2 == parity, panel, UNTRUSTED).astype(np.uint8))
        halves.append(PixelMask(tuple(panels)))
    return halves


def _check_additive(accumulator: Any, whole: SumsTable, parts: list[SumsTable]) -> None:
    tables = (whole, concatenate(parts))
    size = max(int(table.voxel.max(initial=0)) for table in tables) + 1
    for name in ("counts", "exposure", "pixels"):
        once, twice = (sum_by(table.voxel, getattr(table, name), size) for table in tables)
        _require(
            np.allclose(once, twice, rtol=1e-5, atol=1e-5 * np.abs(once).max()),
            accumulator,
            f"is not additive: column {name} of two halves of an image does not add up to that of the whole",
        )


# --- 6 scaler --------------------------------------------------------------------------------------------


def check_scaler(scaler: Any, sums: SumsInMemory, experiment: Experiment | None = None, rtol: float = 0.02) -> bool:
    """Check one scaler on one set of sums.

    Rules: scales are finite, positive, of mean 1; they depend neither on the unit of exposure nor on the
    order of images, rows or tables; they bring images of known scales no further apart.

    Args:
        scaler: the plugin.
        sums: small enough to repeat.
        experiment: for models that need it.
        rtol: how well repeated fits agree, relatively; an iteration stops at a tolerance of its own.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    scales = _fitted(scaler, sums, experiment)
    if scales is not None:
        _check_scales(scaler, scales, sums)
        _check_scaler_invariance(scaler, scales, sums, experiment, rtol)
    _check_scaler_improves(scaler, experiment)
    return scales is not None


def _fitted(scaler: Any, sums: VoxelSums, experiment: Experiment | None) -> Scales | None:
    """Return the scales, None where the scaler refuses the sums."""
    try:
        return _call(scaler, "fit", sums=sums, experiment=experiment)
    except DiffuseError:
        return None


def _check_scales(scaler: Any, scales: Scales, sums: SumsInMemory) -> None:
    n_images = len(sums.image_names)
    for name in ("per_image", "per_image_sigma"):
        values = getattr(scales, name)
        _require(
            np.shape(values) == (n_images,), scaler, f"{name} has shape {np.shape(values)}, there are {n_images} images"
        )
        _finite(scaler, name, values)
    _require((scales.per_image > 0).all(), scaler, f"per_image holds {scales.per_image.min():g}; scales are positive")
    _require((scales.per_image_sigma >= 0).all(), scaler, "per_image_sigma is negative")
    _require(
        abs(scales.per_image.mean() - 1) < 1e-6,
        scaler,
        f"the scales have mean {scales.per_image.mean():.6g}; divide by it, so that the mean is 1",
    )
    for table in sums.pieces:
        for name, limit in (("factor", 0.0), ("offset", -np.inf)):
            values = _call_scales(scaler, scales, name, table)
            shape = np.shape(values)
            _require(shape == (len(table),), scaler, f"{name} has shape {shape} for {len(table)} rows")
            _finite(scaler, name, values)
            _require((np.asarray(values) > limit).all(), scaler, f"{name} is not above {limit:g}")
    _unpickled(scales)
    try:
        json.dumps(scales.statistics)
    except TypeError as error:
        raise BrokenContract(
            f"{_title(scaler)}: statistics can't be written to JSON ({error}); use plain numbers, strings and lists"
        ) from error


def _call_scales(scaler: Any, scales: Scales, method: str, table: SumsTable) -> np.ndarray:
    copied = pickle.loads(pickle.dumps(table))
    values = getattr(scales, method)(copied)
    where = first_difference(table, copied, "table")
    _require(where is None, scaler, f"{method} of its scales changes what it is given: {where}")
    return values


def with_columns(sums: SumsInMemory, **factors: float) -> SumsInMemory:
    """Return sums whose columns are multiplied by `factors`, by the name of the column."""
    pieces = tuple(
        replace(
            table,
            **{name: (getattr(table, name) * factor).astype(COLUMN_TYPES[name]) for name, factor in factors.items()},
        )
        for table in sums.pieces
    )
    return SumsInMemory(sums.grid, sums.image_names, pieces)


def reordered(sums: SumsInMemory, order: np.ndarray) -> SumsInMemory:
    """Return sums whose image number `order[n]` is number `n`, rows backwards and all in one table."""
    table = concatenate(list(sums.pieces))
    place = np.argsort(order).astype(np.int32)
    table = replace(table, image=place[table.image]).select(np.arange(len(table))[::-1])
    return SumsInMemory(sums.grid, tuple(sums.image_names[n] for n in order), (table,))


def _check_scaler_invariance(
    scaler: Any, scales: Scales, sums: SumsInMemory, experiment: Experiment | None, rtol: float
) -> None:
    for unit in (2.0**20, 2.0**-20):
        other = _fitted(scaler, with_columns(sums, exposure=unit, bragg_exposure=unit), experiment)
        _require(
            other is not None and np.allclose(other.per_image, scales.per_image, rtol=rtol),
            scaler,
            f"the scales change with the unit of exposure (all {unit:.3g} times as long, the same counts). Only "
            "ratios between images mean something; make thresholds relative",
        )
    if experiment is not None:
        return
    order = np.arange(len(sums.image_names))[::-1]
    other = _fitted(scaler, reordered(sums, order), None)
    _require(
        other is not None and np.allclose(other.per_image, scales.per_image[order], rtol=rtol),
        scaler,
        "the scales change with the order of images, rows or tables. Compare with all images alike, not with the "
        "first",
    )


def known_scales(seed: int = 5, n_images: int = 6) -> tuple[SumsInMemory, np.ndarray]:
    """Return sums without noise, and the scales (n_images,) of mean 1 that they were made with."""
    rng = np.random.default_rng(seed)
    grid = orthorhombic_grid(d_min=6.0)
    intensity = rng.gamma(4.0, 0.25, grid.size)
    truth = np.exp(rng.uniform(-0.8, 0.8, n_images))
    truth /= truth.mean()
    tables = []
    for image in range(n_images):
        voxel = np.sort(rng.choice(grid.size, int(0.7 * grid.size), replace=False))
        exposure = rng.uniform(0.8, 1.2, len(voxel))
        columns: dict[str, Any] = {name: np.zeros(len(voxel)) for name in COLUMNS}
        columns |= {
            "image": np.full(len(voxel), image),
            "voxel": voxel,
            "exposure": exposure,
            "counts": 1e4 * exposure * truth[image] * intensity[voxel],
            "pixels": np.full(len(voxel), 10),
        }
        tables.append(SumsTable(**{name: column.astype(COLUMN_TYPES[name]) for name, column in columns.items()}))
    names = tuple(f"image_{n}" for n in range(n_images))
    return SumsInMemory(grid, names, tuple(tables)), truth


def _check_scaler_improves(scaler: Any, experiment: Experiment | None) -> None:
    if experiment is not None:
        return
    sums, truth = known_scales()
    scales = _fitted(scaler, sums, None)
    _require(
        scales is not None, scaler, "refuses bright sums of six images that overlap well; see checks.known_scales"
    )
    table = concatenate(list(sums.pieces))
    ratio = np.log(scales.factor(table) / truth[table.image])  # type: ignore[union-attr]
    before, after = np.std(np.log(truth[table.image])), np.std(ratio)
    _require(
        after <= 1.01 * before,
        scaler,
        f"drives images apart: their scales spread by {before:.2f} before and by {after:.2f} after, in log. Expected "
        "counts are exposure x factor x intensity: is the factor upside down?",
    )


# --- 7 merger --------------------------------------------------------------------------------------------


def check_merger(merger: Any, sums: SumsInMemory, scales: ImageScales) -> bool:
    """Check one merger on one set of sums.

    Rules: no counts, pixels or voxels are lost; finite values and positive variances wherever something was
    observed; the map depends neither on order nor, but for its unit, on that of exposure; data merged with
    themselves give the same map with errors smaller by the square root of 2; known intensities come back.

    Returns:
        True: nothing here may be refused.

    Raises:
        BrokenContract: a rule is broken.
    """
    merged = _call(merger, "merge", sums=sums, scales=scales)
    table = concatenate(list(sums.pieces))
    _check_map(merger, merged, table)
    order = np.arange(len(sums.image_names))[::-1]
    turned = ImageScales(scales.per_image[order], scales.per_image_sigma[order])
    other = _call(merger, "merge", sums=reordered(sums, order), scales=turned)
    _check_same_map(merger, merged, other, 1.0, "the order of images, rows or tables")
    other = _call(merger, "merge", sums=with_columns(sums, exposure=1024.0, bragg_exposure=1024.0), scales=scales)
    _check_same_map(merger, merged, other, 1024.0, "the unit of exposure")
    _check_merged_with_itself(merger, sums, scales)
    _check_merger_recovers(merger)
    return True


def _check_map(merger: Any, merged: MergedMap, table: SumsTable) -> None:
    observed = np.unique(table.voxel[table.exposure > 0])
    ascends = (np.diff(merged.voxel) > 0).all()
    _require(ascends, merger, "voxel does not ascend, or a voxel has several rows: it was not merged")
    lost = np.setdiff1d(observed, merged.voxel)
    _require(
        len(lost) == 0,
        merger,
        f"loses {len(lost)} of {len(observed)} voxels that have exposure; a voxel without photons is a measurement too",
    )
    extra = np.setdiff1d(merged.voxel, observed)
    _require(len(extra) == 0, merger, f"makes up {len(extra)} voxels that no pixel saw")
    _require((merged.multiplicity > 0).all(), merger, "multiplicity is not above 0 in a voxel of the map")
    names = ("intensity", "variance", "multiplicity", "pixels", "counts", "total_intensity", "total_variance")
    for name in names:
        values = getattr(merged, name)
        shape = np.shape(values)
        _require(shape == (len(merged),), merger, f"{name} has shape {shape}, the map {len(merged)} voxels")
        _finite(merger, name, values)
    for name in ("variance", "total_variance"):
        _require(
            (getattr(merged, name) > 0).all(),
            merger,
            f"{name} is zero or negative; no count at all does not mean no error",
        )
    seen = table.exposure > 0
    for name in ("counts", "pixels"):
        expected = float(getattr(table, name)[seen].sum(dtype=float))
        found = float(getattr(merged, name).sum(dtype=float))
        _require(
            abs(found - expected) <= 1e-5 * max(abs(expected), 1),
            merger,
            f"{name} of the map add up to {found:.8g}, those of the sums to {expected:.8g}: "
            f"{'some are lost' if found < expected else 'some are counted twice'}",
        )


def _check_same_map(merger: Any, a: MergedMap, b: MergedMap, unit: float, what: str) -> None:
    same = (
        (a.voxel.shape == b.voxel.shape)
        and (a.voxel == b.voxel).all()
        and np.allclose(a.intensity, b.intensity * unit, rtol=1e-4, atol=1e-4 * np.abs(a.intensity).max(initial=0))
        and np.allclose(a.variance, b.variance * unit**2, rtol=1e-3, atol=1e-6 * a.variance.max(initial=0))
    )
    _require(same, merger, f"the map changes with {what}")


def _check_merged_with_itself(merger: Any, sums: SumsInMemory, scales: ImageScales) -> None:
    # Bright, so that no prior for dim voxels plays a part.
    table = concatenate(list(sums.pieces))
    net = 1e4 * np.maximum(table.pixels, 1) * scales.per_image[table.image]
    level = float(table.exposure.max()) or 1.0
    bright = replace(
        table,
        counts=(table.background + net * table.exposure / level).astype(COLUMN_TYPES["counts"]),
        background_variance=np.zeros(len(table), COLUMN_TYPES["background_variance"]),
    )
    n = len(sums.image_names)
    once = SumsInMemory(sums.grid, sums.image_names, (bright,))
    names = sums.image_names + tuple(f"{name} again" for name in sums.image_names)
    twice = SumsInMemory(sums.grid, names, (bright, replace(bright, image=(bright.image + n).astype(np.int32))))
    both = ImageScales(np.tile(scales.per_image, 2), np.tile(scales.per_image_sigma, 2))
    first = _call(merger, "merge", sums=once, scales=scales)
    second = _call(merger, "merge", sums=twice, scales=both)
    _require(
        np.allclose(first.intensity, second.intensity, rtol=1e-3),
        merger,
        "data merged with themselves give another intensity; weights must depend on the observations alone",
    )
    if len(first):
        ratio = float(np.median(np.sqrt(first.variance / second.variance)))
        _require(
            abs(ratio - np.sqrt(2)) < 0.05,
            merger,
            f"data merged with themselves: errors fall by a factor {ratio:.3f}, not by the square root of 2 (1.414)",
        )


def _check_merger_recovers(merger: Any) -> None:
    sums, truth = known_scales()
    merged = _call(merger, "merge", sums=sums, scales=ImageScales(truth, 0.01 * truth))
    table = concatenate(list(sums.pieces))
    size = sums.grid.size
    net = sum_by(table.voxel, table.counts, size)
    exposed = sum_by(table.voxel, table.exposure * truth[table.image], size)
    expected = (net / np.where(exposed > 0, exposed, 1))[merged.voxel]
    off = float(np.max(np.abs(merged.intensity / expected - 1)))
    _require(
        off < 0.01,
        merger,
        f"noise-free sums of known scales give intensities up to {100 * off:.1f} % off. Expected counts are exposure "
        "x scales.factor x intensity: are the scales used, and the right way up?",
    )


# --- 8 absolute scaler -----------------------------------------------------------------------------------


def check_absolute_scaler(
    scaler: Any, merged: MergedMap, scales: Scales, experiment: Experiment | None = None
) -> bool:
    """Check one absolute scaler on one map.

    Rules: the map is multiplied by one positive number, and what is subtracted depends on resolution alone;
    variances follow; the unit of the map before either carries through or drops out.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    arguments = {"merged": merged, "scales": scales, "experiment": experiment}
    try:
        final: AbsoluteMap = _call(scaler, "scale", **arguments)
    except DiffuseError:
        return False
    _require(first_difference(final.merged, merged) is None, scaler, "merged is not the map it was given")
    _require(
        np.isfinite(final.scale) and final.scale > 0, scaler, f"scale is {final.scale}; it is a positive number"
    )
    _require(np.isfinite(final.scale_sigma) and final.scale_sigma >= 0, scaler, f"scale_sigma is {final.scale_sigma}")
    _require(str(final.units).strip(), scaler, "units is empty")
    for name in ("intensity", "variance"):
        values = getattr(final, name)
        shape = np.shape(values)
        _require(shape == (len(merged),), scaler, f"{name} has shape {shape}, the map {len(merged)} voxels")
        _finite(scaler, name, values)
    _require(
        np.allclose(final.variance, final.scale**2 * merged.variance, rtol=1e-4, atol=0),
        scaler,
        "variance is not scale^2 times that of the map; the uncertainty of the scale itself goes to scale_sigma",
    )
    removed = final.scale * merged.intensity - final.intensity
    length = np.linalg.norm(merged.grid.q_of(merged.voxel), axis=1)
    size = float(np.abs(final.scale * merged.intensity).max(initial=0)) or 1.0
    order = np.argsort(length)
    same_q = np.diff(length[order]) < 1e-9
    _require(
        (np.abs(np.diff(removed[order])[same_q]) < 1e-6 * size).all(),
        scaler,
        "voxels of one resolution are changed differently. What is subtracted may depend on |q| alone, and the "
        "scale is one positive number: it can't turn a sign",
    )
    unit = 1024.0
    brighter = replace(
        merged,
        intensity=merged.intensity * unit,
        variance=merged.variance * unit**2,
        total_intensity=merged.total_intensity * unit,
        total_variance=merged.total_variance * unit**2,
        bragg_intensity=merged.bragg_intensity * unit,
        bragg_variance=merged.bragg_variance * unit**2,
    )
    other = _call(scaler, "scale", merged=brighter, scales=scales, experiment=experiment)
    ratio = other.scale / final.scale
    _require(
        np.isclose(ratio, 1, rtol=1e-4) or np.isclose(ratio * unit, 1, rtol=1e-4),
        scaler,
        f"a map in units {unit:g} times smaller gets a scale {ratio:.4g} times as large; it is the same scale for a "
        f"relative map, or {1 / unit:.4g} times as large for an absolute one",
    )
    return True
