"""One scale per image by Poisson maximum likelihood."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from diffuse_framework.algorithms.scaling.error_model import ERROR_ROWS, NormalisedDeviations, fit_error_model
from diffuse_framework.algorithms.scaling.observations import Block, Observations, gather
from diffuse_framework.algorithms.scaling.outliers import find_outliers, outlier_report, outliers_by_shell
from diffuse_framework.algorithms.scaling.overlap import refuse_unconnected
from diffuse_framework.errors import DataError
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import VoxelSums

__all__ = ["fit_image_scales"]

MOST_IN_MATRIX = 1500
"""Images up to which the information matrix is made."""

# Cycles of alternation before Newton's first step, and halvings of a step that lowers the likelihood.
_FIRST_CYCLES, _MOST_HALVINGS = 3, 6


def fit_image_scales(
    sums: VoxelSums,
    tolerance: float,
    max_cycles: int,
    memory_mib: float = 320.0,
    outlier_limit: float | None = None,
) -> ImageScales:
    """Fit one multiplicative scale per image; the mean of all is 1.

    Maximises the Poisson likelihood of n ~ exposure x b_image x I_voxel + background over voxels that two images or
    more share. For given scales the best intensities are I = sum n / sum(e b); what is left is a function of log b,
    concave without background, whose maximum Newton's method finds by the Fisher information with the intensities
    eliminated. Of very many images that matrix is too large: then scales, b = sum n / sum(e I), and intensities are
    made anew in turn, with longer steps where that is slow. No step is taken that lowers the likelihood: it is halved
    until it does not, and given up for one of the alternation, which never does.

    Args:
        sums: of all images.
        tolerance: largest relative change of any scale at convergence.
        max_cycles: cycles after which the best scales so far are returned, not converged.
        memory_mib: of `gather`.
        outlier_limit: standard deviations beyond which an observation is rejected, above or below the rest of its
            voxel; scales are then fitted again without. None rejects none.

    Raises:
        DataError: an image without photons above its background, or images that share nothing.
    """
    n_images = len(sums.image_names)
    if n_images == 1:
        statistics = {"cycles": 0, "converged": True, "largest_change": 0.0, "shared_voxels": 0}
        return ImageScales(np.ones(1), np.zeros(1), statistics)
    observations, surveyed = gather(sums, memory_mib, places=False)
    refuse_unconnected(observations, np.arange(n_images), sums.image_names)
    scales = _fit(observations, sums.image_names, tolerance, max_cycles)
    if outlier_limit is None or _errors_unknown(observations):
        return scales
    view = _AtRows(scales.per_image)
    # Where images differ by more than photons do, that is no outlier.
    scatter = NormalisedDeviations(observations.sample(ERROR_ROWS)[0], view).by_signal()
    outliers = find_outliers(observations, view, outlier_limit, fit_error_model(scatter))
    if len(outliers):
        assert outliers.accepted is not None
        kept = observations.accepting(outliers.accepted)
        scales = _fit(kept, sums.image_names, tolerance, max_cycles, scales.per_image)
    report = outlier_report(outliers, sums.image_names, surveyed.n_rows)
    report |= {"by_shell": outliers_by_shell(outliers, observations)}
    return replace(
        scales,
        statistics=scales.statistics | {"outliers": report},
        rejected=outliers.keys,
        voxel_numbering=sums.grid.numbering,
    )


def _errors_unknown(observations: Observations) -> bool:
    """Whether counts are below zero and nothing tells the noise that took them there: no outlier can be told then."""
    signed = any((block.rows["counts"] < 0).any() for block in observations.blocks())
    return signed and not any(block.rows["background_variance"].any() for block in observations.blocks())


@dataclass(frozen=True, eq=False)
class _AtRows:
    """Scales of images, as outliers are judged by."""

    scales: np.ndarray
    depends_on_q: bool = False

    def at(
        self, image: np.ndarray, panel: np.ndarray, fast: np.ndarray, slow: np.ndarray, q: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.scales[image], np.zeros(len(image))


def _fit(
    observations: Observations,
    names: tuple[str, ...],
    tolerance: float,
    max_cycles: int,
    start: np.ndarray | None = None,
) -> ImageScales:
    """Do what `fit_image_scales` does with the accepted observations."""
    n_images = len(names)
    photons, n_shared = _photons(observations, names)
    # Sums below zero have no Poisson likelihood: scales and intensities are worked out from each other in turn.
    signed = any((_kept(block)["counts"] < 0).any() for block in observations.blocks())
    newton = n_images <= MOST_IN_MATRIX and not signed
    best = scales = np.ones(n_images) if start is None else start
    best_likelihood = -np.inf
    change = np.inf
    alternate = step = direction = np.zeros(n_images)
    halvings, last = 0, None
    for cycles in range(1, max_cycles + 1):
        expected, likelihood = _expected(observations, scales)
        # Rounding of sums of 10^8 terms is no loss.
        if not signed and likelihood < best_likelihood - 1e-12 * abs(best_likelihood):
            halvings += 1
            step = step / 2 if halvings <= _MOST_HALVINGS else alternate
            scales = _moved(best, step)
            last = None
            continue
        best, best_likelihood, halvings = scales, likelihood, 0
        alternate = np.log(photons / expected / scales)
        alternate = alternate - alternate.mean()
        direction = alternate
        if newton and cycles > _FIRST_CYCLES:
            matrix, score = _information_matrix(observations, scales)
            # Of images whose photons are lost in noise the matrix knows nothing: they stay where they are.
            direction = np.linalg.pinv(matrix, hermitian=True) @ score
            direction -= direction.mean()
        change = float(np.abs(direction).max())
        if change < tolerance:
            break
        step = direction
        if not newton and not signed:
            # Errors of the alternation shrink by a constant ratio per cycle in their slowest direction;
            # the ratio of successive changes estimates it, and 1/(1-ratio) steps to where it would end.
            if last is not None:
                step = direction / (1 - np.clip(float(direction @ last) / float(last @ last), 0.0, 0.9))
            last = direction if last is None else None
        scales = _moved(best, step)
    statistics = {
        "cycles": cycles,
        "converged": bool(change < tolerance),
        "largest_change": change,
        "shared_voxels": n_shared,
    }
    sigma, residuals = _uncertainty(observations, best)
    if newton:
        matrix, _ = _information_matrix(observations, best)
        sigma = best * np.sqrt(np.maximum(np.diag(np.linalg.pinv(matrix, hermitian=True)), 0))
    return ImageScales(best, sigma, statistics | residuals)


def _kept(block: Block) -> np.ndarray:
    """Return the rows of a block with nothing in those that aren't accepted."""
    if block.accepted.all():
        return block.rows
    rows = block.rows.copy()
    for name in ("counts", "background", "background_variance", "exposure"):
        rows[name][~block.accepted] = 0
    return rows


