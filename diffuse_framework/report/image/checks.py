"""Questions a careful person asks of the diffuse pixels of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, stats

from diffuse_framework.report.checks import BAD, GOOD, LOOK, Check
from diffuse_framework.report.figures import radial_profile

# Side, in pixels, of the window whose mean is taken for what a pixel should count.
_WINDOW = 21
_BLOCK = 32


def local_mean(values: np.ndarray, use: np.ndarray, window: int = _WINDOW) -> np.ndarray:
    """Return the mean of the used pixels around each pixel, itself left out; NaN where few are used."""
    total = ndimage.uniform_filter(np.where(use, values, 0.0).astype(float), window, mode="constant") * window**2
    number = ndimage.uniform_filter(use.astype(float), window, mode="constant") * window**2
    total -= np.where(use, values, 0.0)
    number -= use
    return np.divide(total, number, out=np.full(values.shape, np.nan), where=number > 0.2 * window**2)


@dataclass(frozen=True)
class Peak:
    """A clump of diffuse pixels that count far more than those around them.

    Attributes:
        panel, fast, slow: of its brightest pixel.
        pixels: that stand out.
        photons: in them.
        expected: photons in them, from the pixels around.
    """

    panel: int
    fast: int
    slow: int
    pixels: int
    photons: float
    expected: float


def find_peaks(photons: tuple[np.ndarray, ...], diffuse: tuple[np.ndarray, ...]) -> list[Peak]:
    """Return clumps of two or more diffuse pixels that counting noise does not explain, brightest first.

    A pixel stands out if so many photons would be seen on fewer than one pixel in a million by
    chance, given the mean of the pixels around it.
    """
    peaks = []
    for panel, (counts, use) in enumerate(zip(photons, diffuse, strict=True)):
        expected = local_mean(counts, use)
        known = use & np.isfinite(expected)
        out = np.zeros(use.shape, bool)
        out[known] = stats.poisson.sf(counts[known] - 1, np.maximum(expected[known], 1e-3)) < 1e-6
        labels, n_clumps = ndimage.label(out, np.ones((3, 3)))
        if n_clumps == 0:
            continue
        rows = np.arange(1, n_clumps + 1)
        sizes, sums = ndimage.sum(out, labels, rows), ndimage.sum(counts, labels, rows)
        means = ndimage.sum(np.where(out, expected, 0.0), labels, rows)
        for number, (slow, fast) in enumerate(ndimage.maximum_position(counts, labels, rows)):
            if sizes[number] >= 2:
                peaks.append(
                    Peak(
                        panel,
                        int(fast),
                        int(slow),
                        int(sizes[number]),
                        float(sums[number]),
                        float(means[number]),
                    )
                )
    return sorted(peaks, key=lambda peak: peak.expected - peak.photons)


def check_peaks(photons: tuple[np.ndarray, ...], diffuse: tuple[np.ndarray, ...]) -> tuple[Check, list[Peak]]:
    """Say whether Bragg peaks are left among the diffuse pixels, and where."""
    peaks = find_peaks(photons, diffuse)
    question = "Is there a Bragg peak in the diffuse selection?"
    if not peaks:
        return Check(question, GOOD, "No: no two touching diffuse pixels count more than chance explains."), []
    total = sum(float(counts[use].sum()) for counts, use in zip(photons, diffuse, strict=True))
    share = sum(peak.photons - peak.expected for peak in peaks) / max(total, 1.0)
    first = peaks[0]
    verdict = GOOD if share < 1e-4 else LOOK if share < 0.01 else BAD
    advice = "" if verdict == GOOD else " Try a smaller masker.bragg.share."
    return Check(
        question,
        verdict,
        f"{len(peaks)} clump{'s' if len(peaks) > 1 else ''} of pixels stand out and hold {share:.3%} of the diffuse "
        f"photons. The strongest is at fast {first.fast}, slow {first.slow} of panel {first.panel}: "
        f"{first.photons:.0f} photons in {first.pixels} pixels where {first.expected:.0f} are expected.{advice}",
    ), peaks


def check_hot(photons: tuple[np.ndarray, ...], diffuse: tuple[np.ndarray, ...]) -> Check:
    """Say whether single pixels stand out from all around them."""
    question = "Are hot pixels left?"
    number, brightest = 0, (0.0, 0, 0, 0)
    for panel, (counts, use) in enumerate(zip(photons, diffuse, strict=True)):
        expected = local_mean(counts, use)
        known = use & np.isfinite(expected)
        out = np.zeros(use.shape, bool)
        out[known] = stats.poisson.sf(counts[known] - 1, np.maximum(expected[known], 1e-3)) < 1e-9
        alone = out & (ndimage.uniform_filter(out.astype(float), 3, mode="constant") < 1.5 / 9)
        number += int(alone.sum())
        if alone.any():
            slow, fast = np.unravel_index(int(np.argmax(np.where(alone, counts, -1))), counts.shape)
            brightest = max(brightest, (float(counts[slow, fast]), panel, int(fast), int(slow)))
    total = sum(float(counts[use].sum()) for counts, use in zip(photons, diffuse, strict=True))
    if number == 0:
        return Check(question, GOOD, "No: no single pixel counts more than chance explains.")
    return Check(
        question,
        GOOD if brightest[0] < 1e-4 * total and number < 100 else LOOK,
        f"{number} single pixels stand out; the brightest, at fast {brightest[2]}, slow {brightest[3]} of panel "
        f"{brightest[1]}, has {brightest[0]:.0f} photons, {brightest[0] / max(total, 1.0):.2%} of all. A single image "
        "can't tell hot pixels from chance; with several, the masker dynamic does.",
    )


def check_mask_edge(
    photons: tuple[np.ndarray, ...], diffuse: tuple[np.ndarray, ...], bragg: tuple[np.ndarray, ...]
) -> Check:
    """Say whether pixels right beside the Bragg mask are brighter than those farther off.

    Args:
        photons: (slow, fast) per panel.
        diffuse: True where a pixel is diffuse.
        bragg: True where a pixel is masked as Bragg.
    """
    question = "Do the flanks of Bragg peaks reach out of the mask?"
    near: list[np.ndarray] = []
    far: list[np.ndarray] = []
    for counts, use, masked in zip(photons, diffuse, bragg, strict=True):
        if not masked.any():
            continue
        distance = ndimage.distance_transform_edt(~masked)
        for out, inside in ((near, distance <= 2), (far, (distance > 4) & (distance <= 8))):
            mean = _block_means(counts, use & inside)
            out.append(mean)
    if not near:
        return Check(question, LOOK, "There is no pixel masked as Bragg.")
    x, y = np.concatenate([m.ravel() for m in near]), np.concatenate([m.ravel() for m in far])
    both = np.isfinite(x) & np.isfinite(y) & (y > 0)
    if not both.any():
        return Check(question, LOOK, "Masked peaks are too dense to compare pixels near to them with others.")
    ratio = float(x[both].sum() / y[both].sum())
    verdict = GOOD if ratio < 1.05 else LOOK if ratio < 1.2 else BAD
    return Check(
        question,
        verdict,
        f"Diffuse pixels within 2 pixels of the mask count {ratio:.3f} times what those 4 to 8 pixels off do."
        + ("" if verdict == GOOD else " Diffuse halos do this too; a smaller masker.bragg.share tells."),
    )


def _block_means(values: np.ndarray, use: np.ndarray, least: int = 5) -> np.ndarray:
    """Return means over blocks of used pixels, NaN where fewer than `least` are used."""
    shape = -(-np.array(values.shape) // _BLOCK)
    slow, fast = np.nonzero(use)
    block = slow // _BLOCK * shape[1] + fast // _BLOCK
    number = np.bincount(block, minlength=shape.prod())
    total = np.bincount(block, values[use].astype(float), minlength=shape.prod())
    return np.divide(total, number, out=np.full(shape.prod(), np.nan), where=number >= least).reshape(shape)


def check_errors(photons: tuple[np.ndarray, ...], diffuse: tuple[np.ndarray, ...]) -> Check:
    """Say whether pixels scatter about their neighbours' mean as counting photons does."""
    question = "Do pixels scatter as sqrt(counts)?"
    squares, number = 0.0, 0
    for counts, use in zip(photons, diffuse, strict=True):
        expected = local_mean(counts, use)
        known = use & np.isfinite(expected) & (expected > 0.05)
        deviation = (counts[known] - expected[known]) ** 2 / expected[known]
        # A few peaks must not decide; cutting at 20 sigma^2 takes nothing from counting noise.
        deviation = deviation[deviation < 20]
        squares, number = squares + float(deviation.sum()), number + len(deviation)
    if number < 100:
        return Check(question, LOOK, "There are too few photons to tell.")
    ratio = np.sqrt(squares / number)
    verdict = GOOD if 0.9 < ratio < 1.15 else LOOK if 0.75 < ratio < 1.5 else BAD
    more = "" if verdict == GOOD else " Check the gain (detector.gain), or look for structure."
    return Check(
        question,
        verdict,
        f"The scatter about the mean of the pixels around is {ratio:.3f} times sqrt(counts), over {number} "
        f"pixels.{more}",
    )


