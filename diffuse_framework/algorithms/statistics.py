"""How good merged data are: half sets, correlations, completeness, isotropic and anisotropic parts.

All take arrays of merged voxels and resolution shells; none reads files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import ErrorModel, Scales
from diffuse_framework.model.voxels import SumsTable, VoxelSums

__all__ = [
    "SomeImages",
    "cc_star",
    "correlations",
    "half_maps",
    "half_sets",
    "isotropic_part",
    "r_split",
    "shell_statistics",
    "shells_of_equal_volume",
    "voxels_possible",
]


def half_sets(n_images: int, rng: np.random.Generator) -> np.ndarray:
    """Return for each image whether it is in the second random half set, (n_images,) bool."""
    second = np.zeros(n_images, bool)
    second[rng.permutation(n_images)[: n_images // 2]] = True
    return second


@dataclass(frozen=True, eq=False)
class SomeImages:
    """Scales that keep the observations of some images only."""

    scales: Scales
    use: np.ndarray

    @property
    def per_image(self) -> np.ndarray:
        """(n_images,) the scale of each image."""
        return self.scales.per_image

    @property
    def per_image_sigma(self) -> np.ndarray:
        """(n_images,) its standard uncertainty."""
        return self.scales.per_image_sigma

    @property
    def statistics(self) -> dict:
        """How the fit went."""
        return self.scales.statistics

    @property
    def error_model(self) -> ErrorModel:
        """The variance of observations."""
        return self.scales.error_model

    def factor(self, table: SumsTable) -> np.ndarray:
        """Return the multiplicative part for each row."""
        return self.scales.factor(table)

    def offset(self, table: SumsTable) -> np.ndarray:
        """Return the additive part for each row."""
        return self.scales.offset(table)

    def keep(self, table: SumsTable) -> np.ndarray:
        """Return True for rows of the chosen images that are no outliers."""
        return self.use[table.image] & self.scales.keep(table)

    def to_plain(self) -> dict[str, Any]:
        """Return the scales of all images: a half set is not kept."""
        return self.scales.to_plain()


Merge = Callable[[VoxelSums, Scales], MergedMap]


def half_maps(
    sums: VoxelSums, scales: Scales, rng: np.random.Generator, merge: Merge = poisson_merge
) -> tuple[MergedMap, MergedMap]:
    """Return the maps of two random halves of the images, on one scale.

    Args:
        sums: of all images.
        scales: of all images.
        rng: splits the images.
        merge: the merger of the map that they are halves of.
    """
    second = half_sets(len(sums.image_names), rng)
    return merge(sums, SomeImages(scales, ~second)), merge(sums, SomeImages(scales, second))


def shells_of_equal_volume(q_max: float, n_shells: int, q_min: float = 0.0) -> np.ndarray:
    """Return (n_shells + 1,) edges in |q| of shells of equal volume, 1/angstrom."""
    return np.cbrt(np.linspace(q_min**3, q_max**3 * (1 + 1e-9), n_shells + 1))


def voxels_possible(grid: VoxelGrid, edges: np.ndarray) -> np.ndarray:
    """Return the number of voxels of the asymmetric unit in each shell, (n_shells,), counted one by one."""
    result, step = np.zeros(len(edges) - 1, np.int64), 1 << 20
    for start in range(0, grid.size, step):
        voxel = np.arange(start, min(start + step, grid.size))
        q = np.linalg.norm(grid.q_of(voxel), axis=1)
        near = (q >= edges[0]) & (q < edges[-1])
        index = grid.index_of(voxel[near])
        inside = (fold(index, grid.symmetry, grid.divisions)[0] == index).all(axis=1)
        result += np.histogram(q[near][inside], edges)[0]
    return result


def isotropic_part(q: np.ndarray, values: np.ndarray, weight: np.ndarray, width: float) -> np.ndarray:
    """Return the mean at each voxel's |q|, (n,): weighted means of bins, interpolated linearly between the bins.

    Args:
        q: (n,) 1/angstrom.
        values: (n,).
        weight: (n,) inverse variances, or how many voxels of reciprocal space each stands for.
        width: of a bin, 1/angstrom.
    """
    bins = np.floor(q / width).astype(np.int64)
    total = sum_by(bins, weight, bins.max() + 1)
    used = total > 0
    centre = sum_by(bins, weight * q, len(total))[used] / total[used]
    mean = sum_by(bins, weight * values, len(total))[used] / total[used]
    return np.interp(q, centre, mean)


def correlations(shell: np.ndarray, n_shells: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of a and b (n,) in each shell, NaN for fewer than three values."""
    n = np.bincount(shell, minlength=n_shells).astype(float)
    many = np.maximum(n, 1)
    da = a - (sum_by(shell, a, n_shells) / many)[shell]
    db = b - (sum_by(shell, b, n_shells) / many)[shell]
    product, aa, bb = (sum_by(shell, x, n_shells) for x in (da * db, da * da, db * db))
    norm = np.sqrt(aa * bb)
    return np.divide(product, norm, out=np.full(n_shells, np.nan), where=(norm > 0) & (n > 2))


