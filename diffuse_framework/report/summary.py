"""What a run says about itself: lines for the log, numbers for ``summary.json``."""

from __future__ import annotations

import logging
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tabulate import tabulate

from diffuse_framework.algorithms.validation.stills import spot_deviations
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.lattice import cell_of_matrix
from diffuse_framework.model.maps import AbsoluteMap, AbsoluteReport, MergedMap
from diffuse_framework.model.scales import Scales

logger = logging.getLogger(__name__)

N_SHELLS = 10
# What `validate` and `validate_sweeps` name as the stage of images that were indexed, and rejected.
VALIDATION = "validation"


@dataclass(frozen=True)
class TimedStep:
    """What one part of a run cost."""

    name: str
    seconds: float
    peak_mib: float


@dataclass
class Stopwatch:
    """Measures the parts of a run: wall seconds, and the largest process so far in MiB."""

    parts: list[TimedStep] = field(default_factory=list)
    now: str = ""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure what happens inside the context."""
        logger.debug("Started: %s", name)
        self.now = name
        start = time.perf_counter()
        yield
        self.parts.append(TimedStep(name, time.perf_counter() - start, _peak_mib()))

    def table(self) -> str:
        """Return the parts as a table."""
        rows = [(part.name, f"{part.seconds:.1f}", f"{part.peak_mib:.0f}") for part in self.parts]
        return tabulate(rows, ("part", "seconds", "peak MiB of a process so far"), "simple")


def _peak_mib() -> float:
    """Peak resident memory of the largest process so far, workers that have ended included."""
    usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(usage) / 1024


def rejected_text(experiment: Experiment) -> str:
    """Return a table of the images rejected, with their reasons."""
    rows = [(rejected.name, rejected.stage, rejected.reason) for rejected in experiment.rejected]
    return tabulate(rows, ("image", "rejected in", "because"), "simple")


def cells_text(experiment: Experiment) -> str:
    """Return a table of the median cell and its spread over the images."""
    cells = experiment.cells()
    columns = ("a", "b", "c", "alpha", "beta", "gamma")
    rows = [
        ("median", *(f"{value:.3f}" for value in np.median(cells, axis=0))),
        ("standard deviation", *(f"{value:.3f}" for value in cells.std(axis=0))),
    ]
    return tabulate(rows, ("unit cell", *columns), "simple")


def scales_text(scales: Scales, names: tuple[str, ...], most: int = 40) -> str:
    """Return a table of scales, of the first images where there are many."""
    rows = [
        (name, f"{scale:.4f}", f"{sigma:.4f}")
        for name, scale, sigma in zip(names, scales.per_image, scales.per_image_sigma, strict=True)
    ]
    more = f"\n... and {len(rows) - most} more, see refined_scaling_model_params.json" if len(rows) > most else ""
    return tabulate(rows[:most], ("image", "scale", "sigma"), "simple") + more


def map_statistics(merged: MergedMap, found: dict[str, Any]) -> dict[str, Any]:
    """Return what the map amounts to: voxels, completeness, multiplicity, photons, shells.

    Args:
        merged: the map.
        found: `shell_statistics` of it.
    """
    grid = merged.grid
    return {
        "voxels_in_asymmetric_unit": grid.n_voxels,
        "voxels_observed": len(merged),
        "completeness": found["overall"]["completeness"],
        "multiplicity_mean": float(merged.multiplicity.mean()),
        "multiplicity_median": float(np.median(merged.multiplicity)),
        "pixels": int(merged.pixels.sum()),
        "photons": float(merged.counts.sum()),
        "counts_per_pixel": float(merged.counts.sum() / max(merged.pixels.sum(), 1)),
        "intensity_mean": float(merged.intensity.mean()),
        "intensity_over_sigma_median": float(np.median(merged.intensity / np.sqrt(merged.variance))),
        "shells": found["shells"],
        "overall": found["overall"],
    }


_COLUMNS = (
    ("voxels", "voxels", "d"),
    ("complete", "completeness", ".1%"),
    ("multipl.", "multiplicity", ".1f"),
    ("<I>", "intensity", ".4g"),
    ("<I/sigma>", "intensity_over_sigma", ".2f"),
    ("aniso rms", "anisotropic_rms", ".3g"),
    ("CC1/2", "cc_half", ".3f"),
    ("CC*", "cc_star", ".3f"),
    ("CC1/2 aniso", "cc_half_anisotropic", ".3f"),
    ("between Bragg", "cc_half_between", ".3f"),
    ("counting allows", "cc_half_between_counting", ".3f"),
    ("R-split", "r_split", ".3f"),
)
_IN_THE_LOG = {"voxels", "completeness", "multiplicity", "intensity", "intensity_over_sigma", "cc_half"} | {
    "cc_half_between",
    "cc_half_between_counting",
}


def shells_text(statistics: dict[str, Any]) -> str:
    """Return the shells of `map_statistics` as a table."""
    return _table(statistics["shells"], [column for column in _COLUMNS if column[1] in _IN_THE_LOG])


def statistics_text(statistics: dict[str, Any]) -> str:
    """Return the statistics of `algorithms.statistics.shell_statistics` as a table."""
    return _table([*statistics["shells"], statistics["overall"]], list(_COLUMNS))


def _table(shells: list[dict[str, Any]], columns: list[tuple[str, str, str]]) -> str:
    """Return shells as a table of those columns that they have."""
    columns = [column for column in columns if any(column[1] in shell for shell in shells)]
    rows = []
    for shell in shells:
        limits = "inf" if shell["d_max"] is None else f"{shell['d_max']:.2f}", f"{shell['d_min']:.2f}"
        values = ("" if shell.get(key) is None else format(shell[key], form) for _, key, form in columns)
        rows.append((*limits, *values))
    header = ("d_max", "d_min", *(name for name, _, _ in columns))
    return tabulate(rows, header, "simple", disable_numparse=True)


def scaling_text(statistics: dict[str, Any]) -> str:
    """Return in a few lines what a scaling model's statistics say of outliers, errors and chi squared."""
    lines = []
    if "error_model" in statistics:
        model = statistics["error_model"]
        lines.append(f"variance = {model['inflation']:.4g} x (counting + ({model['fraction']:.4g} x signal)^2)")
    outliers = statistics.get("outliers", {})
    if outliers:
        lines.append(
            f"outliers: {outliers['rejected']} rejected, {outliers['too_high']} too high and "
            f"{outliers['too_low']} too low; {outliers['disputed_voxels']} voxels of two that disagree"
        )
        shares = " ".join(f"{shell['fraction']:.2%}" for shell in outliers.get("by_shell", []))
        if outliers["rejected"] and shares:
            lines.append(f"  share by shell, low resolution first: {shares}")
        for kind in ("image", "panel", "voxel"):
            most = ", ".join(f"{name}: {n}" for name, n in list(outliers[f"by_{kind}"].items())[:5])
            if most:
                lines.append(f"  most by {kind}: {most}")
    for by, bins in statistics.get("chi_squared", {}).items():
        values = " ".join(f"{entry['chi_squared']:.2f}" for entry in bins)
        lines.append(f"chi squared by {by}: {values}")
    return "\n".join(lines)


