"""One scale per image by Poisson maximum likelihood."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.algorithms.scaling.error_model import ERROR_ROWS, NormalisedDeviations, fit_error_model
from diffuse_framework.algorithms.scaling.observations import Observations, gather
from diffuse_framework.algorithms.scaling.outliers import find_outliers, outlier_report, outliers_by_shell
from diffuse_framework.algorithms.scaling.overlap import refuse_unconnected
from diffuse_framework.algorithms.scaling.per_image_sums import (
    accepted_rows,
    expected_photons,
    information_matrix,
    photons_above_background,
    uncertainties,
)
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxels import VoxelSums

__all__ = ["fit_image_scales"]

NO_NOISE = "counts are below zero and no noise is told (detector.read_noise), so that no observation can be an outlier"
"""Why no outliers are looked for."""

MOST_IN_MATRIX = 1500
"""Images up to which the information matrix is made."""

# Cycles of alternation before Newton's first step, and halvings of a step that lowers the likelihood.
_FIRST_CYCLES, _MOST_HALVINGS = 3, 6
# Standard uncertainties by which a scale may still change and be near its end.
_WITHIN = 2.0


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

    Sums below zero, of detectors read with noise, have no Poisson likelihood. Scales then solve
    sum(n) = b sum(e I), image by image, which holds at the maximum of the likelihood too, with intensities that may be
    below zero: cut at zero they would be too large where noise is. Newton's method solves it in the same way, and what
    is left of the differences takes the place of the likelihood.

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
    if outlier_limit is None:
        return scales
    if _errors_unknown(observations):
        return replace(scales, statistics=scales.statistics | {"outliers_not_judged": NO_NOISE})
    view = _AtRows(scales.per_image)
    # Where images differ by more than photons do, that is no outlier.
    scatter = NormalisedDeviations(observations.sample(ERROR_ROWS)[0], view).by_signal()
    outliers = find_outliers(observations, view, outlier_limit, fit_error_model(scatter))
    if outliers.accepted is not None and not outliers.accepted.all():
        # Voxels of two that disagree too: they lose none, but nothing says what scale they ask for.
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
    photons, n_shared = photons_above_background(observations, names)
    signed = any((accepted_rows(block)["counts"] < 0).any() for block in observations.blocks())
    newton = n_images <= MOST_IN_MATRIX
    best = scales = np.ones(n_images) if start is None else start
    best_likelihood = -np.inf
    change = np.inf
    alternate = step = direction = np.zeros(n_images)
    halvings, last = 0, None
    for cycles in range(1, max_cycles + 1):
        expected, likelihood = expected_photons(observations, scales, signed)
        if signed:
            likelihood = -float(((photons - scales * expected) ** 2 / photons).sum())
        # Rounding of sums of 10^8 terms is no loss.
        if likelihood < best_likelihood - 1e-12 * max(abs(best_likelihood), signed * n_images):
            halvings += 1
            step = step / 2 if halvings <= _MOST_HALVINGS else alternate
            scales = _moved(best, step)
            last = None
            continue
        best, best_likelihood, halvings = scales, likelihood, 0
        # Noise may leave an image that is dim less than nothing to expect: it stays where it is.
        alternate = np.log(np.divide(photons, expected * scales, out=np.ones(n_images), where=expected > 0))
        alternate = alternate - alternate.mean()
        direction = alternate
        if newton and cycles > _FIRST_CYCLES:
            matrix, score = information_matrix(observations, scales, signed)
            # Of images whose photons are lost in noise the matrix knows nothing: they stay where they are.
            direction = np.linalg.pinv(matrix, hermitian=True) @ score
            direction -= direction.mean()
        change = float(np.abs(direction).max())
        if change < tolerance:
            break
        step = direction
        if not newton:
            # Errors of the alternation shrink by a constant ratio per cycle in their slowest direction;
            # the ratio of successive changes estimates it, and 1/(1-ratio) steps to where it would end.
            if last is not None:
                step = direction / (1 - np.clip(float(direction @ last) / float(last @ last), 0.0, 0.9))
            last = direction if last is None else None
        scales = _moved(best, step)
    sigma, residuals = uncertainties(observations, best, signed)
    if newton and not signed:
        matrix, _ = information_matrix(observations, best, signed)
        sigma = best * np.sqrt(np.maximum(np.diag(np.linalg.pinv(matrix, hermitian=True)), 0))
    beyond = np.abs(direction[np.abs(direction) > _WITHIN * sigma / best])
    statistics = {
        "cycles": cycles,
        "converged": bool(change < tolerance),
        "largest_change": change,
        # Of the scales that still change by more than they are uncertain by.
        "largest_change_beyond_errors": float(beyond.max(initial=0.0)),
        "shared_voxels": n_shared,
    }
    return ImageScales(best, sigma, statistics | residuals)


def _moved(scales: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return scales (n_images,) moved by a step of their logarithms, no more than by a factor of e, with mean 1."""
    moved = scales * np.exp(step / max(float(np.abs(step).max()), 1.0))
    return moved / moved.mean()
