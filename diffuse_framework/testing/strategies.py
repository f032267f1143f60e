"""Hypothesis strategies for what flows between the stages.

Structure (Laue group, panels, images, levels of counts) is drawn by Hypothesis and shrinks; the
numbers inside arrays follow from a drawn seed. Everything is small enough for hundreds of examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diffuse_framework.algorithms.geometry import highest_resolution, pixel_q
from diffuse_framework.algorithms.symmetry import LAUE_CLASSES, fold
from diffuse_framework.model.conventions import UNTRUSTED
from diffuse_framework.model.experiment import BraggSpots, Experiment, Image, Symmetry, no_spots
from diffuse_framework.model.geometry import Beam, Geometry, Panel
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import Cell, reciprocal_basis
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.mask import PixelMask
from diffuse_framework.model.pixels import Background, PixelTable
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.source import Frame
from diffuse_framework.model.voxels import COLUMN_TYPES, COLUMNS, SumsInMemory, SumsTable, concatenate
from diffuse_framework.simulate.crystals import PRIMITIVE_GROUPS, primitive_symmetry
from diffuse_framework.testing.fakes import FramesInMemory, grid_of

# One space group of each Laue class.
SPACE_GROUPS = {primitive_symmetry(group).laue_group: group for group in PRIMITIVE_GROUPS}

# How bright an image is: mean photons per pixel.
LEVELS = {"dark": 0.0, "dim": 0.05, "usual": 3.0, "bright": 1e3, "huge": 1e8}

_CUBIC, _UNIAXIAL = ("m-3", "m-3m"), ("4/m", "4/mmm", "-3", "-31m", "-3m1", "6/m", "6/mmm")


class Summarised:
    """Prints as a summary, in the reports of Hypothesis too."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


def seeds() -> st.SearchStrategy[int]:
    """Draw the seed of a random generator."""
    return st.integers(0, 2**32 - 1)


def symmetries(laue_groups: tuple[str, ...] = LAUE_CLASSES) -> st.SearchStrategy[Symmetry]:
    """Draw a symmetry of one of `laue_groups`."""
    return st.sampled_from(laue_groups).map(lambda laue: primitive_symmetry(SPACE_GROUPS[laue]))


@st.composite
def unit_cells(draw: st.DrawFn, symmetry: Symmetry) -> Cell:
    """Draw a cell (angstrom, degrees) that has the symmetry, its axes 10 to 30 angstrom."""
    laue = symmetry.laue_group
    a, b, c = (draw(st.floats(10.0, 30.0)) for _ in range(3))
    if laue in _CUBIC:
        return a, a, a, 90.0, 90.0, 90.0
    if laue in _UNIAXIAL:
        return a, a, c, 90.0, 90.0, 90.0 if laue.startswith("4") else 120.0
    if laue == "mmm":
        return a, b, c, 90.0, 90.0, 90.0
    angles = [draw(st.floats(75.0, 105.0)) for _ in range(3)]
    return (a, b, c, 90.0, angles[1], 90.0) if laue == "2/m" else (a, b, c, angles[0], angles[1], angles[2])


@st.composite
def divisions(draw: st.DrawFn, symmetry: Symmetry, largest: int = 3) -> tuple[int, int, int]:
    """Draw voxels per reciprocal lattice vector that the symmetry allows."""
    i, j, k = (draw(st.integers(1, largest)) for _ in range(3))
    if symmetry.laue_group in _CUBIC:
        return i, i, i
    return (i, i, k) if symmetry.laue_group in _UNIAXIAL else (i, j, k)


@st.composite
def grids(draw: st.DrawFn, symmetry: Symmetry | None = None) -> VoxelGrid:
    """Draw a grid of some hundred to some thousand voxels."""
    symmetry = symmetry or draw(symmetries())
    cell = draw(unit_cells(symmetry))
    d_min = draw(st.floats(0.15, 0.3)) * min(cell[:3])
    d_max = draw(st.sampled_from([np.inf, 3 * d_min]))
    return grid_of(symmetry, cell, draw(divisions(symmetry)), d_min, d_max)


