"""Pictures of two maps beside each other."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from diffuse_framework.algorithms.comparison.alignment import isotropic
from diffuse_framework.algorithms.comparison.compare import Comparison
from diffuse_framework.report import figures
from diffuse_framework.report.comparison.text import KIND_WORDS
from diffuse_framework.report.figures import BLUE, GREEN, GREY, ORANGE, VERMILION

__all__ = ["curves_figure", "scatter_figure", "slices_figure"]

_DIFFERENCE = "RdBu_r"
_KIND_COLOURS = {"all": BLUE, "halo": ORANGE, "between": GREEN}


def slices_figure(comparison: Comparison, axis: int, level: float = 0.0) -> Figure:
    """Return A, B, A - B and that over its error in the plane where one index is constant.

    Args:
        comparison: of two maps.
        axis: 0, 1 or 2: the index that is constant.
        level: its value.
    """
    aligned = comparison.aligned
    a, b = aligned.a, aligned.b
    apart = a.intensity - b.intensity
    variance = aligned.variance
    panels = [("A", a.intensity), ("B, on the scale of A", b.intensity), ("A - B", apart)]
    if variance is not None:
        panels.append(("(A - B) / sigma", apart / np.sqrt(np.maximum(variance, 1e-300))))
    figure = Figure(figsize=(4.6 * len(panels), 4.4), layout="constrained")
    lengths = np.linalg.norm(a.grid.reciprocal_basis, axis=0)
    row_length, column_length = (lengths[n] for n in range(3) if n != axis)
    labels = [letter for number, letter in enumerate("hkl") if number != axis]
    reach = float(aligned.q.max()) * (1 + 1e-9)
    both = figures.limits_of(np.concatenate([a.intensity, b.intensity]))
    for number, (title, values) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        picture, rows, columns = figures.plane_values(a.grid, a.voxel, values, axis, level, reach)
        if number < 2:
            colours = {"cmap": figures.colour_map(figures.INTENSITY), "vmin": both[0], "vmax": both[1]}
        else:
            most = max(abs(x) for x in figures.limits_of(picture, 1, 99)) if number == 2 else 5.0
            colours = {"cmap": figures.colour_map(_DIFFERENCE), "vmin": -most, "vmax": most}
        drawn = figures.draw_plane(axes, picture, rows, columns, (labels[0], labels[1]), **colours)
        axes.set_aspect(row_length / column_length)
        figures.colour_bar(axes, drawn, a.units if number < 3 else "", "both")
        axes.set_title(title)
    shown = round(level * a.grid.divisions[axis]) / a.grid.divisions[axis]
    figure.suptitle(f"{'hkl'[axis]} = {shown:g}, completed by symmetry ({a.grid.symmetry.laue_group})")
    return figure


def scatter_figure(comparison: Comparison) -> Figure:
    """Return the density of voxels over A and B, for whole intensities and their anisotropic parts."""
    aligned = comparison.aligned
    a, b, q = aligned.a.intensity, aligned.b.intensity, aligned.q
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    whole = comparison.overall["all"]
    rest = (a - isotropic(q, a), b - isotropic(q, b))
    for number, ((x, y), title, cc) in enumerate(
        (((a, b), "intensities", whole.cc), (rest, "anisotropic parts", whole.cc_anisotropic))
    ):
        axes = figure.add_subplot(1, 2, number + 1)
        low, high = figures.limits_of(np.concatenate([x, y]), 0.2, 99.8)
        axes.hist2d(x, y, bins=150, range=((low, high), (low, high)), cmap="Blues", norm=LogNorm())
        axes.plot((low, high), (low, high), color=GREY, lw=1, ls="--")
        axes.set_aspect("equal")
        axes.set_xlabel(f"A ({aligned.a.units})")
        axes.set_ylabel("B, on the scale of A")
        axes.set_title(f"{title}: CC {cc:.3f}")
    return figure


def curves_figure(comparison: Comparison) -> Figure:
    """Return correlations with their ceiling, chi squared, and the scale and offset of B against resolution."""
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    correlations, chi, scale = figure.subplots(1, 3)
    _draw_correlations(correlations, comparison)
    q = _centres(comparison)
    for kind in comparison.kinds:
        values = np.array([one.chi_squared for one in comparison.shells[kind]])
        if np.isfinite(values).any():
            chi.plot(q, values, "o-", ms=4, color=_KIND_COLOURS[kind], label=KIND_WORDS[kind])
    chi.axhline(1, color=GREY, lw=1, ls="--")
    chi.set(xlabel="|q| = 1/d (1/Å)", ylabel="chi squared of A - B")
    if chi.get_legend_handles_labels()[0]:
        chi.legend(fontsize=8)
    scaling = comparison.aligned.scaling
    scale.plot(scaling.q, scaling.factor, "o-", ms=4, color=BLUE)
    scale.set(xlabel="|q| = 1/d (1/Å)", ylabel="factor of B", ylim=figures.curve_limits(scaling.factor))
    scale.yaxis.label.set_color(BLUE)
    if scaling.offset.any():
        other = scale.twinx()
        other.plot(scaling.q, scaling.offset, "s-", ms=4, color=VERMILION)
        other.set_ylabel(f"offset added to B ({comparison.aligned.a.units})", color=VERMILION)
    return figure


def _centres(comparison: Comparison) -> np.ndarray:
    return 0.5 * (comparison.edges[:-1] + comparison.edges[1:])


def _draw_correlations(axes: Axes, comparison: Comparison) -> None:
    q = _centres(comparison)
    shells = comparison.shells["all"]
    axes.plot(q, [one.cc for one in shells], "-", color=GREY, lw=1, label="CC, whole")
    for kind in comparison.kinds:
        ones, colour = comparison.shells[kind], _KIND_COLOURS[kind]
        values = np.array([one.cc_anisotropic for one in ones])
        ends = np.array([one.intervals.get("cc_anisotropic", (np.nan, np.nan)) for one in ones])
        axes.plot(q, values, "o-", ms=4, color=colour, label=f"anisotropic, {KIND_WORDS[kind]}")
        if kind == "all":
            axes.fill_between(q, ends[:, 0], ends[:, 1], color=colour, alpha=0.2, lw=0)
    ceiling = np.array([one.ceiling for one in shells])
    if np.isfinite(ceiling).any():
        axes.plot(q, ceiling, "k--", lw=1.5, label="ceiling CC*A x CC*B")
    if any(one.cc_halved != one.cc_anisotropic for one in shells if np.isfinite(one.cc_halved)):
        beside = [one.cc_halved for one in shells]
        axes.plot(q, beside, "k.:", lw=1, label="anisotropic, voxels of half maps")
    lowest = min((one.cc_anisotropic for one in shells if np.isfinite(one.cc_anisotropic)), default=0.0)
    axes.set(xlabel="|q| = 1/d (1/Å)", ylabel="correlation", ylim=(min(0.0, lowest) - 0.02, 1.02))
    axes.legend(fontsize=8, loc="lower left")
