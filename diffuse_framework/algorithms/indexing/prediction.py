"""Which reflections a still excites: how far from the Ewald sphere its spots were, and all nodes as near as that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.geometry import highest_resolution, lengths, project, reflections_near_ewald, turned
from diffuse_framework.algorithms.masking.shapes import lattice_possible
from diffuse_framework.model.geometry import Geometry

__all__ = ["Excitation", "Predictions", "excitation_of", "predict_still"]

# Shares of the squared width that the mosaic spread may have.
_SHARES = np.linspace(0.0, 1.0, 21)
# Full width at half maximum of a normal distribution of unit standard deviation.
_FWHM = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True)
class Excitation:
    """How far from the Ewald sphere a node still shows: normal, of variance ``size**2 + (mosaic |q|)**2``.

    Attributes:
        size: standard deviation that all nodes have, of the size of mosaic blocks and the beam's bandwidth, 1/angstrom.
        mosaic: standard deviation of the mosaic spread, radians.
    """

    size: float
    mosaic: float

    def sigma(self, q: np.ndarray) -> np.ndarray:
        """Return the standard deviation (n,) at |q| (n,), 1/angstrom."""
        return np.sqrt(self.size**2 + (self.mosaic * q) ** 2)

    @property
    def mosaic_width_deg(self) -> float:
        """Full width at half maximum of the mosaic spread."""
        return float(np.degrees(_FWHM * self.mosaic))

    @property
    def domain_size(self) -> float:
        """Size of mosaic blocks that gives the width all nodes have, angstrom."""
        return float(1 / (_FWHM * self.size))


@dataclass(frozen=True, eq=False)
class Predictions:
    """Reflections that an image excites.

    Attributes:
        hkl: (n, 3) integers.
        panel: (n,).
        px: (n, 2) pixel coordinates (fast, slow).
        s1: (n, 3) scattered beam vectors, 1/angstrom, of length 1/wavelength.
        off_sphere: (n,) distance outside the Ewald sphere, 1/angstrom.
        q: (n,) |q|, 1/angstrom.
        partiality: (n,) of the width of excitation at the sphere, 1 on it.
    """

    hkl: np.ndarray
    panel: np.ndarray
    px: np.ndarray
    s1: np.ndarray
    off_sphere: np.ndarray
    q: np.ndarray
    partiality: np.ndarray

    def __len__(self) -> int:
        return len(self.hkl)


def excitation_of(off_sphere: np.ndarray, q: np.ndarray, least: float) -> Excitation:
    """Return the likeliest width of excitation of nodes that show.

    Args:
        off_sphere: (n,) distances of nodes from the Ewald sphere, 1/angstrom.
        q: (n,) their |q|.
        least: width that none is smaller than.
    """
    if len(q) < 3:
        return Excitation(least, 0.0)
    typical = np.mean(q**2)
    squares = off_sphere**2
    best, found = np.inf, Excitation(least, 0.0)
    for share in _SHARES:
        shape = 1 - share + share * q**2 / typical
        scale = max(float(np.mean(squares / shape)), least**2)
        cost = float(np.mean(np.log(scale * shape) + squares / (scale * shape)))
        if cost < best - 1e-9:
            best = cost
            found = Excitation(float(max(np.sqrt((1 - share) * scale), 1e-7)), float(np.sqrt(share * scale / typical)))
    return found


def predict_still(
    setting: np.ndarray,
    geometry: Geometry,
    excitation: Excitation,
    conditions: np.ndarray,
    d_min: float = 0.0,
    n_sigma: float = 2.5,
) -> Predictions:
    """Return the reflections within some standard deviations of the Ewald sphere that hit the detector.

    Args:
        setting: (3, 3) A.
        geometry: beam and panels.
        excitation: of the image.
        conditions: rows of `centring_conditions`.
        d_min: resolution limit, angstrom; 0 for that of the detector.
        n_sigma: standard deviations.
    """
    beam = geometry.beam
    limit = max(d_min, highest_resolution(geometry))
    mosaic_deg = np.degrees(2 * n_sigma * excitation.mosaic)
    hkl = reflections_near_ewald(setting, beam, limit, n_sigma * excitation.size, mosaic_deg)
    hkl = hkl[lattice_possible(hkl, conditions)]
    nodes = turned(setting, hkl)
    rays = nodes + beam.s0
    length, q = lengths(rays), lengths(nodes)
    off = length - 1 / beam.wavelength
    sigma = excitation.sigma(q)
    panel, px = project(geometry, rays)
    kept = (np.abs(off) <= n_sigma * sigma) & (panel >= 0)
    s1 = rays[kept] / (length[kept, None] * beam.wavelength)
    partiality = np.exp(-((off[kept] / sigma[kept]) ** 2) / 2)
    return Predictions(hkl[kept], panel[kept], px[kept], s1, off[kept], q[kept], partiality)
