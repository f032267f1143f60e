"""Every plot, once; each function draws into the axes it is given."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LogNorm, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import AbsoluteReport, ScaleEstimate

# The palette of Okabe and Ito (jfly.uni-koeln.de/color), told apart by all kinds of colour vision.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#7F7F7F",
)

# Perceptually even and safe for colour-blind eyes: one for each kind of value.
INTENSITY, SIGMA, MULTIPLICITY, PRECISION = "viridis", "magma", "cividis", "viridis"
_MISSING = "#dddddd"


def plane_values(
    grid: VoxelGrid,
    voxel: np.ndarray,
    values: np.ndarray,
    axis: int,
    level: float,
    reach: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the whole plane of reciprocal space where one index is constant, by symmetry.

    Args:
        grid: the voxel grid.
        voxel: (n,) numbers of the voxels that have a value.
        values: (n,).
        axis: 0, 1 or 2: the index that is constant.
        level: its value, moved to the nearest voxel centre.
        reach: resolution limit |q| in 1/angstrom; the grid's where None.

    Returns:
        Plane (rows, columns) with NaN where there is no value, and the indices along rows and
        columns, the two other axes in their order.
    """
    reach = reach or 1 / grid.d_min
    lengths = np.linalg.norm(np.linalg.inv(grid.reciprocal_basis), axis=1)
    limits = np.floor(lengths * reach * np.array(grid.divisions)).astype(int)
    rows, columns = (number for number in range(3) if number != axis)
    row_index, column_index = (np.arange(-limits[n], limits[n] + 1) for n in (rows, columns))
    index = np.empty((len(row_index), len(column_index), 3), np.int64)
    index[..., axis] = round(level * grid.divisions[axis])
    index[..., rows], index[..., columns] = row_index[:, None], column_index
    folded, _ = fold(index.reshape(-1, 3), grid.symmetry, grid.divisions)
    offset = folded - np.array(grid.index_min)
    inside = ((offset >= 0) & (offset < np.array(grid.dimensions))).all(axis=1)
    numbers = np.ravel_multi_index(offset[inside].T, grid.dimensions)
    where = np.searchsorted(voxel, numbers)
    where[where == len(voxel)] = 0
    found = voxel[where] == numbers
    plane = np.full(len(folded), np.nan)
    plane[np.flatnonzero(inside)[found]] = values[where[found]]
    return (
        plane.reshape(index.shape[:2]),
        row_index / grid.divisions[rows],
        column_index / grid.divisions[columns],
    )


def plane_extent(rows: np.ndarray, columns: np.ndarray) -> tuple[float, float, float, float]:
    """Return the edges of a plane of `plane_values`, as imshow wants them."""
    half_row, half_column = (0.5 * (x[1] - x[0]) if len(x) > 1 else 0.5 for x in (rows, columns))
    return columns[0] - half_column, columns[-1] + half_column, rows[0] - half_row, rows[-1] + half_row


def draw_plane(
    axes: Axes, plane: np.ndarray, rows: np.ndarray, columns: np.ndarray, labels: tuple[str, str], **colours
) -> AxesImage:
    """Draw a plane of `plane_values`; `labels` name rows and columns, `colours` go to imshow."""
    extent = plane_extent(rows, columns)
    picture = axes.imshow(plane, origin="lower", extent=extent, aspect="auto", interpolation="nearest", **colours)
    axes.set_ylabel(labels[0])
    axes.set_xlabel(labels[1])
    return picture


def resolution(q: float) -> str:
    """Return 1/q in words: d in angstrom."""
    return f"{1 / q:.2f}" if q > 1e-6 else "infinity"


def colour_map(name: str) -> Colormap:
    """Return a colour map that shows missing values in light grey."""
    colours = matplotlib.colormaps[name].copy()
    colours.set_bad(_MISSING)
    return colours


