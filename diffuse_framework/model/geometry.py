"""Beam and detector as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.errors import ConfigError

__all__ = ["Beam", "Geometry", "Panel", "with_read_noise"]


@dataclass(frozen=True, eq=False)
class Beam:
    """The incident beam.

    Attributes:
        s0: (3,) from source to sample, 1/angstrom, length 1/wavelength.
        polarization_normal: (3,) unit vector normal to the plane of polarisation.
        polarization_fraction: 0.5 unpolarised, 1 fully in the plane.
    """

    s0: np.ndarray
    polarization_normal: np.ndarray
    polarization_fraction: float

    @property
    def wavelength(self) -> float:
        """Wavelength in angstrom."""
        return float(1.0 / np.linalg.norm(self.s0))


@dataclass(frozen=True, eq=False)
class Panel:
    """One flat detector panel.

    Attributes:
        name: as in the image header.
        origin_mm: (3,) laboratory position of the outer corner of pixel (0, 0).
        fast_axis, slow_axis: (3,) unit vectors.
        pixel_size_mm: (fast, slow).
        shape: (slow, fast) in pixels.
        material: of the sensor, "" where unknown.
        thickness_mm: of the sensor, 0 where unknown.
        mu_per_mm: linear absorption of the sensor, 0 where unknown.
        gain: raw value per photon.
        pedestal: raw value at no photon.
        read_noise: standard deviation of a pixel's value at no photon, in photons; 0 for a detector that counts.
        trusted_range: lowest and highest raw value that may be used, both included.
        parallax: whether pixel coordinates are shifted by the depth at which
            photons are absorbed in the sensor.
        pixel_mm: (slow, fast, 2) position on the panel of each pixel centre in mm
            (fast, slow), only where a calibration says more than size and parallax do.
    """

    name: str
    origin_mm: np.ndarray
    fast_axis: np.ndarray
    slow_axis: np.ndarray
    pixel_size_mm: tuple[float, float]
    shape: tuple[int, int]
    material: str = ""
    thickness_mm: float = 0.0
    mu_per_mm: float = 0.0
    gain: float = 1.0
    pedestal: float = 0.0
    read_noise: float = 0.0
    trusted_range: tuple[float, float] = (-np.inf, np.inf)
    parallax: bool = False
    pixel_mm: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Geometry:
    """A beam and the panels it lights; many images share one."""

    beam: Beam
    panels: tuple[Panel, ...]

    @property
    def n_pixels(self) -> int:
        """Pixels on all panels."""
        return sum(panel.shape[0] * panel.shape[1] for panel in self.panels)


def with_read_noise(geometry: Geometry, read_noise: Sequence[float]) -> Geometry:
    """Return the same with the read noise of its panels, in photons; as it is where none is given.

    Args:
        geometry: of a detector.
        read_noise: one value for all panels, or one for each.

    Raises:
        ConfigError: another number of values.
    """
    if not len(read_noise):
        return geometry
    n_panels = len(geometry.panels)
    if len(read_noise) not in (1, n_panels):
        raise ConfigError(
            f"detector.read_noise has {len(read_noise)} values, the detector {n_panels} panels: give one value, or one "
            "for each panel"
        )
    values = list(read_noise) * n_panels if len(read_noise) == 1 else read_noise
    panels = zip(geometry.panels, values, strict=True)
    return replace(geometry, panels=tuple(replace(panel, read_noise=float(value)) for panel, value in panels))
