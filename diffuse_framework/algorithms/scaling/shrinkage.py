"""Intensities to expect of voxels, better than what few counts say of each."""

from __future__ import annotations

import numpy as np

from diffuse_framework.algorithms.binning import shell_numbers, sum_by

N_SHELLS = 50


def shrunk_intensities(
    q: np.ndarray,
    net_counts: np.ndarray,
    exposure: np.ndarray,
    background: np.ndarray,
    noise: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return an intensity above 0 for each voxel (n,), and by how much it rises with the voxel's counts (n,).

    Between the mean of the resolution shell and the voxel's own value, as its precision and the
    true spread within the shell warrant (the posterior mean of a Gamma prior whose mean and
    variance are the shell's, by the method of moments). Where a shell is uniform within
    its errors all of it gets one value, so that weights do not follow the noise.

    Args:
        q: |q|, 1/angstrom.
        net_counts, exposure: photons above background, and scaled exposure.
        background: expected photons of background and offset.
        noise: variance of the counts that is not of counting, photons^2.
    """
    result, slope = np.zeros((2, len(q)))
    seen = exposure > 0
    if not seen.any():
        return result, slope
    shells, _ = shell_numbers(q[seen], N_SHELLS)
    net, exposed, behind = net_counts[seen], exposure[seen], background[seen]
    beyond = np.broadcast_to(noise, len(q))[seen]

    def per_shell(values: np.ndarray) -> np.ndarray:
        return sum_by(shells, values, N_SHELLS)

    overall = max(net.sum() / exposed.sum(), 1e-6 * np.abs(net).sum() / exposed.sum(), 1e-30)
    all_exposed = per_shell(exposed)
    mean = np.divide(per_shell(net), all_exposed, out=np.full(N_SHELLS, overall), where=all_exposed > 0)
    mean = np.maximum(mean, 1e-2 * overall)
    # Weighted by exposure, the variance of net/exposure about the mean is spread + noise.
    deviation = net / exposed - mean[shells]
    squares = per_shell(exposed * deviation**2)
    by_chance = per_shell(mean[shells] + (np.maximum(behind, 0) + beyond) / exposed)
    spread = np.divide(squares - by_chance, all_exposed, out=np.zeros(N_SHELLS), where=all_exposed > 0)
    shape = mean**2 / np.maximum(spread, 1e-4 * mean**2)
    # Noise makes the voxel's own counts worth less, as a narrower prior would.
    shape, mean = shape[shells] * (1 + beyond / (mean[shells] * exposed)), mean[shells]
    rising = net > -0.9 * shape
    slope[seen] = rising / (shape / mean + exposed)
    result[seen] = np.where(rising, shape + net, 0.1 * shape) / (shape / mean + exposed)
    return result, slope