def limits_of(values: np.ndarray, low: float = 1, high: float = 99.5) -> tuple[float, float]:
    """Return percentiles of the finite values that make good ends of a colour scale; 0 and 1 for none."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return 0.0, 1.0
    ends = np.percentile(finite, (low, high))
    return (float(ends[0]), float(ends[1])) if ends[1] > ends[0] else (float(ends[0]) - 0.5, float(ends[0]) + 0.5)


def log_norm(values: np.ndarray) -> Normalize:
    """Return logarithmic colours for the positive values, linear ones where fewer than two differ."""
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = limits_of(positive)
    return LogNorm(low, high) if len(positive) and low > 0 else Normalize(*limits_of(values))


def colour_bar(axes: Axes, drawn: ScalarMappable, label: str, extend: str = "neither") -> Colorbar:
    """Draw the bar of a picture beside its axes, as high as they are whatever their aspect."""
    bar = axes.figure.colorbar(drawn, cax=axes.inset_axes((1.03, 0, 0.04, 1)), label=label, extend=extend)
    norm = drawn.norm
    if isinstance(norm, LogNorm) and norm.vmin is not None and norm.vmax is not None:
        # Powers of ten alone would leave a bar of one decade without a number.
        digits = (1, 2, 5) if norm.vmax / norm.vmin > 5 else (1, 1.5, 2, 3, 5, 7)
        bar.ax.yaxis.set_major_locator(LogLocator(subs=digits))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _scientific(value)))
        bar.ax.yaxis.set_minor_locator(NullLocator())
    return bar


def _scientific(value: float) -> str:
    """Return a positive number for a scale, such as 2×10⁹, or 20."""
    power = int(np.floor(np.log10(value) + 1e-9))
    if -3 < power < 4:
        return f"{value:.6g}"
    return rf"${value / 10**power:.2g}\times10^{{{power}}}$"


def draw_image(
    axes: Axes,
    counts: np.ndarray,
    usable: np.ndarray,
    highest: float | None = None,
    corner: tuple[int, int] = (0, 0),
    step: int = 1,
) -> AxesImage:
    """Draw raw counts (slow, fast) in grey on a logarithmic scale; unusable pixels are white.

    Args:
        axes: to draw into.
        counts, usable: (slow, fast).
        highest: counts shown black.
        corner: (slow, fast) on the detector of the first pixel.
        step: detector pixels along each side of a pixel of the picture.
    """
    shown = np.where(usable, np.maximum(counts, 0), np.nan).astype(np.float32)
    highest = highest or max(limits_of(shown, 1, 99.8)[1], 1.0)
    greys = matplotlib.colormaps["gray_r"].copy()
    greys.set_bad("white")
    picture = axes.imshow(
        np.log1p(shown),
        cmap=greys,
        vmin=0,
        vmax=np.log1p(highest),
        interpolation="nearest",
        origin="upper",
        extent=_extent(counts.shape, corner, step),
    )
    axes.set_xlabel("fast (pixels)")
    axes.set_ylabel("slow (pixels)")
    return picture


def _extent(shape: tuple[int, ...], corner: tuple[int, int], step: int) -> tuple[float, float, float, float]:
    slow, fast = corner
    return fast, fast + shape[1] * step, slow + shape[0] * step, slow


def draw_classes(
    axes: Axes,
    classes: list[tuple[np.ndarray, str, str]],
    alpha: float = 0.45,
    corner: tuple[int, int] = (0, 0),
    step: int = 1,
) -> None:
    """Tint pixels of the image below, one colour for each boolean (slow, fast) array, and name them.

    Args:
        axes: holds the image already.
        classes: mask, colour and name of each.
        alpha: opacity.
        corner, step: as in `draw_image`.
    """
    for mask, colour, _ in classes:
        tint = np.zeros((*mask.shape, 4), np.uint8)
        tint[mask] = (np.array(to_rgba(colour, alpha)) * 255).astype(np.uint8)
        axes.imshow(tint, interpolation="nearest", origin="upper", extent=_extent(mask.shape, corner, step))
    axes.legend(
        handles=[Patch(color=colour, alpha=alpha, label=name) for _, colour, name in classes],
        loc="upper right",
        fontsize=8,
    )


def draw_projection(
    axes: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, labels: tuple[str, str]
) -> PolyCollection:
    """Draw the mean of `values` over hexagons of the plane (x, y), on a logarithmic scale."""
    picture = axes.hexbin(
        x, y, C=values, reduce_C_function=np.mean, gridsize=120, cmap=INTENSITY, linewidths=0, mincnt=1
    )
    picture.set_norm(log_norm(np.asarray(picture.get_array())))
    axes.set_aspect("equal")
    axes.set_xlabel(f"{labels[0]} (1/Å)")
    axes.set_ylabel(f"{labels[1]} (1/Å)")
    return picture


@dataclass(frozen=True, eq=False)
class Profile:
    """Means over bins of |q|, empty bins left out.

    Attributes:
        q: (n,) centres in 1/angstrom.
        mean, spread: (n,) of the values.
        sigma: (n,) standard uncertainty of the mean.
        number: (n,) values in the bin.
    """

    q: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    sigma: np.ndarray
    number: np.ndarray


def radial_profile(q: np.ndarray, values: np.ndarray, n_bins: int = 60) -> Profile:
    """Return means of `values` (n,) over bins of |q| (n,) of equal width."""
    edges = np.linspace(0, q.max() * (1 + 1e-9), n_bins + 1) if len(q) else np.linspace(0, 1, n_bins + 1)
    bins = np.digitize(q, edges) - 1
    number = np.bincount(bins, minlength=n_bins)[:n_bins]
    seen = number > 0
    many = np.maximum(number, 1)
    mean = np.bincount(bins, values, minlength=n_bins)[:n_bins] / many
    square = np.bincount(bins, (values - mean[bins]) ** 2, minlength=n_bins)[:n_bins] / many
    spread = np.sqrt(square)
    return Profile(
        (0.5 * (edges[1:] + edges[:-1]))[seen],
        mean[seen],
        spread[seen],
        (spread / np.sqrt(many))[seen],
        number[seen],
    )


def draw_radial(axes: Axes, q: np.ndarray, values: np.ndarray, label: str, n_bins: int = 60) -> Profile:
    """Draw the density of points (|q|, value), their mean over bins of |q| and its uncertainty."""
    low, high = limits_of(values, 0.2, 99.8)
    axes.hist2d(q, values, bins=(200, 120), range=((0, q.max()), (low, high)), cmap="Greys", norm=LogNorm())
    profile = radial_profile(q, values, n_bins)
    axes.errorbar(
        profile.q,
        profile.mean,
        yerr=profile.sigma,
        color=VERMILION,
        lw=1.5,
        capsize=2,
        label="mean and its error",
    )
    axes.set_ylim(low, high)
    axes.set_xlabel("|q| = 1/d (1/Å)")
    axes.set_ylabel(label)
    axes.legend(loc="upper right")
    _resolution_axis(axes)
    return profile


def _resolution_axis(axes: Axes) -> None:
    """Write d in angstrom along the top of axes whose x is 1/d."""
    top = axes.secondary_xaxis("top")
    ticks = [d for d in (20, 10, 5, 4, 3, 2.5, 2, 1.8, 1.6, 1.4, 1.2, 1.0) if 1 / d < axes.get_xlim()[1]]
    top.set_xticks([1 / d for d in ticks], [f"{d:g}" for d in ticks], fontsize=7)
    top.set_xlabel("d (Å)", fontsize=8)


def draw_histogram(axes: Axes, values: np.ndarray, label: str, log: bool, bins: int = 120) -> None:
    """Draw a histogram; the ends of long tails are gathered in the outermost bars."""
    low, high = limits_of(values, 0.1, 99.9)
    axes.hist(np.clip(values, low, high), bins=bins, color=BLUE)
    if log:
        axes.set_yscale("log")
    if low < 0 < high:
        axes.axvline(0, color=GREY, lw=1, ls="--")
    axes.set_xlabel(label)
    axes.set_ylabel("number" + (" (logarithmic)" if log else ""))


def draw_marks(axes: Axes, marks: dict[str, float]) -> None:
    """Draw a vertical line for each named value, with its number in the legend."""
    for (name, value), colour in zip(marks.items(), (VERMILION, GREEN, PURPLE, ORANGE), strict=False):
        axes.axvline(value, color=colour, lw=1.5, label=f"{name} {value:.3g}")
    axes.legend()


def draw_whole_numbers(axes: Axes, values: np.ndarray, label: str) -> None:
    """Draw how often each whole number occurs, one bar each where they are few."""
    top = int(max(np.percentile(values, 99.9), 1)) if len(values) else 1
    width = max(1, int(np.ceil(top / 120)))
    axes.hist(np.minimum(values, top), bins=np.arange(-0.5, top + width + 0.5, width), color=BLUE)
    axes.set_xlabel(f"{label} (the last bar: {top} or more)" if len(values) and values.max() > top else label)
    axes.set_ylabel("number")


def draw_sigma(axes: Axes, intensity: np.ndarray, sigma: np.ndarray) -> None:
    """Draw the density of (intensity, sigma) on logarithmic axes, and what counting gives."""
    good = (intensity > 0) & (sigma > 0)
    x, y = np.log10(intensity[good]), np.log10(sigma[good])
    if len(x) == 0:
        axes.text(0.5, 0.5, "no pixel with a count", ha="center", transform=axes.transAxes)
        return
    # A hot pixel must not squeeze all others into a corner.
    ends = np.array(limits_of(x, 0, 99.99))
    axes.hist2d(x, y, bins=150, range=(ends, limits_of(y, 0, 99.99)), cmap="Greys", norm=LogNorm())
    offset = np.percentile(2 * y - x, (5, 50, 95))
    axes.plot(ends, 0.5 * (ends + offset[1]), color=VERMILION, label="sigma = sqrt(I / median response)")
    for value in offset[[0, 2]]:
        axes.plot(ends, 0.5 * (ends + value), color=VERMILION, lw=0.8, ls="--")
    axes.plot([], [], color=VERMILION, lw=0.8, ls="--", label="of 5 % and 95 % of the responses")
    axes.set_xlabel("log10 of the intensity")
    axes.set_ylabel("log10 of sigma")
    axes.legend(loc="upper left", fontsize=8)


def draw_scales(axes: Axes, scales: np.ndarray, sigma: np.ndarray, label: str = "scale factor b") -> None:
    """Draw one value per image with its uncertainty; the mean of scales is 1."""
    sigma = np.where(np.isfinite(sigma), sigma, 0.0)
    axes.errorbar(np.arange(1, len(scales) + 1), scales, yerr=sigma, fmt="o-", ms=4, lw=1, color=BLUE, capsize=2)
    axes.axhline(1.0, color=GREY, lw=1, ls="--")
    axes.set_ylim(0, 1.1 * max(float(np.max(scales + sigma)), 1.0))
    axes.set_xlabel("image")
    axes.set_ylabel(label)


def curve_limits(y: np.ndarray) -> tuple[float, float]:
    """Return ends of an axis on which values that differ by next to nothing look like it."""
    centre = 0.5 * float(np.min(y) + np.max(y))
    reach = max(0.1 * abs(centre), 1.1 * float(np.ptp(y)))
    return centre - 0.5 * reach, centre + 0.5 * reach


def draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, labels: tuple[str, str]) -> None:
    """Draw a curve through control points of positive x."""
    axes.plot(x, y, "o-", color=BLUE, ms=4)
    axes.set_ylim(*curve_limits(y))
    # Smoothers have points outside of the data, to lean on.
    axes.set_xlim(0, None)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])


def draw_box(axes: Axes, grid: VoxelGrid, q: np.ndarray | None = None) -> None:
    """Draw the grid's box as a wireframe in q (1/angstrom), with voxel centres or measured points (n, 3).

    Args:
        axes: three-dimensional.
        grid: the voxel grid.
        q: points, in the Cartesian frame of the reference crystal.
    """
    low = np.array(grid.index_min) / grid.divisions
    high = (np.array(grid.index_min) + np.array(grid.dimensions) - 1) / grid.divisions
    for axis in range(3):
        others = [n for n in range(3) if n != axis]
        for first in (low[others[0]], high[others[0]]):
            for second in (low[others[1]], high[others[1]]):
                ends = np.empty((2, 3))
                ends[:, axis] = low[axis], high[axis]
                ends[:, others] = first, second
                axes.plot(*(ends @ grid.reciprocal_basis.T).T, color=BLUE, lw=1)
    if q is not None and len(q):
        axes.scatter(*q.T, s=2, color=VERMILION, alpha=0.4, depthshade=False, linewidths=0)
    for axis, letter in enumerate("hkl"):
        tip = np.where(np.arange(3) == axis, high, 0.0) @ grid.reciprocal_basis.T
        axes.text(*(1.08 * tip), f"{letter}*", color=BLUE, fontweight="bold", fontsize=14)
    for name in "xyz":
        getattr(axes, f"set_{name}label")(f"q_{name} (1/Å)", fontsize=8)
    axes.set_box_aspect(np.maximum(np.ptp(np.stack([low, high]) @ grid.reciprocal_basis.T, axis=0), 1e-3))


_METHOD_COLOURS = {"krogh_moe": BLUE, "norman": ORANGE, "wilson": GREEN}


def absolute_scale_figure(report: AbsoluteReport) -> Figure:
    """Return how the absolute scale was found: profiles, k against the cutoff, and Wilson's plot."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    profiles, cutoffs, wilson = figure.subplots(1, 3)
    draw_total_scattering(profiles, report)
    draw_cutoffs(cutoffs, report)
    draw_wilson_plot(wilson, report)
    return figure


