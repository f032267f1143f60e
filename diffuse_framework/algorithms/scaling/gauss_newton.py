"""Gauss-Newton fit of the scaling model, streaming over the observations; intensities are eliminated.

Each cycle sets the weights from the model so far, then takes a step. The matrix of the reduced problem
(Golub & Pereyra 2003, Inverse Problems 19, R1: separable least squares) is formed from some whole
voxels only, few enough for it to be cheap; the gradient comes from all rows. Where there are too many
parameters for that, conjugate gradients solve with products of the matrix, a pass over the rows each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse.linalg import splu

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.scaling.equation import Equation, VoxelEstimates
from diffuse_framework.algorithms.scaling.failures import NothingSeenTwiceError
from diffuse_framework.algorithms.scaling.model import Layout
from diffuse_framework.algorithms.scaling.observations import Observations
from diffuse_framework.algorithms.scaling.restraints import Restraints, pin, restraint_matrix
from diffuse_framework.algorithms.scaling.shrinkage import shrunk_intensities
from diffuse_framework.errors import DataError

logger = logging.getLogger(__name__)

# Rows of the sample whose matrix is formed; and parameters above which it is kept sparse.
SAMPLE_ROWS = 100_000
DENSE_PARAMETERS = 2500

# No factor becomes smaller.
_SMALLEST = 1e-3


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model.

    Attributes:
        layout: of its parameters.
        parameters: (n,) with degenerate directions pinned.
        sigma: (n,) standard uncertainties from counting alone and the restraints.
        common: (n_q,) part of the offset that all images share in proportion to their scale, to be
            taken off: it can't be told from the isotropic part of the map.
        statistics: how it went.
    """

    layout: Layout
    parameters: np.ndarray
    sigma: np.ndarray
    common: np.ndarray
    statistics: dict


def fit_model(
    observations: Observations,
    layout: Layout,
    restraints: Restraints,
    tolerance: float = 0.02,
    max_cycles: int = 30,
    start: np.ndarray | None = None,
) -> Fit:
    """Fit a scaling model.

    Args:
        observations: with the reflections, where they count.
        layout: of the model.
        restraints: on control points.
        tolerance: largest change of a parameter at convergence, in units of its uncertainty.
        max_cycles: after which the last good model is returned, not converged.
        start: parameters to begin with.

    Raises:
        NothingSeenTwiceError: no voxel has two observations.
        DataError: the model is singular from the start.
    """
    n_rows = int(np.count_nonzero(observations.accepted))
    if not n_rows:
        raise NothingSeenTwiceError("no voxel is observed twice, so nothing can be scaled")
    sample, voxels = observations.sample(SAMPLE_ROWS)
    parameters = layout.null() if start is None else start.copy()
    if len(sample) < 0.5 * n_rows and start is None:
        # All large steps are taken on the sample, where they cost next to nothing.
        alone = _Problem(layout, restraints, sample, sample, np.arange(len(voxels)))
        parameters = _minimise(alone, parameters, tolerance, max_cycles).parameters
    problem = _Problem(layout, restraints, observations, sample, voxels)
    end = _minimise(problem, parameters, tolerance, max_cycles)
    parameters, common = pin(layout, end.parameters)
    statistics = {
        "cycles": end.cycles,
        "converged": end.reason == "converged",
        "reason": end.reason,
        "largest_change": end.change,
        "observations": n_rows,
        "shared_voxels": end.n_voxels,
        "parameters": layout.size,
        "undetermined": _undetermined(layout, end.sigma, restraints, end.level),
    }
    return Fit(layout, parameters, end.sigma, common, statistics)


@dataclass(frozen=True, eq=False)
class _Problem:
    """What stays the same while a model is fitted; the sample's voxels are numbered among all observations."""

    layout: Layout
    restraints: Restraints
    observations: Observations
    sample: Observations
    voxels: np.ndarray

    @property
    def share(self) -> float:
        """Of the rows, how many are in the sample."""
        return len(self.sample) / np.count_nonzero(self.observations.accepted)


@dataclass(frozen=True, eq=False)
class _End:
    """Where the minimisation got."""

    parameters: np.ndarray
    sigma: np.ndarray
    level: np.ndarray
    cycles: int
    reason: str
    change: float
    n_voxels: int


