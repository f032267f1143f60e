"""Simulated detectors: what dxtbx makes of their files' headers, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.algorithms.geometry import pixel_positions
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.geometry import Beam, Geometry, Panel

# A PILATUS module and the gaps between modules, (fast, slow) pixels; Dectris, PILATUS3 user manual.
MODULE = (487, 195)
GAP = (7, 17)
PILATUS_SIZES = {"100K": (1, 1), "300K": (1, 3), "1M": (2, 5), "2M": (3, 8), "6M": (5, 12)}
PIXEL_MM = 0.172
# dxtbx gives every mini-CBF this polarisation, whatever the header says.
HEADER_POLARIZATION = 0.999
HIGHEST_COUNT = 1_000_000


@dataclass(frozen=True, eq=False)
class Detector:
    """A geometry and which of its pixels exist.

    Attributes:
        geometry: beam and panels.
        active: one (slow, fast) array of bool per panel, False in the gaps between modules, where an
            image reads -1.
        lit: likewise, False in the shadow of the beamstop, where the crystal's photons don't arrive.
    """

    geometry: Geometry
    active: tuple[np.ndarray, ...]
    lit: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Sensor:
    """What the detector's pixels are made of.

    Attributes:
        material: "Si" or "CdTe".
        thickness_mm: 0 for a detector that counts every photon.
        mu_per_mm: linear absorption at the beam's wavelength.
    """

    material: str = "Si"
    thickness_mm: float = 0.45
    mu_per_mm: float = 4.208


# At a wavelength of 1 angstrom.
SILICON = Sensor()


def header_beam(wavelength: float, polarization_fraction: float = HEADER_POLARIZATION) -> Beam:
    """Return a beam along -z as dxtbx makes it from a mini-CBF header."""
    if not wavelength > 0:
        raise ConfigError(f"beam.wavelength={wavelength:g} must be above 0, in angstrom")
    if not 0 <= polarization_fraction <= 1:
        raise ConfigError(f"beam.polarization={polarization_fraction:g} must lie between 0 and 1")
    return Beam(np.array([0, 0, -1 / wavelength]), np.array([0.0, 1.0, 0.0]), polarization_fraction)


def one_panel(
    size: tuple[int, int],
    distance_mm: float,
    beam: Beam,
    beam_centre_px: tuple[float, float] | None = None,
    sensor: Sensor | None = SILICON,
    pixel_mm: float = PIXEL_MM,
) -> Detector:
    """Return a detector of one panel across the beam, every pixel active.

    Args:
        size: (fast, slow) pixels.
        distance_mm: from the sample.
        beam: the incident beam, along -z.
        beam_centre_px: (fast, slow) where the beam meets the panel; a little off the middle where not given.
        sensor: None for a detector that counts every photon, without parallax.
        pixel_mm: edge of a pixel.

    Raises:
        ConfigError: no pixels, or a distance or pixel size that is not above 0.
    """
    if min(size) < 1:
        raise ConfigError(f"detector.size={size[0]},{size[1]}: a detector needs pixels")
    if not min(distance_mm, pixel_mm) > 0:
        raise ConfigError(f"detector.distance={distance_mm:g} and pixel size {pixel_mm:g} mm must be above 0")
    centre = beam_centre_px or (size[0] * 0.5 + 3.3, size[1] * 0.5 - 4.6)
    fast_axis, slow_axis = np.array([1.0, 0.0, 0.0]), np.array([0.0, -1.0, 0.0])
    panel = Panel(
        name="Panel",
        origin_mm=np.array([0, 0, -distance_mm]) - (centre[0] * fast_axis + centre[1] * slow_axis) * pixel_mm,
        fast_axis=fast_axis,
        slow_axis=slow_axis,
        pixel_size_mm=(pixel_mm, pixel_mm),
        shape=(size[1], size[0]),
        trusted_range=(0.0, HIGHEST_COUNT - 1.0),
    )
    if sensor is not None and sensor.thickness_mm > 0:
        panel = replace(
            panel,
            material=sensor.material,
            thickness_mm=sensor.thickness_mm,
            mu_per_mm=sensor.mu_per_mm,
            parallax=True,
        )
    everywhere = np.ones(panel.shape, bool)
    return Detector(Geometry(beam, (panel,)), (everywhere,), (everywhere,))


def pilatus(
    modules: tuple[int, int],
    distance_mm: float,
    beam: Beam,
    beam_centre_px: tuple[float, float] | None = None,
    sensor: Sensor | None = SILICON,
) -> Detector:
    """Return a detector of one panel with the gaps of `modules` (fast, slow) PILATUS modules.

    Raises:
        ConfigError: no modules, or a distance that is not above 0.
    """
    if min(modules) < 1:
        raise ConfigError(f"detector.modules={modules[0]},{modules[1]}: a detector needs modules")
    detector = one_panel(module_size(modules), distance_mm, beam, beam_centre_px, sensor)
    active = np.zeros_like(detector.active[0])
    for fast, slow in module_corners(modules):
        active[slow : slow + MODULE[1], fast : fast + MODULE[0]] = True
    return replace(detector, active=(active,))


def module_size(modules: tuple[int, int]) -> tuple[int, int]:
    """Return (fast, slow) pixels of an array of modules, gaps included."""
    fast, slow = (n * size + (n - 1) * gap for n, size, gap in zip(modules, MODULE, GAP, strict=True))
    return fast, slow


def module_corners(modules: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the first pixel (fast, slow) of each module, fast running first as in dxtbx."""
    return [(i * (MODULE[0] + GAP[0]), j * (MODULE[1] + GAP[1])) for j in range(modules[1]) for i in range(modules[0])]


def modules_of(size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the modules (fast, slow) of a panel of (fast, slow) pixels, None for no PILATUS."""
    modules = (size[0] + GAP[0]) // (MODULE[0] + GAP[0]), (size[1] + GAP[1]) // (MODULE[1] + GAP[1])
    return modules if min(modules) > 0 and module_size(modules) == tuple(size) else None


def split_panel(panel: Panel, corner: tuple[int, int], size: tuple[int, int], name: str) -> Panel:
    """Return the part of a panel from pixel `corner` on, both (fast, slow), as a panel of its own."""
    shift = np.array(corner) * np.array(panel.pixel_size_mm)
    return replace(
        panel,
        name=name,
        origin_mm=panel.origin_mm + shift[0] * panel.fast_axis + shift[1] * panel.slow_axis,
        shape=(size[1], size[0]),
    )


def with_beamstop(detector: Detector, radius_mm: float) -> Detector:
    """Return the detector with a round shadow about the beam, nothing where the radius is 0.

    Raises:
        ConfigError: a negative radius.
    """
    if radius_mm < 0:
        raise ConfigError(f"detector.beamstop_radius={radius_mm:g} can't be negative")
    beam = detector.geometry.beam
    lit = []
    for panel, old in zip(detector.geometry.panels, detector.lit, strict=True):
        positions = pixel_positions(panel)
        along = positions @ (beam.s0 * beam.wavelength)
        across = np.sqrt(np.maximum(np.square(positions).sum(-1) - along**2, 0))
        lit.append(old & (across >= radius_mm))
    return replace(detector, lit=tuple(lit))
