"""Gauss-Newton fit of the scaling model, streaming over the sums; intensities are eliminated.

Each cycle sets the weights from the model so far, then solves for a step by conjugate gradients. The
matrix of the reduced problem (Golub & Pereyra 2003, Inverse Problems 19, R1: separable least squares)
is never formed: a product with it takes two passes over the rows. Some whole voxels, few enough for a
dense matrix, precondition the solution and give the parameters' uncertainties.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse.linalg import splu

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.scaling_model import Layout
from diffuse_framework.algorithms.scaling_rows import (
    Rows,
    RowSource,
    Sweeps,
    concatenate_rows,
    shrunk_intensities,
)
from diffuse_framework.algorithms.smoothers import second_differences
from diffuse_framework.errors import DataError

logger = logging.getLogger(__name__)

# Rows of the sample whose matrix is formed; and parameters above which it is kept sparse.
SAMPLE_ROWS = 100_000
DENSE_PARAMETERS = 2500

# How tightly degenerate directions are held, relative to parameters of about 1.
_PINNED = 1e-3


@dataclass(frozen=True)
class Restraints:
    """How much neighbouring control points may differ.

    Attributes:
        scale, offset, absorption, resolution: expected root mean square of second differences
            along an axis of control points; of the offset relative to the mean intensity there.
        spread: expected deviation of a factor's parameters from 1.
        offset_spread: expected size of the offset's, relative to the mean intensity.
    """

    scale: float = 0.1
    offset: float = 0.1
    absorption: float = 0.05
    resolution: float = 0.05
    spread: float = 10.0
    offset_spread: float = 1.0


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


def restraint_matrix(layout: Layout, restraints: Restraints, level: np.ndarray) -> sparse.csr_matrix:
    """Return the information (n, n) that restraints and pins add about parameters' deviation from null.

    Args:
        layout: of the parameters.
        restraints: their strengths.
        level: (n_q,) mean intensity at the offset's control points.
    """
    blocks = []
    for name, part in layout.parts.items():
        unit = np.ones(part.size)
        if name == "offset":
            unit = np.tile(1 / level, part.n_nodes)
        rows = [sparse.identity(part.size) / (restraints.spread if name != "offset" else restraints.offset_spread)]
        strength = getattr(restraints, name, None)
        for differences in _differences(layout, name) if strength else ():
            rows.append(differences / strength)
        block = sparse.vstack(rows) @ sparse.diags(unit)
        rows = [block]
        pins = _pins(layout, name)
        if pins is not None:
            rows.append(pins / _PINNED)
        block = sparse.vstack(rows)
        blocks.append(block.T @ block)
    return sparse.block_diag(blocks, "csr")


def _differences(layout: Layout, name: str) -> list[sparse.csr_matrix]:
    """Second differences of a part along each of its axes."""
    part = layout.parts[name]
    result = []
    if part.order:
        along = sparse.block_diag([second_differences(axis.n_values) for axis in part.order])
        if along.shape[0]:
            result.append(sparse.kron(along, sparse.identity(part.width)))
    across = [second_differences(part.q.n_values)] if not part.panels else []
    if part.panels:
        across = [
            sparse.block_diag([sparse.kron(sparse.identity(y.n_values), second_differences(x.n_values)) for x, y in part.panels]),
            sparse.block_diag([sparse.kron(second_differences(y.n_values), sparse.identity(x.n_values)) for x, y in part.panels]),
        ]  # fmt: skip
    for matrix in across:
        if matrix.shape[0]:
            result.append(sparse.kron(sparse.identity(part.n_nodes), matrix))
    return result


def _pins(layout: Layout, name: str) -> sparse.csr_matrix | None:
    """Means of a part's parameters that stay at 1: else another part could take up the difference."""
    part = layout.parts[name]
    n_nodes, width = part.n_nodes, part.width
    every_node = sparse.kron(sparse.identity(n_nodes), np.full((1, width), 1 / width))
    if name == "scale":
        share = np.bincount(part.state, minlength=part.order_weights.shape[0]) / len(part.state)
        return sparse.csr_matrix(share[None, :] @ part.order_weights)
    if name == "panel":
        return every_node
    if name == "absorption":
        if "panel" not in layout.parts:
            return every_node
        sizes = [x.n_values * y.n_values for x, y in part.panels]
        each = sparse.block_diag([np.full((1, size), 1 / size) for size in sizes])
        return sparse.vstack([every_node, sparse.kron(np.full((1, n_nodes), 1 / n_nodes), each)])
    if name == "resolution":
        every_q = sparse.kron(np.full((1, n_nodes), 1 / n_nodes), sparse.identity(width))
        return sparse.vstack([every_node, every_q])
    return None


