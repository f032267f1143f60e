"""Every plot, once."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from diffuse_framework.model.maps import AbsoluteReport

_COLOURS = {"krogh_moe": "tab:blue", "norman": "tab:orange", "wilson": "tab:green"}


def absolute_scale_figure(report: AbsoluteReport) -> Figure:
    """Return how the absolute scale was found: profiles, k against the cutoff, and Wilson's plot."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    profiles, cutoffs, plot = figure.subplots(1, 3)
    chosen = report.estimates[report.method] if report.method else next(iter(report.estimates.values()))
    theory = report.theory
    profiles.plot(report.q, chosen.scale * report.total, color="black", label="k x total")
    profiles.plot(report.q, chosen.scale * (report.total - report.bragg), color="tab:red", label="k x diffuse")
    shown = theory.q <= report.q[-1]
    atoms = (theory.coherent + theory.incoherent)[shown]
    profiles.plot(theory.q[shown], atoms, color="tab:blue", label="sum f0^2 + incoherent")
    profiles.plot(theory.q[shown], theory.incoherent[shown], color="tab:gray", label="incoherent")
    profiles.axvline(report.limit, color="lightgray", zorder=0)
    profiles.set(yscale="log", xlabel="|q| (1/A)", ylabel="electron units per cell")
    profiles.legend(fontsize="small")

    for method in ("krogh_moe", "norman"):
        if method in report.estimates:
            one = report.estimates[method]
            cutoffs.plot(one.q, one.scales, color=_COLOURS[method])
    for method, one in report.estimates.items():
        label = f"{method}: {one.scale:.4g} +- {one.sigma:.2g}"
        cutoffs.axhline(one.scale, color=_COLOURS[method], linestyle=":", label=label)
    cutoffs.set(xlabel="cutoff |q| (1/A)", ylabel="k, electron units per relative unit")
    cutoffs.legend(fontsize="small")

    seen = report.bragg > 0
    q = report.q[seen]
    ratio = chosen.scale * report.bragg[seen] / np.interp(q, theory.q, theory.ordered)
    plot.plot(q**2, np.log(ratio), ".", color="black", label="Bragg")
    if "wilson" in report.estimates:
        one = report.estimates["wilson"]
        at_shells = np.interp(one.q, report.q, report.bragg) / np.interp(one.q, theory.q, theory.ordered)
        # Each shell's k times its strength is the fitted curve.
        curve = chosen.scale * at_shells * one.scales / one.scale
        plot.plot(one.q**2, np.log(curve), color=_COLOURS["wilson"], label=f"B = {one.b_factor:.1f} A^2")
    plot.set(xlabel="|q|^2 (1/A^2)", ylabel="ln(<|F|^2> / sum f0^2)")
    plot.legend(fontsize="small")
    return figure
