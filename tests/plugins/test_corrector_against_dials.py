"""Polarisation and efficiency are those with which DIALS corrects Bragg intensities."""

from __future__ import annotations

import numpy as np
import pytest
from dials.algorithms.integration import Corrections
from dxtbx.model import BeamFactory, DetectorFactory, ParallaxCorrectedPxMmStrategy

from diffuse_framework.adapters.images.open import images_from_files
from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.adapters.models.geometry import geometry_of
from diffuse_framework.algorithms.geometry import pixel_positions
from diffuse_plugins.corrector_efficiency import EfficiencyCorrector
from diffuse_plugins.corrector_polarization import PolarizationCorrector


def thaumatin_models():
    """Beam and detector of the header of thau_3_2_0001.cbf (PILATUS3 6M), each pixel ten times as wide."""
    beam = BeamFactory.make_polarized_beam(
        sample_to_source=(0, 0, 1), wavelength=0.96859, polarization=(0, 1, 0), polarization_fraction=0.999
    )
    strategy = ParallaxCorrectedPxMmStrategy(3.8326187041206916, 0.45)
    detector = DetectorFactory.simple(
        "PAD", 351.0, (216.99692, 224.79712), "+x", "-y", (1.72, 1.72), (246, 253), (-1, 115897), [], strategy
    )
    detector[0].set_material("Si")
    detector[0].set_thickness(0.45)
    detector[0].set_mu(3.8326187041206916)
    return beam, detector


def compare(beam, detector, n: int) -> None:
    model = geometry_of(beam, detector)
    rng = np.random.default_rng(0)
    theirs = Corrections(beam, detector)
    polarization = PolarizationCorrector().factor(model)
    efficiency = EfficiencyCorrector().factor(model)
    for number, panel in enumerate(model.panels):
        positions = pixel_positions(panel)
        for slow, fast in rng.integers((0, 0), panel.shape, (n, 2)):
            s1 = positions[slow, fast] / np.linalg.norm(positions[slow, fast]) / model.beam.wavelength
            assert np.isclose(1 / theirs.lp(tuple(s1)), polarization[number][slow, fast], rtol=1e-6, atol=0)
            assert np.isclose(theirs.qe(tuple(s1), number), efficiency[number][slow, fast], rtol=1e-6, atol=0)


def test_on_the_geometry_of_a_real_header():
    compare(*thaumatin_models(), n=500)


def test_on_a_tilted_detector_with_an_unpolarised_beam():
    beam, detector = thaumatin_models()
    beam.set_polarization_fraction(0.5)
    fast, slow, origin = (
        np.array(v) for v in (detector[0].get_fast_axis(), detector[0].get_slow_axis(), detector[0].get_origin())
    )
    cosine, sine = np.cos(np.radians(25)), np.sin(np.radians(25))
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    detector[0].set_frame(*(tuple(turn @ vector) for vector in (fast, slow, origin)))
    compare(beam, detector, n=500)


@pytest.mark.real_data
def test_on_a_real_image(thaumatin_images):
    source = DxtbxSource(images_from_files(thaumatin_images(1)))
    compare(source.experiments[0].beam, source.experiments[0].detector, n=500)