def fit_model(
    source: RowSource,
    layout: Layout,
    q: np.ndarray,
    restraints: Restraints,
    tolerance: float = 0.02,
    max_cycles: int = 30,
    start: np.ndarray | None = None,
) -> Fit:
    """Fit a scaling model.

    Args:
        source: the rows.
        layout: of the model.
        q: |q| of every voxel of the grid, then of reflections, 1/angstrom.
        restraints: on control points.
        tolerance: largest change of a parameter at convergence, in units of its uncertainty.
        max_cycles: after which the best model so far is returned, not converged.
        start: parameters to begin with.

    Raises:
        DataError: no voxel is seen twice, or the model is singular from the start.
    """
    parameters = layout.null() if start is None else start.copy()
    photons, background, n_rows, sample = _first_pass(source, len(q))
    if not n_rows:
        raise DataError(
            "no voxel is seen twice, so nothing can be scaled; use coarser voxels (grid.hkl.divisions) or more images"
        )
    share = len(sample) / n_rows
    damping, change, cycle, n_products = 0.0, np.inf, 0, 0
    reason, quality = "reached the largest number of cycles", np.inf
    sigma = np.full(layout.size, np.inf)
    level, restraint, preconditioner, products = np.ones(1), None, None, 0
    for cycle in range(1, max_cycles + 1):
        sweeps = Sweeps(source, layout, q, np.ones(len(q)), parameters)
        exposure, offset = sweeps.totals(parameters)
        prior = shrunk_intensities(q, photons - background - offset, exposure, background + offset)
        _reflections_prior(source, sweeps, prior, parameters)
        sweeps.prior = prior
        if restraint is None:
            # Set once: where it followed the fit, it would pull along directions that data don't see.
            level = _level_at_q(layout, q, exposure, prior)
            restraint = restraint_matrix(layout, restraints, level)
        intensity, information = sweeps.intensities(parameters)
        deviation = parameters - layout.null()
        quality, gradient = sweeps.residuals(parameters, intensity)
        objective = quality + deviation @ (restraint @ deviation)
        gradient = gradient - restraint @ deviation
        if preconditioner is None or change > 1 or products > 4:
            preconditioner = Preconditioner(
                sweeps, sample, share, parameters, intensity, information, restraint
            )
        sigma = preconditioner.sigma
        accepted = False
        while not accepted and damping < 1e6:
            step, products = _solve(sweeps, parameters, intensity, information, restraint, preconditioner, gradient, damping)
            n_products += products
            trial = parameters + _shortened(layout, parameters, step) * step
            # The last steps gain less than rounding takes: nothing is left to decide.
            if float(np.max(np.abs(step) / sigma)) < tolerance:
                accepted = True
                break
            trial_intensity, _ = sweeps.intensities(trial)
            trial_quality, _ = sweeps.residuals(trial, trial_intensity)
            trial_deviation = trial - layout.null()
            accepted = trial_quality + trial_deviation @ (restraint @ trial_deviation) < objective
            damping = damping / 10 if accepted else max(10 * damping, 1e-3)
            damping = 0.0 if damping < 1e-4 else damping
        if not accepted:
            reason = "no step makes it better"
            break
        change = float(np.max(np.abs(trial - parameters) / sigma))
        parameters = trial
        logger.debug("Cycle %d: %.8g, largest change %.3g sigma, %d products", cycle, objective, change, n_products)
        if change < tolerance:
            reason = "converged"
            break
    undetermined = _undetermined(layout, sigma, restraints, level)
    parameters, common = pin(layout, parameters)
    statistics = {
        "cycles": cycle,
        "converged": reason == "converged",
        "reason": reason,
        "largest_change": change,
        "observations": n_rows,
        "shared_voxels": int(np.count_nonzero(information)),
        "parameters": layout.size,
        "chi_squared_per_observation": quality / max(n_rows - int(np.count_nonzero(information)) - layout.size, 1),
        "undetermined": undetermined,
    }
    return Fit(layout, parameters, sigma, common, statistics)


