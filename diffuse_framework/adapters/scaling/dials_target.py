"""The scaling model fitted by DIALS: its parameter manager and its Levenberg-Marquardt minimiser.

Takes the place of `algorithms.scaling.gauss_newton.fit_model`, for data small enough to keep in memory. Weights
follow from the model and are renewed between rounds of minimisation.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from dials.algorithms.scaling.active_parameter_managers import (
    active_parameter_manager,
    multi_active_parameter_manager,
)
from dials.algorithms.scaling.model.components.scale_components import ScaleComponentBase, SingleScaleFactor
from dials.algorithms.scaling.model.components.smooth_scale_components import (
    SmoothScaleComponent1D,
    SmoothScaleComponent2D,
    SmoothScaleComponent3D,
)
from dials.algorithms.scaling.scaling_refiner import ScalingLevenbergMarquardtIterations
from dials.array_family import flex
from scipy import sparse as scipy_sparse
from scitbx import sparse

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.scaling.components import PANEL
from diffuse_framework.algorithms.scaling.equation import Equation
from diffuse_framework.algorithms.scaling.failures import NothingSeenTwiceError, TooManyObservationsError
from diffuse_framework.algorithms.scaling.gauss_newton import Fit, intensities_to_expect, level_at_q
from diffuse_framework.algorithms.scaling.model import Layout
from diffuse_framework.algorithms.scaling.observations import Observations
from diffuse_framework.algorithms.scaling.restraints import Restraints, pin, restraint_rows

MAX_ROWS = 1_000_000


def components_of(
    layout: Layout, parameters: np.ndarray
) -> tuple[dict[str, ScaleComponentBase], dict[str, np.ndarray]]:
    """Return DIALS components that hold the parameters, and which parameters each holds, by name."""
    components: dict[str, ScaleComponentBase] = {}
    places: dict[str, np.ndarray] = {}
    for name, component in layout.components.items():
        where = layout.slices[name]
        index = np.arange(where.start, where.stop).reshape(component.n_nodes, component.width)
        if not component.order or component.kind.over == PANEL:
            for number, place in enumerate(index.ravel()):
                _hold(components, places, f"{name}_{number}", np.array([place]), (1,), parameters)
            continue
        boxes = [x.n_values * y.n_values for x, y in component.panels]
        columns = np.split(np.arange(component.width), np.cumsum(boxes)[:-1]) if boxes else [np.arange(component.width)]
        shapes: list[tuple[int, ...]] = [(x.n_values, y.n_values) for x, y in component.panels]
        shapes = shapes or [(component.q.n_values,)]
        # One stretch of nodes per data set; one in all where the data sets share the component.
        nodes = [axis.n_values for axis in component.order]
        stretches = (
            np.split(np.arange(component.n_nodes), np.cumsum(nodes)[:-1]) if sum(nodes) == component.n_nodes else None
        )
        for n, stretch in enumerate(stretches or [np.array([k]) for k in range(component.n_nodes)]):
            for p, (column, shape) in enumerate(zip(columns, shapes, strict=True)):
                place = index[np.ix_(stretch, column)].ravel()
                _hold(components, places, f"{name}_{n}_{p}", place, (*shape, len(stretch)), parameters)
    return components, places


def _hold(
    components: dict[str, ScaleComponentBase],
    places: dict[str, np.ndarray],
    name: str,
    place: np.ndarray,
    shape: tuple[int, ...],
    parameters: np.ndarray,
) -> None:
    values = flex.double(parameters[place].tolist())
    wide = tuple(n for n in shape if n > 1)
    kinds = {2: SmoothScaleComponent2D, 3: SmoothScaleComponent3D}
    if not wide:
        components[name] = SingleScaleFactor(values)
    elif len(wide) == 1:
        components[name] = SmoothScaleComponent1D(values)
    else:
        components[name] = kinds[len(wide)](values, wide)
    places[name] = place


class DiffuseScalingTarget:
    """Residuals of observations from the intensities of their voxels, for DIALS's minimisers.

    The intensities are eliminated: the derivatives are those with each voxel's part taken off.
    """

    rmsd_names = ["RMSD"]
    rmsd_units = ["sigma"]

    def __init__(
        self, equation: Equation, parameters: np.ndarray, order: np.ndarray, restraints: scipy_sparse.csr_matrix
    ) -> None:
        """Keep what is to be solved; weights stay those of `parameters`; `order` takes DIALS's parameters to ours."""
        self._equation, self._order, self._restraints = equation, order, restraints
        (rows,), first = equation.observations.pieces, equation.observations.first
        self._net = rows["counts"].astype(float) - rows["background"]
        self._local = np.repeat(np.arange(len(first) - 1), np.diff(first))
        self._weight = equation.derivatives(parameters)[1]
        self.parameters = parameters

    def set_parameters(self, x: Any) -> None:
        """Take over DIALS's parameters."""
        self.parameters = self.parameters.copy()
        self.parameters[self._order] = np.array(x)

    def evaluated(self) -> tuple[np.ndarray, np.ndarray, scipy_sparse.csc_matrix]:
        """Return residuals and weights (n,), and derivatives of the residuals (n, n_parameters)."""
        jacobian, _, signal, offset = self._equation.derivatives(self.parameters)
        weight, local = self._weight, self._local
        n_rows, n_voxels = len(local), len(self._equation.prior)
        net = self._net - offset
        information = sum_by(local, weight * signal**2, n_voxels)
        intensity = sum_by(local, weight * signal * net, n_voxels) / information
        gather = scipy_sparse.csr_matrix((weight * signal, (local, np.arange(n_rows))), (n_voxels, n_rows))
        per_voxel = scipy_sparse.diags(1 / information) @ gather @ jacobian
        spread = scipy_sparse.csr_matrix((signal, (np.arange(n_rows), local)), (n_rows, n_voxels))
        return net - signal * intensity[local], weight, (spread @ per_voxel - jacobian).tocsc()

    def compute_residuals(self, block: Any) -> tuple[Any, Any]:
        """Return residuals and weights."""
        residual, weight, _ = self.evaluated()
        return flex.double(residual.tolist()), flex.double(weight.tolist())

    def compute_residuals_and_gradients(self, block: Any) -> tuple[Any, Any, Any]:
        """Return residuals, their derivatives and weights."""
        residual, weight, jacobian = self.evaluated()
        return (
            flex.double(residual.tolist()),
            _to_scitbx(jacobian[:, self._order]),
            flex.double(weight.tolist()),
        )

    def compute_restraints_residuals_and_gradients(self, apm: Any) -> list[Any]:
        """Return residuals, derivatives and weights of the restraints."""
        deviation = self.parameters - self._equation.layout.null()
        residual = self._restraints @ deviation
        ones = flex.double(len(residual), 1.0)
        return [flex.double(residual.tolist()), _to_scitbx(self._restraints.tocsc()[:, self._order]), ones]

    def rmsds(self, table: Any, apm: Any) -> list[float]:
        """Return the root mean square residual in units of sigma."""
        residual, weight, _ = self.evaluated()
        return [float(np.sqrt(np.mean(weight * residual**2)))]

    @staticmethod
    def achieved() -> bool:
        """Return False: there is no residual at which to stop."""
        return False


