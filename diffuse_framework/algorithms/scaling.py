"""One scale per image by Poisson maximum likelihood, streaming over the sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numba import njit

from diffuse_framework.algorithms.binning import add_by, sum_by
from diffuse_framework.errors import DataError
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import VoxelSums

# Rows that are kept in memory, at 28 bytes each.
_MOST_KEPT = 10_000_000


def shared_voxels(sums: VoxelSums) -> np.ndarray:
    """Return which voxels (size of the grid,) have exposure from two images or more."""
    first = np.full(sums.grid.size, -1, np.int32)
    shared = np.zeros(sums.grid.size, bool)
    for table in sums.tables():
        seen = table.exposure > 0
        voxel, image = table.voxel[seen], table.image[seen]
        new = first[voxel] < 0
        first[voxel[new]] = image[new]
        shared[voxel[first[voxel] != image]] = True
    return shared


def fit_image_scales(sums: VoxelSums, tolerance: float, max_cycles: int) -> ImageScales:
    """Fit one multiplicative scale per image; the mean of all is 1.

    Maximises the Poisson likelihood of n ~ exposure x b_image x I_voxel + background,
    alternately in the intensities, I = sum n / sum(e b), and in the scales,
    b = sum n / sum(e I), over voxels that two images or more share. Where the alternation is
    slow, a step along the last change of log b is tried and kept if the likelihood agrees
    (over-relaxation). Their uncertainty comes from the Fisher information with the intensities
    eliminated.

    Args:
        sums: read twice per cycle where they are many.
        tolerance: largest relative change of any scale at convergence.
        max_cycles: cycles after which the best scales so far are returned, not converged.

    Raises:
        DataError: an image without photons above its background, or images that share nothing.
    """
    n_images = len(sums.image_names)
    if n_images == 1:
        statistics = {"cycles": 0, "converged": True, "largest_change": 0.0, "shared_voxels": 0}
        return ImageScales(np.ones(1), np.zeros(1), statistics)
    shared = shared_voxels(sums)
    refuse_islands(sums, shared, np.arange(n_images), sums.image_names)
    rows = _SharedRows.of(sums, shared)
    photons, image_photons = _photons(rows)
    scales = np.ones(n_images)
    change, step = np.inf, 1.0
    last_update = None
    for cycles in range(1, max_cycles + 1):  # noqa: B007
        update = np.log(_updated(rows, photons, image_photons, scales) / scales)
        update -= update.mean()
        change = float(np.abs(update).max())
        if change < tolerance:
            break
        # Errors of the alternation shrink by a constant ratio per cycle in their slowest direction;
        # the ratio of successive changes estimates it, and 1/(1-ratio) steps to where it would end.
        if last_update is not None:
            ratio = float(update @ last_update) / float(last_update @ last_update)
            step = 1 / (1 - np.clip(ratio, 0.0, 0.9)) if step == 1.0 else 1.0
        last_update = update if step == 1.0 else None
        scales = scales * np.exp(step * update)
        scales /= scales.mean()
    statistics = {
        "cycles": cycles,
        "converged": bool(change < tolerance),
        "largest_change": change,
        "shared_voxels": int(np.count_nonzero(shared)),
    }
    sigma, residuals = _uncertainty(rows, photons, scales)
    return ImageScales(scales, sigma, statistics | residuals)


@dataclass(frozen=True, eq=False)
class _Rows:
    """What the fit needs of rows in shared voxels; (n,) each, as `SumsTable` has them."""

    image: np.ndarray
    voxel: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    background_variance: np.ndarray
    exposure: np.ndarray


@dataclass(frozen=True, eq=False)
class _SharedRows:
    """Rows in voxels that two images or more share, to be read again and again.

    Few rows are kept, many are read from the sums each time.
    """

    sums: VoxelSums
    shared: np.ndarray
    kept: tuple[_Rows, ...] | None

    @classmethod
    def of(cls, sums: VoxelSums, shared: np.ndarray) -> _SharedRows:
        kept, n_rows = [], 0
        for rows in cls(sums, shared, None):
            n_rows += len(rows.image)
            if n_rows > _MOST_KEPT:
                return cls(sums, shared, None)
            kept.append(rows)
        return cls(sums, shared, tuple(kept))

    def __iter__(self) -> Iterator[_Rows]:
        if self.kept is not None:
            yield from self.kept
            return
        for table in self.sums.tables():
            chosen = self.shared[table.voxel] & (table.exposure > 0)
            yield _Rows(*(getattr(table, field.name)[chosen] for field in fields(_Rows)))


def refuse_islands(sums: VoxelSums, shared: np.ndarray, group_of: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse groups of images that no chain of shared voxels ties to the others: their scale means nothing.

    Args:
        sums: read once.
        shared: (size of the grid,) voxels that two images or more see.
        group_of: (n_images,) group of each image; images of one group share a scale.
        names: of the groups.

    Raises:
        DataError: there are such groups; it names them.
    """
    tied = np.arange(len(names))
    owner = np.full(sums.grid.size, -1, np.int32)
    for table in sums.tables():
        chosen = shared[table.voxel] & (table.exposure > 0)
        of_row, voxel = group_of[table.image[chosen]], table.voxel[chosen]
        for group in np.flatnonzero(np.bincount(of_row)):
            voxels = voxel[of_row == group]
            # Counting is much faster than sorting; -1 is a voxel without owner.
            for other in np.flatnonzero(np.bincount(owner[voxels] + 1)) - 1:
                if other >= 0:
                    tied[_root(tied, group)] = _root(tied, other)
            owner[voxels] = group
    refuse_untied(tied, names)