@st.composite
def geometries(draw: st.DrawFn, max_panels: int = 64, max_side: int = 12) -> Geometry:
    """Draw a beam and 1 to `max_panels` tilted panels around it, each at most `max_side` pixels wide."""
    n_panels = draw(st.one_of(st.just(1), st.integers(1, max_panels)))
    rng = np.random.default_rng(draw(seeds()))
    wavelength = draw(st.floats(0.7, 1.6))
    turn = Rotation.from_rotvec(np.radians(draw(st.floats(0, 3))) * np.array([0.6, 0.8, 0.0]))
    beam = Beam(
        s0=turn.apply([0.0, 0.0, -1.0 / wavelength]),
        polarization_normal=turn.apply([0.0, 1.0, 0.0]),
        polarization_fraction=draw(st.sampled_from([0.5, 0.9, 0.99, 1.0])),
    )
    known_sensor = draw(st.booleans())
    thick = known_sensor and draw(st.booleans())
    gain, pedestal = draw(st.sampled_from([(1.0, 0.0), (2.5, 0.0), (0.7, 10.0)]))
    read_noise = draw(st.sampled_from([0.0, 0.0, 0.3]))
    trusted = draw(st.sampled_from([(-np.inf, np.inf), (0.0, 1e6), (-1.0, 2e9)]))
    distance, span = draw(st.floats(60.0, 250.0)), 150.0
    columns = int(np.ceil(np.sqrt(n_panels)))
    panels = []
    for number in range(n_panels):
        shape = (int(rng.integers(1, max_side + 1)), int(rng.integers(1, max_side + 1)))
        size = span / columns / max_side
        tilt = Rotation.from_rotvec(np.radians(rng.uniform(-5, 5, 3)))
        row, column = divmod(number, columns)
        # Off the direct beam, where a scattering vector has no direction.
        corner = np.array([(column - columns / 2 + 0.07) * span / columns, (columns / 2 - row) * span / columns, 0.0])
        panels.append(
            Panel(
                name=f"panel_{number}",
                origin_mm=corner + [0.0, 0.0, -distance],
                fast_axis=tilt.apply([1.0, 0.0, 0.0]),
                slow_axis=tilt.apply([0.0, -1.0, 0.0]),
                pixel_size_mm=(size, size * float(rng.uniform(0.5, 1.0))),
                shape=shape,
                material="Si" if known_sensor else "",
                thickness_mm=0.45 if known_sensor else 0.0,
                mu_per_mm=3.8 if known_sensor else 0.0,
                gain=gain,
                pedestal=pedestal,
                read_noise=read_noise,
                trusted_range=trusted,
                parallax=thick,
            )
        )
    return Geometry(beam, tuple(panels))


@st.composite
def frames(draw: st.DrawFn, geometry: Geometry, name: str = "image_0") -> Frame:
    """Draw raw values: dark to huge, integer or floating, with marked pixels (-1, or NaN) among them."""
    level = LEVELS[draw(st.sampled_from(sorted(LEVELS)))]
    kind = draw(st.sampled_from([np.int32, np.uint16, np.float32]))
    rng = np.random.default_rng(draw(seeds()))
    marked = draw(st.booleans())
    counts = []
    for panel in geometry.panels:
        photons = rng.poisson(min(level, 60_000.0) if kind is np.uint16 else level, panel.shape)
        highest = np.iinfo(np.uint16).max if kind is np.uint16 else 2e9
        values = np.clip(photons * panel.gain + panel.pedestal, 0, highest)
        values = np.rint(values).astype(kind) if kind is not np.float32 else values.astype(kind)
        if marked and kind is not np.uint16:
            values[rng.random(panel.shape) < 0.1] = -1 if kind is np.int32 else np.nan
        counts.append(values)
    return Frame(name, tuple(counts))


@st.composite
def masks(draw: st.DrawFn, geometry: Geometry) -> PixelMask:
    """Draw a mask of all three classes, one of them rare or absent."""
    rng = np.random.default_rng(draw(seeds()))
    shares = np.array(draw(st.sampled_from([(0.0, 0.0, 1.0), (0.2, 0.2, 0.6), (0.9, 0.05, 0.05), (1.0, 0.0, 0.0)])))
    return PixelMask(tuple(rng.choice(3, panel.shape, p=shares).astype(np.uint8) for panel in geometry.panels))


