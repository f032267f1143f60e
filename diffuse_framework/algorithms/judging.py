"""What a map is judged by: numbers that say how far it can be trusted, from the map, its halves and its scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffuse_framework.algorithms.completeness import resolution_shells
from diffuse_framework.algorithms.statistics import between_nodes
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import Scales

__all__ = [
    "Evidence",
    "HalfScatter",
    "NodeEvidence",
    "ScaleEvidence",
    "far_above_shell",
    "gather_evidence",
    "holds_to",
    "scale_evidence",
]

# Standard deviations of 1 / sqrt(n) above which a correlation of n pairs isn't chance: once in two thousand.
SURE = 3.3
_FEWEST_VOXELS = 20
# A voxel far above the others of its shell, and surely so.
TIMES_MEDIAN, SIGMAS = 3.0, 5.0
# Half maps that differ by so many standard deviations do so by more than chance in any map of 10^8 voxels.
APART = 6.0
_N_SHELLS = 20
# One photon where a thousandth was expected is no wonder among many voxels.
_FEWEST_PHOTONS = 10
# A trend in fewer images than this means nothing.
_FEWEST_FOR_DRIFT, _SURE_OF_DRIFT = 10, 5.0


@dataclass(frozen=True)
class NodeEvidence:
    """Voxels on reciprocal lattice points beside the others: Bragg peaks left in, or real halos.

    Attributes:
        observed: voxels on lattice points.
        above: of them, the share of those of `far_above_shell`.
        scatter: by what factor the squared differences of half maps are larger on them than between them; None
            where halves share none. What is left of a peak differs from image to image; a halo doesn't.
    """

    observed: int
    above: float
    scatter: float | None


@dataclass(frozen=True)
class HalfScatter:
    """How half maps differ in voxels between lattice points, beside what counting lets expect.

    Attributes:
        mean: of (a - b)^2 / (v_a + v_b) over voxels: 1 for counting alone.
        typical: the same with no voxel counting for more than 36.
        apart: number of voxels whose halves differ by more than six standard deviations, those being as large as is
            typical for this map.
        share: of them in all voxels that both halves hold.
    """

    mean: float
    typical: float
    apart: int
    share: float


@dataclass(frozen=True)
class ScaleEvidence:
    """How the images' scales spread.

    Attributes:
        ratio: of the largest to the smallest.
        farthest: number of the image that is farthest from the median, as a factor.
        drift: factor by which a straight line through log(scale) changes from the first to the last image; 1 where
            there are too few images, or the line isn't beyond chance.
    """

    ratio: float
    farthest: int
    drift: float


@dataclass(frozen=True)
class Evidence:
    """Numbers that a map is judged by.

    Attributes:
        resolution: angstrom to which anisotropic signal holds; None where it holds in no shell.
        common: voxels between lattice points that both half maps hold; 0 without half maps.
        cc_half: of all intensities of half maps; None where there are too few.
        cc_anisotropic: of the deviation from the isotropic part, between lattice points.
        cc_counting: what counting alone allows that to be.
        completeness: of the asymmetric unit of the grid, 0 to 1.
        complete_to: angstrom up to which each shell is at least half complete; None where none is.
        multiplicity: median observations a voxel.
        few: share of voxels with fewer than three observations.
        negative: share of voxels below zero by five standard deviations or more.
        chi_squared: per observation, of the fit of scales by counting; None where the scaler doesn't say.
        halves: how half maps differ; None where there are none.
        nodes: voxels on lattice points; None where each voxel is on one.
        scales: of images.
        rejected: share of observations that scaling rejected as outliers; None where the scaler doesn't say.
    """

    resolution: float | None
    common: int
    cc_half: float | None
    cc_anisotropic: float | None
    cc_counting: float | None
    completeness: float
    complete_to: float | None
    multiplicity: float
    few: float
    negative: float
    chi_squared: float | None
    halves: HalfScatter | None
    nodes: NodeEvidence | None
    scales: ScaleEvidence
    rejected: float | None


def gather_evidence(
    merged: MergedMap,
    halves: tuple[MergedMap, MergedMap] | None,
    statistics: dict[str, Any],
    scales: Scales,
    least_cc: float,
) -> Evidence:
    """Return what a map is judged by.

    Args:
        merged: the map of all images.
        halves: of two random half sets, with variances of counting alone; None for a single image.
        statistics: `shell_statistics` of both.
        scales: of the images.
        least_cc: CC1/2 above which a shell has signal.
    """
    overall, shells = statistics["overall"], statistics["shells"]
    chi_squared = scales.statistics.get("chi_squared_per_observation")
    pairs = _Pairs.of(*halves) if halves else None
    return Evidence(
        resolution=holds_to(shells, least_cc),
        common=overall.get("common_between", 0),
        cc_half=overall.get("cc_half"),
        cc_anisotropic=overall.get("cc_half_between"),
        cc_counting=overall.get("cc_half_between_counting"),
        completeness=overall["completeness"],
        complete_to=_first_run_end([(shell["completeness"] or 0) >= 0.5 for shell in shells], shells),
        multiplicity=float(np.median(merged.multiplicity)),
        few=float(np.mean(merged.multiplicity < 3)),
        negative=float(np.mean(merged.intensity < -SIGMAS * np.sqrt(merged.variance))),
        chi_squared=float(chi_squared) if isinstance(chi_squared, int | float) else None,
        halves=_half_scatter(pairs) if pairs else None,
        nodes=_node_evidence(merged, pairs),
        scales=scale_evidence(scales.per_image),
        rejected=_share_rejected(scales.statistics),
    )


def _share_rejected(statistics: dict[str, Any]) -> float | None:
    """Return what a scaler of ours says of outliers; another's may say what it likes under that name."""
    outliers = statistics.get("outliers")
    share = outliers.get("fraction") if isinstance(outliers, dict) else None
    return float(share) if isinstance(share, int | float) else None


