"""The scaling model as DIALS has scaling models: what `scaled.expt` carries for each image.

DIALS finds the class by the entry point ``diffuse`` of group ``dxtbx.scaling_model_ext``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from dials.algorithms.scaling.model.components.scale_components import ScaleComponentBase, SingleScaleFactor
from dials.algorithms.scaling.model.components.smooth_scale_components import (
    GaussianSmoother1D,
    GaussianSmoother2D,
    SmoothScaleComponent1D,
    SmoothScaleComponent2D,
)
from dials.algorithms.scaling.model.model import ScalingModelBase
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.algorithms.scaling.components import COMPONENTS, IMAGE, KINDS, OFFSET, Q
from diffuse_framework.algorithms.scaling.kernel import combined
from diffuse_framework.algorithms.scaling.scales import SmoothScales
from diffuse_framework.algorithms.scaling.smoothers import Axis
from diffuse_framework.errors import DataError

# The component that takes off what all images have of the offset.
COMMON = "common"


class SmoothOffset1D(SmoothScaleComponent1D):
    """An additive component that varies smoothly in one dimension; 0 changes nothing."""

    null_parameter_value = 0.0


class DiffuseScalingModel(ScalingModelBase):
    """What brings the diffuse scattering of one image to the scale of the others.

    Expected counts per exposure are ``factor x I + offset``; see `algorithms.scaling.components`. Its
    components are those, each where the model has it: scale (`SingleScaleFactor`), offset and resolution
    (smooth in |q|), panel_n and absorption_n for each panel n; and common: the part of the offset in
    proportion to the factor, which is taken off because it belongs to the map.
    """

    id_ = "diffuse"

    def __init__(self, components: dict[str, ScaleComponentBase], configdict: dict[str, Any]) -> None:
        """Make the model from its components; `configdict` holds their axes under "axes"."""
        super().__init__(configdict, is_scaled=True)
        self._components = components

    @classmethod
    def from_dict(cls, obj: dict[str, Any]) -> DiffuseScalingModel:
        """Return the model of `to_dict`."""
        if obj["__id__"] != cls.id_:
            raise RuntimeError(f"expected __id__ {cls.id_}, got {obj['__id__']}")
        configdict = obj["configuration_parameters"]
        components = {
            name: _component(name, obj[name]["parameters"], obj[name].get("est_standard_devs"), configdict["axes"])
            for name in configdict["corrections"]
        }
        return cls(components, configdict)

    @classmethod
    def from_data(cls, params: Any, experiment: Any, reflection_table: Any) -> DiffuseScalingModel:
        """Return a model that changes nothing, for a data set that diffuse.scale did not have."""
        component = SingleScaleFactor(flex.double([1.0]))
        return cls({"scale": component}, {"corrections": ["scale"], "axes": {}})

    def configure_components(self, reflection_table: Any, experiment: Any, params: Any) -> None:
        """Give the scale its reflections; other components are evaluated by `factor` and `offset`."""
        if "scale" in self.components:
            self.components["scale"].data = {"id": reflection_table["id"]}

    def consecutive_refinement_order(self) -> list[list[str]]:
        """Return all components at once."""
        return [list(self.components)]

    def factor(self, q: np.ndarray, panel: np.ndarray, fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
        """Return the multiplicative part at |q| (n,), 1/angstrom, and places on panels (n,), pixels."""
        return self._combined(q, panel, fast, slow)[0]

    def offset(self, q: np.ndarray, panel: np.ndarray, fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
        """Return the additive part at |q| (n,), 1/angstrom, and places on panels (n,), pixels."""
        factor, offset = self._combined(q, panel, fast, slow)
        return offset - factor * self._line(COMMON, q) if COMMON in self.components else offset

    def _combined(
        self, q: np.ndarray, panel: np.ndarray, fast: np.ndarray, slow: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return factor and offset, by the equation that the fit takes, of what DIALS's smoothers make."""
        values = np.empty((len(q), len(COMPONENTS)))
        for number, kind in enumerate(COMPONENTS):
            values[:, number] = kind.null
            if kind.over not in (IMAGE, Q):
                values[:, number] = self._on_panels(kind.name, panel, fast, slow)
            elif kind.name in self.components:
                values[:, number] = self._line(kind.name, q)
        return combined(values, np.array([kind.acts for kind in COMPONENTS]))

    def _on_panels(self, name: str, panel: np.ndarray, fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
        result = np.full(len(panel), KINDS[name].null)
        for number in np.unique(panel):
            on, on_panel = panel == number, f"{name}_{number}"
            if on_panel not in self.components:
                continue
            parameters = self.components[on_panel].parameters
            if on_panel not in self.configdict["axes"]:
                result[on] = parameters[0]
                continue
            x_axis, y_axis = (Axis(*axis) for axis in self.configdict["axes"][on_panel])
            smoother = GaussianSmoother2D(_range(x_axis), x_axis.n_intervals, _range(y_axis), y_axis.n_intervals)
            x, y = _inside(x_axis, fast[on]), _inside(y_axis, slow[on])
            result[on] = [smoother.value_weight(*at, parameters)[0] for at in zip(x, y, strict=True)]
        return result

    def _line(self, name: str, q: np.ndarray) -> np.ndarray:
        parameters = self.components[name].parameters
        if name not in self.configdict["axes"]:
            return np.full(len(q), parameters[0])
        (axis,) = (Axis(*axis) for axis in self.configdict["axes"][name])
        smoother = GaussianSmoother1D(_range(axis), axis.n_intervals)
        return np.array([smoother.value_weight(at, parameters)[0] for at in _inside(axis, q)])


def _range(axis: Axis) -> list[float]:
    return [axis.start, axis.start + axis.n_intervals * axis.spacing]


def _inside(axis: Axis, x: np.ndarray) -> list[float]:
    low, high = _range(axis)
    return np.clip(x.astype(float), low, high).tolist()


def _component(name: str, parameters: Any, sigma: Any, axes: dict[str, list[list[float]]]) -> ScaleComponentBase:
    values = flex.double([float(value) for value in parameters])
    esds = None if sigma is None else flex.double([float(value) for value in sigma])
    if name not in axes or len(values) == 1:
        return SingleScaleFactor(values, esds)
    if len(axes[name]) == 2:
        shape = tuple(int(axis[2]) for axis in axes[name])
        return SmoothScaleComponent2D(values, shape, esds)
    added = name == COMMON or KINDS[name].acts == OFFSET
    return SmoothOffset1D(values, esds) if added else SmoothScaleComponent1D(values, esds)


def image_models(scales: SmoothScales) -> list[DiffuseScalingModel]:
    """Return the DIALS scaling model of every image: the fitted model at that image's place in its order."""
    layout = scales.layout
    values = {name: layout.at_images(name, scales.parameters) for name in layout.components}
    result = []
    for image in range(layout.extent.n_images):
        components: dict[str, ScaleComponentBase] = {}
        axes: dict[str, list[list[float]]] = {}
        for name, component in layout.components.items():
            of_image = values[name][image]
            if component.kind.over == IMAGE:
                sigma = [scales.per_image_sigma[image]] if name == "scale" else None
                components[name] = _component(name, of_image, sigma, axes)
                continue
            if not component.panels:
                _add(components, axes, name, of_image, (component.q,))
                if component.kind.acts == OFFSET:
                    _add(components, axes, COMMON, scales.common, (component.q,))
                continue
            start = 0
            for number, (x, y) in enumerate(component.panels):
                stop = start + x.n_values * y.n_values
                _add(components, axes, f"{name}_{number}", of_image[start:stop], (x, y))
                start = stop
        configdict = {
            "corrections": list(components),
            "axes": axes,
            "error_model_type": "diffuse",
            "error_model_parameters": [scales.error_model.inflation, scales.error_model.fraction],
        }
        result.append(DiffuseScalingModel(components, configdict))
    return result


def _add(
    components: dict[str, ScaleComponentBase],
    axes: dict[str, list[list[float]]],
    name: str,
    values: np.ndarray,
    along: tuple[Axis, ...],
) -> None:
    if any(axis.n_values > 1 for axis in along):
        axes[name] = [[axis.start, axis.spacing, axis.n_values] for axis in along]
    components[name] = _component(name, values, None, axes)


def write_scaled_experiments(source: Path, target: Path, scales: SmoothScales) -> None:
    """Write the experiments of `source`, one per image and in their order, with their scaling models.

    Raises:
        DataError: `source` can't be read, or holds another number of experiments than there are images.
    """
    try:
        experiments = ExperimentListFactory.from_json_file(str(source), check_format=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"can't read experiments from {source}: {error}") from error
    models = image_models(scales)
    if len(experiments) != len(models):
        raise DataError(
            f"{source} holds {len(experiments)} experiments, the scales are of {len(models)} images; give "
            "the experiments of those images, one each"
        )
    for experiment, model in zip(experiments, models, strict=True):
        experiment.scaling_model = model
    experiments.as_json(str(target))
