"""Bringing crystals whose lattice is more symmetric than they are to one indexing.

A lattice that is more symmetric than the crystal can be indexed in several ways that nothing in
its geometry tells apart; maps of crystals indexed in different ways must not be added. Here the
diffuse intensity itself decides: each crystal's sums are folded again with every operator that may
relate two ways of indexing, and compared with the sums of all others. A voxel is named by integers, so this is
exact. (The same for Bragg intensities: Brehm & Diederichs (2014), Acta Cryst. D70, 101; Gildea & Winter (2018), Acta
Cryst. D74, 405.) Whether a crystal is re-indexed is for `algorithms.indexing.evidence` to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.algorithms.binning import shell_numbers, sum_by
from diffuse_framework.algorithms.indexing.evidence import (
    CERTAIN,
    FEWEST_SHARED,
    Blocks,
    Departures,
    Evidence,
    add,
    together,
    weigh,
)
from diffuse_framework.algorithms.masking.shapes import centring_conditions, lattice_possible
from diffuse_framework.algorithms.symmetry import fold, voxel_operators
from diffuse_framework.errors import GeometryError
from diffuse_framework.model.experiment import BraggSpots, Experiment, Image, Rejected, Symmetry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import Cell, reciprocal_basis
from diffuse_framework.model.reindexing import Reindexing
from diffuse_framework.model.voxels import SumsTable

_N_SHELLS = 40
_MOST_CYCLES = 50


def reindexing_operators(symmetry: Symmetry, cell: Cell, tolerance_deg: float = 1.0) -> np.ndarray:
    """Return the ways to index a crystal again on the same lattice, (n, 3, 3) integers, identity first.

    ``operator @ hkl`` are the new indices. They are the rotations of the lattice, one from each coset
    of the Laue group; other matrices than those of entries -1, 0 and 1 do not occur for reduced or
    conventional cells.

    Args:
        symmetry: of the crystal.
        cell: angstrom and degrees.
        tolerance_deg: by which lengths (1 degree is 1.7 %) and angles may miss the higher symmetry.
    """
    candidates = np.array(list(itertools.product((-1, 0, 1), repeat=9)), np.int64).reshape(-1, 3, 3)
    candidates = candidates[np.abs(np.linalg.det(candidates) - 1) < 0.5]
    basis = reciprocal_basis(cell)
    moved = np.einsum("ab,mbc->mac", basis, candidates)
    lengths = np.linalg.norm(basis, axis=0)
    # How far each basis vector is from having the length and the angles of the one it replaces.
    metric = np.einsum("mai,maj->mij", moved, moved) / np.outer(lengths, lengths)
    wanted = basis.T @ basis / np.outer(lengths, lengths)
    off = np.abs(metric - wanted)
    diagonal = np.einsum("mii->mi", off)
    same = (off.max(axis=(1, 2)) <= np.radians(tolerance_deg) * 2) & (
        diagonal.max(axis=1) <= 2 * np.radians(tolerance_deg)
    )
    conditions = centring_conditions(symmetry.space_group)
    cube = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    allowed = lattice_possible(cube, conditions)
    found = [np.eye(3, dtype=np.int64)]
    laue = symmetry.operators.astype(np.int64)
    for operator in sorted(candidates[same], key=lambda m: (np.abs(m).sum(), m.tolist()), reverse=False):
        if not np.array_equal(lattice_possible(cube @ operator.T, conditions), allowed):
            continue
        if not any(_same_coset(operator, other, laue) for other in found):
            found.append(operator)
    return np.stack(found)


def _same_coset(first: np.ndarray, second: np.ndarray, laue: np.ndarray) -> bool:
    """Whether one way of indexing is the other followed by an operator of the Laue group."""
    return bool((laue @ second == first).all(axis=(1, 2)).any())


def triplet(operator: np.ndarray) -> str:
    """Return an operator (3, 3) as it acts on indices, for example ``k,h,-l``."""
    texts = []
    for row in operator:
        text = "".join(("+" if n > 0 else "-") + name for n, name in zip(row, "hkl", strict=True) if n)
        texts.append(text.removeprefix("+"))
    return ",".join(texts)


def refold(table: SumsTable, operators: np.ndarray, grid: VoxelGrid) -> SumsTable:
    """Return sums with the voxel indices of each row changed by an operator and folded again.

    The index that the pixels had is that of the folded voxel taken back by the row's operator; rows
    that leave the box of the grid, which happens at its very edge only, are left out.

    Args:
        table: sums.
        operators: (n, 3, 3) integers, one for each row, on Miller indices.
        grid: that the voxels belong to.

    Raises:
        GeometryError: operators that mix axes with different divisions.
    """
    n = np.array(grid.divisions, np.int64)
    scaled = operators.astype(np.int64) * n[:, None]
    if (scaled % n).any():
        raise GeometryError(
            f"the lattice can be indexed in ways that mix axes which the grid divides differently "
            f"(divisions={','.join(map(str, grid.divisions))}): give them equal divisions"
        )
    own, _, _ = voxel_operators(grid.symmetry, grid.divisions)
    back = np.rint(np.linalg.inv(own)).astype(np.int64)[table.operator]
    index = np.einsum("nab,nbc,nc->na", scaled // n, back, grid.index_of(table.voxel))
    folded, operator = fold(index, grid.symmetry, grid.divisions)
    place = folded - np.array(grid.index_min)
    inside = ((place >= 0) & (place < np.array(grid.dimensions))).all(axis=1)
    voxel = np.ravel_multi_index(tuple(place[inside].T), grid.dimensions)
    kept = table.select(inside)
    moved = replace(
        kept,
        voxel=voxel.astype(table.voxel.dtype),
        operator=operator[inside].astype(table.operator.dtype),
    )
    return moved.select(np.lexsort((moved.operator, moved.voxel, moved.panel, moved.image)))


@dataclass(frozen=True, eq=False)
class Choice:
    """How crystals are brought to one indexing.

    Attributes:
        operators: (n_operators, 3, 3) on Miller indices, identity first.
        evidence: of each crystal, for each operator.
    """

    operators: np.ndarray
    evidence: Evidence

    @property
    def certain(self) -> np.ndarray:
        """Crystals whose way of indexing is beyond doubt, (n_crystals,) bool."""
        return self.evidence.lead >= CERTAIN

    @property
    def chosen(self) -> np.ndarray:
        """Number of the operator of each crystal, (n_crystals,): 0, as it is, but where another is beyond doubt."""
        return np.where(self.evidence.log_ratio[:, 0] >= CERTAIN, self.evidence.best, 0)


def choose_operators(
    tables: Iterable[SumsTable],
    crystal_of_image: np.ndarray,
    grid: VoxelGrid,
    operators: np.ndarray,
    rng: np.random.Generator,
    n_starts: int = 5,
) -> Choice:
    """Return the operator that brings each crystal to the indexing of the others, and how sure that is.

    On each half of reciprocal space it starts from the crystal with the most photons and adds the others one by one,
    those with most photons first; then every crystal is compared with all others until none changes. Further starts
    begin at random; the one with the highest sum of correlations is taken. On the other half each crystal is weighed
    against the others as they stand then (`algorithms.indexing.evidence`). Of the indexings that all may share it is
    the one that most crystals beyond doubt have already.

    Args:
        tables: sums of all images.
        crystal_of_image: (n_images,) number of each image's crystal, from 0.
        grid: of the sums.
        operators: what `reindexing_operators` returns.
        rng: for random starts.
        n_starts: number of starts.

    Raises:
        GeometryError: operators that mix axes with different divisions.
    """
    blocks = Blocks(grid, operators, rng)
    departures = _all_departures(tables, crystal_of_image, grid, operators, blocks)
    renamings = _renamings(operators, grid.symmetry)
    halves, chosen = [], []
    for first in (True, False):
        compared = [[way.select(blocks.first_half[way.block] == first) for way in ways] for ways in departures]
        tested = [[way.select(blocks.first_half[way.block] != first) for way in ways] for ways in departures]
        chosen.append(_best_of_starts(compared, grid.size, rng, n_starts))
        halves.append(weigh(tested, chosen[-1], grid, blocks.n_blocks))
    evidence = together(halves, chosen, renamings)
    return _with_majority_unchanged(Choice(operators, evidence), renamings)


def _best_of_starts(
    departures: list[list[Departures]], size: int, rng: np.random.Generator, n_starts: int
) -> np.ndarray:
    order = np.argsort([-ways[0].weight.sum() for ways in departures], kind="stable")
    best: tuple[float, np.ndarray] | None = None
    for start in range(n_starts):
        sequence = order if start == 0 else rng.permutation(len(departures))
        chosen = _consistent_choice(departures, sequence, size)
        score = _score(departures, chosen, size)
        if best is None or score > best[0] + 1e-9:
            best = score, chosen
    assert best is not None
    return best[1]


def _all_departures(
    tables: Iterable[SumsTable], crystal_of_image: np.ndarray, grid: VoxelGrid, operators: np.ndarray, blocks: Blocks
) -> list[list[Departures]]:
    """What each crystal shows for each operator."""
    n_crystals = int(crystal_of_image.max()) + 1
    # Sums by crystal and by the voxel and operator of a row: all that folding again needs.
    parts: list[list[SumsTable]] = [[] for _ in range(n_crystals)]
    for table in tables:
        table = table.select(table.exposure > 0)
        crystals = crystal_of_image[table.image]
        for crystal in np.unique(crystals[crystals >= 0]):
            parts[crystal].append(table.select(crystals == crystal))
    return [[_departures(pieces, operator, grid, blocks) for operator in operators] for pieces in parts]


def _departures(pieces: list[SumsTable], operator: np.ndarray, grid: VoxelGrid, blocks: Blocks) -> Departures:
    counts, exposure = np.zeros(grid.size), np.zeros(grid.size)
    for piece in pieces:
        moved = refold(piece, np.broadcast_to(operator, (len(piece), 3, 3)), grid)
        counts += sum_by(moved.voxel, moved.counts - moved.background, grid.size)
        exposure += sum_by(moved.voxel, moved.exposure, grid.size)
    voxel = np.flatnonzero(exposure)
    counts, exposure = counts[voxel], exposure[voxel]
    shell, _ = shell_numbers(np.linalg.norm(grid.q_of(voxel), axis=1), _N_SHELLS)
    mean = sum_by(shell, counts, _N_SHELLS) / np.maximum(sum_by(shell, exposure, _N_SHELLS), 1e-300)
    expected = np.maximum(mean[shell] * exposure, 1e-300)
    # Relative to the shell: counts / expected - 1, whose variance is 1 / expected.
    return Departures(voxel, blocks.of(voxel), counts / expected - 1, expected)


def _consistent_choice(departures: list[list[Departures]], sequence: np.ndarray, size: int) -> np.ndarray:
    chosen = np.full(len(departures), -1)
    total, weight = np.zeros(size), np.zeros(size)
    for crystal in sequence:
        found = [_correlation(way, total, weight) for way in departures[crystal]]
        chosen[crystal] = 0 if np.isnan(found).all() else int(np.nanargmax(found))
        add(departures[crystal][chosen[crystal]], total, weight, 1)
    for _ in range(_MOST_CYCLES):
        changed = False
        for crystal in sequence:
            add(departures[crystal][chosen[crystal]], total, weight, -1)
            found = [_correlation(way, total, weight) for way in departures[crystal]]
            if not np.isnan(found).all():
                better = int(np.nanargmax(found))
                changed |= better != chosen[crystal]
                chosen[crystal] = better
            add(departures[crystal][chosen[crystal]], total, weight, 1)
        if not changed:
            break
    return chosen


def _score(departures: list[list[Departures]], chosen: np.ndarray, size: int) -> float:
    """Sum of the correlations of all crystals with all others."""
    total, weight = np.zeros(size), np.zeros(size)
    for ways, number in zip(departures, chosen, strict=True):
        add(ways[number], total, weight, 1)
    found = []
    for ways, number in zip(departures, chosen, strict=True):
        add(ways[number], total, weight, -1)
        found.append(_correlation(ways[number], total, weight))
        add(ways[number], total, weight, 1)
    return float(np.nansum(found))


def _correlation(way: Departures, total: np.ndarray, weight: np.ndarray) -> float:
    """Weighted correlation of one crystal with the sum of others, NaN where they share too little."""
    others = weight[way.voxel]
    shared = others > 1e-6
    if np.count_nonzero(shared) < FEWEST_SHARED:
        return np.nan
    mine, theirs = way.departure[shared], total[way.voxel][shared] / others[shared]
    w = 1 / (1 / way.weight[shared] + 1 / others[shared])
    mine = mine - np.average(mine, weights=w)
    theirs = theirs - np.average(theirs, weights=w)
    norm = np.sqrt((w * mine**2).sum() * (w * theirs**2).sum())
    return float((w * mine * theirs).sum() / norm) if norm > 0 else np.nan


def _renamings(operators: np.ndarray, symmetry: Symmetry) -> list[list[int]]:
    """Return for each operator what the others are called once all crystals are turned back by it.

    Operators are left out that do not turn the others into each other: the cosets of a Laue group need form no group.
    """
    laue = symmetry.operators.astype(np.int64)
    result = []
    for common in operators:
        back = np.rint(np.linalg.inv(common)).astype(np.int64)
        numbers = [
            [n for n, other in enumerate(operators) if _same_coset(back @ operator, other, laue)]
            for operator in operators
        ]
        flat = [found[0] for found in numbers if found]
        if sorted(flat) == list(range(len(operators))):
            result.append(flat)
    return result


def _with_majority_unchanged(choice: Choice, renamings: list[list[int]]) -> Choice:
    """Turn all choices together so that of the crystals beyond doubt as many as possible keep their indexing."""
    turned = (Choice(choice.operators, choice.evidence.renamed(numbers)) for numbers in renamings)
    return max(turned, key=lambda other: np.count_nonzero(other.certain & (other.evidence.best == 0)))


def reindexed_image(image: Image, operator: np.ndarray) -> Image:
    """Return an image whose indices are ``operator @ hkl``: q stays, so A becomes A inverse(operator)."""
    back = np.linalg.inv(operator)
    spots: BraggSpots = replace(image.spots, hkl=(image.spots.hkl @ operator.T).astype(image.spots.hkl.dtype))
    return replace(image, setting_matrix=image.setting_matrix @ back, spots=spots)


def crystal_numbers(experiment: Experiment) -> np.ndarray:
    """Return the number of each image's crystal, (n_images,) from 0; one without counts as its own."""
    keys = [
        ("image", number) if image.crystal is None else ("crystal", image.crystal)
        for number, image in enumerate(experiment.images)
    ]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], int)


def reindexed_tables(tables: Iterable[SumsTable], reindexing: Reindexing, grid: VoxelGrid) -> Iterator[SumsTable]:
    """Yield sums folded again by each image's operator, without the images that are left out and numbered anew."""
    number = np.cumsum(reindexing.keep) - 1
    for table in tables:
        kept = table.select(reindexing.keep[table.image])
        moved = refold(kept, reindexing.operators[kept.image], grid)
        yield replace(moved, image=number[moved.image].astype(table.image.dtype))


def reindexed_experiment(experiment: Experiment, reindexing: Reindexing) -> Experiment:
    """Return the experiment in its new indexing, without the images that are left out: they are rejected."""
    images = tuple(
        reindexed_image(image, operator)
        for image, operator, keep in zip(experiment.images, reindexing.operators, reindexing.keep, strict=True)
        if keep
    )
    left_out = tuple(
        Rejected(image.name, "re-indexing", "its indexing can't be told from another one")
        for image, keep in zip(experiment.images, reindexing.keep, strict=True)
        if not keep
    )
    return replace(experiment, images=images, rejected=experiment.rejected + left_out)
