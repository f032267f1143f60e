"""How good merged data are: half sets, correlations, completeness, isotropic and anisotropic parts.

All take arrays of merged voxels and resolution shells; none reads files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.completeness import completeness, resolution_shells
from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import ErrorModel, Scales
from diffuse_framework.model.voxels import SumsTable, VoxelSums

__all__ = [
    "SomeImages",
    "between_nodes",
    "cc_star",
    "correlations",
    "counting_limits",
    "half_maps",
    "half_sets",
    "isotropic_part",
    "r_split",
    "shell_statistics",
]


def half_sets(n_images: int, rng: np.random.Generator) -> np.ndarray:
    """Return for each image whether it is in the second random half set, (n_images,) bool."""
    second = np.zeros(n_images, bool)
    second[rng.permutation(n_images)[: n_images // 2]] = True
    return second


@dataclass(frozen=True, eq=False)
class SomeImages:
    """Scales that keep the observations of some images only.

    Attributes:
        scales: of all images.
        use: (n_images,) bool.
        counting_only: leave out what the error model adds to the variance of counting.
    """

    scales: Scales
    use: np.ndarray
    counting_only: bool = False

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
        return ErrorModel() if self.counting_only else self.scales.error_model

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
    sums: VoxelSums,
    scales: Scales,
    rng: np.random.Generator,
    merge: Merge = poisson_merge,
    counting_only: bool = False,
) -> tuple[MergedMap, MergedMap]:
    """Return the maps of two random halves of the images, on one scale.

    Args:
        sums: of all images.
        scales: of all images.
        rng: splits the images.
        merge: the merger of the map that they are halves of.
        counting_only: give them the variances of counting, without what an error model adds.
    """
    second = half_sets(len(sums.image_names), rng)
    first, other = (SomeImages(scales, use, counting_only) for use in (~second, second))
    return merge(sums, first), merge(sums, other)


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


def counting_limits(
    shell: np.ndarray, n_shells: int, a: np.ndarray, b: np.ndarray, variance_a: np.ndarray, variance_b: np.ndarray
) -> np.ndarray:
    """Return the correlation (n_shells,) of half maps that counting alone allows; NaN where nothing is common to them.

    What two halves share has the variance S = cov(a, b): it holds no noise, which is independent between them. Had
    they nothing else but counting noise of variance v, the correlation would be S / sqrt((S + v_a) (S + v_b)).

    Args:
        shell: (n,) of each voxel.
        n_shells: how many there are.
        a, b: (n,) the two half maps.
        variance_a, variance_b: (n,) of counting alone.
    """
    n = np.bincount(shell, minlength=n_shells).astype(float)
    many = np.maximum(n, 1)
    da, db = (x - (sum_by(shell, x, n_shells) / many)[shell] for x in (a, b))
    shared = sum_by(shell, da * db, n_shells)
    with_a, with_b = (shared + sum_by(shell, v, n_shells) for v in (variance_a, variance_b))
    norm = np.sqrt(np.maximum(with_a, 0) * np.maximum(with_b, 0))
    return np.divide(shared, norm, out=np.full(n_shells, np.nan), where=(shared > 0) & (norm > 0) & (n > 2))


def between_nodes(grid: VoxelGrid, voxel: np.ndarray) -> np.ndarray:
    """Return which voxels (n,) aren't centred on a reciprocal lattice point; all where each one is.

    What a Bragg mask has left lies on these points and is the same in every half of the data.
    """
    divisions = np.array(grid.divisions)
    if (divisions == 1).all():
        return np.ones(len(voxel), bool)
    return (grid.index_of(voxel) % divisions != 0).any(axis=1)


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
    merged: MergedMap,
    halves: tuple[MergedMap, MergedMap] | None,
    n_shells: int = 10,
    isotropic_width: float = 0.01,
) -> dict:
    """Return the statistics of a merged map in shells of equal volume, and overall.

    Args:
        merged: the map of all images.
        halves: of two random half sets of images, with variances of counting alone; None leaves out what is said
            of them.
        n_shells: number of shells.
        isotropic_width: bins in |q| of the isotropic part, 1/angstrom.

    Returns:
        Under "shells" one dictionary per shell, low resolution first, and under "overall" one of the
        same keys: d_max, d_min (angstrom), voxels, completeness, multiplicity, intensity,
        intensity_over_sigma, isotropic (mean), anisotropic_rms (free of noise); of halves cc_half, cc_star and
        r_split of intensities, cc_half_anisotropic and cc_star_anisotropic of the deviation from the
        isotropic part, cc_half_between of that deviation in voxels between the lattice points, cc_half_counting and
        cc_half_between_counting, what counting alone would allow (`counting_limits`), common_voxels that
        both halves hold and common_between of them between lattice points. The shells reach from the grid's lowest
        resolution to that of the last observed voxel; the completeness overall is that of the whole grid.
    """
    grid = merged.grid
    shells = resolution_shells(grid, merged.voxel, n_shells)
    q = np.linalg.norm(grid.q_of(merged.voxel), axis=1)
    isotropic = isotropic_part(q, merged.intensity, 1 / merged.variance, isotropic_width)
    halved = _Halves.of(merged, isotropic, shells.shell, halves) if halves else None

    def columns(of_all: np.ndarray, n: int, possible: np.ndarray) -> dict[str, np.ndarray]:
        number = np.bincount(of_all, minlength=n)
        excess = (merged.intensity - isotropic) ** 2 - merged.variance

        def mean(values: np.ndarray) -> np.ndarray:
            return np.divide(sum_by(of_all, values, n), number, out=np.full(n, np.nan), where=number > 0)

        return {
            "voxels": number,
            "completeness": completeness(number, possible),
            "multiplicity": mean(merged.multiplicity.astype(float)),
            "intensity": mean(merged.intensity),
            "intensity_over_sigma": mean(merged.intensity / np.sqrt(merged.variance)),
            "isotropic": mean(isotropic),
            "anisotropic_rms": np.sqrt(np.maximum(mean(excess), 0)),
        }

    by_shell = columns(shells.shell, n_shells, shells.possible)
    overall = columns(np.zeros_like(shells.shell), 1, np.array([grid.n_voxels]))
    if halved:
        by_shell |= halved.columns(n_shells)
        overall |= replace(halved, shell=np.zeros_like(halved.shell)).columns(1)
    limits = [shells.resolution(k) for k in range(n_shells)]
    whole = {"d_max": limits[0]["d_max"], "d_min": limits[-1]["d_min"]}
    return {
        "shells": [limits[k] | {name: _plain(values[k]) for name, values in by_shell.items()} for k in range(n_shells)],
        "overall": whole | {name: _plain(values[0]) for name, values in overall.items()},
    }


@dataclass(frozen=True, eq=False)
class _Halves:
    """The voxels (n,) that both half maps hold.

    Attributes:
        shell: of each voxel.
        between: whether it lies between lattice points.
        a, b: intensities.
        isotropic: part of the map.
        variance_a, variance_b: of counting.
    """

    shell: np.ndarray
    between: np.ndarray
    a: np.ndarray
    b: np.ndarray
    isotropic: np.ndarray
    variance_a: np.ndarray
    variance_b: np.ndarray

    @classmethod
    def of(
        cls, merged: MergedMap, isotropic: np.ndarray, shell: np.ndarray, halves: tuple[MergedMap, MergedMap]
    ) -> _Halves:
        first, second = halves
        voxel, one, two = np.intersect1d(first.voxel, second.voxel, assume_unique=True, return_indices=True)
        place = np.searchsorted(merged.voxel, voxel)
        return cls(
            shell=shell[place],
            between=between_nodes(merged.grid, voxel),
            a=first.intensity[one],
            b=second.intensity[two],
            isotropic=isotropic[place],
            variance_a=first.variance[one],
            variance_b=second.variance[two],
        )

    def columns(self, n: int) -> dict[str, np.ndarray]:
        da, db, at = self.a - self.isotropic, self.b - self.isotropic, self.between
        half = correlations(self.shell, n, self.a, self.b)
        anisotropic = correlations(self.shell, n, da, db)
        return {
            "cc_half": half,
            "cc_half_counting": counting_limits(self.shell, n, self.a, self.b, self.variance_a, self.variance_b),
            "cc_star": cc_star(half),
            "cc_half_anisotropic": anisotropic,
            "cc_star_anisotropic": cc_star(anisotropic),
            "cc_half_between": correlations(self.shell[at], n, da[at], db[at]),
            "cc_half_between_counting": counting_limits(
                self.shell[at], n, da[at], db[at], self.variance_a[at], self.variance_b[at]
            ),
            "r_split": r_split(self.shell, n, self.a, self.b),
            "common_voxels": np.bincount(self.shell, minlength=n),
            "common_between": np.bincount(self.shell[at], minlength=n),
        }


def _plain(value: np.generic) -> float | int | None:
    number = value.item()
    return None if isinstance(number, float) and not np.isfinite(number) else number