@st.composite
def backgrounds(draw: st.DrawFn, geometry: Geometry) -> Background | None:
    """Draw the background of one image, or none."""
    if draw(st.booleans()):
        return None
    rng = np.random.default_rng(draw(seeds()))
    level = draw(st.sampled_from([0.0, 0.1, 100.0]))
    counts = tuple((level * rng.random(panel.shape)).astype(np.float32) for panel in geometry.panels)
    return Background(counts, tuple((0.1 * panel).astype(np.float32) for panel in counts))


@dataclass(frozen=True, eq=False)
class PixelCase(Summarised, PixelTable):
    """Scattering vectors and responses."""

    def __repr__(self) -> str:
        mean = float(np.mean([panel.mean() for panel in self.response]))
        return f"PixelCase({len(self.q)} panels, mean response {mean:.3g} sr)"


@st.composite
def pixel_tables(draw: st.DrawFn, geometry: Geometry) -> PixelCase:
    """Draw scattering vectors of a geometry with responses of some order of magnitude."""
    rng = np.random.default_rng(draw(seeds()))
    size = draw(st.sampled_from([1e-8, 1e-3, 1.0]))
    return PixelCase(
        q=tuple(pixel_q(panel, geometry.beam) for panel in geometry.panels),
        response=tuple((size * rng.uniform(0.5, 1.5, panel.shape)).astype(np.float32) for panel in geometry.panels),
    )


@dataclass(frozen=True, eq=False)
class DataSet(Summarised):
    """Images and what is known of them."""

    source: FramesInMemory
    experiment: Experiment

    def __repr__(self) -> str:
        geometry, symmetry = self.source.of_all, self.experiment.symmetry
        kinds = sorted({str(frame.counts[0].dtype) for frame in self.source.frames})
        return (
            f"DataSet({len(self.source)} images of {', '.join(kinds)}, {len(geometry.panels)} panels, "
            f"{geometry.n_pixels} pixels, Laue group {symmetry.laue_group})"
        )


@st.composite
def data_sets(draw: st.DrawFn, max_images: int = 4, max_panels: int = 64) -> DataSet:
    """Draw up to `max_images` images with orientations of their own, and Bragg spots on some."""
    symmetry = draw(symmetries())
    cell = draw(unit_cells(symmetry))
    geometry = draw(geometries(max_panels))
    n_images = draw(st.integers(1, max_images))
    spread = draw(st.sampled_from([0.0, 0.002]))
    has_spots = draw(st.booleans())
    rng = np.random.default_rng(draw(seeds()))
    images, read = [], []
    for number in range(n_images):
        strain = 1 + spread * rng.normal()
        matrix = Rotation.random(random_state=rng.integers(2**31)).as_matrix() @ reciprocal_basis(cell) * strain
        name = f"image_{number}"
        read.append(draw(frames(geometry, name)))
        images.append(
            Image(
                name=name,
                source_index=number,
                geometry=0,
                exposure_s=draw(st.sampled_from([0.01, 1.0, 30.0])),
                setting_matrix=matrix,
                mosaic_width_deg=draw(st.sampled_from([0.0, 0.1])),
                spots=_spots(geometry, rng) if has_spots else no_spots(),
            )
        )
    source = FramesInMemory(tuple(read), geometry, tuple(image.exposure_s for image in images))
    return DataSet(source, Experiment((geometry,), symmetry, tuple(images)))


def _spots(geometry: Geometry, rng: np.random.Generator) -> BraggSpots:
    n = int(rng.integers(1, 6))
    panel = rng.integers(0, len(geometry.panels), n).astype(np.int32)
    sizes = np.array([geometry.panels[p].shape[::-1] for p in panel])
    px = rng.random((n, 2)) * sizes
    intensity = rng.gamma(1.0, 100.0, n)
    return BraggSpots(
        hkl=rng.integers(-9, 10, (n, 3)).astype(np.int32),
        intensity=intensity,
        variance=intensity + 1,
        partiality=rng.uniform(0.1, 1, n),
        panel=panel,
        observed_px=np.where(rng.random((n, 1)) < 0.5, px, np.nan),
        predicted_px=px,
        foreground=np.column_stack([panel, px[:, 1].astype(np.int32), px[:, 0].astype(np.int32)]).astype(np.int32),
    )