def _to_scitbx(matrix: scipy_sparse.csc_matrix) -> Any:
    matrix = matrix.tocsc()
    columns = []
    for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        entries = slice(start, stop)
        columns.append(dict(zip(matrix.indices[entries].tolist(), matrix.data[entries].tolist(), strict=True)))
    return sparse.matrix(*matrix.shape, columns)


class _Manager(multi_active_parameter_manager):
    """DIALS's parameter manager, which also tells the target its parameters."""

    def set_param_vals(self, x: Any) -> None:
        super().set_param_vals(x)
        self.target.set_parameters(x)


def fit_with_dials(
    observations: Observations,
    layout: Layout,
    restraints: Restraints,
    tolerance: float = 0.02,
    max_cycles: int = 30,
    start: np.ndarray | None = None,
) -> Fit:
    """Fit a scaling model; arguments and result are those of `algorithms.scaling.gauss_newton.fit_model`.

    Raises:
        TooManyObservationsError: more than are kept in memory.
        NothingSeenTwiceError: no voxel has two observations.
    """
    n_rows = int(np.count_nonzero(observations.accepted))
    if n_rows > MAX_ROWS:
        raise TooManyObservationsError(
            f"DIALS's minimiser keeps all observations in memory and takes at most {MAX_ROWS}, not {n_rows}"
        )
    if not n_rows:
        raise NothingSeenTwiceError("no voxel is observed twice, so nothing can be scaled")
    whole, _ = observations.sample(len(observations))
    parameters = layout.null() if start is None else start.copy()
    change, sigma, cycle = np.inf, np.full(layout.size, np.inf), 0
    level: np.ndarray | None = None
    while cycle < max_cycles and not change < tolerance:
        cycle += 1
        seen = Equation.without_prior(whole, layout).intensities(parameters)
        prior, _ = intensities_to_expect(whole, seen)
        level = level_at_q(layout, whole.q, seen.exposure, prior) if level is None else level
        equation = Equation(whole, layout, prior, np.zeros(len(prior)))
        found, sigma = _minimised(equation, parameters, restraint_rows(layout, restraints, level))
        change = float(np.max(np.abs(found - parameters) / sigma))
        parameters = found
    parameters, common = pin(layout, parameters)
    statistics: dict[str, Any] = {
        "cycles": cycle,
        "converged": change < tolerance,
        "reason": "converged" if change < tolerance else "reached the largest number of cycles",
        "largest_change": change,
        "observations": n_rows,
        "shared_voxels": len(whole.voxel),
        "parameters": layout.size,
        "undetermined": {},
    }
    return Fit(layout, parameters, sigma, common, statistics)


def _minimised(
    equation: Equation, parameters: np.ndarray, restraints: scipy_sparse.csr_matrix
) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters and uncertainties after one run of DIALS's Levenberg-Marquardt iterations."""
    components, places = components_of(equation.layout, parameters)
    order = np.concatenate(list(places.values()))
    target = DiffuseScalingTarget(equation, parameters, order, restraints)
    manager = _Manager(target, [components], [list(components)], active_parameter_manager)
    scaler = SimpleNamespace(
        params=SimpleNamespace(scaling_refinery=SimpleNamespace(rmsd_tolerance=1e-9)),
        Ih_table=SimpleNamespace(size=len(equation.observations), blocked_data_list=[None]),
        get_blocks_for_minimisation=lambda: [None],
        update_for_minimisation=lambda apm, block_id: None,
    )
    refinery = ScalingLevenbergMarquardtIterations(
        scaler, target=target, prediction_parameterisation=manager, max_iterations=30
    )
    refinery.run()
    target.set_parameters(manager.get_param_vals())
    _, weight, derivatives = target.evaluated()
    root = scipy_sparse.diags(np.sqrt(weight)) @ derivatives
    matrix = (root.T @ root + restraints.T @ restraints).toarray()
    return target.parameters, np.sqrt(np.diag(np.linalg.inv(matrix)))
