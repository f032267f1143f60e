"""Two maps brought to one grid, one indexing and one scale."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from diffuse_framework.algorithms.comparison.grids import (
    common_grid,
    moved_numbers,
    q_lengths,
    require_same_cell,
    with_symmetry_of_both,
)
from diffuse_framework.algorithms.comparison.regridding import on_grid
from diffuse_framework.algorithms.comparison.scaling import Scaling, fit_scaling
from diffuse_framework.algorithms.indexing.ambiguity import reindexing_operators, triplet
from diffuse_framework.errors import ConfigError, DataError, GeometryError
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.voxel_map import VoxelMap

__all__ = [
    "AS_INDEXED",
    "LATTICE",
    "Aligned",
    "AlignmentOptions",
    "Indexing",
    "align",
    "isotropic",
    "operator_of",
    "reindexed",
]

LATTICE, AS_INDEXED = "lattice", "as_indexed"

# Voxels, evenly taken from all, that tell the indexing: more make it no surer.
_ENOUGH = 400_000
# Standard deviations by which another indexing must agree better to be taken.
_BEYOND_DOUBT = 5.0
# Voxels in a bin of |q| of the isotropic part, at least on average.
_PER_BIN = 100


@dataclass(frozen=True)
class AlignmentOptions:
    """How two maps are brought together.

    Attributes:
        reindex: "lattice" tries the operators of the lattice that the Laue group lacks, "as_indexed" none; an operator
            such as "k,h,-l" is applied to B.
        scale: "single", one factor for B; "shells", a function of |q|; "none", 1.
        offset: whether an isotropic function of |q| is fitted and added to B.
        nodes: points of |q| between which functions of |q| are linear.
        coverage: least part of a coarser voxel's volume that observed voxels must cover.
        cell_tolerance: by which cells may differ, relative.
        d_min, d_max: resolution limits, angstrom; None for none.
    """

    reindex: str = LATTICE
    scale: str = "single"
    offset: bool = True
    nodes: int = 11
    coverage: float = 0.5
    cell_tolerance: float = 0.03
    d_min: float | None = None
    d_max: float | None = None


@dataclass(frozen=True, eq=False)
class Indexing:
    """In which indexing B agrees with A.

    Attributes:
        operators: (n, 3, 3) on B's Miller indices that were tried, identity first.
        correlations: (n,) of the anisotropic parts.
        chosen: number of the one that was applied.
    """

    operators: np.ndarray
    correlations: np.ndarray
    chosen: int

    @property
    def names(self) -> list[str]:
        """The operators as they act on indices, for example ``k,h,-l``."""
        return [triplet(operator) for operator in self.operators]

    @property
    def changed(self) -> bool:
        """Whether B was re-indexed."""
        return self.chosen > 0


@dataclass(frozen=True, eq=False)
class Aligned:
    """The voxels that two maps have in common; B is re-indexed and on A's scale.

    Attributes:
        a, b: the maps, with the same grid and the same voxels; B's intensities, errors and half maps are scaled.
        q: (n,) |q|, 1/angstrom.
        scaling: what B was multiplied by, and what was added.
        indexing: in which B agrees with A.
        voxels: (2,) of A and of B on the common grid, before those in common were taken.
        notes: what was done, in sentences.
    """

    a: VoxelMap
    b: VoxelMap
    q: np.ndarray
    scaling: Scaling
    indexing: Indexing
    voxels: tuple[int, int]
    notes: tuple[str, ...] = ()

    @property
    def variance(self) -> np.ndarray | None:
        """(n,) of A - B, None where neither map has errors."""
        known = [one.sigma**2 for one in (self.a, self.b) if one.sigma is not None]
        return sum(known[1:], known[0]) if known else None


def align(a: VoxelMap, b: VoxelMap, options: AlignmentOptions = AlignmentOptions()) -> Aligned:
    """Bring B to A's grid, indexing and scale.

    Raises:
        DataError: maps that can't be compared: other cells, other symmetry, nothing in common.
        GeometryError: divisions that the symmetry does not allow.
    """
    require_same_cell(a, b, options.cell_tolerance)
    a, b, notes = with_symmetry_of_both(a, b)
    grid = common_grid(a.grid, b.grid, options.d_min, options.d_max)
    notes += [_regridded(letter, one.grid, grid) for letter, one in zip("AB", (a, b), strict=True)]
    a, b = (on_grid(one, grid, options.coverage) for one in (a, b))
    indexing = find_indexing(a, b, options.reindex)
    if indexing.changed:
        b = reindexed(b, indexing.operators[indexing.chosen])
    voxels = len(a), len(b)
    here, there = in_common(a.voxel, b.voxel)
    if len(here) < 3:
        raise DataError(_too_few_in_common(a, b, len(here)))
    a = a if len(here) == len(a) else a.select(here)
    b = b if len(there) == len(b) else b.select(there)
    q = q_lengths(grid, a.voxel)
    scaling = fit_scaling(a.intensity, b.intensity, a.sigma, b.sigma, q, options.scale, options.offset, options.nodes)
    return Aligned(a, scaled(b, scaling, q), q, scaling, indexing, voxels, tuple(note for note in notes if note))


def _regridded(letter: str, old: VoxelGrid, new: VoxelGrid) -> str:
    if tuple(old.divisions) == tuple(new.divisions):
        return ""
    words = [" x ".join(map(str, grid.divisions)) for grid in (old, new)]
    exact = all((x % y == 0) and (x // y) % 2 == 1 for x, y in zip(old.divisions, new.divisions, strict=True))
    how = "" if exact else "; voxels that straddle a border are shared"
    return f"{letter} is averaged from {words[0]} to {words[1]} divisions{how}"


def _too_few_in_common(a: VoxelMap, b: VoxelMap, n: int) -> str:
    parts = []
    for letter, one in zip("AB", (a, b), strict=True):
        q = q_lengths(one.grid, one.voxel)
        parts.append(f"{letter} has {len(one)} from d = {1 / max(q.min(), 1e-9):.4g} to {1 / q.max():.3g} angstrom")
    return f"the maps have {n or 'no'} voxels in common, too few to compare: {' and '.join(parts)}"


def scaled(b: VoxelMap, scaling: Scaling, q: np.ndarray) -> VoxelMap:
    """Return a map multiplied by the scale at |q| (n,), with the offset added."""
    factor, offset = scaling.at(q)
    return replace(
        b,
        intensity=factor * b.intensity + offset,
        sigma=None if b.sigma is None else np.abs(factor) * b.sigma,
        halves=None if b.halves is None else factor * b.halves + offset,
    )


@njit(cache=True, nogil=True)
def _merge_sorted(a, b, here, there):
    i = j = n = 0
    while i < len(a) and j < len(b):
        if a[i] < b[j]:
            i += 1
        elif a[i] > b[j]:
            j += 1
        else:
            here[n], there[n] = i, j
            i, j, n = i + 1, j + 1, n + 1
    return n


def in_common(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places in a and in b of numbers that both have; both ascend."""
    here, there = np.empty((2, min(len(a), len(b))), np.int64)
    n = _merge_sorted(a, b, here, there)
    return here[:n], there[:n]