def _first_pass(source: RowSource, n_voxels: int) -> tuple[np.ndarray, np.ndarray, int, Rows | None]:
    """Photons and background per voxel, number of rows, and the rows of a sample of whole voxels."""
    photons, background = np.zeros(n_voxels), np.zeros(n_voxels)
    n_rows = 0
    for rows in source.pieces():
        counted = rows.variance == 0
        photons += sum_by(rows.voxel[counted], rows.counts[counted], n_voxels)
        background += sum_by(rows.voxel[counted], rows.background[counted], n_voxels)
        n_rows += len(rows)
    one_in = max(1, n_rows // SAMPLE_ROWS)
    sample = []
    for rows in source.pieces():
        # A multiplicative hash: neighbouring voxels must not be drawn together.
        drawn = (rows.voxel.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(33)) % np.uint64(one_in) == 0
        sample.append(rows.select(drawn))
    return photons, background, n_rows, concatenate_rows(sample) if sample else None


def _reflections_prior(source: RowSource, sweeps: Sweeps, prior: np.ndarray, parameters: np.ndarray) -> None:
    """Give reflections any intensity above 0: their weights do not depend on it."""
    if source.n_extra:
        prior[-source.n_extra :] = 1.0


def _level_at_q(layout: Layout, q: np.ndarray, exposure: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Mean intensity at the offset's control points, (n_q,)."""
    if "offset" not in layout.parts:
        return np.ones(1)
    axis = layout.parts["offset"].q
    nearest = np.clip(np.round((q - axis.positions[0]) / axis.spacing), 0, axis.n_values - 1).astype(np.int64)
    weight = sum_by(nearest, exposure, axis.n_values)
    overall = float(exposure @ prior / exposure.sum())
    mean = np.divide(
        sum_by(nearest, exposure * prior, axis.n_values), weight, out=np.full(axis.n_values, overall), where=weight > 0
    )
    return np.maximum(mean, 1e-3 * overall)


class Preconditioner:
    """An approximate inverse of the Gauss-Newton matrix, from a sample of whole voxels.

    Attributes:
        sigma: (n,) standard uncertainties that it implies.
    """

    def __init__(
        self,
        sweeps: Sweeps,
        sample: Rows,
        share: float,
        parameters: np.ndarray,
        intensity: np.ndarray,
        information: np.ndarray,
        restraint: sparse.csr_matrix,
    ) -> None:
        self._dense = sweeps.layout.size <= DENSE_PARAMETERS
        if self._dense:
            curvature, excess = sweeps.sample_matrices(sample, parameters, intensity, information)
            self._matrix = curvature / share + restraint.toarray()
            self._positive(excess / share)
            inverse = cho_solve(self._factor, np.identity(len(self._matrix)))
            # The variance of the gradient is that of Gauss-Newton: curvature and the noise in I.
            self.sigma = np.sqrt(np.diag(inverse) + np.einsum("ij,jk,ki->i", inverse, excess / share, inverse))
            return
        # Too many parameters for a dense matrix: intensities are not eliminated here, only from sigma.
        jacobian, _, weight, signal = sweeps.derivatives(sample, parameters, intensity)
        matrix = (jacobian.T @ sparse.diags(weight) @ jacobian) / share
        voxels, local = np.unique(sample.voxel, return_inverse=True)
        rows = np.arange(len(sample))
        gather = sparse.csr_matrix((weight * signal, (local.ravel(), rows)), (len(voxels), len(sample)))
        projected = gather @ jacobian
        scaled = projected.multiply(1 / np.sqrt(np.maximum(information[voxels], 1e-300))[:, None]).tocsr()
        eliminated = np.asarray(scaled.multiply(scaled).sum(axis=0)).ravel() / share
        left = np.maximum(matrix.diagonal() - eliminated, 0.0) + restraint.diagonal()
        self.sigma = 1 / np.sqrt(left)
        self._matrix = (matrix + restraint).tocsc()
        self._factor = self._factored(0.0)

    def _positive(self, excess: np.ndarray) -> None:
        """Factor the matrix; put back of `excess` what it takes for it to be positive definite."""
        curvature = self._matrix
        for part in (0.0, 0.1, 0.3, 1.0):
            self._matrix = curvature + part * excess
            try:
                self._factor = self._factored(0.0)
            except LinAlgError:
                continue
            return
        raise DataError(
            "the scaling model is singular: its parts can't be told from each other with these data; "
            "switch parts off, or use fewer control points"
        )

    def _factored(self, damping: float):
        diagonal = self._matrix.diagonal()
        if self._dense:
            return cho_factor(self._matrix + np.diag((damping + 1e-12) * diagonal))
        return splu((self._matrix + sparse.diags((damping + 1e-12) * diagonal)).tocsc())

    @property
    def diagonal(self) -> np.ndarray:
        """(n,) of the approximate matrix."""
        return self._matrix.diagonal()

    def damped(self, damping: float):
        """Return a function that applies the inverse with the diagonal raised by `damping` of itself."""
        factor = self._factor if damping == 0 else self._factored(damping)
        return (lambda v: cho_solve(factor, v)) if self._dense else factor.solve


def _solve(
    sweeps: Sweeps,
    parameters: np.ndarray,
    intensity: np.ndarray,
    information: np.ndarray,
    restraint: sparse.csr_matrix,
    preconditioner: Preconditioner,
    gradient: np.ndarray,
    damping: float,
    accuracy: float = 1e-3,
    max_products: int = 60,
) -> tuple[np.ndarray, int]:
    """Return the step and the products it took: preconditioned conjugate gradients."""
    inverse = preconditioner.damped(damping)
    diagonal = damping * preconditioner.diagonal
    step, residual = np.zeros_like(gradient), gradient.copy()
    direction = z = inverse(residual)
    rho = rho_start = float(residual @ z)
    products = 0
    while products < max_products and rho > accuracy**2 * rho_start:
        product = sweeps.curvature(parameters, intensity, information, direction)
        product = product + restraint @ direction + diagonal * direction
        products += 1
        along = float(direction @ product)
        if not along > 0:
            break
        step = step + rho / along * direction
        residual = residual - rho / along * product
        z = inverse(residual)
        rho, rho_old = float(residual @ z), rho
        direction = z + rho / rho_old * direction
    return step, products


def _shortened(layout: Layout, parameters: np.ndarray, step: np.ndarray) -> float:
    """Share of a step, at most 1, that takes no factor below a third of what it is."""
    which = layout.multiplicative()
    ratio = step[which] / np.maximum(parameters[which], 1e-3)
    steepest = float(-ratio.min()) if len(ratio) else 0.0
    return min(1.0, 0.67 / steepest) if steepest > 0 else 1.0


def _undetermined(layout: Layout, sigma: np.ndarray, restraints: Restraints, level: np.ndarray) -> dict[str, int]:
    """How many parameters of each part are known from their restraints only."""
    result = {}
    for name, where in layout.slices.items():
        expected: np.ndarray | float = restraints.spread
        if name == "offset":
            expected = restraints.offset_spread * np.tile(level, layout.parts[name].n_nodes)
        loose = int(np.count_nonzero(sigma[where] > 0.5 * expected))
        if loose:
            result[name] = loose
    return result


def pin(layout: Layout, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters with degenerate directions pinned, and the offset's common part.

    The mean of b over images and the means of d and a over their control points become 1; the common
    part g makes ``c - b g`` 0 at its lowest over the images, at each control point in |q|.
    """
    result = parameters.copy()
    total = 1.0
    for name in ("panel", "absorption"):
        if name in layout.parts:
            mean = result[layout.slices[name]].mean()
            result[layout.slices[name]] /= mean
            total *= mean
    if "offset" in layout.parts:
        result[layout.slices["offset"]] *= total
    if "scale" in layout.parts:
        result[layout.slices["scale"]] /= layout.image_scales(result).mean()
    if "offset" not in layout.parts:
        return result, np.zeros(1)
    scales = layout.image_scales(result)
    return result, (layout.at_images("offset", result) / scales[:, None]).min(axis=0)
