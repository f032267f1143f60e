"""How well known scales are recovered, part by part and all together, and what that does to the map.

    .venv/bin/python tests/benchmarks/scaling_accuracy.py [--counts 1] [--seeds 3]

Draws Poisson counts from a known map and a known model, fits the model, and prints for each part

- its error expected from counting alone: the inverse of the Fisher information of all counts at the
  true parameters, computed here and not by the fit, with every voxel's intensity unknown and
  without restraints (which help the fit, so that it may come out better);
- the root mean square of found less true in units of that error, over all control points: it counts as
  "recovered" where it is below 2; and the largest single one;
- the correlation of the merged map with the true one, for fitted and for true scales.

Compared are the functions where there are data, not their control points, some of which lie beyond. What
no data can tell (which part a common factor belongs to, an offset in proportion to the crystal's scale)
is taken off on both sides. Factors are compared by their logarithms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

from diffuse_framework.algorithms.binning import sum_by
from diffuse_framework.algorithms.geometry import voxel_q
from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.scaling.fit import Recipe, scale_smoothly
from diffuse_framework.algorithms.scaling.model import Layout, ScalingOptions, evaluate
from diffuse_framework.model.voxels import concatenate
from support.sums import SQUARE_PANEL, KnownSums, known_sums

TWO_PANELS = (*SQUARE_PANEL, (0.0, 1000.0, 0.0, 500.0))

MODELS = {
    "b per image": ScalingOptions(),
    "b smooth": ScalingOptions(scale="smooth"),
    "c": ScalingOptions(scale="off", offset=True, offset_q=0.15),
    "d": ScalingOptions(scale="off", panel=True),
    "a fixed": ScalingOptions(scale="off", absorption=True),
    "a changing": ScalingOptions(scale="off", absorption=True, absorption_order=15.0),
    "s": ScalingOptions(scale="off", resolution=True),
    "b c d a": ScalingOptions(
        scale="smooth", offset=True, offset_q=0.15, panel=True, absorption=True, absorption_order=15.0
    ),
    "b c d a s": ScalingOptions(
        scale="smooth",
        offset=True,
        offset_q=0.15,
        panel=True,
        absorption=True,
        absorption_order=15.0,
        resolution=True,
    ),
}
LETTERS = {"scale": "b", "offset": "c", "panel": "d", "absorption": "a", "resolution": "s"}


@dataclass(frozen=True, eq=False)
class Points:
    """Where scales are compared: all combinations of some images, places on the panels and |q|.

    Attributes:
        image, panel, fast, slow, q: (n,) of each point.
        shape: (images, panels, places on a panel, |q|).
    """

    image: np.ndarray
    panel: np.ndarray
    fast: np.ndarray
    slow: np.ndarray
    q: np.ndarray
    shape: tuple[int, int, int, int]


def points_of(layout: Layout, n_images: int = 10, n_places: int = 4, n_q: int = 6) -> Points:
    """Return points inside of what was observed: no data determine the ends of a smoother."""
    extent = layout.extent
    low, high = extent.q
    images = np.linspace(0, extent.n_images - 1, n_images).astype(np.int32)
    inner = np.linspace(0.1, 0.9, n_places)
    x, y = (values.ravel() for values in np.meshgrid(inner, inner))
    q = low + (high - low) * np.linspace(0.3, 0.95, n_q)
    boxes = np.asarray(extent.panels, float)
    shape = (len(images), len(boxes), len(x), n_q)
    i, p, place, k = (values.ravel() for values in np.indices(shape))
    fast = boxes[p, 0] + (boxes[p, 1] - boxes[p, 0]) * x[place]
    slow = boxes[p, 2] + (boxes[p, 3] - boxes[p, 2]) * y[place]
    return Points(images[i], p.astype(np.uint16), fast.astype(np.float32), slow.astype(np.float32), q[k], shape)


def quantities(layout: Layout, parameters: np.ndarray, at: Points) -> dict[str, np.ndarray]:
    """Return by part what data can tell of it, whatever the degenerate directions are.

    Logarithms of factors are split as in an analysis of variance: b by image, d by panel, s by image and
    |q| without what all images share, a by all else. Offsets are in units of the map.
    """
    factor, offset = evaluate(layout, parameters, at.image, at.panel, at.fast, at.slow, at.q)
    log, ratio = np.log(factor).reshape(at.shape), (offset / factor).reshape(at.shape)
    log_by_q = log.mean(axis=(0, 1, 2), keepdims=True)
    ratio = (ratio * np.exp(log_by_q)).mean(axis=(1, 2))
    log = log - log_by_q
    b = log.mean(axis=(1, 2, 3), keepdims=True)
    d = log.mean(axis=(0, 2, 3), keepdims=True)
    result = {
        "scale": b,
        "offset": ratio - ratio.mean(axis=0),
        "panel": d,
        "absorption": log.mean(axis=3, keepdims=True) - b - (d if "panel" in layout.components else 0),
        "resolution": log.mean(axis=(1, 2), keepdims=True) - b,
    }
    return {name: result[name].ravel() for name in layout.components}


def derivatives(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Return central differences (n, n_parameters)."""
    columns = []
    for number in range(len(at)):
        change = np.zeros(len(at))
        change[number] = step
        columns.append((function(at + change) - function(at - change)) / (2 * step))
    return np.stack(columns, axis=1)