def covering_grid(data: DataSet, n_divisions: tuple[int, int, int] = (1, 1, 1)) -> VoxelGrid:
    """Return a grid that holds every pixel of a data set, with room to spare."""
    experiment = data.experiment
    cell = tuple(np.mean(experiment.cells(), axis=0).tolist())
    return grid_of(experiment.symmetry, cell, n_divisions, 0.75 * highest_resolution(data.source.of_all))


@dataclass(frozen=True, eq=False)
class AccumulatorCase(Summarised):
    """All that an accumulator is given, for each image of a data set."""

    data: DataSet
    grid: VoxelGrid
    pixels: PixelTable
    masks: tuple[PixelMask, ...]
    backgrounds: tuple[Background | None, ...]

    def __repr__(self) -> str:
        return f"AccumulatorCase({self.data!r}, {self.grid.size} voxels)"


@st.composite
def accumulator_cases(draw: st.DrawFn, max_images: int = 3, max_panels: int = 16) -> AccumulatorCase:
    """Draw a data set, a grid that holds all of it, masks and backgrounds; NaN pixels are masked."""
    data = draw(data_sets(max_images, max_panels))
    geometry = data.source.of_all
    usable = []
    for frame in data.source.frames:
        mask = draw(masks(geometry))
        usable.append(
            PixelMask(
                tuple(
                    np.where(np.isfinite(values), classes, UNTRUSTED).astype(np.uint8)
                    for values, classes in zip(frame.counts, mask.panels, strict=True)
                )
            )
        )
    return AccumulatorCase(
        data=data,
        grid=covering_grid(data, draw(divisions(data.experiment.symmetry, 2))),
        pixels=draw(pixel_tables(geometry)),
        masks=tuple(usable),
        backgrounds=tuple(draw(backgrounds(geometry)) for _ in data.source.frames),
    )


@dataclass(frozen=True, eq=False)
class SumsCase(Summarised, SumsInMemory):
    """Sums of a few images."""

    def __repr__(self) -> str:
        table = concatenate(list(self.pieces))
        return (
            f"SumsCase({len(self.image_names)} images, {len(table)} rows in {len(self.pieces)} tables, "
            f"{table.counts.sum():.4g} photons, {table.exposure.sum():.4g} s sr, {self.grid.size} voxels, "
            f"Laue group {self.grid.symmetry.laue_group})"
        )


@st.composite
def voxel_sums(
    draw: st.DrawFn, max_images: int = 6, symmetry: Symmetry | None = None, n_images: int | None = None
) -> SumsCase:
    """Draw sums of images that overlap, with empty voxels, rows of Bragg pixels only, and any count rate.

    Symmetry and number of images are drawn where they are not given.
    """
    grid = draw(grids(symmetry))
    n_images = n_images or draw(st.integers(1, max_images))
    rng = np.random.default_rng(draw(seeds()))
    level = draw(st.sampled_from([0.01, 1.0, 30.0, 1e6]))
    unit = draw(st.sampled_from([1e-8, 1e-3, 1.0, 1e5]))
    background = draw(st.sampled_from([0.0, 0.0, 0.5]))
    pool = rng.choice(grid.size, min(grid.size, draw(st.integers(1, 120))), replace=False)
    read_noise = draw(st.sampled_from([0.0, 0.0, 0.3, 2.0]))
    intensity = rng.gamma(2.0, 0.5, grid.size)
    scales = rng.uniform(0.5, 2.0, n_images)
    tables = []
    for image in range(n_images):
        voxel = np.sort(rng.choice(pool, max(1, int(0.7 * len(pool)))))
        tables.append(
            _sums_table(rng, image, voxel, level * scales[image] * intensity[voxel], unit, background, read_noise)
        )
    cut = draw(st.booleans())
    pieces = [concatenate(tables)] if cut else tables
    if draw(st.booleans()):
        pieces.append(concatenate([]))
    return SumsCase(grid, tuple(f"image_{n}" for n in range(n_images)), tuple(pieces))