def check_sigmas(intensity: np.ndarray, sigma: np.ndarray, photons: np.ndarray | None = None) -> Check:
    """Say whether sigma follows the square root of the intensity.

    Args:
        intensity, sigma: (n,).
        photons: (n,) that each pixel counted, where known and no background was subtracted.
    """
    question = "Do errors follow sigma ~ sqrt(I)?"
    good = (intensity > 0) & (sigma > 0)
    if np.count_nonzero(good) < 100:
        return Check(question, LOOK, "Fewer than 100 pixels have a positive intensity.")
    # The variance of one photon per unit of intensity is 1/response: it differs from pixel to pixel
    # a little, which would hide the slope if single pixels were fitted.
    x, y = np.log(intensity[good]), np.log(sigma[good])
    bins = np.digitize(x, np.quantile(x, np.linspace(0, 1, 21)[1:-1]))
    seen = [bins == number for number in range(20) if np.count_nonzero(bins == number) > 3]
    means = np.array([(x[rows].mean(), y[rows].mean()) for rows in seen])
    slope = float(np.polyfit(means[:, 0], means[:, 1], 1)[0]) if np.ptp(means[:, 0]) > 0 else np.nan
    response = np.percentile(intensity[good] / sigma[good] ** 2, (5, 95))
    verdict = GOOD if 0.4 < slope < 0.6 else LOOK if 0.3 < slope < 0.75 else BAD
    exactly = ""
    if photons is not None:
        found = (intensity[good] / sigma[good]) ** 2
        share = float(np.mean(np.abs(found - photons[good]) <= 0.01 * photons[good]))
        verdict = GOOD if share > 0.99 else BAD if share < 0.5 else LOOK
        exactly = f"(I/sigma)^2 is the number of photons, to 1 %, on {share:.2%} of the pixels that count any. "
    return Check(
        question,
        verdict,
        f"{exactly}Over all pixels sigma grows as I to the power {slope:.3f} (0.5 where all respond alike); the "
        f"response I/sigma^2 varies by a factor {response[1] / response[0]:.2f} (5 % to 95 %).",
    )