def cc_star(cc_half: np.ndarray) -> np.ndarray:
    """Return the correlation with the unknown truth that CC1/2 implies; NaN where that is negative.

    Karplus & Diederichs (2012), Science 336, 1030: sqrt(2 CC1/2 / (1 + CC1/2)).
    """
    positive = np.where(cc_half >= 0, cc_half, np.nan)
    return np.sqrt(2 * positive / (1 + positive))


def r_split(shell: np.ndarray, n_shells: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return R-split of half sets a and b (n,) in each shell, NaN where there is nothing.

    White et al. (2012), J. Appl. Cryst. 45, 335: sum |a - b| / (sqrt(2) sum (a + b) / 2).
    """
    difference = sum_by(shell, np.abs(a - b), n_shells)
    mean = sum_by(shell, (a + b) / 2, n_shells)
    return np.divide(difference, np.sqrt(2) * mean, out=np.full(n_shells, np.nan), where=mean > 0)


def shell_statistics(
    merged: MergedMap, halves: tuple[MergedMap, MergedMap], n_shells: int = 10, isotropic_width: float = 0.01
) -> dict:
    """Return the statistics of a merged map in shells of equal volume, and overall.

    Args:
        merged: the map of all images.
        halves: of two random half sets of images.
        n_shells: number of shells.
        isotropic_width: bins in |q| of the isotropic part, 1/angstrom.

    Returns:
        Under "shells" one dictionary per shell, low resolution first, and under "overall" one of the
        same keys: d_max, d_min (angstrom), voxels, completeness, multiplicity, intensity,
        intensity_over_sigma, isotropic (mean), anisotropic_rms (free of noise), cc_half, cc_star and
        r_split of intensities, cc_half_anisotropic and cc_star_anisotropic of the deviation from the
        isotropic part, and common_voxels that both halves hold.
    """
    grid = merged.grid
    q = np.linalg.norm(grid.q_of(merged.voxel), axis=1)
    edges = shells_of_equal_volume(float(q.max()), n_shells, float(q.min()) * (1 - 1e-9))
    shell = np.clip(np.searchsorted(edges, q, side="right") - 1, 0, n_shells - 1)
    isotropic = isotropic_part(q, merged.intensity, 1 / merged.variance, isotropic_width)
    first, second = halves
    _, in_first, in_second = np.intersect1d(first.voxel, second.voxel, return_indices=True)
    a, b = first.intensity[in_first], second.intensity[in_second]
    place = np.searchsorted(merged.voxel, first.voxel[in_first])
    iso_common, shell_common = isotropic[place], shell[place]

    def columns(of_all: np.ndarray, of_common: np.ndarray, n: int, possible: np.ndarray) -> dict[str, np.ndarray]:
        number = np.bincount(of_all, minlength=n)
        many = np.maximum(number, 1)
        excess = (merged.intensity - isotropic) ** 2 - merged.variance
        half, anisotropic = (
            correlations(of_common, n, a, b),
            correlations(of_common, n, a - iso_common, b - iso_common),
        )
        return {
            "voxels": number,
            "completeness": np.divide(number, possible, out=np.full(n, np.nan), where=possible > 0),
            "multiplicity": sum_by(of_all, merged.multiplicity.astype(float), n) / many,
            "intensity": sum_by(of_all, merged.intensity, n) / many,
            "intensity_over_sigma": sum_by(of_all, merged.intensity / np.sqrt(merged.variance), n) / many,
            "isotropic": sum_by(of_all, isotropic, n) / many,
            "anisotropic_rms": np.sqrt(np.maximum(sum_by(of_all, excess, n) / many, 0)),
            "cc_half": half,
            "cc_star": cc_star(half),
            "cc_half_anisotropic": anisotropic,
            "cc_star_anisotropic": cc_star(anisotropic),
            "r_split": r_split(of_common, n, a, b),
            "common_voxels": np.bincount(of_common, minlength=n),
        }

    possible = voxels_possible(grid, edges)
    by_shell = columns(shell, shell_common, n_shells, possible)
    zeros, zeros_common = np.zeros_like(shell), np.zeros_like(shell_common)
    overall = columns(zeros, zeros_common, 1, np.array([float(grid.n_voxels)]))
    limits = [_resolution(edges[k], edges[k + 1]) for k in range(n_shells)]
    return {
        "shells": [limits[k] | {name: _plain(values[k]) for name, values in by_shell.items()} for k in range(n_shells)],
        "overall": _resolution(edges[0], edges[-1]) | {name: _plain(values[0]) for name, values in overall.items()},
    }


def _resolution(low: float, high: float) -> dict[str, float | None]:
    return {"d_max": float(1 / low) if low > 0 else None, "d_min": float(1 / high)}


def _plain(value: np.generic) -> float | int | None:
    number = value.item()
    return None if isinstance(number, float) and not np.isfinite(number) else number
