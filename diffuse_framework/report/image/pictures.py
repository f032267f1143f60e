"""Pictures and answers about the diffuse pixels of one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from diffuse_framework.model.pixels import CorrectedPixels
from diffuse_framework.report import figures
from diffuse_framework.report.checks import Check, check_fall_off, check_intensities, check_precision, checks_text
from diffuse_framework.report.image.checks import (
    Peak,
    check_coverage,
    check_errors,
    check_hot,
    check_mask_edge,
    check_modes,
    check_peaks,
    check_sigmas,
    check_smoothness,
    check_zero_errors,
)

_ZOOM = 160
_MOST_SHOWN = 1400


@dataclass(frozen=True, eq=False)
class Extraction:
    """One image and what was taken from it.

    Attributes:
        name: of the image.
        photons: (slow, fast) per panel: (raw value - pedestal) / gain.
        total_mask: True where a pixel was to be used as diffuse.
        trusted: True where a pixel can be used at all; None where unknown.
        bragg: True where a pixel is masked as Bragg; None where unknown.
        background: photons expected from anything but the crystal; None where there are none.
        pixels: the corrected pixels.
        has_places: whether `pixels` says where each is on the detector.
        seed: of the choice of pixels in the table.
    """

    name: str
    photons: tuple[np.ndarray, ...]
    total_mask: tuple[np.ndarray, ...]
    trusted: tuple[np.ndarray, ...] | None
    bragg: tuple[np.ndarray, ...] | None
    background: tuple[np.ndarray, ...] | None
    pixels: CorrectedPixels
    has_places: bool
    seed: int = 0

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape (slow, fast) of each panel."""
        return [panel.shape for panel in self.photons]

    def extracted(self) -> tuple[np.ndarray, ...]:
        """True where a pixel was extracted: from its place, else the whole mask."""
        if not self.has_places:
            return self.total_mask
        out = [np.zeros(shape, bool) for shape in self.shapes]
        for number, panel in enumerate(out):
            here = self.pixels.panel == number
            panel[self.pixels.slow[here], self.pixels.fast[here]] = True
        return tuple(out)

    def on_detector(self, values: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return values (n,) of the pixels at their places, NaN elsewhere."""
        out = [np.full(shape, np.nan) for shape in self.shapes]
        for number, panel in enumerate(out):
            here = self.pixels.panel == number
            panel[self.pixels.slow[here], self.pixels.fast[here]] = values[here]
        return tuple(out)

    @property
    def q_length(self) -> np.ndarray:
        """(n,) |q| in 1/angstrom."""
        return np.linalg.norm(self.pixels.q, axis=1)


def pictures(data: Extraction) -> Iterator[tuple[str, Figure]]:
    """Yield file names and figures, one by one."""
    pixels, q = data.pixels, data.q_length
    if data.has_places:
        yield "diffuse_pixel_overlay.png", overlay(data)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        names = "xyz"[first], "xyz"[second]
        wide, high = np.ptp(pixels.q[:, (first, second)], axis=0)
        figure = Figure(figsize=(9, float(np.clip(7 * high / max(wide, 1e-9) + 1, 3.5, 9))), layout="constrained")
        axes = figure.add_subplot()
        picture = figures.draw_projection(
            axes,
            pixels.q[:, first],
            pixels.q[:, second],
            pixels.intensity,
            (f"q_{names[0]}", f"q_{names[1]}"),
        )
        figures.colour_bar(axes, picture, "mean intensity (photons / s sr)", "both")
        axes.set_title(f"{data.name}: diffuse pixels in q space, laboratory frame")
        yield f"q_projection_q{names[0]}_q{names[1]}.png", figure
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    figures.draw_radial(axes, q, pixels.intensity, "intensity (photons / s sr)")
    axes.set_title(f"{data.name}: intensity against resolution (grey: number of pixels)")
    yield "radial_q_distribution.png", figure
    yield "intensity_histogram.png", histograms(pixels.intensity, "intensity (photons / s sr)", data.name)
    if data.has_places:
        for number, panel in enumerate(data.on_detector(pixels.intensity)):
            if np.isfinite(panel).any():
                yield f"intensity_heatmap_panel_{number}.png", _heatmap(panel, f"{data.name}, panel {number}")
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot()
    figures.draw_sigma(axes, pixels.intensity, pixels.sigma)
    axes.set_title(f"{data.name}: errors against intensity (grey: number of pixels)")
    yield "sigma_vs_intensity.png", figure
    precision = _precision(pixels)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    figures.draw_histogram(axes, precision, "I / sigma of single pixels", log=False)
    figures.draw_marks(axes, {"mean": float(precision.mean()), "median": float(np.median(precision))})
    axes.set_title(f"{data.name}: pixels that count nothing have no sigma and are left out", fontsize=10)
    yield "isigi_histogram.png", figure


def histograms(values: np.ndarray, label: str, title: str) -> Figure:
    """Return one histogram with a linear and one with a logarithmic axis."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, log in zip(figure.subplots(1, 2), (False, True), strict=True):
        figures.draw_histogram(axes, values, label, log)
    figure.suptitle(f"{title} (the outermost bars gather the tails)", fontsize=10)
    return figure


def overlay(data: Extraction) -> Figure:
    """Return the image with its diffuse and Bragg pixels tinted, and a part of it pixel by pixel."""
    extracted = data.extracted()
    panel = int(np.argmax([mask.sum() for mask in extracted]))
    photons, diffuse = data.photons[panel], extracted[panel]
    trusted = data.trusted[panel] if data.trusted is not None else np.ones(diffuse.shape, bool)
    bragg = data.bragg[panel] if data.bragg is not None else trusted & ~data.total_mask[panel]
    bragg = bragg & trusted
    figure = Figure(figsize=(15, 8), layout="constrained")
    whole, part = figure.subplots(1, 2)
    step = max(1, -(-max(diffuse.shape) // _MOST_SHOWN))
    highest = max(3.0, 2 * figures.limits_of(photons[diffuse].astype(float), 1, 99.9)[1]) if diffuse.any() else None
    figures.draw_image(
        whole,
        pooled(np.where(trusted, photons, -1), step, np.max),
        pooled(trusted, step, np.mean) > 0.5,
        highest,
        step=step,
    )
    figures.draw_classes(whole, _named(diffuse, bragg, lambda mask: pooled(mask, step, np.mean) > 0.5), step=step)
    slow, fast = _worth_a_look(photons, bragg, diffuse)
    window = slice(slow, slow + _ZOOM), slice(fast, fast + _ZOOM)
    figures.draw_image(part, photons[window], trusted[window], highest, (slow, fast))
    named = _named(diffuse[window], bragg[window], lambda mask: mask)
    figures.draw_classes(part, named, 0.35, (slow, fast))
    part.set_title("a part of it, pixel by pixel", fontsize=10)
    whole.set_title(f"panel {panel}" if len(data.photons) > 1 else "whole detector", fontsize=10)
    figure.suptitle(f"{data.name}: {diffuse.sum()} diffuse pixels, {bragg.sum()} masked as Bragg peaks; log of counts")
    return figure


def _named(diffuse, bragg, shrink):
    return [
        (shrink(diffuse), figures.BLUE, "diffuse"),
        (shrink(bragg), figures.VERMILION, "Bragg mask"),
    ]


def pooled(values: np.ndarray, step: int, reduce) -> np.ndarray:
    """Return `values` (slow, fast) reduced over blocks of step x step pixels; the rest of the edge is cut."""
    if step == 1:
        return values
    slow, fast = (n // step * step for n in values.shape)
    return reduce(values[:slow, :fast].reshape(slow // step, step, fast // step, step), axis=(1, 3))


def _worth_a_look(photons: np.ndarray, bragg: np.ndarray, diffuse: np.ndarray) -> tuple[int, int]:
    """Return the corner of a window with many Bragg and many diffuse pixels."""
    size = min(_ZOOM, *photons.shape)
    step = max(size // 2, 1)
    best, corner = -1.0, (0, 0)
    for slow in range(0, photons.shape[0] - size + 1, step):
        for fast in range(0, photons.shape[1] - size + 1, step):
            window = slice(slow, slow + size), slice(fast, fast + size)
            light = float(np.sqrt(np.maximum(photons[window], 0) * bragg[window]).sum())
            score = light * float(diffuse[window].mean())
            if score > best:
                best, corner = score, (slow, fast)
    return corner


def _heatmap(panel: np.ndarray, title: str) -> Figure:
    step = max(1, -(-max(panel.shape) // 700))
    number = pooled(np.isfinite(panel).astype(float), step, np.sum)
    total = pooled(np.nan_to_num(panel), step, np.sum)
    mean = np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)
    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.add_subplot()
    extent = (0, mean.shape[1] * step, mean.shape[0] * step, 0)
    low, high = figures.limits_of(mean)
    picture = axes.imshow(
        mean,
        cmap=figures.colour_map(figures.INTENSITY),
        vmin=low,
        vmax=high,
        extent=extent,
        interpolation="nearest",
    )
    figures.colour_bar(axes, picture, "intensity (photons / s sr)", "both")
    axes.set_xlabel("fast (pixels)")
    axes.set_ylabel("slow (pixels)")
    axes.set_title(f"{title}: corrected diffuse intensity" + (f", means of {step} x {step} pixels" if step > 1 else ""))
    return figure


def _precision(pixels: CorrectedPixels) -> np.ndarray:
    seen = pixels.sigma > 0
    return pixels.intensity[seen] / pixels.sigma[seen] if seen.any() else np.zeros(1)


def correction_text(data: Extraction, rows: int = 40) -> str:
    """Return a table of pixels drawn at random: counts, what they became, and by which factor."""
    pixels, q = data.pixels, data.q_length
    chosen = np.sort(np.random.default_rng(data.seed).choice(len(q), min(rows, len(q)), replace=False))
    table = []
    for n in chosen:
        intensity, sigma = pixels.intensity[n], pixels.sigma[n]
        row = [f"{x:.5f}" for x in (*pixels.q[n], q[n])]
        row += [f"{intensity:.5g}", f"{sigma:.5g}", f"{intensity / sigma:.2f}" if sigma > 0 else "-"]
        if data.has_places:
            panel, slow, fast = int(pixels.panel[n]), int(pixels.slow[n]), int(pixels.fast[n])
            counts = float(data.photons[panel][slow, fast])
            net = counts - (float(data.background[panel][slow, fast]) if data.background else 0.0)
            row = [str(panel), str(fast), str(slow), f"{counts:.5g}", *row, f"{intensity / net:.5g}" if net else "-"]
        table.append(row)
    head = ["qx", "qy", "qz", "|q|", "I", "sigma", "I/sigma"]
    if data.has_places:
        head = ["panel", "fast", "slow", "photons", *head, "I/photons"]
    note = (
        "I = (photons - background) / (exposure time x solid angle x polarisation x efficiency x transmission), in "
        "photons per second and steradian;\n"
        "I/photons is the whole correction of that pixel. q in 1/angstrom, |q| = 1/d. sigma is sqrt(photons) times the "
        "correction."
    )
    text = tabulate(table, head, "simple")
    return f"{data.name}: {len(q)} diffuse pixels, {len(table)} of them\n\n{text}\n\n{note}\n"


def answers(data: Extraction) -> tuple[list[Check], list[Peak]]:
    """Return the checks of one image with their answers, and the peaks that were found."""
    pixels, q = data.pixels, data.q_length
    checks: list[Check] = []
    peaks: list[Peak] = []
    if data.has_places:
        extracted = data.extracted()
        check, peaks = check_peaks(data.photons, extracted)
        checks += [check, check_hot(data.photons, extracted)]
        bragg = data.bragg
        if bragg is None and data.trusted is not None:
            bragg = tuple(t & ~m for t, m in zip(data.trusted, data.total_mask, strict=True))
        if bragg is not None:
            checks.append(check_mask_edge(data.photons, extracted, bragg))
        checks.append(_check_mask(data, extracted))
        checks.append(check_errors(data.photons, extracted))
        checks.append(check_smoothness(data.on_detector(pixels.intensity), data.on_detector(q), extracted))
    checks += [
        check_sigmas(pixels.intensity, pixels.sigma, _own_photons(data)),
        check_zero_errors(pixels.intensity, pixels.sigma),
        check_intensities(pixels.intensity),
        check_modes(q, pixels.intensity),
        check_fall_off(q, pixels.intensity),
        check_coverage(pixels.q),
        check_precision(_precision(pixels), "pixel"),
    ]
    return checks, peaks


def _own_photons(data: Extraction) -> np.ndarray | None:
    """Photons (n,) that each pixel counted; None where places are unknown or a background was subtracted."""
    if not data.has_places or data.background is not None:
        return None
    photons = np.zeros(len(data.pixels.intensity))
    for number, panel in enumerate(data.photons):
        here = data.pixels.panel == number
        photons[here] = panel[data.pixels.slow[here], data.pixels.fast[here]]
    return photons


def _check_mask(data: Extraction, extracted: tuple[np.ndarray, ...]) -> Check:
    outside = sum(int((e & ~m).sum()) for e, m in zip(extracted, data.total_mask, strict=True))
    possible, taken = sum(int(m.sum()) for m in data.total_mask), sum(int(e.sum()) for e in extracted)
    return Check(
        "Do the extracted pixels respect the mask?",
        "good" if outside == 0 else "bad",
        f"{taken} pixels were extracted of {possible} that the mask allows; {outside} lie outside it.",
    )


def summary_text(data: Extraction, inputs: dict[str, str], names: list[str]) -> str:
    """Return the text of ``extraction_diagnostics_summary.txt``."""
    checks, peaks = answers(data)
    pixels, q = data.pixels, data.q_length
    n_all = sum(panel.size for panel in data.photons)
    lines = [f"Extraction of diffuse pixels: {data.name}", ""]
    lines += [f"  {name:<12} {path}" for name, path in inputs.items()]
    lines += [
        "",
        f"  pixels       {n_all} on {len(data.photons)} panel(s), {len(q)} extracted ({len(q) / n_all:.1%})",
        f"  intensity    mean {pixels.intensity.mean():.5g}, median {np.median(pixels.intensity):.5g}, standard "
        f"deviation {pixels.intensity.std():.5g} photons / s sr",
        f"  |q|          {q.min():.4f} to {q.max():.4f} 1/A (d = {figures.resolution(q.min())} to "
        f"{figures.resolution(q.max())} A)",
        "",
        checks_text(checks),
    ]
    if peaks:
        rows = [(p.panel, p.fast, p.slow, p.pixels, f"{p.photons:.0f}", f"{p.expected:.1f}") for p in peaks[:20]]
        lines += [
            "",
            "The strongest clumps of pixels that stand out:",
            "",
            tabulate(rows, ("panel", "fast", "slow", "pixels", "photons", "expected"), "simple"),
        ]
    if not data.has_places:
        lines += [
            "",
            "The NPZ file holds no detector coordinates: no overlay, no heat map, and no search for peaks.",
        ]
    return "\n".join([*lines, "", "Pictures:", *(f"  {name}" for name in names), ""])