def check_zero_errors(intensity: np.ndarray, sigma: np.ndarray) -> Check:
    """Say how many single pixels have no error because they count nothing."""
    share = float(np.mean(sigma == 0))
    return Check(
        "Have all pixels an error?",
        GOOD if share < 0.01 else LOOK,
        f"{share:.2%} of the pixels count nothing, and the sigma of a single pixel is 0 there. Sums and maps "
        "never weight by these sigmas.",
    )


def check_modes(q: np.ndarray, intensity: np.ndarray) -> Check:
    """Say whether intensities, divided by the mean at their |q|, have more than one mode.

    Args:
        q: (n,) |q| in 1/angstrom.
        intensity: (n,).
    """
    question = "Is the distribution of intensities free of a second mode?"
    order = np.argsort(q, kind="stable")
    # Means of runs of 64 pixels at the same |q|, so that single photons do not show as modes.
    n_runs = len(order) // 64
    if n_runs < 50:
        return Check(question, LOOK, "There are too few pixels to tell.")
    profile = radial_profile(q, intensity)
    relative = intensity / np.maximum(np.interp(q, profile.q, profile.mean), 1e-300)
    runs = relative[order][: n_runs * 64].reshape(n_runs, 64).mean(axis=1)
    histogram, _ = np.histogram(runs, bins=80, range=(0, max(float(np.percentile(runs, 99.5)), 1e-9)))
    smooth = ndimage.gaussian_filter1d(histogram.astype(float), 3)
    peaks = [
        n
        for n in range(1, len(smooth) - 1)
        if smooth[n] >= smooth[n - 1] and smooth[n] > smooth[n + 1] and smooth[n] > 0.1 * smooth.max()
    ]
    separate = 1 + sum(
        smooth[a:b].min() < 0.7 * min(smooth[a], smooth[b]) for a, b in zip(peaks[:-1], peaks[1:], strict=True)
    )
    return Check(
        question,
        GOOD if separate == 1 else LOOK,
        "Yes: at one |q| intensities gather around one value."
        if separate == 1
        else f"No: at one |q| intensities gather around {separate} values. A shadow that is not masked does this.",
    )


