"""Sums with something changed that must not matter, or whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from diffuse_framework.model.voxels import (
    COLUMN_TYPES,
    COLUMNS,
    SumsInMemory,
    SumsTable,
    concatenate,
)
from diffuse_framework.testing.fakes import orthorhombic_grid


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
