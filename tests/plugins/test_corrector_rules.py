"""What every corrector keeps to, and what each factor must do when the experiment changes."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iotbx.phil import parse
from scipy.spatial.transform import Rotation

from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.testing.fakes import geometry
from diffuse_plugins.corrector_air import AirCorrector
from diffuse_plugins.corrector_background import BackgroundCorrector
from diffuse_plugins.corrector_efficiency import EfficiencyCorrector
from diffuse_plugins.corrector_lorentz import LorentzCorrector
from diffuse_plugins.corrector_polarization import PolarizationCorrector
from diffuse_plugins.corrector_solid_angle import SolidAngleCorrector

FACTORS = [SolidAngleCorrector, PolarizationCorrector, EfficiencyCorrector, AirCorrector, LorentzCorrector]
every_factor = pytest.mark.parametrize("corrector", FACTORS, ids=lambda corrector: corrector.name)
IMAGE = Image("a.cbf", 0, 0, 0.5, np.eye(3))


def make(corrector, text: str = ""):
    return corrector.from_params(parse(corrector.phil).fetch(parse(text)).extract())


def factor(corrector, model: Geometry, text: str = "") -> np.ndarray:
    return np.stack(make(corrector, text).factor(model))


@st.composite
def geometries(draw) -> Geometry:
    """Two panels at any distance, tilted, with any sensor, wavelength and polarisation."""
    model = geometry(2, shape=(12, 9), distance_mm=draw(st.floats(30, 600)))
    turn = Rotation.from_euler("xy", [draw(st.floats(-40, 40)), draw(st.floats(-40, 40))], degrees=True)
    panels = tuple(
        replace(
            panel,
            origin_mm=turn.apply(panel.origin_mm),
            fast_axis=turn.apply(panel.fast_axis),
            slow_axis=turn.apply(panel.slow_axis),
            pixel_size_mm=(draw(st.floats(0.05, 2)), draw(st.floats(0.05, 2))),
            thickness_mm=draw(st.floats(0.05, 2)),
            mu_per_mm=draw(st.floats(0.1, 30)),
            parallax=draw(st.booleans()),
        )
        for panel in model.panels
    )
    beam = replace(
        model.beam,
        s0=model.beam.s0 / draw(st.floats(0.5, 2.5)),
        polarization_fraction=draw(st.floats(0.5, 1)),
    )
    return Geometry(beam, panels)


@pytest.mark.parametrize("corrector", [*FACTORS, BackgroundCorrector], ids=lambda corrector: corrector.name)
def test_help_is_written_and_the_corrector_pickles(corrector):
    for definition in parse(corrector.phil).all_definitions():
        assert definition.object.help, definition.path
    made = make(corrector, "constant=1" if corrector is BackgroundCorrector else "")
    assert pickle.loads(pickle.dumps(made)) == made


@every_factor
@settings(deadline=None, max_examples=25)
@given(model=geometries())
def test_factors_are_finite_positive_and_shaped_like_the_panels(corrector, model):
    for panel, values in zip(model.panels, make(corrector).factor(model), strict=True):
        assert values.shape == panel.shape
        assert np.isfinite(values).all() and (values > 0).all()
    assert make(corrector).background(IMAGE, model) is None


@every_factor
def test_the_geometry_is_left_alone(corrector):
    model = geometry(2)
    before = pickle.dumps(model)
    make(corrector).factor(model)
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("corrector", [PolarizationCorrector, EfficiencyCorrector, AirCorrector], ids=lambda c: c.name)
@settings(deadline=None, max_examples=25)
@given(model=geometries())
def test_shares_do_not_exceed_one(corrector, model):
    assert factor(corrector, model).max() <= 1 + 1e-12


@settings(deadline=None, max_examples=25)
@given(model=geometries())
def test_a_thicker_sensor_is_never_less_efficient(model):
    thicker = replace(model, panels=tuple(replace(p, thickness_mm=2 * p.thickness_mm) for p in model.panels))
    # Pixel positions move with the depth of absorption, so parallax stays what it was.
    flat = [replace(g, panels=tuple(replace(p, parallax=False) for p in g.panels)) for g in (model, thicker)]
    assert (factor(EfficiencyCorrector, flat[1]) >= factor(EfficiencyCorrector, flat[0])).all()


@settings(deadline=None, max_examples=25)
@given(model=geometries(), helium=st.floats(0, 1), pressure=st.floats(0, 2))
def test_less_gas_and_more_helium_let_more_through(model, helium, pressure):
    air = factor(AirCorrector, model)
    assert (factor(AirCorrector, model, f"helium_share={helium}") >= air).all()
    other = make(AirCorrector, f"pressure={pressure}").factor(model)
    other = np.ones_like(air) if other is None else np.stack(other)
    assert ((other >= air) if pressure <= 1 else (other <= air)).all()


def test_the_solid_angle_of_a_closed_box_is_that_of_the_sphere():
    # Six faces of 200 x 200 pixels around the sample; the sum of their pixels is 4 pi.
    box = []
    for axis in range(3):
        for sign in (1.0, -1.0):
            normal, fast, slow = (np.roll(row, axis) for row in np.eye(3))
            origin = 50 * sign * normal - 50 * fast - 50 * slow
            box.append(
                replace(
                    geometry().panels[0],
                    origin_mm=origin,
                    fast_axis=fast,
                    slow_axis=slow,
                    pixel_size_mm=(0.5, 0.5),
                    shape=(200, 200),
                )
            )
    total = factor(SolidAngleCorrector, Geometry(geometry().beam, tuple(box))).sum()
    assert np.isclose(total, 4 * np.pi, rtol=1e-4)


def test_the_polarization_of_an_unpolarised_beam_is_the_textbook_factor():
    model = geometry(2, distance_mm=10.0)
    model = replace(model, beam=replace(model.beam, polarization_fraction=0.5))
    from diffuse_framework.algorithms.geometry import pixel_positions

    positions = np.stack([pixel_positions(panel) for panel in model.panels])
    cosine = -positions[..., 2] / np.linalg.norm(positions, axis=-1)
    assert np.allclose(factor(PolarizationCorrector, model), (1 + cosine**2) / 2, rtol=1e-12)


def test_the_lorentz_factors_are_their_formulas_and_agree_at_small_angles():
    from diffuse_framework.algorithms.geometry import pixel_positions, scattering_vectors

    model = geometry(2, distance_mm=20.0)
    positions = np.stack([pixel_positions(panel) for panel in model.panels])
    q = np.linalg.norm(scattering_vectors(positions, model.beam), axis=-1)
    theta = np.arcsin(q * model.beam.wavelength / 2)
    assert np.allclose(factor(LorentzCorrector, model), 1 / np.sin(2 * theta))
    assert np.allclose(factor(LorentzCorrector, model, "form=inverse_q"), 1 / (2 * np.sin(theta)))
    far = geometry(2, distance_mm=1000.0)
    both = [factor(LorentzCorrector, far, f"form={form}") for form in ("sin_two_theta", "inverse_q")]
    assert np.allclose(*both, rtol=1e-4)


def test_the_direct_beam_has_a_finite_lorentz_factor():
    model = geometry(1, shape=(3, 3))
    # The middle pixel's centre lies in the beam.
    panel = replace(model.panels[0], origin_mm=np.array([-1.5 * 0.172, 1.5 * 0.172, -100.0]))
    for form in ("sin_two_theta", "inverse_q"):
        assert np.isfinite(factor(LorentzCorrector, Geometry(model.beam, (panel,)), f"form={form}")).all()