def check_coverage(q_vectors: np.ndarray, sectors: int = 12, shells: int = 10) -> Check:
    """Say how evenly pixels (n, 3) cover directions around the beam, shell by shell of |q|."""
    centre = q_vectors - q_vectors.mean(axis=0)
    # A still covers least of the direction of the beam.
    _, directions = np.linalg.eigh(np.cov(centre[:: max(1, len(centre) // 100000)].T))
    x, y = (q_vectors @ directions[:, 1:]).T
    q = np.linalg.norm(q_vectors, axis=1)
    shell = np.minimum((q / q.max() * shells).astype(int), shells - 1)
    sector = ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * sectors).astype(int) % sectors
    number = np.bincount(shell * sectors + sector, minlength=shells * sectors).reshape(shells, sectors)
    full = (number > 0.1 * np.maximum(number.max(axis=1, keepdims=True), 1)).sum(axis=1)
    seen = number.sum(axis=1) > 0
    share = float(full[seen].mean() / sectors)
    return Check(
        "Is q space sampled evenly?",
        GOOD if share > 0.8 else LOOK,
        f"|q| from {q.min():.3f} to {q.max():.3f} 1/Å; on average {share:.0%} of {sectors} directions around the beam "
        f"hold pixels, {full[seen].min() / sectors:.0%} in the emptiest of {np.count_nonzero(seen)} shells.",
    )


def check_smoothness(
    intensity: tuple[np.ndarray, ...], q: tuple[np.ndarray, ...], diffuse: tuple[np.ndarray, ...]
) -> Check:
    """Say whether any block of pixels differs from the mean of its ring: a shadow or an artefact.

    Args:
        intensity: corrected, (slow, fast) per panel.
        q: |q| likewise, 1/angstrom.
        diffuse: True where a pixel is diffuse.
    """
    question = "Is the detector free of shadows and patches?"
    flat_q = np.concatenate([values[use] for values, use in zip(q, diffuse, strict=True)])
    flat = np.concatenate([values[use] for values, use in zip(intensity, diffuse, strict=True)])
    profile = radial_profile(flat_q, flat, 100)
    worst, deviations = (0.0, 0, 0, 0), []
    for panel, (values, lengths, use) in enumerate(zip(intensity, q, diffuse, strict=True)):
        ratio = values / np.maximum(np.interp(lengths, profile.q, profile.mean), 1e-300)
        # Of pixels taken in steps a block holds fewer.
        means = _block_means(ratio, use, max(30, int(0.25 * _BLOCK**2 * min(1.0, 1.2 * use.mean()))))
        known = np.isfinite(means)
        if not known.any():
            continue
        deviations.append(means[known])
        # Blocks around the beam stop see its edge; what counts is how far off the block is.
        off = np.where(known, np.abs(np.log(np.maximum(means, 1e-3))), 0.0)
        slow, fast = np.unravel_index(int(np.argmax(off)), off.shape)
        if off[slow, fast] > abs(np.log(max(worst[0], 1e-3))) or worst[0] == 0:
            worst = (float(means[slow, fast]), panel, int(fast) * _BLOCK, int(slow) * _BLOCK)
    if not deviations:
        return Check(question, LOOK, "No block of pixels is full enough to tell.")
    blocks = np.concatenate(deviations)
    far = float(np.mean((blocks < 0.5) | (blocks > 2)))
    spread = float(np.percentile(np.abs(blocks - 1), 90))
    verdict = BAD if far > 0.05 else LOOK if far > 0.005 or not 0.3 < worst[0] < 3 else GOOD
    return Check(
        question,
        verdict,
        f"90 % of blocks of {_BLOCK} x {_BLOCK} pixels are within {spread:.0%} of the mean of their ring, and "
        f"{far:.1%} are off by a factor 2. The farthest has {worst[0]:.2f} of it, from fast {worst[2]}, slow "
        f"{worst[3]} of panel {worst[1]}."
        + ("" if verdict == GOOD else " The beam stop and its shadow can be left out with masker.trusted.beamstop."),
    )
