"""A comparison of two maps as tables."""

from __future__ import annotations

import numpy as np
from tabulate import tabulate

from diffuse_framework.algorithms.comparison.agreement import Figures
from diffuse_framework.algorithms.comparison.alignment import Aligned
from diffuse_framework.algorithms.comparison.compare import Comparison
from diffuse_framework.model.voxel_map import VoxelMap

__all__ = ["HEAD", "KIND_WORDS", "comparison_text", "difference_text", "shell_rows"]

KIND_WORDS = {"all": "all voxels", "halo": "voxels in halos of nodes", "between": "voxels between nodes"}
"""What the kinds of voxels are called."""

HEAD = ("d (Å)", "voxels", "CC", "aniso.", "from", "to", "beside", "ceiling", "CC*A", "CC*B", "weighted", "chi²", "R")


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "-"


def row_of(one: Figures) -> tuple[str, ...]:
    """Return the figures of some voxels as cells, under all but the first of `HEAD`."""
    low, high = one.intervals.get("cc_anisotropic", (np.nan, np.nan))
    return (
        str(one.voxels),
        _number(one.cc),
        _number(one.cc_anisotropic),
        _number(low),
        _number(high),
        _number(one.cc_halved),
        _number(one.ceiling) + ("" if one.at_ceiling in (None, True) else " *"),
        _number(one.cc_star_a),
        _number(one.cc_star_b),
        _number(one.cc_anisotropic_weighted),
        _number(one.chi_squared, 2),
        _number(one.r),
    )


def shell_rows(comparison: Comparison, kind: str) -> list[tuple[str, ...]]:
    """Return a row for each shell that holds voxels, and one for all of them.

    Args:
        comparison: of two maps.
        kind: of voxel.
    """
    rows = []
    for (high, low), one in zip(comparison.d_limits, comparison.shells[kind], strict=True):
        if one.voxels:
            limit = "∞" if not np.isfinite(high) else f"{high:.2f}"
            rows.append((f"{limit} - {low:.2f}", *row_of(one)))
    return [*rows, ("all", *row_of(comparison.overall[kind]))]


def _inputs(aligned: Aligned) -> list[str]:
    factor, offset = aligned.scaling.factor, aligned.scaling.offset
    shown = f"{factor[0]:.4g}" if (factor == factor[0]).all() else f"({factor.min():.4g} to {factor.max():.4g})"
    added = f" + ({offset.min():.4g} to {offset.max():.4g})" if offset.any() else ""
    return [
        f"A  {aligned.a.name}: {aligned.voxels[0]} voxels",
        f"B  {aligned.b.name}: {aligned.voxels[1]} voxels",
        f"{len(aligned.a)} in common, divisions {' x '.join(map(str, aligned.a.grid.divisions))}; A = {shown} B{added}",
    ]


def difference_text(apart: VoxelMap, aligned: Aligned) -> str:
    """Return in words what a difference was made from, and how large it is beside its errors.

    Args:
        apart: the difference.
        aligned: the maps, on one scale.
    """
    assert apart.sigma is not None
    deviation = np.divide(apart.intensity, apart.sigma, out=np.zeros(len(apart)), where=apart.sigma > 0)
    large = float(np.mean(np.abs(deviation) > 3))
    indexing = aligned.indexing
    done = list(aligned.notes)
    if indexing.changed:
        done.append(f"B was re-indexed by {indexing.names[indexing.chosen]}")
    return "\n".join(
        [
            *_inputs(aligned),
            *done,
            f"A - B: root mean square {np.sqrt(np.mean(apart.intensity**2)):.4g} ({apart.units}), chi squared "
            f"{np.mean(deviation**2):.3f}; {large:.2%} of the voxels are beyond 3 sigma (0.27 % by chance)",
        ]
    )


def comparison_text(comparison: Comparison) -> str:
    """Return the comparison as text: what was done, and a table for each kind of voxel that there is."""
    aligned = comparison.aligned
    parts = [*_inputs(aligned), "", *comparison.sentences()]
    for kind in comparison.kinds:
        parts += [
            "",
            KIND_WORDS[kind].capitalize(),
            "",
            tabulate(shell_rows(comparison, kind), HEAD, "simple", disable_numparse=True),
        ]
    parts += [
        "",
        "CC: correlation; aniso.: of anisotropic parts, with the interval that holds 95 %; ceiling: CC*A x CC*B, what",
        "noise allows, beside aniso. in the voxels that half maps have (* where that is below it by more than chance);",
        "weighted: anisotropic, by inverse variances; chi²: of the difference; R: sum |A - B| / sum |A|.",
    ]
    return "\n".join(parts)
