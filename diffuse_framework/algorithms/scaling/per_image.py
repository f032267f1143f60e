"""One scale per image by Poisson maximum likelihood."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_framework.algorithms.scaling.observations import Observations, gather
from diffuse_framework.errors import DataError
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import VoxelSums

__all__ = ["fit_image_scales", "shared_voxels"]


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


def fit_image_scales(sums: VoxelSums, tolerance: float, max_cycles: int, memory_mib: float = 320.0) -> ImageScales:
    """Fit one multiplicative scale per image; the mean of all is 1.

    Maximises the Poisson likelihood of n ~ exposure x b_image x I_voxel + background,
    alternately in the intensities, I = sum n / sum(e b), and in the scales,
    b = sum n / sum(e I), over voxels that two images or more share. Where the alternation is
    slow, a step along the last change of log b is tried and kept if the likelihood agrees
    (over-relaxation). Their uncertainty comes from the Fisher information with the intensities
    eliminated.

    Args:
        sums: of all images.
        tolerance: largest relative change of any scale at convergence.
        max_cycles: cycles after which the best scales so far are returned, not converged.
        memory_mib: of `gather`.

    Raises:
        DataError: an image without photons above its background, or images that share nothing.
    """
    n_images = len(sums.image_names)
    if n_images == 1:
        statistics = {"cycles": 0, "converged": True, "largest_change": 0.0, "shared_voxels": 0}
        return ImageScales(np.ones(1), np.zeros(1), statistics)
    observations, _ = gather(sums, memory_mib, places=False)
    refuse_unconnected(observations, np.arange(n_images), sums.image_names)
    photons, n_shared = _photons(observations, sums.image_names)
    scales = np.ones(n_images)
    change, step = np.inf, 1.0
    last_update = None
    for cycles in range(1, max_cycles + 1):  # noqa: B007
        update = np.log(photons / _expected(observations, scales) / scales)
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
        "shared_voxels": n_shared,
    }
    sigma, residuals = _uncertainty(observations, scales)
    return ImageScales(scales, sigma, statistics | residuals)


def refuse_unconnected(observations: Observations, group_of: np.ndarray, names: tuple[str, ...]) -> None:
    """Refuse groups of images that no chain of shared voxels ties to the others: their scale means nothing.

    Args:
        observations: of all images.
        group_of: (n_images,) group of each image; images of one group share a scale.
        names: of the groups.

    Raises:
        DataError: there are such groups; it names them.
    """
    tied = np.arange(len(names))
    for block in observations.blocks():
        _tie(block.first, group_of[block.rows["image"]], tied)
    roots = [_root(tied, group) for group in range(len(tied))]
    largest = max(set(roots), key=roots.count)
    alone = [name for name, r in zip(names, roots, strict=True) if r != largest]
    if alone:
        shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        raise DataError(
            f"{len(alone)} of {len(names)} images or data sets share no voxel with the rest and can't be "
            f"scaled ({shown}); use coarser voxels (grid.hkl.divisions, grid.hkl.d_min) or leave them out"
        )


@njit(cache=True)
def _root(tied, group):
    """Return the group that stands for all that are tied to `group`."""
    while tied[group] != group:
        tied[group] = tied[tied[group]]
        group = tied[group]
    return group


@njit(cache=True)
def _tie(first, group, tied):
    """Tie the groups (n_rows,) of the images that share a voxel, in `tied`: for each group another one, or itself."""
    for v in range(len(first) - 1):
        one = _root(tied, group[first[v]])
        for row in range(first[v] + 1, first[v + 1]):
            tied[_root(tied, group[row])] = one


@njit(cache=True, error_model="numpy")
def _is_shared(first, rows, v):
    """Whether two images or more see a voxel: one image may see it in two rows."""
    for row in range(first[v] + 1, first[v + 1]):
        if rows[row].image != rows[first[v]].image:
            return True
    return False


@njit(cache=True, error_model="numpy")
def _add_photons(first, rows, photons):
    n_shared = 0
    for v in range(len(first) - 1):
        if _is_shared(first, rows, v):
            n_shared += 1
            for row in range(first[v], first[v + 1]):
                photons[rows[row].image] += rows[row].counts - rows[row].background
    return n_shared


def _photons(observations: Observations, names: tuple[str, ...]) -> tuple[np.ndarray, int]:
    """Photons above background per image in shared voxels, (n_images,), and the number of these voxels."""
    photons = np.zeros(len(names))
    n_shared = sum(_add_photons(block.first, block.rows, photons) for block in observations.blocks())
    if (photons <= 0).any():
        name = names[int(np.argmin(photons))]
        raise DataError(f"{name} has no scattering above its background; leave it out, or check the background")
    return photons, n_shared


@njit(cache=True, error_model="numpy")
def _intensity(first, rows, v, scales):
    """Return the intensity of a voxel, never below 0, and its scaled exposure."""
    net = exposure = 0.0
    for row in range(first[v], first[v + 1]):
        net += rows[row].counts - rows[row].background
        exposure += rows[row].exposure * scales[rows[row].image]
    return max(net / exposure, 0.0), exposure


@njit(cache=True, error_model="numpy")
def _add_expected(first, rows, scales, expected):
    for v in range(len(first) - 1):
        if _is_shared(first, rows, v):
            intensity, _ = _intensity(first, rows, v, scales)
            for row in range(first[v], first[v + 1]):
                expected[rows[row].image] += rows[row].exposure * intensity


def _expected(observations: Observations, scales: np.ndarray) -> np.ndarray:
    """Return the photons (n_images,) that images of scale 1 would have at the intensities that `scales` give."""
    expected = np.zeros(len(scales))
    for block in observations.blocks():
        _add_expected(block.first, block.rows, scales, expected)
    return expected


@njit(cache=True, error_model="numpy")
def _add_information(first, rows, scales, information, out):
    """Add to `information` (n_images,), and to `out` chi squared, residuals, counts and rows."""
    for v in range(len(first) - 1):
        if not _is_shared(first, rows, v):
            continue
        intensity, exposure = _intensity(first, rows, v, scales)
        for row in range(first[v], first[v + 1]):
            weight = rows[row].exposure * scales[rows[row].image]
            signal = weight * intensity
            expected = signal + rows[row].background
            residual = rows[row].counts - expected
            out[1] += abs(residual)
            out[2] += rows[row].counts
            if expected > 0:
                share = weight / exposure
                variance = expected + rows[row].background_variance
                information[rows[row].image] += signal * signal / variance * (1 - share)
                out[0] += residual * residual / (expected * max(1 - share, 1e-9) + rows[row].background_variance)
                out[3] += 1


def _uncertainty(observations: Observations, scales: np.ndarray) -> tuple[np.ndarray, dict]:
    """Standard uncertainty of each scale, and how well the model fits the rows."""
    information, out = np.zeros(len(scales)), np.zeros(4)
    for block in observations.blocks():
        _add_information(block.first, block.rows, scales, information, out)
    chi_squared, residuals, counts, n_rows = out
    return scales / np.sqrt(np.maximum(information, 1e-300)), {
        "chi_squared_per_observation": chi_squared / max(n_rows, 1),
        "r_factor": residuals / counts if counts else 0.0,
        "observations": int(n_rows),
    }
