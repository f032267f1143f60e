"""Pictures and answers about a merged map, its grid and its scales."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from diffuse_framework.algorithms.completeness import resolution_shells
from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.report import figures
from diffuse_framework.report.checks import checks_text
from diffuse_framework.report.image.pictures import histograms
from diffuse_framework.report.map.checks import map_checks


@dataclass(frozen=True, eq=False)
class MapData:
    """A merged map as its files hold it.

    Attributes:
        grid: the voxel grid.
        voxel: (n,) numbers, ascending.
        intensity, sigma: (n,).
        multiplicity: (n,) observations.
        units: of the intensity.
        scales, scales_sigma: (n_images,).
        image_names: (n_images,).
        statistics: how scaling went.
        smoother: control points (|q|, value) of the resolution smoother, none where it is off.
        points: (m, 3) measured points in the reference crystal's frame, 1/angstrom; may be empty.
    """

    grid: VoxelGrid
    voxel: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    multiplicity: np.ndarray
    units: str
    scales: np.ndarray
    scales_sigma: np.ndarray
    image_names: tuple[str, ...]
    statistics: dict[str, Any] = field(default_factory=dict)
    smoother: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def q(self) -> np.ndarray:
        """(n,) |q| of the voxel centres, 1/angstrom."""
        return np.linalg.norm(self.grid.q_of(self.voxel), axis=1)

    @property
    def precision(self) -> np.ndarray:
        """(n,) intensity over sigma, NaN where there is no sigma."""
        return np.divide(self.intensity, self.sigma, out=np.full(len(self.sigma), np.nan), where=self.sigma > 0)

    def reach(self) -> float:
        """Largest |q| of a voxel, 1/angstrom."""
        return float(self.q.max()) * (1 + 1e-9)


KINDS = ("intensity", "sigma", "isigi", "occupancy")


def plane(data: MapData, values: np.ndarray, axis: int, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the plane where one index is constant, cut to what was observed; see `figures.plane_values`."""
    picture, rows, columns = figures.plane_values(data.grid, data.voxel, values, axis, level, data.reach())
    seen = np.isfinite(picture)
    if not seen.any():
        return picture, rows, columns
    used_rows, used_columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    cut_rows = slice(max(used_rows[0] - 1, 0), used_rows[-1] + 2)
    cut_columns = slice(max(used_columns[0] - 1, 0), used_columns[-1] + 2)
    return picture[cut_rows, cut_columns], rows[cut_rows], columns[cut_columns]


def slice_figure(data: MapData, kind: str, axis: int, level: float = 0.0, log: bool = True) -> Figure:
    """Return a picture of one plane.

    Args:
        data: the map.
        kind: "intensity", "sigma", "isigi" or "occupancy".
        axis: 0, 1 or 2: the index that is constant.
        level: its value.
        log: logarithmic colours, for the intensity.
    """
    values, label, colours = {
        "intensity": (data.intensity, f"diffuse intensity ({data.units})", figures.INTENSITY),
        "sigma": (data.sigma, f"sigma ({data.units})", figures.SIGMA),
        "isigi": (data.precision, "I / sigma", figures.PRECISION),
        "occupancy": (data.multiplicity.astype(float), "observations per voxel", figures.MULTIPLICITY),
    }[kind]
    picture, rows, columns = plane(data, values, axis, level)
    labels = [letter for number, letter in enumerate("hkl") if number != axis]
    lengths = np.linalg.norm(data.grid.reciprocal_basis, axis=0)
    row_length, column_length = (lengths[n] for n in range(3) if n != axis)
    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.add_subplot()
    if kind == "sigma" or (kind == "intensity" and log):
        colour = {"norm": figures.log_norm(picture)}
    else:
        low, high = figures.limits_of(picture)
        colour = {"vmin": 0.0 if kind == "occupancy" else low, "vmax": high}
    drawn = figures.draw_plane(
        axes, picture, rows, columns, (labels[0], labels[1]), cmap=figures.colour_map(colours), **colour
    )
    # Equal lengths in 1/angstrom along both axes.
    axes.set_aspect(row_length / column_length)
    figures.colour_bar(axes, drawn, label, "max" if kind == "occupancy" else "both")
    shown = round(level * data.grid.divisions[axis]) / data.grid.divisions[axis]
    empty = "" if np.isfinite(picture).any() else ": nothing was observed there"
    axes.set_title(f"{'hkl'[axis]} = {shown:g}, completed by symmetry ({data.grid.symmetry.laue_group}){empty}")
    return figure


