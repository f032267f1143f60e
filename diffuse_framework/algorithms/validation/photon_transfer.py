"""Gain and pedestal as the images themselves show them: variance against mean of smooth parts, photon transfer.

Janesick (2007), Photon Transfer, SPIE Press: raw values of mean m have the variance gain x (m - pedestal) + read noise
squared. A point spread makes neighbours alike and takes variance from each pixel; what it takes is found again in the
covariances of neighbours, so that their sum is the variance of the photons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Blocks", "PhotonTransfer", "noise_blocks", "photon_transfer"]

# Pixels of a block along each axis, and the part of them that must be usable.
_SIDE, _USABLE = 32, 0.7
# Pixels beyond so many standard deviations are peaks or bad ones; photons of dim images must stay below it.
_PEAK = 10.0
# Neighbours that a point spread reaches, in pixels; those just beyond, in which fine structure of the scattering shows,
# and those further away, in which coarse structure does.
_NEAR, _BEYOND, _FAR = 2, (3, 4), (5, 8)
# Mean covariance of the far neighbours, relative to the variance, above which a block isn't smooth.
_ROUGH = 0.02
# Blocks needed, and in a bin of level.
_ENOUGH, _IN_BIN = 40, 15
# Neighbours correlate by more than this, relative to the variance, where there is a point spread.
_SPREAD = 0.5
# Variance over mean differs by this between dim and bright parts where the pedestal is wrong, or there is read noise.
_RISE = 1.25
# A variance per photon so far from 1 is no photon's.
_LOWEST, _HIGHEST = 0.75, 1.33


@dataclass(frozen=True, eq=False)
class Blocks:
    """What blocks of pixels show, (n,) each, raw values.

    Attributes:
        mean, variance: about a smooth surface, and without the covariance of pixels `_BEYOND` each other: structure.
        near: sum of the covariances with the neighbours up to `_NEAR` pixels away, that covariance taken from each.
        far: mean covariance with those further away.
        skewness: third moment over variance to the power of 1.5.
        size: pixels that count.
        panel: number of the panel.
    """

    mean: np.ndarray
    variance: np.ndarray
    near: np.ndarray
    far: np.ndarray
    skewness: np.ndarray
    size: np.ndarray
    panel: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Blocks:
        return Blocks(*(getattr(self, name)[chosen] for name in Blocks.__dataclass_fields__))

    @staticmethod
    def joined(parts: Sequence[Blocks]) -> Blocks:
        """Return the blocks of several panels or images together."""
        fields = Blocks.__dataclass_fields__
        return Blocks(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


@dataclass(frozen=True)
class PhotonTransfer:
    """What variance against mean says of a detector.

    Attributes:
        ratio: variance over mean of photons, by the gain and pedestal that were taken; 1 where they are right.
        gain: raw value per photon.
        pedestal: raw value at no photon; a lower bound where there is read noise. None where nothing speaks against the
            one that was taken.
        dimmest: mean raw value of the dimmest blocks; no pedestal lies above it.
        spread: variance of the photons over that of single pixels; 1 without a point spread.
        n_blocks: smooth blocks.
    """

    ratio: float
    gain: float
    pedestal: float | None
    dimmest: float
    spread: float
    n_blocks: int

    @property
    def agrees(self) -> bool:
        """Whether the gain and the pedestal that were taken may be right."""
        return _LOWEST <= self.ratio <= _HIGHEST and self.pedestal is None


def noise_blocks(values: np.ndarray, use: np.ndarray, most: int, panel: int = 0) -> Blocks:
    """Return what blocks of one panel show.

    Args:
        values: (slow, fast) raw.
        use: (slow, fast) True for pixels that may be used.
        most: blocks, spread evenly over the panel.
        panel: its number.
    """
    n_slow, n_fast = values.shape[0] // _SIDE, values.shape[1] // _SIDE
    use = _in_blocks(use, n_slow, n_fast)
    where = np.flatnonzero(use.mean(axis=(1, 2)) >= _USABLE)
    where = where[np.unique(np.linspace(0, len(where) - 1, min(most, len(where))).astype(int))] if len(where) else where
    use, raw = use[where].copy(), _in_blocks(values, n_slow, n_fast)[where].astype(float)
    raw[~use] = 0
    apart, variance = _about_a_surface(raw, use)
    size = use.sum(axis=(1, 2))
    good = (size > _SIDE**2 // 2) & (variance > 0)
    raw, use, apart, size, variance = raw[good], use[good], apart[good], size[good], variance[good]
    covariance, distance = _covariances(apart, use), _distance()
    beyond, far = (covariance[:, (distance >= low) & (distance <= high)].mean(axis=1) for low, high in (_BEYOND, _FAR))
    close = (distance >= 1) & (distance <= _NEAR)
    # What the fitted surface takes from the covariances of neighbours it takes from all alike: it cancels.
    return Blocks(
        mean=np.where(use, raw, 0).sum(axis=(1, 2)) / size,
        variance=np.maximum(covariance[:, 0, 0] - beyond, 1e-9),
        near=covariance[:, close].sum(axis=1) - np.count_nonzero(close) * beyond,
        far=far,
        skewness=(apart**3).sum(axis=(1, 2)) / size / variance**1.5,
        size=size,
        panel=np.full(len(size), panel),
    )


def photon_transfer(blocks: Blocks, gain: float, pedestal: float, read_noise: float = 0.0) -> PhotonTransfer | None:
    """Return what smooth blocks say of gain and pedestal; None where too few are smooth or lit.

    Args:
        blocks: of one or more images of a detector.
        gain, pedestal: that are taken.
        read_noise: in photons.
    """
    per_level = np.median(blocks.variance / np.maximum(blocks.mean, 1e-9)) if len(blocks.mean) else 0.0
    # Of a Poisson distribution: what one photon adds, over the standard deviation.
    expected = np.maximum(blocks.variance / np.maximum(blocks.mean, 1e-9), per_level) / np.sqrt(blocks.variance)
    smooth = np.abs(blocks.far) < _ROUGH * blocks.variance
    smooth &= blocks.skewness < 2 * expected + 5 * np.sqrt(6 / blocks.size)
    dimmest = float(np.percentile(blocks.mean[smooth], 1)) if smooth.any() else 0.0
    # By any gain, a block needs some photons for a variance.
    smooth &= blocks.variance * blocks.size > 30 * np.minimum(gain, per_level) ** 2
    if np.count_nonzero(smooth) < _ENOUGH:
        return None
    blocks = blocks[smooth]
    order = np.argsort(blocks.mean, kind="stable")
    bins = np.array_split(order, min(12, max(len(order) // _IN_BIN, 2)))
    mean, variance = (np.array([np.median(x[b]) for b in bins]) for x in (blocks.mean, blocks.variance))
    error = variance * np.sqrt(2 / np.median(blocks.size) / np.array([len(b) for b in bins]))
    slope, at_zero, of_zero = _line(mean, variance, np.hypot(error, 0.03 * variance))
    several = len(np.unique(blocks.panel)) > 1
    if several:
        slope = _slope_within_panels(blocks) or slope
        at_zero = float(np.median(mean - (variance - (read_noise * gain) ** 2) / slope)) if slope > 0 else pedestal
    # Structure of the scattering makes neighbours alike too, more so where it is bright: the least alike bins tell.
    near = np.array([np.median(blocks.near[b]) for b in bins])
    spread, added = 1.0, 0.0
    if np.percentile(near / variance, 25) > _SPREAD:
        scatter = [
            1.5 * np.median(np.abs(blocks.near[b] - n)) / np.sqrt(len(b)) for b, n in zip(bins, near, strict=True)
        ]
        added, zero, of_near = _line(mean, near, np.hypot(scatter, 0.1 * near))
        if added > 0 and slope > 0:
            # Read noise is each pixel's own: the covariances know nothing of it, and tell the pedestal.
            spread, at_zero, of_zero = 1 + added / slope, zero, of_near
    signal, noise = mean - pedestal, (read_noise * gain) ** 2
    lit = signal > 0
    photons = (variance - noise + (near if spread > 1 else 0))[lit] / (gain * signal[lit])
    ratio = float(np.median(photons)) if lit.any() else np.inf
    # By a pedestal that is too low the ratio rises with the level, by read noise it falls.
    third = max(len(photons) // 3, 1)
    rise = float(np.median(photons[-third:]) / np.median(photons[:third])) if len(photons) > 2 else 1.0
    lifted = rise > _RISE and slope > 0 and 3 * of_zero < at_zero - pedestal and at_zero <= dimmest
    noisy = rise < 1 / _RISE and 3 * of_zero < pedestal - at_zero
    by_slope = slope > 0 and (several or lifted or noisy)
    gain_found = slope + added if by_slope else ratio * gain
    return PhotonTransfer(
        ratio, float(gain_found), float(at_zero) if lifted else None, dimmest, float(spread), len(order)
    )


def _in_blocks(values: np.ndarray, n_slow: int, n_fast: int) -> np.ndarray:
    """Cut a panel into blocks (n, _SIDE, _SIDE)."""
    whole = values[: n_slow * _SIDE, : n_fast * _SIDE].reshape(n_slow, _SIDE, n_fast, _SIDE)
    return whole.swapaxes(1, 2).reshape(-1, _SIDE, _SIDE)


def _surfaces() -> np.ndarray:
    """Values (_SIDE^2, 6) of the terms of a quadratic surface on a block."""
    slow, fast = np.mgrid[:_SIDE, :_SIDE] / (_SIDE - 1) * 2 - 1
    terms = (np.ones_like(fast), fast, slow, fast * fast, fast * slow, slow * slow)
    return np.stack(terms, axis=-1).reshape(-1, 6)


_TERMS = _surfaces()


def _about_a_surface(raw: np.ndarray, use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what is left of blocks about a quadratic surface, and its variance; peaks are taken out of `use`."""
    for _ in range(4):
        flat, weight = np.where(use, raw, 0).reshape(-1, _SIDE**2), use.reshape(-1, _SIDE**2).astype(float)
        normal = np.einsum("pi,bp,pj->bij", _TERMS, weight, _TERMS, optimize=True) + 1e-6 * np.eye(6)
        fitted = np.linalg.solve(normal, (flat @ _TERMS)[..., None])[..., 0] @ _TERMS.T
        apart = np.where(use, raw - fitted.reshape(raw.shape), 0)
        variance = (apart**2).sum(axis=(1, 2)) / np.maximum(use.sum(axis=(1, 2)) - 6, 1)
        peak = np.abs(apart) > _PEAK * np.sqrt(variance)[:, None, None]
        if not peak.any():
            break
        wide = peak.copy()
        wide[:, 1:] |= peak[:, :-1]
        wide[:, :-1] |= peak[:, 1:]
        wide[:, :, 1:] |= peak[:, :, :-1]
        wide[:, :, :-1] |= peak[:, :, 1:]
        use &= ~wide
    return np.where(use, apart, 0), variance