def _sums_table(
    rng: np.random.Generator,
    image: int,
    voxel: np.ndarray,
    expected: np.ndarray,
    unit: float,
    background: float,
    read_noise: float,
) -> SumsTable:
    n = len(voxel)
    relative = rng.uniform(0.2, 2.0, n)
    pixels = rng.integers(1, 30, n)
    columns: dict[str, np.ndarray] = {name: np.zeros(n) for name in COLUMNS}
    columns |= {
        "image": np.full(n, image),
        "voxel": voxel,
        # Rows of one image and voxel are patches that arrive by different operators.
        "operator": np.arange(n) % 4,
        "counts": rng.poisson(expected * relative + background) + rng.normal(0, 1, n) * np.sqrt(read_noise**2 * pixels),
        "background": np.full(n, background),
        "background_variance": 0.1 * background + read_noise**2 * pixels,
        "exposure": relative * unit,
        "pixels": pixels,
        "fast": rng.uniform(0, 100, n),
        "slow": rng.uniform(0, 100, n),
    }
    bragg = rng.random(n) < 0.2
    columns["bragg_exposure"] = np.where(bragg, relative * unit, 0.0)
    columns["bragg_pixels"] = np.where(bragg, pixels, 0)
    columns["bragg_counts"] = np.where(bragg, rng.poisson(10 * expected * relative), 0)
    only = bragg & (rng.random(n) < 0.3)
    for name in ("counts", "background", "background_variance", "exposure", "pixels", "fast", "slow"):
        columns[name] = np.where(only, 0, columns[name])
    return SumsTable(**{name: np.asarray(values).astype(COLUMN_TYPES[name]) for name, values in columns.items()})


@st.composite
def image_scales(draw: st.DrawFn, n_images: int) -> ImageScales:
    """Draw scales of mean 1."""
    rng = np.random.default_rng(draw(seeds()))
    scales = np.exp(draw(st.sampled_from([0.0, 0.3, 1.5])) * rng.normal(size=n_images))
    scales /= scales.mean()
    return ImageScales(scales, 0.01 * scales)


def _asymmetric_unit(grid: VoxelGrid) -> np.ndarray:
    """Return the numbers of all voxels of the asymmetric unit within the limits, ascending."""
    number = np.arange(grid.size)
    folded, _ = fold(grid.index_of(number), grid.symmetry, grid.divisions)
    length = np.linalg.norm(grid.q_of(number), axis=1)
    within = (length <= (1 + 1e-10) / grid.d_min) & (length >= (1 - 1e-10) / grid.d_max)
    return number[(folded == grid.index_of(number)).all(axis=1) & within]


@dataclass(frozen=True, eq=False)
class MapCase(Summarised, MergedMap):
    """A small map."""

    def __repr__(self) -> str:
        return f"MapCase({len(self)} of {self.grid.n_voxels} voxels, mean intensity {self.intensity.mean():.4g})"


@st.composite
def merged_maps(draw: st.DrawFn) -> MapCase:
    """Draw a map on a relative scale: complete, or of a few voxels with negative intensities among them."""
    grid = draw(grids())
    rng = np.random.default_rng(draw(seeds()))
    level = draw(st.sampled_from([1e-6, 1.0, 1e9]))
    voxel = _asymmetric_unit(grid)
    complete = draw(st.booleans())
    if not complete:
        voxel = np.sort(rng.choice(voxel, draw(st.integers(1, len(voxel))), replace=False))
    n = len(voxel)
    pixels = rng.integers(1, 1000, n)
    noise = 0.05 if complete else 0.5
    falling = np.exp(-4 * np.sum(grid.q_of(voxel) ** 2, axis=1))
    variance = (noise * level * rng.uniform(0.5, 1.0, n)) ** 2
    intensity = level * falling * rng.gamma(20.0, 0.05, n) + np.sqrt(variance) * rng.normal(size=n)
    return MapCase(
        grid=grid,
        voxel=voxel,
        intensity=intensity,
        variance=variance,
        multiplicity=rng.integers(1, 20, n).astype(np.int32),
        pixels=pixels,
        counts=rng.poisson(pixels).astype(float),
        total_intensity=intensity + level * falling,
        total_variance=variance,
    )
