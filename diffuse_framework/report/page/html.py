"""One HTML page that tells the whole story of a run, and needs nothing but a browser."""

from __future__ import annotations

import base64
import json
import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from plotly.offline import get_plotlyjs

from diffuse_framework.report.checks import Check
from diffuse_framework.report.figures import BLUE, GREEN, ORANGE, VERMILION, curve_limits, radial_profile
from diffuse_framework.report.map.pictures import MapData
from diffuse_framework.report.map.volume import pack


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that is not drawn by the page itself.

    Attributes:
        title: above it.
        caption: below it.
        png: its bytes.
    """

    title: str
    caption: str
    png: bytes


@dataclass(frozen=True, eq=False)
class Story:
    """All that a report tells.

    Attributes:
        title: of the page.
        map: the merged map on its final scale; None where there is none.
        summary: content of ``summary.json``.
        checks: questions and answers.
        files: (name, link, what it is, size in bytes) of each file of the run.
        pictures: of images and masks.
        merging: content of ``merging_statistics.json``, empty where there is none.
        absolute: content of ``absolute_scale.json``, likewise.
        verdict: on the map, as ``summary.json`` holds it, empty where it isn't known.
        version: of this program.
        made: when.
    """

    title: str
    map: MapData | None
    summary: dict[str, Any]
    checks: list[Check]
    files: list[tuple[str, str, str, int]]
    pictures: list[Picture] = field(default_factory=list)
    merging: dict[str, Any] = field(default_factory=dict)
    absolute: dict[str, Any] = field(default_factory=dict)
    verdict: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    made: str = ""


def report_page(story: Story) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("diffuse_framework.report.page", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = _size
    environment.filters["general"] = lambda value, digits=4: "" if value is None else f"{value:.{digits}g}"
    plots = [plot for plot in _plots(story) if plot]
    data: dict[str, Any] = {"plots": plots, "volume": None, "radial": None, "units": ""}
    if story.map is not None:
        merged = story.map
        profile = radial_profile(merged.q, merged.intensity, _RADIAL_BINS)
        data |= {
            "volume": pack(merged.grid, merged.voxel, merged.intensity, merged.sigma, merged.multiplicity),
            "radial": {"q": profile.q.tolist(), "mean": profile.mean.tolist()},
            "units": merged.units,
        }
    return environment.get_template("report.html.j2").render(
        story=story,
        plots=plots,
        images=story.summary.get("images") or {},
        cell=story.summary.get("unit_cell") or {},
        statistics=story.summary.get("map") or {},
        shells=_shells(story),
        parts=story.summary.get("parts") or [],
        run=story.summary.get("run") or {},
        pictures=[(p.title, p.caption, base64.b64encode(p.png).decode()) for p in story.pictures],
        whole=data["volume"] is None or data["volume"]["whole"],
        reach=None if data["volume"] is None else 1 / data["volume"]["reach"],
        plotly=get_plotlyjs(),
        data=to_script(data),
        style=_file(environment, "report.css"),
        script=_file(environment, "report.js"),
    )


def _file(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def to_script(value: Any) -> str:
    """Return JSON that can stand inside a script element."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """Return plain numbers and lists; what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, np.generic):
        return _finite(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"


def _shells(story: Story) -> list[dict[str, Any]]:
    """Shells of resolution, with half-set correlations where the statistics of merging have them."""
    shells = story.merging.get("shells") or (story.summary.get("map") or {}).get("shells") or []
    return [shell for shell in shells if isinstance(shell, dict) and shell.get("d_min")]


_RADIAL_BINS = 80


def _plots(story: Story) -> list[dict[str, Any]]:
    """Return the line plots: each a name, a title, a caption, and traces and layout for plotly."""
    plots: list[dict[str, Any]] = []
    spots = [spot for spot in story.summary.get("spots") or [] if {"image", "cell"} <= set(spot)]
    if spots:
        names, title = short_names([spot["image"] for spot in spots])
        along = {"xaxis": {"title": {"text": title}, "type": "category"}}
        plots += [
            _plot(
                "spots",
                "Indexed spots of each image",
                "Spots that were found and indexed, and their distance from the predicted positions.",
                [
                    {
                        "type": "bar",
                        "x": names,
                        "y": [s["observed"] for s in spots],
                        "name": "spots",
                        "marker": {"color": BLUE},
                    },
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "x": names,
                        "y": [s["rms_px"] for s in spots],
                        "name": "rms deviation (pixels)",
                        "yaxis": "y2",
                        "line": {"color": VERMILION},
                    },
                ],
                title,
                "spots",
                along
                | {
                    "yaxis2": {
                        "title": {"text": "rms deviation (pixels)"},
                        "overlaying": "y",
                        "side": "right",
                        "rangemode": "tozero",
                        "showgrid": False,
                    }
                },
            ),
            _plot(
                "cells",
                "Unit cell of each image",
                "Deviation of each axis from its median. A trend or an outlier shows in every plot that follows.",
                [
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "x": names,
                        "name": axis,
                        "line": {"color": colour},
                        "y": _deviations([s["cell"][n] for s in spots]),
                    }
                    for n, (axis, colour) in enumerate(zip("abc", (BLUE, ORANGE, GREEN), strict=True))
                ],
                title,
                "deviation (%)",
                along,
            ),
        ]
    if story.map is None:
        return plots
    merged = story.map
    if len(merged.scales):
        plots.append(_scale_plot(merged))
    if len(merged.smoother):
        plots.append(
            _plot(
                "smoother",
                "Resolution smoother",
                "The part of the scale that depends on resolution.",
                [
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "x": merged.smoother[:, 0].tolist(),
                        "y": merged.smoother[:, 1].tolist(),
                        "line": {"color": BLUE},
                    }
                ],
                "|q| = 1/d (1/Å)",
                "control points of a(|q|)",
                {
                    "xaxis": {"title": {"text": "|q| = 1/d (1/Å)"}, "range": [0, 1.05 * merged.reach()]},
                    "yaxis": {
                        "title": {"text": "control points of a(|q|)"},
                        "range": list(curve_limits(merged.smoother[:, 1])),
                    },
                },
            )
        )
    profile = radial_profile(merged.q, merged.intensity, _RADIAL_BINS)
    low, high = _band(merged.q, merged.intensity, _RADIAL_BINS)
    plots.append(
        _plot(
            "radial",
            "Radial profile",
            "Mean intensity of the voxels against resolution; the band holds 68 % of the voxels at one |q|: what a map "
            "shows that a powder pattern would not.",
            [
                {
                    "type": "scatter",
                    "x": profile.q.tolist(),
                    "y": high.tolist(),
                    "mode": "lines",
                    "line": {"width": 0},
                    "showlegend": False,
                    "hoverinfo": "skip",
                },
                {
                    "type": "scatter",
                    "x": profile.q.tolist(),
                    "y": low.tolist(),
                    "mode": "lines",
                    "line": {"width": 0},
                    "fill": "tonexty",
                    "fillcolor": "rgba(0,114,178,0.2)",
                    "name": "68 % of the voxels",
                    "hoverinfo": "skip",
                },
                {
                    "type": "scatter",
                    "x": profile.q.tolist(),
                    "y": profile.mean.tolist(),
                    "mode": "lines+markers",
                    "error_y": {"type": "data", "array": profile.sigma.tolist()},
                    "name": "mean",
                    "line": {"color": BLUE},
                    "marker": {"size": 4},
                    "text": [f"d = {1 / q:.2f} Å, {n} voxels" for q, n in zip(profile.q, profile.number, strict=True)],
                },
            ],
            "|q| = 1/d (1/Å)",
            f"intensity ({merged.units})",
            {
                # A few voxels beside the beam stop must not set the scale.
                "yaxis": {
                    "title": {"text": f"intensity ({merged.units})"},
                    "range": [
                        min(0.0, float(np.percentile(merged.intensity, 0.5))),
                        1.05 * float(np.percentile(merged.intensity, 99.5)),
                    ],
                },
            },
        )
    )
    plots += _shell_plots(_shells(story))
    top = int(np.percentile(merged.multiplicity, 99.5))
    width = max(1, -(-top // 60))
    counts, edges = np.histogram(np.minimum(merged.multiplicity, top), np.arange(0.5, top + width + 0.5, width))
    plots.append(
        _plot(
            "multiplicity",
            "Multiplicity",
            "Number of observations of each voxel; the last bar holds all larger numbers.",
            [
                {
                    "type": "bar",
                    "x": (0.5 * (edges[1:] + edges[:-1])).tolist(),
                    "y": counts.tolist(),
                    "marker": {"color": BLUE},
                }
            ],
            "observations per voxel",
            "voxels",
        )
    )
    ends = np.percentile(merged.intensity, (0.1, 99.9))
    counts, edges = np.histogram(np.clip(merged.intensity, *ends), 100)
    plots.append(
        _plot(
            "histogram",
            "Distribution of intensities",
            "Of the voxels; the outermost bars gather the tails.",
            [
                {
                    "type": "bar",
                    "x": (0.5 * (edges[1:] + edges[:-1])).tolist(),
                    "y": counts.tolist(),
                    "marker": {"color": BLUE},
                }
            ],
            f"intensity ({merged.units})",
            "voxels (logarithmic)",
            {"yaxis": {"title": {"text": "voxels (logarithmic)"}, "type": "log"}},
        )
    )
    return plots + _absolute_plots(story.absolute)


def _scale_plot(merged: MapData) -> dict[str, Any]:
    names, title = short_names(list(merged.image_names))
    return _plot(
        "scales",
        "Scale factor of each image",
        "Scale of each image, with its uncertainty; their mean is 1, and intensities are divided by it. Steps and "
        "dips mean a change of beam or of crystal.",
        [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": names,
                "y": merged.scales.tolist(),
                "error_y": {"type": "data", "array": np.nan_to_num(merged.scales_sigma).tolist()},
                "line": {"color": BLUE},
            },
        ],
        title,
        "scale factor b",
        {
            "xaxis": {"title": {"text": title}, "type": "category"},
            "yaxis": {"title": {"text": "scale factor b"}, "rangemode": "tozero"},
        },
    )


def _shell_plots(shells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not shells:
        return []
    q = [0.5 * (1 / shell["d_min"] + (1 / shell["d_max"] if shell.get("d_max") else 0)) for shell in shells]
    plots = [
        _plot(
            "shells",
            "Completeness and I/sigma by resolution",
            "In shells of equal volume.",
            [
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "x": q,
                    "name": "completeness",
                    "y": [s.get("completeness") for s in shells],
                    "line": {"color": BLUE},
                },
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "x": q,
                    "name": "mean I/sigma",
                    "yaxis": "y2",
                    "y": [s.get("intensity_over_sigma") for s in shells],
                    "line": {"color": VERMILION},
                },
            ],
            "|q| = 1/d (1/Å)",
            "completeness",
            {
                "yaxis": {"title": {"text": "completeness"}, "range": [0, 1.05]},
                "yaxis2": {
                    "title": {"text": "I/sigma"},
                    "overlaying": "y",
                    "side": "right",
                    "rangemode": "tozero",
                    "showgrid": False,
                },
            },
        )
    ]
    halves = [
        (key, name, colour)
        for key, name, colour in (
            ("cc_half", "CC1/2", BLUE),
            ("cc_star", "CC*", GREEN),
            ("cc_half_anisotropic", "CC1/2, anisotropic", VERMILION),
        )
        if any(shell.get(key) is not None for shell in shells)
    ]
    if halves:
        plots.append(
            _plot(
                "halves",
                "Agreement of half data sets",
                "Correlation of the maps of two halves of the images. The anisotropic part leaves out the radial mean, "
                "which always agrees.",
                [
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "x": q,
                        "y": [s.get(key) for s in shells],
                        "name": name,
                        "line": {"color": colour},
                    }
                    for key, name, colour in halves
                ],
                "|q| = 1/d (1/Å)",
                "correlation",
                {"yaxis": {"title": {"text": "correlation"}, "range": [-0.1, 1.05]}},
            )
        )
    return plots


