"""Beam and detector of dxtbx as numbers."""

from __future__ import annotations

import dxtbx.model
import numpy as np
from dxtbx import flumpy
from scitbx.array_family import flex

from diffuse_framework.errors import GeometryError
from diffuse_framework.model.geometry import Beam, Geometry, Panel

# Wavelengths in angstrom beyond which a header or a parameter is mistaken.
_SHORTEST, _LONGEST = 1e-3, 1e3


def geometry_of(beam: dxtbx.model.Beam, detector: dxtbx.model.Detector) -> Geometry:
    """Return the numbers of a dxtbx beam and detector.

    Raises:
        GeometryError: a detector without pixels, or a beam whose wavelength is no X-ray's.
    """
    if len(detector) == 0:
        raise GeometryError("the detector has no panel; give a geometry with input.reference_geometry=")
    return Geometry(_beam(beam), tuple(_panel(panel) for panel in detector))


def _beam(beam: dxtbx.model.Beam) -> Beam:
    if not _SHORTEST <= beam.get_wavelength() <= _LONGEST:
        raise GeometryError(
            f"the beam's wavelength is {beam.get_wavelength()}; set geometry.beam.wavelength=, in angstrom"
        )
    return Beam(
        s0=np.array(beam.get_s0()),
        polarization_normal=np.array(beam.get_polarization_normal()),
        polarization_fraction=beam.get_polarization_fraction(),
    )


def _panel(panel: dxtbx.model.Panel) -> Panel:
    strategy = panel.get_px_mm_strategy()
    kind = type(strategy).__name__
    parallax = kind == "ParallaxCorrectedPxMmStrategy"
    own_absorption = parallax and (strategy.mu(), strategy.t0()) == (panel.get_mu(), panel.get_thickness())
    plain = kind == "SimplePxMmStrategy" or own_absorption
    fast, slow = panel.get_image_size()
    if fast <= 0 or slow <= 0:
        raise GeometryError(f"detector panel {panel.get_name()!r} has no pixels ({fast} x {slow})")
    return Panel(
        name=panel.get_name(),
        origin_mm=np.array(panel.get_origin()),
        fast_axis=np.array(panel.get_fast_axis()),
        slow_axis=np.array(panel.get_slow_axis()),
        pixel_size_mm=tuple(panel.get_pixel_size()),
        shape=(slow, fast),
        material=panel.get_material(),
        thickness_mm=panel.get_thickness(),
        mu_per_mm=panel.get_mu(),
        gain=panel.get_gain() or 1.0,
        pedestal=panel.get_pedestal(),
        trusted_range=_trusted_range(panel),
        parallax=own_absorption,
        pixel_mm=None if plain else _pixel_mm(panel),
    )


def _trusted_range(panel: dxtbx.model.Panel) -> tuple[float, float]:
    """Lowest and highest value that may be used, both included.

    DIALS 3.12 leaves both ends out, 3.30 takes both in: the panel itself is asked, with
    values at its ends, never the two numbers compared by hand.
    """
    low, high = panel.get_trusted_range()
    if high <= low:
        return -np.inf, np.inf
    fast, slow = panel.get_image_size()
    values = flex.double(flex.grid(slow, fast), low)
    values[fast * slow - 1] = high
    mask = panel.get_trusted_range_mask(values)
    takes_low, takes_high = mask[0], mask[fast * slow - 1]
    return low if takes_low else np.nextafter(low, np.inf), high if takes_high else np.nextafter(high, -np.inf)


def _pixel_mm(panel: dxtbx.model.Panel) -> np.ndarray:
    """Positions of pixel centres by the panel's own calibration, (slow, fast, 2) in mm."""
    fast, slow = panel.get_image_size()
    grid = np.mgrid[:slow, :fast] + 0.5
    px = np.ascontiguousarray(np.stack([grid[1].ravel(), grid[0].ravel()], -1))
    mm = panel.pixel_to_millimeter(flumpy.vec_from_numpy(px))
    return flumpy.to_numpy(mm).reshape(slow, fast, 2).copy()