def holds_to(shells: list[dict[str, Any]], least_cc: float) -> float | None:
    """Return the resolution in angstrom to which shells have anisotropic signal; None where none has.

    A shell has it where CC1/2 between lattice points is 3.3 standard deviations above 0 (by chance once in two
    thousand; n voxels without signal have 0 +- 1 / sqrt(n)) and isn't below `least_cc` by more than 2 of them. The
    first shell that lacks it ends the range, unless both its neighbours have it: one may lack it by chance. Shells
    of fewer than 20 voxels tell nothing.

    Args:
        shells: of `shell_statistics`, low resolution first.
        least_cc: see above.
    """
    has = []
    for shell in shells:
        n, cc = shell.get("common_between", 0), shell.get("cc_half_between")
        error = 1 / max(n, 1) ** 0.5
        has.append(None if cc is None or n < _FEWEST_VOXELS else cc > SURE * error and cc > least_cc - 2 * error)
    chance = [not fine and n > 0 and has[n - 1] and any(has[n + 1 : n + 2]) for n, fine in enumerate(has)]
    return _first_run_end([None if one else fine for fine, one in zip(has, chance, strict=True)], shells)


def _first_run_end(good: list[bool | None], shells: list[dict[str, Any]]) -> float | None:
    """Return d_min of the last good shell before the first bad one; shells of which nothing is known don't count."""
    end = None
    for fine, shell in zip(good, shells, strict=True):
        if fine is False:
            break
        if fine:
            end = shell["d_min"]
    return end


def _half_scatter(pairs: _Pairs) -> HalfScatter | None:
    """Return how half maps differ; None where they share no voxel."""
    between = ~pairs.on_node if not pairs.on_node.all() else pairs.on_node
    squares, counts = pairs.squares[between], pairs.counts[between]
    if not len(squares):
        return None
    typical = _typical(squares)
    apart = int(np.count_nonzero((squares > APART**2 * max(typical, 1.0)) & (counts >= _FEWEST_PHOTONS)))
    return HalfScatter(float(squares.mean()), typical, apart, apart / len(squares))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The voxels (n,) that both half maps hold.

    Attributes:
        squares: of the difference of their intensities, over its variance.
        counts: photons of both.
        on_node: whether the voxel is on a lattice point.
    """

    squares: np.ndarray
    counts: np.ndarray
    on_node: np.ndarray

    @classmethod
    def of(cls, first: MergedMap, second: MergedMap) -> _Pairs:
        voxel, one, two = np.intersect1d(first.voxel, second.voxel, assume_unique=True, return_indices=True)
        difference = first.intensity[one] - second.intensity[two]
        return cls(
            squares=difference**2 / (first.variance[one] + second.variance[two]),
            counts=first.counts[one] + second.counts[two],
            on_node=~between_nodes(first.grid, voxel),
        )


def _typical(squares: np.ndarray) -> float:
    """Return the mean of normalised squares, none counting for more than what is possible by chance."""
    return float(np.minimum(squares, APART**2).mean())


def _node_evidence(merged: MergedMap, pairs: _Pairs | None) -> NodeEvidence | None:
    """Return how voxels on reciprocal lattice points stand out; None where every voxel is on one."""
    between = between_nodes(merged.grid, merged.voxel)
    if (np.array(merged.grid.divisions) == 1).all():
        return None
    high = far_above_shell(merged.grid, merged.voxel, merged.intensity, np.sqrt(merged.variance))
    nodes = ~between
    scatter = None
    if pairs and pairs.on_node.any() and not pairs.on_node.all():
        beside = _typical(pairs.squares[~pairs.on_node])
        scatter = _typical(pairs.squares[pairs.on_node]) / max(beside, 1e-300)
    return NodeEvidence(int(nodes.sum()), float(high[nodes].mean()) if nodes.any() else 0.0, scatter)


def far_above_shell(grid: VoxelGrid, voxel: np.ndarray, intensity: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return which voxels (n,) exceed three times the median of their resolution shell, and it by five sigma."""
    shell = resolution_shells(grid, voxel, _N_SHELLS).shell
    median = _shell_medians(shell, _N_SHELLS, intensity)[shell]
    return (intensity > TIMES_MEDIAN * np.maximum(median, 0)) & (intensity - median > SIGMAS * sigma)


def _shell_medians(shell: np.ndarray, n_shells: int, values: np.ndarray) -> np.ndarray:
    """Return the median of values (n,) in each shell, (n_shells,); NaN for an empty one."""
    order = np.argsort(shell, kind="stable")
    ends = np.cumsum(np.bincount(shell, minlength=n_shells))[:-1]
    return np.array([np.median(part) if len(part) else np.nan for part in np.split(values[order], ends)])


def scale_evidence(scales: np.ndarray) -> ScaleEvidence:
    """Return how the scales (n_images,) of images spread and drift."""
    logs = np.log(scales)
    farthest = int(np.argmax(np.abs(logs - np.median(logs))))
    return ScaleEvidence(float(scales.max() / scales.min()), farthest, _drift(logs))


def _drift(logs: np.ndarray) -> float:
    n = len(logs)
    if n < _FEWEST_FOR_DRIFT:
        return 1.0
    place = np.arange(n) - (n - 1) / 2
    slope = float(place @ logs / (place @ place))
    rest = logs - logs.mean() - slope * place
    error = np.sqrt(float(rest @ rest) / (n - 2) / float(place @ place))
    return float(np.exp(slope * (n - 1))) if abs(slope) > _SURE_OF_DRIFT * error else 1.0