def operator_of(text: str) -> np.ndarray:
    """Return the operator (3, 3) that a text such as ``k,h,-l`` means.

    Raises:
        ConfigError: it means none.
    """
    rows = []
    for part in text.replace(" ", "").lower().split(","):
        row = np.zeros(3, np.int64)
        for term in part.replace("-", "+-").split("+"):
            sign, name = (-1, term[1:]) if term.startswith("-") else (1, term)
            if term and name in ("h", "k", "l"):
                row["hkl".index(name)] += sign
            elif term:
                raise ConfigError(
                    f"reindex={text} is no operator on indices; give lattice, as_indexed or such as k,h,-l"
                )
        rows.append(row)
    if len(rows) != 3 or abs(round(np.linalg.det(np.array(rows)))) != 1:
        raise ConfigError(f"reindex={text} is no operator on indices; give lattice, as_indexed or such as k,h,-l")
    return np.array(rows)


def _on_voxels(operator: np.ndarray, divisions: tuple[int, ...]) -> np.ndarray:
    """Return an operator on voxel indices.

    Raises:
        GeometryError: it mixes axes that are divided differently.
    """
    n = np.array(divisions, np.int64)
    numerator = operator * n[:, None]
    if (numerator % n).any():
        raise GeometryError(
            f"re-indexing by {triplet(operator)} mixes axes that the grid divides differently "
            f"({','.join(map(str, divisions))}); reindex=as_indexed leaves the maps as they are"
        )
    return numerator // n


def reindexed(one: VoxelMap, operator: np.ndarray) -> VoxelMap:
    """Return a map whose indices are ``operator @ hkl``; voxels that leave the box of the grid are left out.

    Raises:
        GeometryError: it mixes axes that are divided differently.
    """
    on_voxels = _on_voxels(operator, one.grid.divisions)
    numbers = moved_numbers(one.grid, one.voxel, one.grid, on_voxels)
    order = np.argsort(numbers)
    order = order[numbers[order] >= 0]
    moved = one.select(order)
    return replace(moved, voxel=numbers[order])