def pictures(data: MapData, max_points: int = 50000) -> Iterator[tuple[str, Figure]]:
    """Yield file names and figures, one by one; at most `max_points` points in a scatter plot."""
    yield "grid_visualization_conceptual.png", grid_figure(data, max_points)
    for axis, letter in ((2, "L"), (1, "K"), (0, "H")):
        yield f"voxel_occupancy_slice_{letter}0.png", slice_figure(data, "occupancy", axis)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    figures.draw_whole_numbers(axes, data.multiplicity, "observations per voxel")
    multiplicity = data.multiplicity.astype(float)
    figures.draw_marks(axes, {"mean": float(multiplicity.mean()), "median": float(np.median(multiplicity))})
    axes.set_ylabel("voxels")
    yield "voxel_occupancy_histogram.png", figure
    yield "scaling_params_b_i.png", scales_figure(data)
    if len(data.smoother):
        yield "scaling_resolution_smoother.png", smoother_figure(data)
    for kind in ("intensity", "sigma", "isigi"):
        for axis, letter in ((2, "L"), (1, "K"), (0, "H")):
            yield f"merged_{kind}_slice_{letter}0.png", slice_figure(data, kind, axis)
    yield "merged_radial_average.png", radial_figure(data)
    yield (
        "merged_intensity_histogram.png",
        histograms(data.intensity, f"intensity ({data.units})", "merged voxels"),
    )