def _moved(scales: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return scales (n_images,) moved by a step of their logarithms, no more than by a factor of e, with mean 1."""
    moved = scales * np.exp(step / max(float(np.abs(step).max()), 1.0))
    return moved / moved.mean()


@njit(cache=True, error_model="numpy")
def _is_shared(first, rows, v):
    """Whether two images or more observe a voxel: one image may have two rows of it."""
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
    n_shared = sum(_add_photons(block.first, _kept(block), photons) for block in observations.blocks())
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
    likelihood = 0.0
    for v in range(len(first) - 1):
        if _is_shared(first, rows, v):
            intensity, _ = _intensity(first, rows, v, scales)
            for row in range(first[v], first[v + 1]):
                image = rows[row].image
                expected[image] += rows[row].exposure * intensity
                mean = rows[row].exposure * scales[image] * intensity + rows[row].background
                if mean > 0:
                    likelihood += rows[row].counts * np.log(mean) - mean
    return likelihood


def _expected(observations: Observations, scales: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the photons (n_images,) that images of scale 1 would have at the intensities that `scales` give.

    And the logarithm of the likelihood of these scales and intensities, but for a constant.
    """
    expected, likelihood = np.zeros(len(scales)), 0.0
    for block in observations.blocks():
        likelihood += _add_expected(block.first, _kept(block), scales, expected)
    return expected, likelihood


@njit(cache=True, error_model="numpy")
def _add_to_matrix(first, rows, scales, matrix, score):
    n_images = len(scales)
    here, number = np.empty(n_images, np.int64), np.full(n_images, -1, np.int64)
    weight = np.zeros(n_images)
    for v in range(len(first) - 1):
        if not _is_shared(first, rows, v):
            continue
        intensity, _ = _intensity(first, rows, v, scales)
        n, total, pull = 0, 0.0, 0.0
        for row in range(first[v], first[v + 1]):
            image = rows[row].image
            signal = rows[row].exposure * scales[image] * intensity
            mean = signal + rows[row].background
            if not mean > 0:
                continue
            if number[image] < 0:
                number[image], here[n], weight[n] = n, image, 0.0
                n += 1
            information = signal * signal / mean
            weight[number[image]] += information
            total += information
            slope = (rows[row].counts / mean - 1) * signal
            score[image] += slope
            pull += slope
        for i in range(n):
            number[here[i]] = -1
        if not total > 0:
            continue
        for i in range(n):
            a = here[i]
            matrix[a, a] += weight[i]
            score[a] -= weight[i] * pull / total
            for j in range(n):
                matrix[a, here[j]] -= weight[i] * weight[j] / total


def _information_matrix(observations: Observations, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Fisher information (n_images, n_images) of log scales, intensities eliminated, and the score.

    A change of all scales by one factor, which the data can't tell, is pinned to none.
    """
    n_images = len(scales)
    matrix, score = np.zeros((n_images, n_images)), np.zeros(n_images)
    for block in observations.blocks():
        _add_to_matrix(block.first, _kept(block), scales, matrix, score)
    typical = float(np.trace(matrix)) / n_images
    return matrix + typical / n_images + 1e-9 * typical * np.eye(n_images), score


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
        _add_information(block.first, _kept(block), scales, information, out)
    chi_squared, residuals, counts, n_rows = out
    return scales / np.sqrt(np.maximum(information, 1e-300)), {
        "chi_squared_per_observation": chi_squared / max(n_rows, 1),
        "r_factor": residuals / counts if counts else 0.0,
        "observations": int(n_rows),
    }
