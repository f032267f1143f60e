"""The radial profile of an image and the rings that stand out from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import Frame

N_SECTORS = 8


@dataclass(frozen=True)
class Criteria:
    """What counts as a ring.

    Attributes:
        threshold: standard deviations that a ring stands out by.
        min_excess: and by at least this share of the scattering beneath it.
        step: width of a bin of |q|, 1/angstrom.
        max_width: of a ring, 1/angstrom; broader humps are no rings.
        margin: added on both sides of a ring, 1/angstrom.
    """

    threshold: float = 5.0
    min_excess: float = 0.05
    step: float = 0.002
    max_width: float = 0.03
    margin: float = 0.002


@dataclass(frozen=True)
class Ring:
    """A range of |q| in 1/angstrom, and how far its highest bin stands out.

    Attributes:
        low, high: limits, margins included.
        excess: over the scattering beneath, as a share of it.
        significance: in standard deviations.
    """

    low: float
    high: float
    excess: float
    significance: float


@njit(cache=True)
def _add_panel(values, q, response, gain, pedestal, low, high, across, up, step, cap, photons, exposure):
    """Add a panel's pixels to photons and exposure (bins, sectors), except those above the cap of their bin."""
    n_bins = len(photons)
    for slow in range(values.shape[0]):
        for fast in range(values.shape[1]):
            value = values[slow, fast]
            weight = response[slow, fast]
            if not (value >= low and value <= high and abs(value) < np.inf and weight > 0):
                continue
            x, y, z = q[slow, fast, 0], q[slow, fast, 1], q[slow, fast, 2]
            number = int(np.sqrt(x * x + y * y + z * z) / step)
            if number >= n_bins:
                continue
            counted = (value - pedestal) / gain
            if counted > cap[number, 0] + cap[number, 1] * weight:
                continue
            u = across[0] * x + across[1] * y + across[2] * z
            v = up[0] * x + up[1] * y + up[2] * z
            sector = (1 if u > 0 else 0) + (2 if v > 0 else 0) + (4 if abs(u) > abs(v) else 0)
            photons[number, sector] += counted
            exposure[number, sector] += weight


def _across_beam(s0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two unit vectors (3,) across the beam and each other."""
    beam = s0 / np.linalg.norm(s0)
    across = np.cross(beam, np.eye(3)[np.argmin(np.abs(beam))])
    across /= np.linalg.norm(across)
    return across, np.cross(beam, across)


def radial_profile(frame: Frame, geometry: Geometry, pixels: PixelTable, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the scattering in bins of |q| and its counting error, both (n_bins,), NaN where unknown.

    Pixels far above their bin's mean, such as Bragg peaks, are left out; then the median of the sectors is
    taken.

    Args:
        frame, geometry, pixels: of one image.
        step: width of a bin, 1/angstrom.
    """
    largest = max((float(np.sqrt(np.square(q).sum(-1).max())) for q in pixels.q if q.size), default=0.0)
    n_bins = int(largest / step) + 1
    cap = np.full((n_bins, 2), np.inf)
    cap[:, 1] = 0.0
    for _ in range(2):
        photons, exposure = np.zeros((n_bins, N_SECTORS)), np.zeros((n_bins, N_SECTORS))
        across, up = _across_beam(geometry.beam.s0)
        for values, panel, q, response in zip(frame.counts, geometry.panels, pixels.q, pixels.response, strict=True):
            low, high = panel.trusted_range
            _add_panel(
                values, q, response, panel.gain, panel.pedestal, low, high, across, up, step, cap, photons, exposure
            )
        rate = _median_of_sectors(photons, exposure)
        # Six standard deviations of a pixel of mean response, and a few photons for dim bins.
        known = exposure.sum(axis=1) > 0
        mean = np.divide(photons.sum(axis=1), exposure.sum(axis=1), out=np.zeros(n_bins), where=known)
        level = np.where(np.isfinite(rate), np.maximum(rate, 0), np.maximum(mean, 0))
        typical = max(float(np.median(np.concatenate([r.ravel() for r in pixels.response]))), 1e-300)
        cap = np.stack([6 + 6 * np.sqrt(level * typical), level], axis=1)
    total = np.maximum(photons.sum(axis=1), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # A median is 1.25 times as uncertain as a mean.
        error = 1.25 * np.sqrt(total) / exposure.sum(axis=1)
    return rate, np.where(np.isfinite(rate), error, np.nan)


def _median_of_sectors(photons: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Return photons over exposure, the median over sectors; NaN below three sectors."""
    seen = exposure > 0
    rate = np.where(seen, photons / np.where(seen, exposure, 1), np.nan)
    enough = seen.sum(axis=1) >= 3
    profile = np.full(len(rate), np.nan)
    if enough.any():
        profile[enough] = np.nanmedian(rate[enough], axis=1)
    return profile


def _running_median(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the median of the known values within `reach` bins on both sides, (n,)."""
    padded = np.pad(values, reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    known = np.isfinite(windows).any(axis=1)
    medians = np.full(len(values), np.nan)
    if known.any():
        medians[known] = np.nanmedian(windows[known], axis=1)
    return medians


def find_rings(frame: Frame, geometry: Geometry, pixels: PixelTable, criteria: Criteria) -> list[Ring]:
    """Return the rings of one image, from low to high |q|."""
    profile, error = radial_profile(frame, geometry, pixels, criteria.step)
    reach = max(int(np.ceil(criteria.max_width / criteria.step)), 2)
    beneath = _running_median(profile, reach)
    excess = profile - beneath
    known = np.isfinite(excess)
    if np.count_nonzero(known) < 2 * reach:
        return []
    scatter = 1.4826 * np.median(np.abs(excess[known] - np.median(excess[known])))
    significance = np.where(known, excess / np.hypot(error, scatter), 0.0)
    share = np.where(known & (beneath > 0), excess / np.where(beneath > 0, beneath, 1), 0.0)
    share[known & (beneath <= 0) & (excess > 0)] = np.inf
    # A ring begins where it is sure and goes on while it is likely.
    rings = []
    for first, last in _runs(significance > 2.0):
        run = slice(first, last + 1)
        width = (last - first + 1) * criteria.step
        stands_out = (significance[run] >= criteria.threshold) & (share[run] >= criteria.min_excess)
        if stands_out.any() and width <= criteria.max_width:
            rings.append(
                Ring(
                    low=max(first * criteria.step - criteria.margin, 0.0),
                    high=(last + 1) * criteria.step + criteria.margin,
                    excess=float(share[run].max()),
                    significance=float(significance[run].max()),
                )
            )
    return rings


def _runs(wanted: np.ndarray) -> list[tuple[int, int]]:
    """Return first and last index of each run of True."""
    edges = np.diff(np.concatenate([[0], wanted.astype(int), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) - 1).tolist(), strict=True))