def _minimise(problem: _Problem, parameters: np.ndarray, tolerance: float, max_cycles: int) -> _End:
    """Take steps until none is larger than `tolerance`; each cycle has weights of its own.

    With a dense preconditioner a step costs one pass over the rows: its matrix, from a sample of
    voxels, is close enough. With a sparse one, of many parameters, conjugate gradients solve for it.
    """
    layout, observations = problem.layout, problem.observations
    null = layout.null()
    seen = Equation.without_prior(observations, layout).intensities(parameters)
    prior, slope = intensities_to_expect(observations, seen)
    level = level_at_q(layout, observations.q, seen.exposure, prior)
    # Set once: where it followed the fit, it would pull along directions that data don't determine.
    restraint = restraint_matrix(layout, problem.restraints, level)
    preconditioner: Preconditioner | None = None
    change, objective, shorter = np.inf, np.inf, 1.0
    before, step = parameters, np.zeros(layout.size)
    relaxed, last = 1.0, np.zeros(layout.size)
    for cycle in range(1, max_cycles + 1):
        equation = Equation(observations, layout, prior, slope)
        quality, gradient, seen = equation.residuals(parameters)
        deviation = parameters - null
        # Weights change from cycle to cycle, so that only a large increase means a bad step.
        worse = not quality + float(deviation @ (restraint @ deviation)) < 2 * objective
        if worse and shorter > 1e-4:
            shorter, step = 0.3 * shorter, 0.3 * step
            parameters = _positive(layout, before + step)
            continue
        if worse:
            return _end(before, preconditioner, level, cycle, "no step makes it better", change, seen)
        objective, shorter = quality + float(deviation @ (restraint @ deviation)), min(1.0, 3 * shorter)
        if preconditioner is None or change > 1:
            preconditioner = Preconditioner(
                equation.of_sample(problem.sample, problem.voxels),
                seen.information[problem.voxels],
                problem.share,
                parameters,
                restraint,
            )
        step, products = _solve(equation, parameters, restraint, preconditioner, gradient - restraint @ deviation)
        step = shorter * _shortened(layout, parameters, step) * step
        scaled = step / preconditioner.sigma
        change = float(np.max(np.abs(scaled)))
        relaxed, last = _relaxed(relaxed, scaled, last), scaled
        before, parameters = parameters, _positive(layout, parameters + relaxed * step)
        if change > 1:
            # Later on it stays: a change of weights would look like a change of the fit.
            prior, slope = intensities_to_expect(observations, seen)
        logger.debug("Cycle %d: %.8g, change %.3g sigma, %d products", cycle, objective, change, products)
        if change < tolerance:
            return _end(parameters, preconditioner, level, cycle, "converged", change, seen)
    # Whether the last step made it better is not known.
    reason = "reached the largest number of cycles"
    return _end(before, preconditioner, level, max_cycles, reason, change, seen)


def _end(
    parameters: np.ndarray,
    preconditioner: Preconditioner | None,
    level: np.ndarray,
    cycles: int,
    reason: str,
    change: float,
    seen: VoxelEstimates,
) -> _End:
    sigma = np.full(len(parameters), np.inf) if preconditioner is None else preconditioner.sigma
    return _End(parameters, sigma, level, cycles, reason, change, int(np.count_nonzero(seen.information)))


def intensities_to_expect(observations: Observations, seen: VoxelEstimates) -> tuple[np.ndarray, np.ndarray]:
    """Return intensities from which weights and derivatives follow, and how they rise with the counts, (n_voxels,)."""
    behind = seen.background + seen.offset
    prior, slope = shrunk_intensities(observations.q, seen.photons - behind, seen.exposure, behind)
    if observations.n_reflections:
        # Reflections are bright: their own intensity will do. Weak ones say little about scales.
        bright = slice(-observations.n_reflections, None)
        prior[bright] = np.maximum(seen.intensity[bright], 1e-30)
    return prior, slope


