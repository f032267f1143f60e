"""Questions a careful person asks of a merged map."""

from __future__ import annotations

import numpy as np

from diffuse_framework.algorithms.completeness import completeness
from diffuse_framework.algorithms.judging import far_above_shell
from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.report.checks import BAD, GOOD, LOOK, Check, check_fall_off, check_intensities, check_precision
from diffuse_framework.report.figures import radial_profile
from diffuse_framework.report.limits import grade

_BADNESS = (GOOD, LOOK, BAD)


def check_multiplicity(q: np.ndarray, multiplicity: np.ndarray) -> Check:
    """Say whether voxels at one |q| are observed about equally often.

    Args:
        q: (n,) |q| in 1/angstrom.
        multiplicity: (n,) observations.
    """
    profile = radial_profile(q, multiplicity.astype(float), 10)
    variation = float(np.average(profile.spread / profile.mean, weights=profile.number))
    few = float(np.mean(multiplicity < 3))
    verdict = grade("few", few)
    verdict = LOOK if verdict == GOOD and variation >= 0.6 else verdict
    return Check(
        "Is the multiplicity even and sufficient?",
        verdict,
        f"{multiplicity.min()} to {multiplicity.max()} observations a voxel, mean {multiplicity.mean():.1f}, median "
        f"{np.median(multiplicity):.0f}; {few:.1%} of the voxels have fewer than 3. At one |q| they vary by "
        f"{variation:.0%} of their mean (0 % is even).",
    )


def check_gaps(grid: VoxelGrid, voxel: np.ndarray) -> Check:
    """Say how much of the asymmetric unit within the limits was observed."""
    share = float(completeness(np.array(len(voxel)), np.array(grid.n_voxels)))
    verdict = grade("completeness", share)
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
                max(grade("chi_squared_high", chi_squared), grade("chi_squared_low", chi_squared), key=_BADNESS.index),
                f"Chi squared per observation is {chi_squared:.3g}{more}. Well below 1, counts are not photons, or "
                "pixels share them. Far above 1, images differ by more than counting and their scales, and the errors "
                "of the map are too small: absorption, background, a beam that moves, or crystals that are not alike.",
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


def check_lattice_points(grid: VoxelGrid, voxel: np.ndarray, intensity: np.ndarray, sigma: np.ndarray) -> Check:
    """Say whether voxels on reciprocal lattice points stand out from those beside them: Bragg peaks left in.

    Args:
        grid: the voxel grid.
        voxel: (n,) numbers, ascending.
        intensity, sigma: (n,).
    """
    question = "Are Bragg peaks left in the map?"
    divisions = np.array(grid.divisions)
    if (divisions == 1).all():
        return Check(question, LOOK, "With one voxel per reciprocal lattice vector the map can't tell.")
    index = grid.index_of(voxel)
    on = (index % divisions == 0).all(axis=1)
    step = np.where(divisions > 1, 1, 0)
    ratio_sum = np.zeros(2)
    for axis in np.flatnonzero(step):
        for sign in (1, -1):
            beside = index[on].copy()
            beside[:, axis] += sign
            values = _values_at(grid, voxel, intensity, beside)
            known = np.isfinite(values)
            ratio_sum += intensity[on][known].sum(), values[known].sum()
    if ratio_sum[1] <= 0:
        return Check(question, GOOD, "No voxel on a reciprocal lattice point is in the map: all are masked.")
    ratio = float(ratio_sum[0] / ratio_sum[1])
    above = float(far_above_shell(grid, voxel, intensity, sigma)[on].mean())
    verdict = max(grade("node_ratio", ratio), grade("nodes", above), key=_BADNESS.index)
    return Check(
        question,
        verdict,
        f"Voxels on reciprocal lattice points ({np.count_nonzero(on)} observed) hold {ratio:.3f} times what the voxels "
        f"beside them do, and {above:.2%} are above 3 times the median of their shell."
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
        # A map that no run made, such as a difference, has none.
        *(check_scales(*scales) if len(scales[0]) else ()),
        check_lattice_points(grid, voxel, intensity, sigma),
        check_intensities(intensity),
        check_precision(precision, "voxel"),
        check_fall_off(q, intensity),
    ]
