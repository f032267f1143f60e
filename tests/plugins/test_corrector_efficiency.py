from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from iotbx.phil import parse

from diffuse_framework.errors import ConfigError
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.testing.fakes import geometry
from diffuse_plugins.corrector_efficiency import EfficiencyCorrector


def make(text: str = "") -> EfficiencyCorrector:
    return EfficiencyCorrector.from_params(parse(EfficiencyCorrector.phil).fetch(parse(text)).extract())


def model_of(**sensor) -> Geometry:
    model = geometry(1)
    return replace(model, panels=tuple(replace(panel, **sensor) for panel in model.panels))


def at_centre(text: str, model: Geometry) -> float:
    """Efficiency where rays are nearly normal to the sensor."""
    return float(make(text).factor(model)[0][30, 25])


@pytest.mark.parametrize(
    "sensor",
    [{"mu_per_mm": 0.0, "material": ""}, {"thickness_mm": 0.0}, {"mu_per_mm": 0.0, "thickness_mm": 0.0}],
)
def test_an_unknown_sensor_is_not_corrected_for_and_the_log_says_so(sensor, caplog):
    # Other programs divide by the efficiency of such a sensor, which is 0.
    with caplog.at_level(logging.WARNING, logger="diffuse_plugins"):
        assert make().factor(model_of(**sensor)) is None
    assert len(caplog.records) == 1
    assert "no correction for its efficiency" in caplog.text


def test_the_material_of_the_header_is_looked_up_where_its_absorption_is_missing():
    model = model_of(mu_per_mm=0.0, material="Si")
    # Silicon at 1 angstrom: the same table that the override reads.
    assert np.isclose(at_centre("", model), at_centre("material=Si", model_of(mu_per_mm=99.0)))


def test_parameters_replace_the_header():
    model = model_of(mu_per_mm=3.8, thickness_mm=0.45)
    assert np.isclose(at_centre("mu=2\nthickness=0.5", model), -np.expm1(-1.0), rtol=1e-4)
    assert np.isclose(at_centre("thickness=0.9", model), -np.expm1(-3.8 * 0.9), rtol=1e-4)
    # A number wins over a material.
    assert at_centre("mu=2\nmaterial=CdTe", model) == at_centre("mu=2", model)
    assert at_centre("material=CdTe", model) > at_centre("", model)


def test_an_unknown_material_is_named():
    with pytest.raises(ConfigError, match="'Kryptonite'.*corrector.efficiency.mu"):
        make("material=Kryptonite").factor(geometry())