def level_at_q(layout: Layout, q: np.ndarray, exposure: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Mean intensity at the offset's control points, (n_q,)."""
    if "offset" not in layout.components:
        return np.ones(1)
    axis = layout.components["offset"].q
    nearest = np.clip(np.round((q - axis.positions[0]) / axis.spacing), 0, axis.n_values - 1).astype(np.int64)
    weight = sum_by(nearest, exposure, axis.n_values)
    overall = float(exposure @ prior / exposure.sum())
    mean = np.divide(
        sum_by(nearest, exposure * prior, axis.n_values),
        weight,
        out=np.full(axis.n_values, overall),
        where=weight > 0,
    )
    return np.maximum(mean, 1e-3 * overall)


class Preconditioner:
    """An approximate inverse of the equation's matrix, from a sample of whole voxels.

    Attributes:
        dense: whether intensities are eliminated from it; if not, it only helps to solve.
        sigma: (n,) standard uncertainties that it implies.
        solve: applies the inverse.
    """

    def __init__(
        self,
        equation: Equation,
        information: np.ndarray,
        share: float,
        parameters: np.ndarray,
        restraint: sparse.csr_matrix,
    ) -> None:
        """Form and factor the matrix.

        Args:
            equation: of the sample.
            information: (n_voxels,) of the intensities of its voxels.
            share: of all rows that are in the sample.
            parameters: at which.
            restraint: (n_parameters, n_parameters) to be added.

        Raises:
            DataError: it is singular.
        """
        self.dense = equation.layout.size <= DENSE_PARAMETERS
        self.solve: Callable[[np.ndarray], np.ndarray]
        if self.dense:
            matrix = equation.matrix(parameters, information) / share + restraint.toarray()
            try:
                factor = cho_factor(matrix)
            except LinAlgError as error:
                raise DataError(
                    "the scaling model is singular: its components can't be told from each other with these data; "
                    "switch some off, or use fewer control points"
                ) from error
            self.solve = partial(cho_solve, factor)
            self.sigma = np.sqrt(np.diag(cho_solve(factor, np.identity(len(matrix)))))
            return
        # Too many parameters for a dense matrix: intensities are eliminated from sigma only.
        whole, taken = equation.parts_of_matrix(parameters, information)
        left = whole.diagonal() - np.asarray(taken.multiply(taken).sum(axis=0)).ravel()
        self.sigma = 1 / np.sqrt(np.maximum(left / share, 0.0) + restraint.diagonal())
        whole = whole / share + restraint
        self.solve = splu((whole + sparse.diags(1e-12 * whole.diagonal())).tocsc()).solve


def _solve(
    equation: Equation,
    parameters: np.ndarray,
    restraint: sparse.csr_matrix,
    preconditioner: Preconditioner,
    gradient: np.ndarray,
    accuracy: float = 0.03,
    max_products: int = 60,
) -> tuple[np.ndarray, int]:
    """Return the step and the products it took: of conjugate gradients, where the inverse is not at hand."""
    if preconditioner.dense:
        return preconditioner.solve(gradient), 0
    step, residual = np.zeros_like(gradient), gradient.copy()
    direction = z = preconditioner.solve(residual)
    rho = rho_start = float(residual @ z)
    products = 0
    while products < max_products and rho > accuracy**2 * rho_start:
        product = equation.curvature(parameters, direction) + restraint @ direction
        products += 1
        along = float(direction @ product)
        if not along > 0:
            break
        step = step + rho / along * direction
        residual = residual - rho / along * product
        z = preconditioner.solve(residual)
        rho, rho_old = float(residual @ z), rho
        direction = z + rho / rho_old * direction
    return step, products


def _shortened(layout: Layout, parameters: np.ndarray, step: np.ndarray) -> float:
    """Share of a step, at most 1, that takes no factor below a third of what it is."""
    which = layout.multiplicative()
    ratio = step[which] / np.maximum(parameters[which], _SMALLEST)
    steepest = float(-ratio.min()) if len(ratio) else 0.0
    return min(1.0, 0.67 / steepest) if steepest > 0 else 1.0


def _relaxed(relaxed: float, step: np.ndarray, last: np.ndarray) -> float:
    """Return the share of a step to take, by how the last one turned out.

    Weights follow the model, so that a step may overshoot: then the next one points back, and the two would
    go on for ever. Where a step that was taken to a share `relaxed` left the fraction r of itself, the right share
    was ``relaxed / (1 - r)``.
    """
    length = float(last @ last)
    left = float(step @ last) / length if length > 0 else 0.0
    return float(np.clip(relaxed / (1 - left), 0.3, 1.0)) if left < 0.9 else 1.0


def _positive(layout: Layout, parameters: np.ndarray) -> np.ndarray:
    """Return parameters with all factors above 0: what follows divides by them."""
    result, which = parameters.copy(), layout.multiplicative()
    result[which] = np.maximum(result[which], _SMALLEST)
    return result


def _undetermined(layout: Layout, sigma: np.ndarray, restraints: Restraints, level: np.ndarray) -> dict[str, int]:
    """How many parameters of each component are known from their restraints only."""
    result = {}
    for name, where in layout.slices.items():
        expected = restraints.expected(layout.components[name], level)
        loose = int(np.count_nonzero(sigma[where] > 0.5 * expected))
        if loose:
            result[name] = loose
    return result
