"""Sums drawn from a known map and a known scaling model, without images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffuse_framework.algorithms.scaling.components import Extent
from diffuse_framework.algorithms.scaling.model import Layout, ScalingOptions, evaluate, make_layout
from diffuse_framework.algorithms.scaling.restraints import pin
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.voxels import COLUMN_TYPES, COLUMNS, SumsInMemory, SumsTable
from diffuse_framework.testing.fakes import orthorhombic_grid

SQUARE_PANEL = ((0.0, 1000.0, 0.0, 1000.0),)


@dataclass(frozen=True, eq=False)
class KnownSums:
    """Drawn sums and what they were drawn from.

    Attributes:
        sums: one table per image.
        intensity: (size of the grid,) true intensity.
        scales: the true model, with degenerate directions pinned.
        data_set, order: (n_images,) where each image belongs.
    """

    sums: SumsInMemory
    intensity: np.ndarray
    scales: SmoothScales
    data_set: np.ndarray
    order: np.ndarray


def true_intensity(grid: VoxelGrid, rng: np.random.Generator, anisotropy: float = 0.5) -> np.ndarray:
    """Return a map (size of the grid,): a ring in |q|, and anisotropic features of mean 0 on it."""
    q = np.linalg.norm(grid.q_of(np.arange(grid.size)), axis=1)
    ring = 0.5 + np.exp(-(((q - 0.3) / 0.12) ** 2))
    return ring * rng.gamma(1 / anisotropy**2, anisotropy**2, grid.size)


def true_parameters(layout: Layout, amplitude: float = 0.2) -> np.ndarray:
    """Return smooth parameters that respect the pinned means, (size,)."""
    result = layout.null()
    for name, part in layout.components.items():
        node, place = np.divmod(np.arange(part.size), part.width)
        where = place / part.width
        if name == "absorption":
            each = [np.add.outer(slow.positions, 0.6 * fast.positions).ravel() for fast, slow in part.panels]
            where = np.tile(np.concatenate(each) / np.ptp(np.concatenate(each)), part.n_nodes)
        wave = np.sin(0.6 * node + 1) * np.cos(2.5 * where + 0.5)
        if name == "scale":
            wave = 2 * np.sin(0.3 * node)
        if name == "resolution":
            # It grows from one end to the other, as radiation damage does: what all nodes share is taken off
            # below, because no data tell it.
            wave = (2 * node / max(part.n_nodes - 1, 1) - 1) * np.cos(2.5 * where + 0.5)
        if name == "offset":
            wave = 1 + np.sin(0.9 * node + 1.5 * place / part.width)
        values = (layout.null()[layout.slices[name]] + amplitude * wave).reshape(part.n_nodes, part.width)
        for _ in range(200 if name in ("absorption", "resolution") else 0):
            values = values / values.mean(axis=1, keepdims=True)
            if name == "resolution":
                values = values / values.mean(axis=0)
            if "panel" in layout.components and name == "absorption":
                ends = np.cumsum([x.n_values * y.n_values for x, y in part.panels])
                each = [block / block.mean() for block in np.split(values, ends[:-1], axis=1)]
                values = np.concatenate(each, axis=1)
        result[layout.slices[name]] = values.ravel() / (values.mean() if name == "panel" else 1.0)
    return pin(layout, result)[0]


@dataclass(frozen=True, eq=False)
class KnownModel:
    """A known map and scaling model, from which sums are drawn image by image.

    Attributes:
        grid: of the voxels.
        intensity: (size of the grid,) true intensity.
        q: (size of the grid,) |q|, 1/angstrom.
        scales: the true model.
        exposure: mean exposure of an observation.
        rows_per_image: observations of each image, each in a voxel of its own.
        rng: of all that is drawn.
    """

    grid: VoxelGrid
    intensity: np.ndarray
    q: np.ndarray
    scales: SmoothScales
    exposure: float
    rows_per_image: int
    rng: np.random.Generator

    @property
    def image_names(self) -> tuple[str, ...]:
        """Names of the images."""
        data_set = self.scales.layout.extent.data_set
        return tuple(f"set{data_set[image]}_{image:05d}.cbf" for image in range(len(data_set)))

    def tables(self) -> Iterator[SumsTable]:
        """Draw and yield the sums of each image."""
        inside = np.flatnonzero(_is_inside(self.grid, self.q))
        for image in range(len(self.image_names)):
            voxel = np.sort(self.rng.choice(inside, self.rows_per_image, replace=False))
            panels = self.scales.layout.extent.panels
            yield _draw(image, voxel, self.exposure, self.intensity, self.scales, self.q, panels, self.rng)


def _is_inside(grid: VoxelGrid, q: np.ndarray) -> np.ndarray:
    return (q > 0.05) & (q < 1 / grid.d_min)


def known_model(
    options: ScalingOptions,
    rng: np.random.Generator,
    n_images: int = 30,
    rows_per_image: int = 2000,
    exposure: float = 1.0,
    grid: VoxelGrid | None = None,
    panels: tuple[tuple[float, float, float, float], ...] = SQUARE_PANEL,
    n_data_sets: int = 1,
    intensity: np.ndarray | None = None,
    amplitude: float = 0.2,
) -> KnownModel:
    """Return a known map and model.

    Args:
        options: parts of the true model.
        rng: of all that is drawn.
        n_images: numbers of images, of all data sets.
        rows_per_image: observations of each image, each in a voxel of its own.
        exposure: mean exposure of an observation; intensities are about 1.
        grid: of the voxels.
        panels: lowest and highest fast, lowest and highest slow of each, pixels.
        n_data_sets: numbers of data sets, each a run of images.
        intensity: the true map.
        amplitude: how far the model's parts differ from nothing.
    """
    grid = grid or orthorhombic_grid()
    intensity = true_intensity(grid, rng) if intensity is None else intensity
    q = np.linalg.norm(grid.q_of(np.arange(grid.size)), axis=1)
    inside = _is_inside(grid, q)
    data_set = np.arange(n_images) * n_data_sets // n_images
    order = np.concatenate([np.arange(np.count_nonzero(data_set == n), dtype=float) for n in range(n_data_sets)])
    extent = Extent(data_set, order, (float(q[inside].min()), float(q[inside].max())), np.array(panels))
    layout = make_layout(options, extent)
    parameters = true_parameters(layout, amplitude)
    scales = SmoothScales(grid, layout, parameters, np.zeros(layout.size), pin(layout, parameters)[1])
    return KnownModel(grid, intensity, q, scales, exposure, rows_per_image, rng)


def known_sums(options: ScalingOptions, rng: np.random.Generator, **how: Any) -> KnownSums:
    """Draw sums from a known map and model; arguments are those of `known_model`."""
    model = known_model(options, rng, **how)
    extent = model.scales.layout.extent
    sums = SumsInMemory(model.grid, model.image_names, tuple(model.tables()))
    return KnownSums(sums, model.intensity, model.scales, extent.data_set, extent.order)


def _draw(
    image: int,
    voxel: np.ndarray,
    exposure: float,
    intensity: np.ndarray,
    scales: SmoothScales,
    q: np.ndarray,
    panels: np.ndarray,
    rng: np.random.Generator,
) -> SumsTable:
    n_rows = len(voxel)
    columns: dict[str, np.ndarray] = {name: np.zeros(n_rows).astype(COLUMN_TYPES[name]) for name in COLUMNS}
    panel = rng.integers(0, len(panels), n_rows)
    box = panels[panel]
    columns |= {
        "image": np.full(n_rows, image, np.int32),
        "voxel": voxel.astype(np.int64),
        "panel": panel.astype(np.uint16),
        "fast": (box[:, 0] + (box[:, 1] - box[:, 0]) * rng.random(n_rows)).astype(np.float32),
        "slow": (box[:, 2] + (box[:, 3] - box[:, 2]) * rng.random(n_rows)).astype(np.float32),
        "exposure": (exposure * rng.uniform(0.5, 1.5, n_rows)).astype(np.float32),
        "pixels": np.ones(n_rows, np.int32),
    }
    at = columns["image"], columns["panel"], columns["fast"], columns["slow"], q[voxel]
    factor, offset = evaluate(scales.layout, scales.parameters, *at)
    counts = rng.poisson(columns["exposure"] * (factor * intensity[voxel] + offset))
    return SumsTable(**columns | {"counts": counts.astype(np.float32)})