def _absolute_plots(absolute: dict[str, Any]) -> list[dict[str, Any]]:
    plots = []
    estimates = absolute.get("estimates") or {}
    curves = [(name, one) for name, one in estimates.items() if one.get("q") and one.get("k_of_q")]
    if curves:
        colours = (BLUE, VERMILION, GREEN, ORANGE)
        plots.append(
            _plot(
                "absolute",
                "Absolute scale",
                "The scale k by each method against the cutoff in |q| up to which the map is used. A good scale is "
                "constant at the end.",
                [
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "x": one["q"],
                        "y": one["k_of_q"],
                        "name": name,
                        "line": {"color": colours[n % 4]},
                    }
                    for n, (name, one) in enumerate(curves)
                ],
                "|q| = 1/d (1/Å)",
                "electron units per relative unit",
            )
        )
    profile = absolute.get("profile") or {}
    used = (estimates.get(absolute.get("method")) or {}).get("k")
    if profile.get("q") and used:
        total = [None if value is None else value * used for value in profile["total_relative"]]
        theory = [a + b for a, b in zip(profile["sum_f0_squared"], profile["incoherent"], strict=True)]
        plots.append(
            _plot(
                "theory",
                "Measured and calculated scattering",
                "Total scattering of the cell on the absolute scale, and what its atoms scatter on their own.",
                [
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "x": profile["q"],
                        "y": total,
                        "name": "measured",
                        "line": {"color": BLUE},
                    },
                    {
                        "type": "scatter",
                        "mode": "lines",
                        "x": profile["q"],
                        "y": theory,
                        "name": "atoms and Compton",
                        "line": {"color": VERMILION},
                    },
                ],
                "|q| = 1/d (1/Å)",
                "electron units per cell",
            )
        )
    return plots


