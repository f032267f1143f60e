"""What raw values say of a detector: a trusted range that cuts through the noise, and read noise nobody told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LowerEnd", "lower_end", "noise_of_dim_pixels"]

# Pixels of a block in which noise is measured, along each axis.
_BLOCK = 16


@dataclass(frozen=True)
class LowerEnd:
    """How the values of an image lie about the lower end of the trusted range.

    Attributes:
        n_used: pixels with a value in the range.
        n_cut: pixels below it among them: both neighbours along fast are used, and so is the pixel itself on another
            image, so that it is neither dead nor in a gap.
        rms: root mean square of how far those lie below the range, raw values.
    """

    n_used: int
    n_cut: int
    rms: float

    @property
    def share(self) -> float:
        """Of the pixels that could be used, those that are cut."""
        return self.n_cut / max(self.n_used + self.n_cut, 1)


def lower_end(values: np.ndarray, trusted_range: tuple[float, float], used_elsewhere: np.ndarray | None) -> LowerEnd:
    """Count the pixels that lie below the trusted range for no reason but noise.

    Args:
        values: (slow, fast) raw.
        trusted_range: lowest and highest value that may be used, both included.
        used_elsewhere: (slow, fast) True where another image has a value in the range; None without one.
    """
    low, high = trusted_range
    used = (values >= low) & (values <= high)
    below = np.zeros_like(used)
    below[:, 1:-1] = (values[:, 1:-1] < low) & used[:, :-2] & used[:, 2:]
    if used_elsewhere is not None:
        below &= used_elsewhere
    depth = low - values[below].astype(float)
    rms = float(np.sqrt(np.mean(depth**2))) if len(depth) else 0.0
    return LowerEnd(int(np.count_nonzero(used)), len(depth), rms)


def noise_of_dim_pixels(photons: np.ndarray, use: np.ndarray) -> float:
    """Return the read noise of a pixel, in photons, as the dimmest blocks of a panel show it.

    The variance of a pixel about the middle of its neighbours along fast, in which gradients and what rows have in
    common drop out, is read noise squared and the mean count; without what lies six standard deviations out, peaks and
    bad pixels. 0 where counting explains it, or no block is large enough.

    Args:
        photons: (slow, fast).
        use: (slow, fast) True for pixels that may be used.
    """
    triple = use[:, :-2] & use[:, 1:-1] & use[:, 2:]
    difference = photons[:, 1:-1] - 0.5 * (photons[:, :-2] + photons[:, 2:])
    found = []
    for slow in range(0, photons.shape[0] - _BLOCK + 1, _BLOCK):
        for fast in range(0, difference.shape[1] - _BLOCK + 1, _BLOCK):
            block = np.s_[slow : slow + _BLOCK, fast : fast + _BLOCK]
            inside = triple[block]
            if np.count_nonzero(inside) >= _BLOCK**2 // 2:
                values, apart = photons[:, 1:-1][block][inside], difference[block][inside]
                # Of a normal distribution: 0.6745 standard deviations; of three pixels 1.5 variances.
                reach = 6 * np.median(np.abs(apart)) / 0.6745
                near = np.abs(apart) <= reach
                found.append((float(values[near].mean()), float(np.mean(apart[near] ** 2)) / 1.5))
    if not found:
        return 0.0
    dimmest = sorted(found)[: max(len(found) // 4, 1)]
    mean, variance = np.median(np.array(dimmest), axis=0)
    return float(np.sqrt(max(variance - max(mean, 0.0), 0.0)))
