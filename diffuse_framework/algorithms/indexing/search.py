"""Orientations of a known cell that may explain spots: directions of its shortest axis first, then turns about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.algorithms.indexing.known_cell import KnownCell

__all__ = ["SearchLimits", "half_sphere", "orientations"]

# Distance from an integer beyond which a spot says nothing of how wrong a direction is.
_TRUNCATION = 0.25
# Largest change of an index from one direction, turn or length that is tried to the next.
_INDEX_STEP = 0.35


@dataclass(frozen=True)
class SearchLimits:
    """How much is tried.

    Attributes:
        n_spots: spots of lowest resolution that are looked at.
        max_directions: of the shortest axis, on half a sphere.
        max_turns: of the cell about it.
        n_directions, n_orientations: that are gone on with.
        cell_tolerance: largest relative error of the cell's axes.
    """

    n_spots: int = 200
    max_directions: int = 40000
    max_turns: int = 1440
    n_directions: int = 30
    n_orientations: int = 40
    cell_tolerance: float = 0.03


def half_sphere(spacing: float) -> np.ndarray:
    """Return unit vectors (n, 3) that lie `spacing` radians apart on half a sphere, on a spiral from its pole."""
    n = max(int(np.ceil(2 * np.pi / spacing**2)), 8)
    z = (np.arange(n) + 0.5) / n
    azimuth = np.pi * (1 + 5**0.5) * np.arange(n)
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(azimuth), r * np.sin(azimuth), z], -1)


@njit(cache=True, nogil=True, fastmath=True)
def _score_directions(q, vectors, factors, truncation, scores, best):
    """For each vector, the least sum over factors of squared, truncated distances of ``factor q . v`` from integers."""
    n = q.shape[1]
    phases = np.empty(n, np.float32)
    limit = np.float32(truncation * truncation)
    for m in range(len(vectors)):
        x, y, z = vectors[m, 0], vectors[m, 1], vectors[m, 2]
        for i in range(n):
            phases[i] = q[0, i] * x + q[1, i] * y + q[2, i] * z
        least, which = np.float32(np.inf), 0
        for f in range(len(factors)):
            factor = factors[f]
            total = np.float32(0.0)
            for i in range(n):
                p = phases[i] * factor
                d = p - np.floor(p + np.float32(0.5))
                total += min(d * d, limit)
            if total < least:
                least, which = total, f
        scores[m], best[m] = least, which


@njit(cache=True, nogil=True)
def _fit_vector(q, vector, tolerances, out):
    """Refine a direct lattice vector by linear least squares on the spots near its layers; return their number."""
    x, y, z = vector
    count = 0
    for t in range(len(tolerances)):
        normal, right = np.zeros((3, 3)), np.zeros(3)
        count = 0
        for i in range(q.shape[1]):
            p = q[0, i] * x + q[1, i] * y + q[2, i] * z
            h = np.floor(p + 0.5)
            if abs(p - h) > tolerances[t]:
                continue
            count += 1
            for a in range(3):
                right[a] += q[a, i] * h
                for b in range(3):
                    normal[a, b] += q[a, i] * q[b, i]
        if count < 5:
            break
        for a in range(3):
            # So that spots in a plane do not let it go astray.
            ridge = 1e-3 * (normal[0, 0] + normal[1, 1] + normal[2, 2])
            right[a] += ridge * (x if a == 0 else y if a == 1 else z)
            normal[a, a] += ridge
        solution = np.linalg.solve(normal, right)
        x, y, z = solution[0], solution[1], solution[2]
    out[0], out[1], out[2] = x, y, z
    return count


def _factors(longest_index: float, tolerance: float) -> np.ndarray:
    """Return factors of a length, near enough to each other that the largest index changes by little."""
    half = int(np.ceil(tolerance * longest_index / _INDEX_STEP))
    return (1 + tolerance * np.arange(-half, half + 1) / max(half, 1)).astype(np.float32)


def _best_apart(scores: np.ndarray, vectors: np.ndarray, n: int, angle: float) -> np.ndarray:
    """Return the numbers of the `n` lowest scores whose vectors, or their opposites, are not neighbours."""
    chosen: list[int] = []
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = np.cos(angle)
    for number in np.argpartition(scores, min(10 * n, len(scores) - 1))[: 10 * n][::1]:
        chosen.append(int(number))
    chosen.sort(key=lambda number: scores[number])
    kept: list[int] = []
    for number in chosen:
        if not kept or np.abs(units[kept] @ units[number]).max() < cosine:
            kept.append(number)
        if len(kept) == n:
            break
    return np.array(kept, int)


def orientations(q: np.ndarray, known: KnownCell, limits: SearchLimits = SearchLimits()) -> np.ndarray:
    """Return setting matrices (m, 3, 3) of the conventional cell that may explain spots, the likeliest first.

    Args:
        q: (n, 3) scattering vectors of spots, 1/angstrom.
        known: the cell.
        limits: how much is tried.
    """
    lengths = np.linalg.norm(q, axis=1)
    order = np.argsort(lengths, kind="stable")[: limits.n_spots]
    near, q_max = q[order], lengths[order[-1]]
    planes = np.ascontiguousarray(near.T, np.float32)
    axis, second, third = known.primitive.T
    length = np.linalg.norm(axis)
    spacing = max(2 * _INDEX_STEP / (q_max * length), np.sqrt(2 * np.pi / limits.max_directions))
    units = half_sphere(spacing)
    factors = _factors(q_max * length, limits.cell_tolerance)
    scores, best = np.empty(len(units), np.float32), np.empty(len(units), np.int64)
    vectors = np.ascontiguousarray(units * length, np.float32)
    _score_directions(planes, vectors, factors, _TRUNCATION, scores, best)
    rows = _best_apart(scores, units, limits.n_directions, 1.5 * spacing)
    found = []
    doubles = np.ascontiguousarray(near.T)
    for row in rows:
        vector = np.empty(3)
        _fit_vector(doubles, units[row] * length * factors[best[row]], np.array([0.3, 0.25, 0.2, 0.15]), vector)
        if abs(np.linalg.norm(vector) / length - 1) <= 1.5 * limits.cell_tolerance:
            found += [vector, -vector]
    if not found:
        return np.zeros((0, 3, 3))
    return _turned_cells(planes, q_max, np.array(found), known, limits)


def _turned_cells(
    planes: np.ndarray, q_max: float, axes: np.ndarray, known: KnownCell, limits: SearchLimits
) -> np.ndarray:
    """Turn the cell about each of the found axes, and return the setting matrices that explain most."""
    primitive = known.primitive
    reach = max(np.linalg.norm(primitive[:, 1]), np.linalg.norm(primitive[:, 2]))
    n_turns = int(np.clip(np.ceil(2 * np.pi * q_max * reach / _INDEX_STEP / 2), 180, limits.max_turns))
    turns = 2 * np.pi * np.arange(n_turns) / n_turns
    cell_scores, settings = [], []
    for axis in axes:
        rotation = _to_direction(primitive[:, 0], axis)
        unit = axis / np.linalg.norm(axis)
        phases = planes.T @ axis.astype(np.float32)
        here = np.abs(phases - np.rint(phases)) < _TRUNCATION
        if here.sum() < 5:
            continue
        on_layers = np.ascontiguousarray(planes[:, here])
        total = np.zeros(n_turns, np.float32)
        chosen = []
        for column in (1, 2):
            vector = rotation @ primitive[:, column]
            length = float(np.linalg.norm(vector))
            turned = _about(unit, vector, turns)
            factors = _factors(q_max * length, limits.cell_tolerance)
            scores, best = np.empty(n_turns, np.float32), np.empty(n_turns, np.int64)
            _score_directions(on_layers, turned.astype(np.float32), factors, _TRUNCATION, scores, best)
            total += scores
            chosen.append(turned * factors[best][:, None])
        # A spot off the layers counts as one that is far from integers in both other indices.
        total += 2 * _TRUNCATION**2 * float((~here).sum())
        for turn in np.argsort(total, kind="stable")[:6]:
            cell_scores.append(total[turn])
            direct = np.stack([axis, chosen[0][turn], chosen[1][turn]], -1)
            settings.append(direct)
    if not settings:
        return np.zeros((0, 3, 3))
    best_first = np.argsort(cell_scores, kind="stable")[: limits.n_orientations]
    # q . direct = primitive indices; the conventional A has A^T D = 1 for its own direct vectors D.
    to_conventional = np.linalg.inv(primitive) @ np.linalg.inv(known.basis).T
    direct = np.array(settings)[best_first] @ to_conventional
    return np.linalg.inv(direct).transpose(0, 2, 1)


def _to_direction(vector: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return a rotation (3, 3) that takes a vector to a direction."""
    one, other = vector / np.linalg.norm(vector), direction / np.linalg.norm(direction)
    perpendicular = np.cross(one, np.eye(3)[np.argmin(np.abs(one))])
    first = np.stack([one, perpendicular / np.linalg.norm(perpendicular)])
    frame = np.stack([*first, np.cross(*first)], -1)
    perpendicular = np.cross(other, np.eye(3)[np.argmin(np.abs(other))])
    second = np.stack([other, perpendicular / np.linalg.norm(perpendicular)])
    return np.stack([*second, np.cross(*second)], -1) @ frame.T


def _about(unit: np.ndarray, vector: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Return a vector turned by angles about a unit vector, (n, 3) (Rodrigues)."""
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return vector * cosine + np.cross(unit, vector) * sine + unit * (unit @ vector) * (1 - cosine)
