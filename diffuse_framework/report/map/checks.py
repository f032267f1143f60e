"""Questions a careful person asks of a merged map."""

from __future__ import annotations

import numpy as np

from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.report.checks import BAD, GOOD, LOOK, Check, check_fall_off, check_intensities, check_precision
from diffuse_framework.report.figures import radial_profile


def check_multiplicity(q: np.ndarray, multiplicity: np.ndarray) -> Check:
    """Say whether voxels at one |q| are observed about equally often.

    Args:
        q: (n,) |q| in 1/angstrom.
        multiplicity: (n,) observations.
    """
    profile = radial_profile(q, multiplicity.astype(float), 10)
    variation = float(np.average(profile.spread / profile.mean, weights=profile.number))
    few = float(np.mean(multiplicity < 3))
    verdict = GOOD if variation < 0.6 and few < 0.1 else LOOK if few < 0.5 else BAD
    return Check(
        "Is the multiplicity even and sufficient?",
        verdict,
        f"{multiplicity.min()} to {multiplicity.max()} observations a voxel, mean {multiplicity.mean():.1f}, median "
        f"{np.median(multiplicity):.0f}; {few:.1%} of the voxels have fewer than 3. At one |q| they vary by "
        f"{variation:.0%} of their mean (0 % is even).",
    )


def check_gaps(grid: VoxelGrid, voxel: np.ndarray) -> Check:
    """Say how much of the asymmetric unit within the limits was observed."""
    share = len(voxel) / max(grid.n_voxels, 1)
    verdict = GOOD if share > 0.9 else LOOK if share > 0.3 else BAD
    return Check(
        "Are there gaps?",
        verdict,
        f"{len(voxel)} of {grid.n_voxels} voxels of the asymmetric unit were observed ({share:.1%})."
        + (
            ""
            if verdict == GOOD
            else " Few images, or few orientations, leave gaps; so does a grid.hkl.d_min beyond the detector's edge."
        ),
    )


def check_scales(scales: np.ndarray, sigma: np.ndarray, statistics: dict) -> list[Check]:
    """Say whether scaling converged and whether its scales are reasonable."""
    checks = []
    if "converged" in statistics:
        checks.append(
            Check(
                "Did scaling converge?",
                GOOD if statistics["converged"] else BAD,
                f"{'Yes' if statistics['converged'] else 'No'}, after {statistics.get('cycles', '?')} cycles.",
            )
        )
    chi_squared = statistics.get("chi_squared_per_observation")
    if isinstance(chi_squared, int | float):
        r_factor = statistics.get("r_factor")
        more = f", R {r_factor:.3g}" if isinstance(r_factor, int | float) else ""
        checks.append(
            Check(
                "Do images agree once they are scaled?",
                GOOD if chi_squared < 2 else LOOK if chi_squared < 20 else BAD,
                f"Chi squared per observation is {chi_squared:.3g}{more}. "
                "Far above 1, images differ by more than counting and their scales, and the errors of the map are "
                "too small: absorption, background, a beam that moves, or crystals that are not alike.",
            )
        )
    ratio = float(scales.max() / max(scales.min(), 1e-300))
    far = int(np.count_nonzero((scales < 0.1) | (scales > 10)))
    typical = f"{np.nanmedian(sigma):.2g}" if np.isfinite(sigma).any() else "unknown"
    checks.append(
        Check(
            "Are scale factors reasonable?",
            GOOD if ratio < 10 and not far else LOOK if not far else BAD,
            f"{scales.min():.4g} to {scales.max():.4g} over {len(scales)} images (the mean is 1); {far} are off by "
            f"more than a factor 10; typical uncertainty {typical}.",
        )
    )
    return checks


def check_lattice_points(grid: VoxelGrid, voxel: np.ndarray, intensity: np.ndarray) -> Check:
    """Say whether voxels on reciprocal lattice points stand out from those beside them: Bragg peaks left in.

    Args:
        grid: the voxel grid.
        voxel: (n,) numbers, ascending.
        intensity: (n,).
    """
    question = "Are Bragg peaks left in the map?"
    divisions = np.array(grid.divisions)
    if (divisions == 1).all():
        return Check(question, LOOK, "With one voxel per reciprocal lattice vector the map can't tell.")
    index = grid.index_of(voxel)
    on = (index % divisions == 0).all(axis=1)
    step = np.where(divisions > 1, 1, 0)
    ratio_sum = np.zeros(2)
    ratios = []
    for axis in np.flatnonzero(step):
        for sign in (1, -1):
            beside = index[on].copy()
            beside[:, axis] += sign
            values = _values_at(grid, voxel, intensity, beside)
            known = np.isfinite(values)
            ratio_sum += intensity[on][known].sum(), values[known].sum()
            ratios.append((intensity[on][known], values[known]))
    if ratio_sum[1] <= 0:
        return Check(question, GOOD, "No voxel on a reciprocal lattice point is in the map: all are masked.")
    centre, beside = (np.concatenate(column) for column in zip(*ratios, strict=True))
    ratio = float(ratio_sum[0] / ratio_sum[1])
    above = float(np.mean(centre > 3 * np.maximum(beside, 1e-300)))
    verdict = GOOD if ratio < 1.1 else LOOK if ratio < 1.5 else BAD
    return Check(
        question,
        verdict,
        f"Voxels on reciprocal lattice points ({np.count_nonzero(on)} observed) hold {ratio:.3f} times what the voxels "
        f"beside them do, and {above:.2%} more than 3 times."
        + ("" if verdict == GOOD else " Diffuse halos do this too; a larger Bragg mask tells."),
    )


def _values_at(grid: VoxelGrid, voxel: np.ndarray, values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return values at voxel indices (m, 3), folded by symmetry; NaN where there are none."""
    folded, _ = fold(index, grid.symmetry, grid.divisions)
    offset = folded - np.array(grid.index_min)
    inside = ((offset >= 0) & (offset < np.array(grid.dimensions))).all(axis=1)
    found = np.full(len(index), np.nan)
    if not inside.any() or len(voxel) == 0:
        return found
    numbers = np.ravel_multi_index(offset[inside].T, grid.dimensions)
    where = np.minimum(np.searchsorted(voxel, numbers), len(voxel) - 1)
    same = voxel[where] == numbers
    found[np.flatnonzero(inside)[same]] = values[where[same]]
    return found


def map_checks(
    grid: VoxelGrid,
    voxel: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray,
    multiplicity: np.ndarray,
    scales: tuple[np.ndarray, np.ndarray, dict],
) -> list[Check]:
    """Return the checks of a merged map; `scales` are factors, their sigmas and the fit's statistics."""
    q = np.linalg.norm(grid.q_of(voxel), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = intensity / sigma
    return [
        check_multiplicity(q, multiplicity),
        check_gaps(grid, voxel),
        *check_scales(*scales),
        check_lattice_points(grid, voxel, intensity),
        check_intensities(intensity),
        check_precision(precision, "voxel"),
        check_fall_off(q, intensity),
    ]
