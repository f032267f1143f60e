"""Whether voxels that the Laue group calls equivalent scatter alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.binning import add_by
from diffuse_framework.algorithms.merging import kept_rows, rows_of, scaled_columns
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums

__all__ = ["LaueCheck", "laue_check"]

# Voxels that both parts hold, and photons in each part of one, so that a difference means something.
_ENOUGH, _PHOTONS = 200, 4.0
# Voxels that are looked at.
_MOST = 100_000
# Correlation of would-be equivalents below which they are none.
_TOO_LITTLE = 0.58
# Shells of resolution, whose medians are the isotropic part, and deviations from them that are peaks.
_SHELLS, _PEAK = 20, 8.0
# Variance of the signal in each part, in standard deviations.
_SURE = 6.0


@dataclass(frozen=True)
class LaueCheck:
    """How well would-be equivalents agree.

    Attributes:
        correlation: of the anisotropic intensities of two sets of would-be equivalents, with the variance of counting
            taken out: 1 where the symmetry is right and nothing else is wrong. That of the worst pair of sets.
        of_images: the same of halves of the images.
        n_voxels: compared.
    """

    correlation: float
    of_images: float
    n_voxels: int

    @property
    def complaint(self) -> str:
        """What is off, and what to do; "" where the symmetry may be right."""
        if self.correlation > _TOO_LITTLE or self.of_images < self.correlation:
            return ""
        return (
            "Voxels that the Laue group calls equivalent hardly scatter alike: without counting noise they correlate "
            f"by {self.correlation:.2f}, halves of the images by {self.of_images:.2f} ({self.n_voxels} voxels). The "
            "symmetry may be too high, or crystals are indexed in several ways: try crystal.space_group= of a lower "
            "Laue group"
        )


def laue_check(sums: VoxelSums, scales: Scales, voxels: np.ndarray) -> LaueCheck | None:
    """Return how would-be equivalents agree, None where they were not observed apart.

    For each subgroup of half the operations, inversion included, rows that reached a voxel by one of its operations are
    compared with the others; so are those that came by identity and inversion alone.

    Args:
        sums: of all images.
        scales: of their observations.
        voxels: (n,) that were observed, ascending; some of them will do.
    """
    operators = np.asarray(sums.grid.symmetry.operators)
    if len(operators) <= 2:
        return None
    trivial = np.array([np.array_equal(abs(operator), np.eye(3)) for operator in operators])
    trivial &= np.array([abs(np.trace(operator)) == 3 for operator in operators])
    splits = [*_halves_of(operators), ~trivial]
    some = voxels[:: max(len(voxels) // _MOST, 1)]
    size = len(some)
    # The last pair of parts is of images, odd and even.
    parts = [{name: np.zeros((2, size)) for name in ("net", "variance", "exposure")} for _ in range(len(splits) + 1)]
    for table in sums.tables():
        rows, place = rows_of(kept_rows(table, scales), some)
        columns = scaled_columns(rows, scales)
        values = {
            "net": columns["counts"] - columns["background"],
            "variance": columns["counts"] + columns["background_variance"],
            "exposure": columns["exposure"],
        }
        sides = [split[rows.operator] for split in splits] + [rows.image % 2 == 1]
        for part, side in zip(parts, sides, strict=True):
            for name, column in values.items():
                for number, chosen in enumerate((~side, side)):
                    add_by(place[chosen], column[chosen], part[name][number])
    q = np.linalg.norm(sums.grid.q_of(some), axis=1)
    of_images = _correlation(q, **parts[-1])
    if of_images is None:
        return None
    told = [found for part in parts[:-1] if (found := _correlation(q, **part)) is not None]
    if not told:
        return None
    correlation, n_voxels = min(told)
    return LaueCheck(correlation, of_images[0], n_voxels)


def _correlation(
    q: np.ndarray, net: np.ndarray, variance: np.ndarray, exposure: np.ndarray
) -> tuple[float, int] | None:
    """Return the correlation of two parts (2, n) about the medians of shells, without noise, and of how many voxels."""
    both = (exposure > 0).all(axis=0)
    pooled = np.divide(net.sum(axis=0), exposure.sum(axis=0), out=np.zeros(net.shape[1]), where=both)
    # What each part should have counted, by both: its own count would make a dim part seem sure.
    expected = np.maximum(pooled, 0) * exposure + np.maximum(variance - net, 0)
    both &= (expected > _PHOTONS).all(axis=0)
    if np.count_nonzero(both) < _ENOUGH:
        return None
    intensity, noise = net[:, both] / exposure[:, both], expected[:, both] / exposure[:, both] ** 2
    edges = np.quantile(q[both], np.linspace(0, 1, _SHELLS + 1)[1:-1])
    shell = np.searchsorted(edges, q[both])
    common, signal, n_used = 0.0, np.zeros(2), 0
    for number in range(_SHELLS):
        values, variances = intensity[:, shell == number], noise[:, shell == number]
        if values.shape[1] < 2:
            continue
        values = values - np.median(values, axis=1, keepdims=True)
        reach = _PEAK * 1.4826 * np.median(np.abs(values), axis=1, keepdims=True)
        good = (np.abs(values) < reach).all(axis=0)
        if not good.any():
            continue
        # Shells weigh by their own noise, so that bright ones don't speak alone.
        weight = 1 / variances[:, good].mean()
        common += weight * float(np.prod(values[:, good], axis=0).sum())
        signal += weight * (values[:, good] ** 2 - variances[:, good]).sum(axis=1)
        n_used += int(np.count_nonzero(good))
    if n_used < _ENOUGH or (signal < _SURE * np.sqrt(2 * n_used)).any():
        return None
    return float(common / np.sqrt(signal.prod())), n_used


def _halves_of(operators: np.ndarray) -> Iterator[np.ndarray]:
    """Yield for each subgroup of index 2 that holds the inversion which operators (n,) are outside it."""
    n = len(operators)
    number = {operator.tobytes(): k for k, operator in enumerate(np.ascontiguousarray(operators, np.int64))}
    table = np.array([[number[np.ascontiguousarray(a @ b, np.int64).tobytes()] for b in operators] for a in operators])
    identity, inverse = (number[np.ascontiguousarray(s * np.eye(3, dtype=np.int64)).tobytes()] for s in (1, -1))
    seen: set[bytes] = set()
    # A subgroup of index 2 is the kernel of a sign for each generator; all groups here have at most four generators.
    generators = _generators(table, identity)
    for bits in range(1, 1 << len(generators)):
        sign = np.full(n, -1)
        sign[identity] = 0
        queue = [identity]
        while queue:
            k = queue.pop()
            for place, generator in enumerate(generators):
                product, odd = int(table[k, generator]), sign[k] ^ (bits >> place & 1)
                if sign[product] < 0:
                    sign[product] = odd
                    queue.append(product)
        consistent = (sign[table] == (sign[:, None] ^ sign[None])).all()
        if consistent and sign[inverse] == 0 and sign.any() and sign.tobytes() not in seen:
            seen.add(sign.tobytes())
            yield sign.astype(bool)


def _generators(table: np.ndarray, identity: int) -> list[int]:
    """Return operators that generate the group of a multiplication table."""
    found: list[int] = []
    reached = {identity}
    for k in range(len(table)):
        if k not in reached:
            found.append(k)
            grown = True
            while grown:
                more = {int(table[a, b]) for a in reached | set(found) for b in found} | reached | set(found)
                grown = len(more) > len(reached)
                reached = more
    return found
