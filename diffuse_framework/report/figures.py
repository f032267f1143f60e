"""Every plot, once; each function draws into the axes it is given."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.maps import AbsoluteReport, ScaleEstimate


def plane_values(
    grid: VoxelGrid, voxel: np.ndarray, values: np.ndarray, axis: int, level: float, reach: float | None = None
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


def draw_plane(
    axes: Axes, plane: np.ndarray, rows: np.ndarray, columns: np.ndarray, labels: tuple[str, str], **colours
) -> AxesImage:
    """Draw a plane of `plane_values`; `labels` name rows and columns, `colours` go to imshow."""
    half_row, half_column = (0.5 * (x[1] - x[0]) if len(x) > 1 else 0.5 for x in (rows, columns))
    extent = (columns[0] - half_column, columns[-1] + half_column, rows[0] - half_row, rows[-1] + half_row)
    picture = axes.imshow(plane, origin="lower", extent=extent, aspect="auto", interpolation="nearest", **colours)
    axes.set_ylabel(labels[0])
    axes.set_xlabel(labels[1])
    return picture


_METHOD_COLOURS = {"krogh_moe": "tab:blue", "norman": "tab:orange", "wilson": "tab:green"}


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
    axes.plot(report.q, k * (report.total - report.bragg), color="tab:red", label="k x diffuse")
    shown = (theory.q <= report.q[-1]) & (theory.q > 0)
    q, incoherent = theory.q[shown], theory.incoherent[shown]
    axes.plot(q, theory.coherent[shown] + incoherent, color="tab:blue", label="sum f0^2 + incoherent")
    axes.plot(q, incoherent, color="tab:gray", label="incoherent")
    axes.axvline(report.limit, color="lightgray", zorder=0)
    axes.set(yscale="log", xlabel="|q| (1/A)", ylabel="electron units per cell")
    axes.set_ylim(theory.coherent[-1] / 100, None)
    axes.legend(fontsize="small")


def draw_cutoffs(axes: Axes, report: AbsoluteReport) -> None:
    """Draw how the scale k of each method depends on the range of |q|."""
    for method, one in report.estimates.items():
        if method != "wilson":
            axes.plot(one.q, one.scales, color=_METHOD_COLOURS[method])
        label = f"{method}: {one.scale:.4g} +- {one.sigma:.2g}"
        axes.axhline(one.scale, color=_METHOD_COLOURS[method], linestyle=":", label=label)
    axes.set(xlabel="cutoff |q| (1/A)", ylabel="k, electron units per relative unit")
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
        axes.plot(one.q**2, logarithm(one.q, curve), color="tab:green", label=f"B = {one.b_factor:.1f} A^2")
        axes.legend(fontsize="small")
    axes.set(xlabel="|q|^2 (1/A^2)", ylabel="ln(k <|F|^2> / sum f0^2)")