@njit(cache=True)
def _root(tied, group):
    """Return the group that stands for all that are tied to `group`."""
    while tied[group] != group:
        tied[group] = tied[tied[group]]
        group = tied[group]
    return group


@njit(cache=True)
def tie_groups(first, group, tied):
    """Tie the groups of images that share a voxel.

    Args:
        first: (n_voxels + 1,) where the rows of each voxel begin, and their end.
        group: (n_rows,) the group of each row's image.
        tied: (n_groups,) for each group another one tied to it, itself at first; changed in place.
    """
    for v in range(len(first) - 1):
        one = _root(tied, group[first[v]])
        for row in range(first[v] + 1, first[v + 1]):
            tied[_root(tied, group[row])] = one


def refuse_untied(tied: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse groups that are not tied to most of the others.

    Args:
        tied: (n_groups,) of `tie_groups`.
        names: of the groups.

    Raises:
        DataError: there are such groups; it names them.
    """
    roots = [_root(tied, group) for group in range(len(tied))]
    largest = max(set(roots), key=roots.count)
    alone = [name for name, r in zip(names, roots, strict=True) if r != largest]
    if alone:
        shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        raise DataError(
            f"{len(alone)} of {len(names)} images or data sets share no voxel with the rest and can't be "
            f"scaled ({shown}); use coarser voxels (grid.hkl.divisions, grid.hkl.d_min) or leave them out"
        )


def _photons(shared: _SharedRows) -> tuple[np.ndarray, np.ndarray]:
    """Photons above background per voxel and per image, in shared voxels."""
    names = shared.sums.image_names
    per_voxel = np.zeros(shared.sums.grid.size)
    per_image = np.zeros(len(names))
    for rows in shared:
        net = rows.counts.astype(float) - rows.background
        add_by(rows.voxel, net, per_voxel)
        per_image += sum_by(rows.image, net, len(per_image))
    if (per_image <= 0).any():
        name = names[int(np.argmin(per_image))]
        raise DataError(f"{name} has no scattering above its background; leave it out, or check the background")
    return per_voxel, per_image


def _intensities(shared: _SharedRows, photons: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intensity and scaled exposure per voxel."""
    exposure = np.zeros(shared.sums.grid.size)
    for rows in shared:
        add_by(rows.voxel, rows.exposure * scales[rows.image], exposure)
    intensity = np.divide(photons, exposure, out=np.zeros_like(exposure), where=exposure > 0)
    return np.maximum(intensity, 0), exposure


def _updated(shared: _SharedRows, photons: np.ndarray, image_photons: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Scales that maximise the likelihood at the intensities that the old ones give."""
    intensity, _ = _intensities(shared, photons, scales)
    expected = np.zeros(len(scales))
    for rows in shared:
        expected += sum_by(rows.image, rows.exposure * intensity[rows.voxel], len(expected))
    return image_photons / expected


def _uncertainty(shared: _SharedRows, photons: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, dict]:
    """Standard uncertainty of each scale, and how well the model fits the rows."""
    intensity, exposure = _intensities(shared, photons, scales)
    information = np.zeros(len(scales))
    chi2, absolute, total, n_rows = 0.0, 0.0, 0.0, 0
    for rows in shared:
        weight = rows.exposure * scales[rows.image]
        signal = weight * intensity[rows.voxel]
        expected = signal + rows.background
        share = weight / exposure[rows.voxel]
        gain = np.divide(signal**2, expected, out=np.zeros_like(signal), where=expected > 0) * (1 - share)
        information += sum_by(rows.image, gain, len(information))
        residual = rows.counts - expected
        known = expected > 0
        variance = expected * np.maximum(1 - share, 1e-9) + rows.background_variance
        chi2 += float(np.sum(residual[known] ** 2 / variance[known]))
        absolute += float(np.sum(np.abs(residual)))
        total += float(np.sum(rows.counts))
        n_rows += int(np.count_nonzero(known))
    sigma = scales / np.sqrt(np.maximum(information, 1e-300))
    return sigma, {
        "chi_squared_per_observation": chi2 / max(n_rows, 1),
        "r_factor": absolute / total if total else 0.0,
        "observations": n_rows,
    }
