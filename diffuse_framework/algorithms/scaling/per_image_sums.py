"""What one scale per image is fitted by: sums over the voxels that images share."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_framework.algorithms.scaling.observations import Block, Observations
from diffuse_framework.algorithms.scaling.voxel_totals import share_of
from diffuse_framework.errors import DataError


def accepted_rows(block: Block) -> np.ndarray:
    """Return the rows of a block with nothing in those that aren't accepted."""
    if block.accepted.all():
        return block.rows
    rows = block.rows.copy()
    for name in ("counts", "background", "background_variance", "exposure"):
        rows[name][~block.accepted] = 0
    return rows


@njit(cache=True, error_model="numpy")
def _is_shared(first, rows, v):
    """Whether two images or more observe a voxel: one image may have two rows of it, and rejected rows say nothing."""
    image = -1
    for row in range(first[v], first[v + 1]):
        if rows[row].exposure > 0:
            if image >= 0 and rows[row].image != image:
                return True
            image = rows[row].image
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


def photons_above_background(observations: Observations, names: tuple[str, ...]) -> tuple[np.ndarray, int]:
    """Photons above background per image in shared voxels, (n_images,), and the number of these voxels."""
    photons = np.zeros(len(names))
    n_shared = sum(_add_photons(block.first, accepted_rows(block), photons) for block in observations.blocks())
    if (photons <= 0).any():
        name = names[int(np.argmin(photons))]
        raise DataError(f"{name} has no scattering above its background; leave it out, or check the background")
    return photons, n_shared


@njit(cache=True, error_model="numpy")
def _intensity(first, rows, v, scales, signed):
    """Return the intensity of a voxel, below 0 only where counts are `signed`, and its scaled exposure."""
    net = exposure = 0.0
    for row in range(first[v], first[v + 1]):
        net += rows[row].counts - rows[row].background
        exposure += rows[row].exposure * scales[rows[row].image]
    return net / exposure if signed else max(net / exposure, 0.0), exposure


@njit(cache=True, error_model="numpy")
def _add_expected(first, rows, scales, signed, expected):
    likelihood = 0.0
    for v in range(len(first) - 1):
        if _is_shared(first, rows, v):
            intensity, _ = _intensity(first, rows, v, scales, signed)
            for row in range(first[v], first[v + 1]):
                image = rows[row].image
                expected[image] += rows[row].exposure * intensity
                mean = rows[row].exposure * scales[image] * intensity + rows[row].background
                if mean > 0:
                    likelihood += rows[row].counts * np.log(mean) - mean
    return likelihood


def expected_photons(observations: Observations, scales: np.ndarray, signed: bool = False) -> tuple[np.ndarray, float]:
    """Return the photons (n_images,) that images of scale 1 would have at the intensities that `scales` give.

    And the logarithm of the likelihood of these scales and intensities, but for a constant.
    """
    expected, likelihood = np.zeros(len(scales)), 0.0
    for block in observations.blocks():
        likelihood += _add_expected(block.first, accepted_rows(block), scales, signed, expected)
    return expected, likelihood


@njit(cache=True, error_model="numpy")
def _add_to_matrix(first, rows, scales, signed, matrix, score):
    n_images = len(scales)
    here, number = np.empty(n_images, np.int64), np.full(n_images, -1, np.int64)
    weight = np.zeros(n_images)
    for v in range(len(first) - 1):
        if not _is_shared(first, rows, v):
            continue
        intensity, _ = _intensity(first, rows, v, scales, signed)
        n, total, pull = 0, 0.0, 0.0
        for row in range(first[v], first[v + 1]):
            image = rows[row].image
            signal = rows[row].exposure * scales[image] * intensity
            mean = signal + rows[row].background
            if signed:
                # By the intensity and not its square, so that noise makes it neither larger nor smaller.
                information, slope = signal, rows[row].counts - mean
            elif mean > 0:
                information, slope = signal * signal / mean, (rows[row].counts / mean - 1) * signal
            else:
                continue
            if number[image] < 0:
                number[image], here[n], weight[n] = n, image, 0.0
                n += 1
            weight[number[image]] += information
            total += information
            score[image] += slope
            pull += slope
        for i in range(n):
            number[here[i]] = -1
        if total == 0:
            continue
        for i in range(n):
            a = here[i]
            matrix[a, a] += weight[i]
            score[a] -= weight[i] * pull / total
            for j in range(n):
                matrix[a, here[j]] -= weight[i] * weight[j] / total


def information_matrix(observations: Observations, scales: np.ndarray, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the Fisher information (n_images, n_images) of log scales, intensities eliminated, and the score.

    Of `signed` counts: the derivatives of what should be zero, and that.

    A change of all scales by one factor, which the data can't tell, is pinned to none.
    """
    n_images = len(scales)
    matrix, score = np.zeros((n_images, n_images)), np.zeros(n_images)
    for block in observations.blocks():
        _add_to_matrix(block.first, accepted_rows(block), scales, signed, matrix, score)
    typical = float(np.trace(matrix)) / n_images
    return matrix + typical / n_images + 1e-9 * typical * np.eye(n_images), score


@njit(cache=True, error_model="numpy")
def _add_information(first, rows, scales, signed, information, out):
    """Add to `information` (n_images,), and to `out` chi squared, residuals, counts, rows, squares, their variance."""
    for v in range(len(first) - 1):
        if not _is_shared(first, rows, v):
            continue
        intensity, exposure = _intensity(first, rows, v, scales, signed)
        noise = 0.0
        for row in range(first[v], first[v + 1]):
            noise += rows[row].background_variance
        of_all = max(intensity, 0.0) * exposure + noise
        for row in range(first[v], first[v + 1]):
            weight = rows[row].exposure * scales[rows[row].image]
            if not weight > 0:
                continue
            signal = weight * intensity
            expected = signal + rows[row].background
            residual = rows[row].counts - expected
            out[1] += abs(residual)
            out[2] += rows[row].counts
            share = weight / exposure
            noise = rows[row].background_variance
            # Of shared pixels the counts vary less; what all of them together say of the image's scale is the same.
            counting = max(expected, 0.0)
            if not counting + noise > 0:
                continue
            if signed and noise > 0:
                # The square of an intensity is too large by the intensity's variance.
                square = weight * weight * (intensity * intensity - of_all / (exposure * exposure))
                information[rows[row].image] += square / (counting + noise) * (1 - share)
            else:
                information[rows[row].image] += signal * signal / (counting + noise) * (1 - share)
            variance = counting * share_of(rows, row) * max(1 - share, 1e-9) + noise
            out[0] += residual * residual / variance
            out[3] += 1
            out[4] += residual * residual
            out[5] += variance


def uncertainties(observations: Observations, scales: np.ndarray, signed: bool) -> tuple[np.ndarray, dict]:
    """Standard uncertainty of each scale, and how well the model fits the rows."""
    information, out = np.zeros(len(scales)), np.zeros(6)
    for block in observations.blocks():
        _add_information(block.first, accepted_rows(block), scales, signed, information, out)
    chi_squared, residuals, counts, n_rows, squares, variance = out
    sigma = scales / np.sqrt(np.maximum(information, 1e-300))
    if signed and variance > 0:
        # Of noise that nothing tells, the scatter does.
        sigma *= np.sqrt(max(squares / variance, 1.0))
    return sigma, {
        "chi_squared_per_observation": chi_squared / max(n_rows, 1),
        "r_factor": residuals / counts if counts else 0.0,
        "observations": int(n_rows),
    }