def grid_figure(data: MapData, max_points: int = 50000) -> Figure:
    """Return the box of the grid in q with a sample of measured points, or of observed voxels."""
    figure = Figure(figsize=(8, 7.5))
    axes = figure.add_subplot(projection="3d")
    measured = len(data.points) > 0
    points = _folded(data.grid, data.points) if measured else data.grid.q_of(data.voxel)
    few = points[:: max(1, -(-len(points) // min(max_points, 4000)))]
    figures.draw_box(axes, data.grid, few)
    what = "measured pixels, folded into it" if measured else "observed voxels"
    title = f"The grid's box, which holds an asymmetric unit, and {len(few)} of {len(points)} {what}"
    axes.set_title(title, fontsize=10)
    return figure


def _folded(grid: VoxelGrid, q: np.ndarray) -> np.ndarray:
    """Return the voxel centres (n, 3), 1/angstrom, of the asymmetric unit in which points (n, 3) lie."""
    hkl = q @ np.linalg.inv(grid.reciprocal_basis).T
    index, _ = fold(np.rint(hkl * grid.divisions).astype(np.int64), grid.symmetry, grid.divisions)
    return (index / grid.divisions) @ grid.reciprocal_basis.T


def scales_figure(data: MapData) -> Figure:
    """Return the scale of each image."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    figures.draw_scales(axes, data.scales, data.scales_sigma)
    axes.set_title(f"{len(data.scales)} images, mean 1")
    return figure


def smoother_figure(data: MapData) -> Figure:
    """Return the curve of the resolution smoother."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    q, value = data.smoother.T
    figures.draw_curve(figure.add_subplot(), q, value, ("|q| = 1/d (1/Å)", "control points of the smoother a(|q|)"))
    return figure


def radial_figure(data: MapData) -> Figure:
    """Return the intensity of voxels against |q|."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    figures.draw_radial(axes, data.q, data.intensity, f"intensity ({data.units})")
    axes.set_title("voxels against resolution (grey: number of voxels)")
    return figure


def grid_text(grid: VoxelGrid) -> str:
    """Return the text of ``grid_summary.txt``."""
    low = np.array(grid.index_min) / grid.divisions
    high = (np.array(grid.index_min) + np.array(grid.dimensions) - 1) / grid.divisions
    lengths = np.linalg.norm(grid.reciprocal_basis, axis=0)
    cell = " ".join(f"{x:.3f}" for x in grid.cell)
    rows = [
        (
            axis,
            f"{low[n]:.3f}",
            f"{high[n]:.3f}",
            grid.divisions[n],
            f"{1 / grid.divisions[n]:.4f}",
            f"{lengths[n] / grid.divisions[n]:.6f}",
            grid.dimensions[n],
        )
        for n, axis in enumerate("hkl")
    ]
    limit = "none" if not np.isfinite(grid.d_max) else f"{grid.d_max:.3f} A"
    table = tabulate(
        rows, ("axis", "lowest", "highest", "divisions", "voxel (r.l.u.)", "voxel (1/A)", "voxels"), "simple"
    )
    return (
        "Voxel grid\n"
        "\n"
        f"unit cell     {cell} (angstrom, degrees)\n"
        f"space group   {grid.symmetry.space_group}, Laue group {grid.symmetry.laue_group} "
        f"({len(grid.symmetry.operators)} operators)\n"
        f"resolution    to {grid.d_min:.3f} A, lowest {limit}\n"
        f"total voxels  {grid.n_voxels} in the asymmetric unit within these limits, {grid.size} in the box that holds "
        "it\n"
        "\n"
        f"{table}\n"
    )


def scaling_text(data: MapData) -> str:
    """Return the text of ``scaling_parameters_summary.txt``."""
    scales = data.scales
    plain = {k: v for k, v in data.statistics.items() if isinstance(v, int | float | str | bool)}
    fit = "\n".join(f"  {name:<28} {value}" for name, value in plain.items())
    smoother = f"{len(data.smoother)} control points" if len(data.smoother) else "off"
    rows = [
        (name, f"{b:.5f}", f"{s:.5f}") for name, b, s in zip(data.image_names, scales, data.scales_sigma, strict=True)
    ]
    return (
        "Relative scaling\n"
        "\n"
        f"{len(scales)} images: b from {scales.min():.4f} to {scales.max():.4f}, mean {scales.mean():.4f}, standard "
        f"deviation {scales.std():.4f}\n"
        f"resolution smoother: {smoother}\n"
        "\n"
        "The fit:\n"
        f"{fit}\n"
        "\n"
        f"{tabulate(rows, ('image', 'b', 'sigma'), 'simple')}\n"
    )


def occupancy_text(data: MapData) -> str:
    """Return the multiplicity in numbers."""
    n = data.multiplicity
    below = "\n".join(f"  voxels with fewer than {few:<3} {np.mean(n < few):.2%}" for few in (2, 3, 5, 10))
    return (
        f"  observations per voxel: min {n.min()}, max {n.max()}, mean {n.mean():.2f}, "
        f"median {np.median(n):.0f}\n{below}"
    )


def map_quality_text(data: MapData, n_shells: int = 10) -> str:
    """Return quality in shells of equal volume."""
    shells = resolution_shells(data.grid, data.voxel, n_shells)
    rows = []
    for number in range(n_shells):
        here = shells.shell == number
        if not here.any():
            continue
        limits = shells.resolution(number)
        rows.append(
            (
                "inf" if limits["d_max"] is None else f"{limits['d_max']:.2f}",
                f"{limits['d_min']:.2f}",
                int(here.sum()),
                f"{shells.completeness[number]:.1%}",
                f"{data.multiplicity[here].mean():.1f}",
                f"{data.intensity[here].mean():.4g}",
                f"{data.intensity[here].std():.3g}",
                f"{np.nanmedian(data.precision[here]):.3g}",
            )
        )
    head = ("d_max", "d_min", "voxels", "complete", "observations", "<I>", "spread of I", "median I/sigma")
    return tabulate(rows, head, "simple")


def summary_text(data: MapData, inputs: dict[str, str], names: list[str]) -> str:
    """Return the text of ``phase3_diagnostics_summary.txt``."""
    checks = map_checks(
        data.grid,
        data.voxel,
        data.intensity,
        data.sigma,
        data.multiplicity,
        (data.scales, data.scales_sigma, data.statistics),
    )
    grid, q = data.grid, data.q
    cell = " ".join(f"{x:.2f}" for x in grid.cell)
    return "\n".join(
        [
            "Merged map of diffuse scattering",
            "",
            *(f"  {name:<12} {path}" for name, path in inputs.items()),
            "",
            f"  {grid.symmetry.space_group}, cell {cell}; divisions {grid.divisions}; {grid.n_voxels} voxels, "
            f"{len(data.voxel)} observed",
            f"  |q| from {q.min():.4f} to {q.max():.4f} 1/A (d = {figures.resolution(q.min())} to "
            f"{figures.resolution(q.max())} A)",
            f"  intensity: mean {data.intensity.mean():.5g}, median {np.median(data.intensity):.5g}, standard "
            f"deviation {data.intensity.std():.5g} ({data.units})",
            occupancy_text(data),
            f"  {len(data.scales)} images, scales {data.scales.min():.4f} to {data.scales.max():.4f}",
            "",
            checks_text(checks),
            "",
            map_quality_text(data),
            "",
            "Pictures:",
            *(f"  {name}" for name in names),
            "",
        ]
    )