def spot_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """Return for each image its spots, how far they are from the predicted ones, and its cell."""
    deviations = (spot_deviations(image, experiment.geometry_of(image)) for image in experiment.images)
    return [
        {
            "image": image.name,
            "rms_px": rms_px,
            "rms_q": rms_q,
            "observed": int(np.isfinite(image.spots.observed_px).all(axis=1).sum()),
            "cell": cell_of_matrix(image.setting_matrix),
        }
        for image, (rms_px, rms_q) in zip(experiment.images, deviations, strict=True)
    ]


def log_experiment(experiment: Experiment, n_images: int) -> None:
    """Log how indexing went."""
    logger.info("\n%d of %d images are used", len(experiment.images), n_images)
    if experiment.rejected:
        logger.info("\n%s", rejected_text(experiment))
    if experiment.images:
        logger.info("\n%s\n", cells_text(experiment))
        rows = spot_rows(experiment)
        known = np.array([(row["rms_px"], row["rms_q"]) for row in rows if np.isfinite(row["rms_px"])])
        if len(known):
            logger.info(
                "Distance of observed from predicted spots: %.2f pixels, %.5f 1/angstrom (rms, median of images)",
                *np.median(known, axis=0),
            )
        first_columns = [tuple(row.values())[:3] for row in rows]
        logger.debug("\n%s\n", tabulate(first_columns, ("image", "rms px", "rms q"), "simple", floatfmt=".5f"))


