from __future__ import annotations

from dataclasses import replace

import numpy as np
from diffuse_shell_scaler.scaler import ShellScaler
from diffuse_shell_scaler.scales import shells_of

from diffuse_framework.model.voxels import COLUMN_TYPES, COLUMNS, SumsInMemory, SumsTable
from diffuse_framework.testing.conformance import conformance_tests
from diffuse_framework.testing.fakes import orthorhombic_grid

test_contract = conformance_tests("scaler", ShellScaler)


def fading(seed: int, n_images: int = 6) -> tuple[SumsInMemory, np.ndarray, np.ndarray]:
    """Poisson counts of images that fade at high resolution; their scales by shell, and the shells' edges."""
    rng = np.random.default_rng(seed)
    grid = orthorhombic_grid()
    edges = np.cbrt(np.linspace(0, (1 / grid.d_min) ** 3, 6))
    scales = np.exp(-0.1 * np.arange(n_images)[:, None] * np.arange(5)[None])
    intensity = rng.gamma(2.0, 0.5, grid.size)
    tables = []
    for image in range(n_images):
        voxel = np.sort(rng.choice(grid.size, grid.size // 2, replace=False))
        exposure = rng.uniform(0.5, 1.5, len(voxel))
        expected = 200 * exposure * scales[image, shells_of(grid, voxel, edges)] * intensity[voxel]
        columns = {name: np.zeros(len(voxel)) for name in COLUMNS}
        columns |= {
            "image": np.full(len(voxel), image),
            "voxel": voxel,
            "exposure": exposure,
            "counts": rng.poisson(expected),
            "pixels": np.full(len(voxel), 10),
        }
        tables.append(SumsTable(**{name: column.astype(COLUMN_TYPES[name]) for name, column in columns.items()}))
    return SumsInMemory(grid, tuple(f"image_{n}" for n in range(n_images)), tuple(tables)), scales, edges


def test_each_shell_of_each_image_has_its_own_scale():
    sums, truth, edges = fading(1)
    scales = ShellScaler().fit(sums, None)
    assert np.allclose(scales.edges, edges)
    ratio = scales.by_shell / scales.by_shell.mean(axis=0) / (truth / truth.mean(axis=0))
    assert np.abs(ratio - 1).max() < 0.03
    assert scales.statistics["left_out"] <= 2


def test_an_observation_that_disagrees_is_left_out():
    sums, _, _ = fading(2)
    first = sums.pieces[0]
    counts = first.counts.copy()
    counts[7] += 1e5
    spoilt = replace(sums, pieces=(replace(first, counts=counts), *sums.pieces[1:]))
    scales = ShellScaler().fit(spoilt, None)
    kept = scales.keep(spoilt.pieces[0])
    assert not kept[7] and kept.mean() > 0.99