def _distance() -> np.ndarray:
    """Distance (larger of the two) of each lag of a padded block."""
    lag = np.minimum(np.arange(2 * _SIDE), 2 * _SIDE - np.arange(2 * _SIDE))
    return np.maximum(lag[:, None], lag[None])


def _covariances(apart: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Return the mean product (n, 2 _SIDE, 2 _SIDE) of pixels that are each lag apart."""
    padded = (2 * _SIDE, 2 * _SIDE)
    products = np.fft.irfft2(np.abs(np.fft.rfft2(apart, padded)) ** 2, padded)
    pairs = np.fft.irfft2(np.abs(np.fft.rfft2(use.astype(float), padded)) ** 2, padded)
    return products / np.maximum(pairs, 1)


def _line(mean: np.ndarray, variance: np.ndarray, error: np.ndarray) -> tuple[float, float, float]:
    """Return slope of variance against mean, the mean at which the line is 0, and the error of that; robust."""
    weight = 1 / error**2
    for _ in range(20):
        total = weight.sum()
        middle, height = (weight * mean).sum() / total, (weight * variance).sum() / total
        width = (weight * (mean - middle) ** 2).sum()
        slope = (weight * (mean - middle) * (variance - height)).sum() / max(width, 1e-30)
        weight = 1 / error**2 / np.maximum(np.abs(variance - height - slope * (mean - middle)) / error / 2, 1)
    if slope <= 0:
        return 0.0, 0.0, np.inf
    at_zero = middle - height / slope
    return float(slope), float(at_zero), float(np.sqrt(1 / total + (at_zero - middle) ** 2 / width) / slope)


def _slope_within_panels(blocks: Blocks) -> float:
    """Return the slope of variance against mean where each panel has a pedestal of its own; 0 for none."""
    slopes, weights = [], []
    for panel in np.unique(blocks.panel):
        here = blocks[blocks.panel == panel]
        if len(here.mean) >= _IN_BIN:
            one, other = np.triu_indices(len(here.mean), 1)
            apart = here.mean[other] - here.mean[one]
            far = np.abs(apart) > 0.3 * np.ptp(here.mean)
            # Theil and Sen: the median of the slopes of pairs.
            slopes.append(np.median((here.variance[other] - here.variance[one])[far] / apart[far]))
            weights.append(np.ptp(here.mean))
    if not slopes:
        return 0.0
    return float(max(np.median(np.repeat(slopes, np.ceil(10 * np.array(weights) / max(weights)).astype(int))), 0.0))
