"""Maps on coarser voxels: integrals over each new voxel, with errors that hold.

A voxel of n divisions is centred on a multiple of 1/n. Where the divisions of the old grid are an odd multiple of those
of the new one, old voxels lie wholly within new ones; elsewhere some straddle the border, and each new voxel takes
the share of their volume that lies within it. Neighbours then share the noise of what straddles; the error of each
one is right, with the squares of the shares.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from diffuse_framework.algorithms.comparison.grids import grid_to
from diffuse_framework.algorithms.comparison.halos import Halo, in_halo
from diffuse_framework.algorithms.merging import merge_totals, seen_sums
from diffuse_framework.algorithms.symmetry import fold_one, inside_unit, orbit_sizes, voxel_operators
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxel_map import VoxelMap
from diffuse_framework.model.voxels import VoxelSums

__all__ = ["HALO_CHOICES", "Rebinning", "on_grid", "rebinned", "rebinned_sums"]

HALO_CHOICES = ("keep", "exclude", "only")


@dataclass(frozen=True)
class Rebinning:
    """How a map is put on coarser voxels.

    Attributes:
        divisions: (3,) voxels per reciprocal lattice vector of the new map.
        voxels: which of the old voxels are used: "keep", all; "exclude", those outside halos; "only", those within.
        halo: the surroundings of a node that count as its halo.
        coverage: least part of a new voxel's volume that observed old voxels must cover.
    """

    divisions: tuple[int, ...]
    voxels: str = "keep"
    halo: Halo = Halo()
    coverage: float = 0.0

    def __post_init__(self) -> None:
        if self.voxels not in HALO_CHOICES:
            raise ConfigError(f"halo voxels are kept by {', '.join(HALO_CHOICES)}, not {self.voxels!r}")

    def used(self, grid: VoxelGrid, voxel: np.ndarray) -> np.ndarray:
        """Return which of the old voxels (n,) are used.

        Raises:
            DataError: none.
        """
        if self.voxels == "keep":
            return np.ones(len(voxel), bool)
        at_node = in_halo(grid, voxel, self.halo)
        used = at_node if self.voxels == "only" else ~at_node
        if not used.any():
            which = "outside" if self.voxels == "exclude" else "in"
            raise DataError(f"no voxel of the map lies {which} a halo (divisions {_words(grid.divisions)})")
        return used


def _words(divisions: tuple[int, ...]) -> str:
    return " ".join(map(str, divisions))


def coarser_grid(grid: VoxelGrid, divisions: tuple[int, ...]) -> VoxelGrid:
    """Return the grid of other divisions over the same range.

    Raises:
        ConfigError: finer divisions.
        GeometryError: divisions that the symmetry does not allow.
    """
    if any(new > old for new, old in zip(divisions, grid.divisions, strict=True)):
        raise ConfigError(
            f"the map has {_words(grid.divisions)} divisions: {_words(divisions)} would be finer; a finer map needs "
            "the images (grid.hkl.divisions of diffuse.process)"
        )
    if tuple(divisions) == tuple(grid.divisions):
        return grid
    return grid_to(grid.cell, grid.symmetry, divisions, grid.d_min, grid.d_max)


@njit(cache=True, nogil=True)
def _shares(i, j, k, turns, source, mark, rows, shares):
    """Find the old voxels within the new voxel (i, j, k), averaged over the voxels that symmetry makes of it.

    Returns:
        How many there are, and the volume that they cover, in old voxels; `rows` and `shares` hold them.
    """
    low, dimensions, operators, cuts, laue, ratio, place = source
    n_rows, volume = 0, 0.0
    part = 1.0 / len(turns)
    for t in range(len(turns)):
        o = turns[t]
        u = o[0, 0] * i + o[0, 1] * j + o[0, 2] * k
        v = o[1, 0] * i + o[1, 1] * j + o[1, 2] * k
        w = o[2, 0] * i + o[2, 1] * j + o[2, 2] * k
        x0, x1 = ratio[0] * (u - 0.5), ratio[0] * (u + 0.5)
        y0, y1 = ratio[1] * (v - 0.5), ratio[1] * (v + 0.5)
        z0, z1 = ratio[2] * (w - 0.5), ratio[2] * (w + 0.5)
        for x in range(int(np.floor(x0 + 0.5)), int(np.ceil(x1 - 0.5)) + 1):
            wx = min(x + 0.5, x1) - max(x - 0.5, x0)
            if wx < 1e-9:
                continue
            for y in range(int(np.floor(y0 + 0.5)), int(np.ceil(y1 - 0.5)) + 1):
                wy = min(y + 0.5, y1) - max(y - 0.5, y0)
                if wy < 1e-9:
                    continue
                for z in range(int(np.floor(z0 + 0.5)), int(np.ceil(z1 - 0.5)) + 1):
                    wz = min(z + 0.5, z1) - max(z - 0.5, z0)
                    if wz < 1e-9:
                        continue
                    _, a, b, c = fold_one(x, y, z, operators, cuts, laue)
                    a, b, c = a - low[0], b - low[1], c - low[2]
                    if not (0 <= a < dimensions[0] and 0 <= b < dimensions[1] and 0 <= c < dimensions[2]):
                        continue
                    row = place[(a * dimensions[1] + b) * dimensions[2] + c]
                    if row < 0:
                        continue
                    share = part * wx * wy * wz
                    volume += share
                    # Mates of one old voxel that meet in the new one have one error, not several.
                    at = mark[row]
                    if at < n_rows and rows[at] == row:
                        shares[at] += share
                    else:
                        mark[row] = n_rows
                        rows[n_rows], shares[n_rows] = row, share
                        n_rows += 1
    return n_rows, volume


@njit(cache=True, nogil=True)
def _gather(target, source, values, n_squares):
    """Sum columns over the volume of new voxels, each old voxel with the share of it that lies within.

    Args:
        target: low, dimensions, cuts, Laue class and turns (see `_turns`) of the new grid.
        source: low, dimensions, operators, cuts, Laue class, ratio (3,), place (size,) of the old grid.
        values: (n, columns); the first `n_squares` are summed with the squares of shares.

    Returns:
        Voxel numbers, sums (m, columns), covered volume (m,) in old voxels.
    """
    low, dimensions, cuts, laue, turns = target
    ratio = source[5]
    n_columns = values.shape[1]
    n_found, room = 0, 1024
    found = np.empty(room, np.int64)
    sums = np.empty((room, n_columns))
    covered = np.empty(room)
    most = len(turns)
    for axis in range(3):
        most *= int(np.ceil(ratio[axis])) + 2
    rows = np.zeros(most, np.int64)
    shares = np.empty(most)
    mark = np.zeros(len(values), np.int32)
    c = cuts[0]
    for number in range(dimensions[0] * dimensions[1] * dimensions[2]):
        i, rest = divmod(number, dimensions[1] * dimensions[2])
        j, k = divmod(rest, dimensions[2])
        i, j, k = i + low[0], j + low[1], k + low[2]
        if not inside_unit(
            laue,
            c[0, 0] * i + c[0, 1] * j + c[0, 2] * k,
            c[1, 0] * i + c[1, 1] * j + c[1, 2] * k,
            c[2, 0] * i + c[2, 1] * j + c[2, 2] * k,
        ):
            continue
        n_rows, volume = _shares(i, j, k, turns, source, mark, rows, shares)
        if n_rows == 0:
            continue
        if n_found == room:
            room *= 2
            more, more_sums, more_covered = np.empty(room, np.int64), np.empty((room, n_columns)), np.empty(room)
            more[:n_found], more_sums[:n_found], more_covered[:n_found] = found, sums, covered
            found, sums, covered = more, more_sums, more_covered
        found[n_found] = number
        covered[n_found] = volume
        for column in range(n_columns):
            total = 0.0
            for n in range(n_rows):
                share = shares[n] * shares[n] if column < n_squares else shares[n]
                total += share * values[rows[n], column]
            sums[n_found, column] = total
        n_found += 1
    return found[:n_found], sums[:n_found], covered[:n_found]


def _turns(operators: np.ndarray) -> np.ndarray:
    """Return the operators (n, 3, 3) that make a box of another shape of a voxel's box: the first alone for most.

    Where an operator adds indices, as the three-fold axis of the hexagonal setting does, the mates of a voxel are not
    its box turned; what images put into them, and is folded together, lies in different shapes.
    """
    if (np.abs(operators).sum(axis=2) == 1).all():
        return operators[:1]
    # The inverse of a box is the same box.
    kept: list[np.ndarray] = []
    for operator in operators:
        if not any((operator == -other).all() for other in kept):
            kept.append(operator)
    return np.ascontiguousarray(np.stack(kept))


@dataclass(frozen=True, eq=False)
class _Gathered:
    """Sums over new voxels.

    Attributes:
        voxel: (m,) numbers on the new grid.
        squares: by name, (m,) summed with the squares of shares.
        sums: by name, (m,).
        orbit: (m,) how many voxels of reciprocal space each stands for.
    """

    voxel: np.ndarray
    squares: dict[str, np.ndarray]
    sums: dict[str, np.ndarray]
    orbit: np.ndarray


def _gathered(
    grid: VoxelGrid,
    voxel: np.ndarray,
    new: VoxelGrid,
    squares: dict[str, np.ndarray],
    sums: dict[str, np.ndarray],
    coverage: float,
) -> _Gathered:
    operators, cuts, laue = voxel_operators(new.symmetry, new.divisions)
    old_operators, old_cuts, old_laue = voxel_operators(grid.symmetry, grid.divisions)
    place = np.full(grid.size, -1, np.int32)
    place[voxel] = np.arange(len(voxel), dtype=np.int32)
    ratio = np.array(grid.divisions, float) / np.array(new.divisions)
    target = (np.array(new.index_min), np.array(new.dimensions), cuts, laue, _turns(operators))
    source = (np.array(grid.index_min), np.array(grid.dimensions), old_operators, old_cuts, old_laue, ratio, place)
    columns = np.ascontiguousarray(np.stack([*squares.values(), *sums.values()], axis=1), dtype=float)
    found, totals, covered = _gather(target, source, columns, len(squares))
    q = np.linalg.norm(new.q_of(found), axis=1)
    use = (covered >= coverage * np.prod(ratio) - 1e-9) & (q <= (1 + 1e-9) / new.d_min) & (q >= (1 - 1e-9) / new.d_max)
    if not use.any():
        raise DataError(f"no voxel of the new map is covered to {coverage:.0%} by observed ones; lower coverage")
    totals = totals[use].T
    names = [*squares, *sums]
    by_name = dict(zip(names, totals, strict=True))
    orbit = orbit_sizes(new.index_of(found[use]), new.symmetry, new.divisions).astype(float)
    return _Gathered(
        found[use], {name: by_name[name] for name in squares}, {name: by_name[name] for name in sums}, orbit
    )


def rebinned(one: VoxelMap, how: Rebinning) -> VoxelMap:
    """Return a map on coarser voxels.

    Where the map says how many pixels each voxel has, means are weighted by them and so are those of all pixels, as
    if the images were binned anew; elsewhere they are weighted by volume.

    Args:
        one: the map.
        how: divisions, and which voxels are used.

    Raises:
        ConfigError, GeometryError: divisions that can't be had.
        DataError: no voxel is left.
    """
    new = coarser_grid(one.grid, how.divisions)
    one = one.select(how.used(one.grid, one.voxel))
    return on_grid(one, new, how.coverage)


def on_grid(one: VoxelMap, new: VoxelGrid, coverage: float = 0.0) -> VoxelMap:
    """Return a map on another grid of the same symmetry whose divisions are the same or coarser.

    Args:
        one: the map.
        new: the grid.
        coverage: least part of a new voxel's volume that observed old voxels must cover.

    Raises:
        DataError: no voxel is left.
    """
    if tuple(new.divisions) == tuple(one.grid.divisions):
        return _renumbered(one, new)
    orbit = orbit_sizes(one.grid.index_of(one.voxel), one.grid.symmetry, one.grid.divisions).astype(float)
    amount = np.ones(len(one)) if one.pixels is None else np.maximum(one.pixels, 0) / orbit
    squares = {} if one.sigma is None else {"variance": (amount * one.sigma) ** 2}
    sums = {"amount": amount, "intensity": amount * one.intensity}
    for name in ("pixels", "multiplicity", "photons"):
        values = getattr(one, name)
        if values is not None:
            sums[name] = np.nan_to_num(values) / orbit
    for number, half in enumerate([] if one.halves is None else one.halves):
        seen = np.isfinite(half)
        sums[f"amount_{number}"] = amount * seen
        sums[f"half_{number}"] = amount * np.where(seen, half, 0.0)
    found = _gathered(one.grid, one.voxel, new, squares, sums, coverage)
    total = found.sums["amount"]
    known = total > 0
    if not known.any():
        raise DataError(f"{one.name or 'the map'} has no pixel in any voxel")
    halves = None
    if one.halves is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            halves = np.stack([found.sums[f"half_{n}"] / found.sums[f"amount_{n}"] for n in range(2)])[:, known]

    def extensive(name: str, kind: type) -> np.ndarray | None:
        if getattr(one, name) is None:
            return None
        values = (found.sums[name] * found.orbit)[known]
        # Shares are fractions; a voxel that was seen has one of each.
        return np.maximum(np.rint(values), 1).astype(np.int64) if kind is int else values

    return VoxelMap(
        grid=new,
        voxel=found.voxel[known],
        intensity=(found.sums["intensity"][known] / total[known]),
        sigma=None if one.sigma is None else np.sqrt(found.squares["variance"][known]) / total[known],
        halves=halves,
        pixels=extensive("pixels", int),
        multiplicity=extensive("multiplicity", int),
        photons=extensive("photons", float),
        units=one.units,
        name=one.name,
    )


def _renumbered(one: VoxelMap, new: VoxelGrid) -> VoxelMap:
    """Return a map on a grid of the same divisions, without the voxels that it does not hold."""
    voxel = one.voxel
    if new.numbering != one.grid.numbering:
        place = one.grid.index_of(voxel) - np.array(new.index_min)
        inside = ((place >= 0) & (place < np.array(new.dimensions))).all(axis=1)
        one = one.select(inside)
        voxel = np.ravel_multi_index(tuple(place[inside].T), new.dimensions)
    if new.d_min > one.grid.d_min or new.d_max < one.grid.d_max:
        q = np.linalg.norm(new.q_of(voxel), axis=1)
        inside = (q <= (1 + 1e-9) / new.d_min) & (q >= (1 - 1e-9) / new.d_max)
        one, voxel = one.select(inside), voxel[inside]
    if len(voxel) == 0:
        raise DataError(
            f"{one.name or 'the map'} has no voxel between d = {new.d_max:.4g} and {new.d_min:.4g} angstrom"
        )
    return replace(one, grid=new, voxel=voxel)


def rebinned_sums(sums: VoxelSums, scales: Scales, how: Rebinning) -> MergedMap:
    """Return the map of coarser voxels that sums give, merged as `poisson_merge` does.

    Where old voxels lie wholly within new ones it is the map that the images would give, binned anew without the
    voxels that are left out. In hexagonal settings mates of a voxel may lie within different new ones, which share it.

    Args:
        sums: of all images.
        scales: the scaling model.
        how: divisions, and which voxels are used.

    Raises:
        ConfigError, GeometryError: divisions that can't be had.
        DataError: no voxel is left.
    """
    new = coarser_grid(sums.grid, how.divisions)
    voxel, totals = seen_sums(sums, scales)
    used = how.used(sums.grid, voxel)
    voxel = voxel[used]
    orbit = orbit_sizes(sums.grid.index_of(voxel), sums.grid.symmetry, sums.grid.divisions).astype(float)
    per_voxel = {name: values[used] / orbit for name, values in totals.items()}
    squares = {f"{name}_share": per_voxel[name] / orbit for name in ("exposure", "bragg_exposure")}
    squares["exposure_squares"] = per_voxel.pop("exposure_squares") / orbit
    found = _gathered(sums.grid, voxel, new, squares, per_voxel, how.coverage)
    coarse = {name: values * found.orbit for name, values in found.sums.items()}
    coarse["multiplicity"] = np.where(coarse["exposure"] > 0, np.maximum(np.rint(coarse["multiplicity"]), 1), 0)
    coarse["exposure_squares"] = found.squares["exposure_squares"] * found.orbit**2
    # What voxels that straddle give to two of them counts in each with the square of its share.
    share = {
        name: np.divide(
            found.squares[f"{name}_share"] * found.orbit**2,
            coarse[name],
            out=np.ones(len(found.voxel)),
            where=coarse[name] > 0,
        )
        for name in ("exposure", "bragg_exposure")
    }
    return merge_totals(new, found.voxel, coarse, scales.error_model, share["exposure"], share["bragg_exposure"])