def log_map(final: AbsoluteMap, statistics: dict[str, Any]) -> None:
    """Log what the map amounts to."""
    logger.info(
        "\nMerged %(voxels_observed)d of %(voxels_in_asymmetric_unit)d voxels of the asymmetric unit from "
        "%(pixels)d pixels and %(photons).0f photons (%(counts_per_pixel).3f a pixel)",
        statistics,
    )
    logger.info("Merged intensities are in relative units\n\n%s\n", shells_text(statistics))
    if isinstance(final.report, AbsoluteReport):
        logger.info("%s\n", absolute_text(final.report))
    elif final.is_absolute:
        rows = [(name, _short(value)) for name, value in final.report_table.items()]
        logger.info(
            "Absolute scale %.5g +- %.2g, %s\n\n%s\n",
            final.scale,
            final.scale_sigma,
            final.units,
            tabulate(rows, ("", "as its method reports"), "simple", disable_numparse=True),
        )


def _short(value: Any) -> str:
    """A value of a report in a line; arrays and long lists by their size."""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, np.ndarray | list | tuple | dict) and len(value) > 6:
        return f"{len(value)} values"
    return str(value)


def absolute_text(report: AbsoluteReport) -> str:
    """Return tables of the cell's contents, of k by each method, and of k against the cutoff."""
    contents = report.contents
    atoms = [
        (name, f"{ordered:.1f}", f"{solvent:.1f}")
        for name, ordered, solvent in zip(contents.elements, contents.ordered, contents.solvent, strict=True)
    ]
    methods = [
        (
            one.method + (" (used)" if one.method == report.method else ""),
            f"{one.scale:.5g}",
            f"{one.sigma:.2g}",
            f"{one.sigma_counting:.2g}",
            f"{one.sigma_spread:.2g}",
            f"{one.sigma_sampling:.2g}",
        )
        for one in report.estimates.values()
    ]
    columns = {name: one for name, one in report.estimates.items() if name != "wilson"}
    wanted = np.arange(0.05, report.limit + 0.05, 0.05)
    scales = [_at(one.q, one.scales, wanted) for one in columns.values()]
    rows = [
        (f"{q:.2f}", *(f"{k:.5g}" if np.isfinite(k) else "" for k in values))
        for q, *values in zip(wanted, *scales, strict=True)
        if np.isfinite(values).any()
    ]
    return "\n".join(
        (
            f"Absolute scale from {contents.source}: {contents.copies} copies, Matthews coefficient "
            f"{contents.matthews:.2f} A^3/Da, {contents.solvent_fraction:.0%} solvent, F(000) = "
            f"{contents.electrons:.0f}",
            "",
            tabulate(atoms, ("per cell", "ordered", "solvent"), "simple"),
            "",
            tabulate(
                methods, ("method", "k", "sigma", "of counting", "of the range", "of what was not seen"), "simple"
            ),
            "",
            tabulate(rows, ("cutoff (1/A)", *columns), "simple"),
            "",
            f"Extrapolated behind the beamstop: {report.beamstop_share:.2%} of the scattering; at holes: "
            f"{report.filled_share:.2%}; forward peak: {report.forward_share:.1%} of what atoms scatter",
            report.theory.source,
        )
    )


def _at(q: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values at the nearest |q| of those wanted, NaN where there is none within 0.025 1/angstrom."""
    nearest = np.abs(q[None] - wanted[:, None])
    return np.where(nearest.min(axis=1) <= 0.025, values[nearest.argmin(axis=1)], np.nan)


def run_summary(
    n_images: int, experiment: Experiment, scales: Scales, of_map: dict[str, Any], watch: Stopwatch
) -> dict[str, Any]:
    """Return the content of ``summary.json``; `of_map` is the part that follows from the map."""
    rejected_in = Counter(rejected.stage for rejected in experiment.rejected)
    indexed_by = dict(Counter(image.indexed_by for image in experiment.images if image.indexed_by))
    return {
        "images": {
            "given": n_images,
            "indexed": len(experiment.images) + rejected_in[VALIDATION],
            "used": len(experiment.images),
            "rejected": len(experiment.rejected),
            "rejected_in": dict(rejected_in),
            **({"indexed_by": indexed_by} if indexed_by else {}),
            "rejected_images": [vars(rejected) for rejected in experiment.rejected],
        },
        "unit_cell": {
            "median": np.median(experiment.cells(), axis=0),
            "standard_deviation": experiment.cells().std(axis=0),
            "space_group": experiment.symmetry.space_group,
        },
        "spots": spot_rows(experiment),
        "scaling": scales.statistics,
        **of_map,
        "parts": [vars(part) for part in watch.parts],
    }