def _chosen(report: AbsoluteReport) -> ScaleEstimate:
    return report.estimates[report.method] if report.method else next(iter(report.estimates.values()))


def draw_total_scattering(axes: Axes, report: AbsoluteReport) -> None:
    """Draw the spherical averages of the map beside what the atoms of the cell scatter on their own."""
    k, theory = _chosen(report).scale, report.theory
    axes.plot(report.q, k * report.total, color="black", label="k x total")
    axes.plot(report.q, k * (report.total - report.bragg), color=VERMILION, label="k x diffuse")
    shown = (theory.q <= report.q[-1]) & (theory.q > 0)
    q, incoherent = theory.q[shown], theory.incoherent[shown]
    axes.plot(q, theory.coherent[shown] + incoherent, color=BLUE, label="sum f0² + incoherent")
    axes.plot(q, incoherent, color=GREY, label="incoherent")
    axes.axvline(report.limit, color="lightgray", zorder=0)
    axes.set(yscale="log", xlabel="|q| = 1/d (1/Å)", ylabel="electron units per cell")
    axes.set_ylim(theory.coherent[-1] / 100, None)
    axes.legend(fontsize="small")


def draw_cutoffs(axes: Axes, report: AbsoluteReport) -> None:
    """Draw how the scale k of each method depends on the range of |q|."""
    for method, one in report.estimates.items():
        if method != "wilson":
            axes.plot(one.q, one.scales, color=_METHOD_COLOURS[method])
        label = f"{method}: {one.scale:.4g} ± {one.sigma:.2g}"
        axes.axhline(one.scale, color=_METHOD_COLOURS[method], linestyle=":", label=label)
    axes.set(xlabel="cutoff |q| (1/Å)", ylabel="k, electron units per relative unit")
    axes.legend(fontsize="small")


def draw_wilson_plot(axes: Axes, report: AbsoluteReport) -> None:
    """Draw the logarithm of the mean Bragg strength over that of the atoms, and the curve fitted to it."""
    k, theory = _chosen(report).scale, report.theory

    def logarithm(q: np.ndarray, strength: np.ndarray) -> np.ndarray:
        return np.log(k * strength / np.interp(q, theory.q, theory.ordered))

    seen = report.bragg > 0
    axes.plot(report.q[seen] ** 2, logarithm(report.q[seen], report.bragg[seen]), ".", color="black")
    if "wilson" in report.estimates:
        one = report.estimates["wilson"]
        # A shell's own k is the fitted curve divided by its strength.
        curve = np.interp(one.q, report.q, report.bragg) * one.scales / one.scale
        axes.plot(one.q**2, logarithm(one.q, curve), color=GREEN, label=f"B = {one.b_factor:.1f} Å²")
        axes.legend(fontsize="small")
    axes.set(xlabel="|q|² (1/Å²)", ylabel="ln(k <|F|²> / sum f0²)")