def short_names(names: list[str]) -> tuple[list[str], str]:
    """Return image names without what they have in common, and a title for an axis that says what that is."""
    if len(names) < 2:
        return names, "image"
    # Whole numbers stay together.
    front = os.path.commonprefix(names).rstrip("0123456789")
    back = os.path.commonprefix([name[len(front) :][::-1] for name in names])[::-1].lstrip("0123456789")
    short = [name[len(front) : len(name) - len(back)] for name in names]
    if not all(short) or not front + back:
        return names, "image"
    return short, f"image {front}#{back}"


def _band(q: np.ndarray, values: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 16 % and 84 % of the values in those bins of `radial_profile` that hold any.

    A few Bragg peaks would make a standard deviation of nothing else.
    """
    edges = np.linspace(0, q.max() * (1 + 1e-9), n_bins + 1)
    order = np.argsort(q, kind="stable")
    parts = np.split(values[order], np.searchsorted(q[order], edges[1:-1]))
    low, high = np.transpose([np.percentile(part, (16, 84)) for part in parts if len(part)])
    return low, high


def _deviations(values: list[float]) -> list[float]:
    middle = float(np.median(values))
    return [100 * (value / middle - 1) for value in values]


def _plot(
    name: str,
    title: str,
    caption: str,
    traces: list[dict[str, Any]],
    x: str,
    y: str,
    layout: dict[str, Any] | None = None,
) -> dict[str, Any]:
    base = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "showlegend": len(traces) > 1}
    return {
        "name": name,
        "title": title,
        "caption": caption,
        "traces": traces,
        "layout": base | (layout or {}),
    }