def counting_errors(known: KnownSums) -> dict[str, np.ndarray]:
    """Return the standard errors of `quantities` that the counts allow, by part."""
    layout, parameters = known.scales.layout, known.scales.parameters
    q = voxel_q(known.sums.grid, np.arange(known.sums.grid.size))
    rows = concatenate(list(known.sums.pieces))
    intensity, exposure = known.intensity[rows.voxel], rows.exposure.astype(float)
    at = rows.image, rows.panel, rows.fast, rows.slow, q[rows.voxel]
    factor, offset = evaluate(layout, parameters, *at)
    expected = exposure * (factor * intensity + offset)

    def root_weighted(values: np.ndarray) -> np.ndarray:
        return values / np.sqrt(expected)

    def model(trial: np.ndarray) -> np.ndarray:
        trial_factor, trial_offset = evaluate(layout, trial, *at)
        return root_weighted(exposure * (trial_factor * intensity + trial_offset))

    jacobian = derivatives(model, parameters)
    # Each voxel's own intensity is unknown: take out of each column what it could explain.
    by_intensity = root_weighted(exposure * factor)
    norm = sum_by(rows.voxel, by_intensity**2, len(q))
    for column in jacobian.T:
        share = sum_by(rows.voxel, by_intensity * column, len(q)) / np.where(norm > 0, norm, 1)
        column -= by_intensity * share[rows.voxel]
    # Degenerate directions have no information, and none of the quantities depends on them.
    covariance = np.linalg.pinv(jacobian.T @ jacobian, rcond=1e-9, hermitian=True)
    errors = {}
    points = points_of(layout)
    for name in layout.components:
        slope = derivatives(lambda trial, name=name: quantities(layout, trial, points)[name], parameters)
        errors[name] = np.sqrt(np.einsum("ij,jk,ik->i", slope, covariance, slope))
    return errors


def correlation(known: KnownSums, scales) -> float:
    """Return that of the merged map with the true one."""
    merged = poisson_merge(known.sums, scales)
    return float(np.corrcoef(merged.intensity, known.intensity[merged.voxel])[0, 1])


def recovered(name: str, seed: int, counts: float) -> list[list]:
    """Return the lines of the table for one model."""
    options = MODELS[name]
    n_rows = 4000 if len(name) > 6 and " c " in name else 2000
    known = known_sums(
        options,
        np.random.default_rng(seed),
        n_images=40,
        rows_per_image=n_rows,
        exposure=counts,
        panels=TWO_PANELS if options.panel else SQUARE_PANEL,
    )
    scales = scale_smoothly(known.sums, known.data_set, known.order, Recipe(options))
    errors = counting_errors(known)
    points = points_of(known.scales.layout)
    found, true = (quantities(x.layout, x.parameters, points) for x in (scales, known.scales))
    ours, best = correlation(known, scales), correlation(known, known.scales)
    lines = []
    for part, error in errors.items():
        z = (found[part] - true[part]) / error
        lines.append(
            [
                name,
                seed,
                LETTERS[part],
                len(z),
                f"{np.std(true[part]):.3f}",
                f"{np.sqrt(np.mean(error**2)):.4f}",
                f"{np.sqrt(np.mean(np.square(z))):.2f}",
                f"{np.abs(z).max():.2f}",
                f"{ours:.4f}",
                f"{best:.4f}",
                "yes" if scales.statistics["converged"] else "NO",
            ]
        )
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=float, default=1.0, help="mean counts of an observation")
    parser.add_argument("--seeds", type=int, default=1, help="how many simulations of each model")
    options = parser.parse_args()
    header = (
        "model",
        "seed",
        "part",
        "values",
        "spread of truth",
        "counting error",
        "rms error / it",
        "largest",
        "CC fitted",
        "CC true scales",
        "converged",
    )
    lines = [
        line
        for name in MODELS
        for seed in range(5, 5 + options.seeds)
        for line in recovered(name, seed, options.counts)
    ]
    print(tabulate(lines, header, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
