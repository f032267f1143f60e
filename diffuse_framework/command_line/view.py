"""Look at planes of a map in a window, or save them as pictures.

Examples::

  diffuse.view
  diffuse.view diffuse -l 0.5 --log
  diffuse.view diffuse -h 0 -k 0 -l 0 --show isigi --save planes
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np

from diffuse_framework.command_line.shared.diagnostics import run_map, save_figure
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.logs import start_logs
from diffuse_framework.errors import ConfigError
from diffuse_framework.io.atomic import make_folder
from diffuse_framework.report import figures
from diffuse_framework.report.map.pictures import KINDS, MapData, plane, slice_figure

logger = logging.getLogger("diffuse_framework.look")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; -h is an index here, --help is help."""
    parser = argparse.ArgumentParser(
        "diffuse.view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    add = parser.add_argument
    add(
        "folder",
        nargs="?",
        type=Path,
        default=Path("diffuse"),
        help="output folder of diffuse.process (default: %(default)s)",
    )
    for letter in "hkl":
        add(f"-{letter}", type=float, metavar=letter.upper(), help=f"the plane where {letter} has this value")
    add(
        "--show",
        choices=KINDS,
        default="intensity",
        help="default: %(default)s",
    )
    add("--log", action="store_true", help="logarithmic colours")
    add("--save", type=Path, metavar="FOLDER", help="write PNG files there instead of opening a window")
    add("--help", action="help", help="show this help and exit")
    return parser


@report_failures()
def run(args: list[str] | None = None) -> None:
    """Run diffuse.view."""
    options = make_parser().parse_args(args)
    start_logs(0, None)
    levels = [
        (axis, getattr(options, letter)) for axis, letter in enumerate("hkl") if getattr(options, letter) is not None
    ]
    data = run_map(options.folder)
    if options.save:
        folder = make_folder(options.save)
        for axis, level in levels or [(2, 0.0)]:
            path = folder / f"{options.show}_{'hkl'[axis]}_{level:g}.png"
            save_figure(path, slice_figure(data, options.show, axis, level, options.log))
            print(path)
        return
    if len(levels) > 1:
        raise ConfigError("a window shows one plane: give one of -h, -k and -l, or --save")
    axis, level = levels[0] if levels else (2, 0.0)
    _window(data, options.show, axis, level, options.log)


def _window(data: MapData, kind: str, axis: int, level: float, log: bool) -> None:
    """Open a window with a slider for the level; the arrow keys move it too."""
    from matplotlib import pyplot
    from matplotlib.widgets import Slider

    if pyplot.get_backend().lower() == "agg":
        raise ConfigError("no window can be opened here (no display, or no GUI toolkit for matplotlib); use --save")
    values, colours = _values(data, kind)
    figure, axes = pyplot.subplots(figsize=(9, 9))
    figure.subplots_adjust(bottom=0.14)
    picture, rows, columns = plane(data, values, axis, level)
    labels = [letter for number, letter in enumerate("hkl") if number != axis]
    norm = figures.log_norm(values) if log else None
    low, high = (None, None) if log else figures.limits_of(values)
    drawn = figures.draw_plane(
        axes,
        picture,
        rows,
        columns,
        (labels[0], labels[1]),
        cmap=figures.colour_map(colours),
        norm=norm,
        vmin=low,
        vmax=high,
    )
    figure.colorbar(drawn, ax=axes)
    step = 1 / data.grid.divisions[axis]
    reach = float(np.abs(data.grid.hkl_of(data.voxel)[:, axis]).max())
    slider = Slider(figure.add_axes((0.15, 0.04, 0.7, 0.03)), "hkl"[axis], -reach, reach, valinit=level, valstep=step)

    def show(value: float) -> None:
        whole, rows, columns = figures.plane_values(data.grid, data.voxel, values, axis, value, data.reach())
        drawn.set_data(whole)
        drawn.set_extent(figures.plane_extent(rows, columns))
        figure.canvas.draw_idle()

    def press(event: Any) -> None:
        move = {"right": step, "up": step, "left": -step, "down": -step}.get(event.key)
        if move:
            slider.set_val(slider.val + move)

    slider.on_changed(show)
    figure.canvas.mpl_connect("key_press_event", press)
    show(level)
    pyplot.show()


def _values(data: MapData, kind: str) -> tuple[np.ndarray, str]:
    return {
        "intensity": (data.intensity, figures.INTENSITY),
        "sigma": (data.sigma, figures.SIGMA),
        "isigi": (data.precision, figures.PRECISION),
        "occupancy": (data.multiplicity.astype(float), figures.MULTIPLICITY),
    }[kind]


if __name__ == "__main__":
    run()