def find_indexing(a: VoxelMap, b: VoxelMap, reindex: str) -> Indexing:
    """Return in which indexing B agrees with A: as it is, unless another is better beyond doubt.

    Args:
        a, b: maps on one grid.
        reindex: see `AlignmentOptions`.

    Raises:
        ConfigError, GeometryError: an operator that is none, or that the grid can't carry out.
    """
    identity = np.eye(3, dtype=np.int64)
    if reindex == LATTICE:
        operators = reindexing_operators(a.grid.symmetry, a.grid.cell)
        operators = np.stack([identity, *(o for o in operators[1:] if _can_be_tried(o, a.grid))])
    elif reindex == AS_INDEXED:
        operators = identity[None]
    else:
        operator = operator_of(reindex)
        _on_voxels(operator, a.grid.divisions)
        operators = identity[None] if (operator == identity).all() else np.stack([identity, operator])
    step = max(1, len(a) // _ENOUGH)
    rest_a = a.intensity[::step] - isotropic(q_lengths(a.grid, a.voxel), a.intensity)[::step]
    rest_b = b.intensity - isotropic(q_lengths(b.grid, b.voxel), b.intensity)
    found = np.full(len(operators), np.nan)
    shared = 0
    for number, operator in enumerate(operators):
        # The indices that B has of its own where A has these.
        back = np.rint(np.linalg.inv(_on_voxels(operator, a.grid.divisions))).astype(np.int64)
        numbers = moved_numbers(a.grid, a.voxel[::step], b.grid, back)
        place = np.minimum(np.searchsorted(b.voxel, numbers), len(b.voxel) - 1)
        same = (b.voxel[place] == numbers) & (numbers >= 0)
        shared = max(shared, int(same.sum()))
        if same.sum() > 2:
            with np.errstate(invalid="ignore", divide="ignore"):
                found[number] = np.corrcoef(rest_a[same], rest_b[place[same]])[0, 1]
    if reindex not in (LATTICE, AS_INDEXED):
        return Indexing(operators, found, len(operators) - 1)
    best = 0 if np.isnan(found).all() else int(np.nanargmax(found))
    limit = 1 - 1e-12
    lead = np.arctanh(np.clip(found[best], -limit, limit)) - np.arctanh(np.clip(found[0], -limit, limit))
    sure = best > 0 and lead * np.sqrt(max(shared - 3, 1) / 2) > _BEYOND_DOUBT
    return Indexing(operators, found, best if sure else 0)


def _can_be_tried(operator: np.ndarray, grid: VoxelGrid) -> bool:
    try:
        _on_voxels(operator, grid.divisions)
    except GeometryError:
        return False
    return True


@njit(cache=True, nogil=True)
def _isotropic(q, values, width, n_bins, result):
    total, centre, mean = np.zeros(n_bins), np.zeros(n_bins), np.zeros(n_bins)
    for n in range(len(q)):
        b = min(int(q[n] / width), n_bins - 1)
        total[b] += 1
        centre[b] += q[n]
        mean[b] += values[n]
    used = 0
    for b in range(n_bins):
        if total[b] > 0:
            centre[used], mean[used] = centre[b] / total[b], mean[b] / total[b]
            total[used] = b
            used += 1
    bins = total[:used]
    for n in range(len(q)):
        b = min(int(q[n] / width), n_bins - 1)
        right = np.searchsorted(bins, b)
        if q[n] < centre[right]:
            right -= 1
        if right < 0:
            result[n] = mean[0]
        elif right >= used - 1:
            result[n] = mean[used - 1]
        else:
            f = (q[n] - centre[right]) / (centre[right + 1] - centre[right])
            result[n] = mean[right] + f * (mean[right + 1] - mean[right])


def isotropic(q: np.ndarray, values: np.ndarray, width: float | None = None) -> np.ndarray:
    """Return the isotropic part of values (n,): means of bins of |q|, interpolated linearly between the bins.

    Args:
        q: (n,) 1/angstrom.
        values: (n,) finite.
        width: of a bin, 1/angstrom; None takes 0.01, or more where that would hold fewer than 100 voxels on average.
    """
    reach = float(q.max(initial=0.0)) or 1.0
    if width is None:
        width = max(0.01, reach * _PER_BIN / max(len(q), 1))
    n_bins = max(int(np.ceil(reach / width)), 1)
    result = np.empty(len(q))
    _isotropic(q, values, width, n_bins, result)
    return result
