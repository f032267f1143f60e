"""Two maps compared: one page of figures."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from diffuse_framework.algorithms.comparison.agreement import Figures, block_sums, figures, redrawn
from diffuse_framework.algorithms.comparison.alignment import Aligned, AlignmentOptions, align
from diffuse_framework.algorithms.comparison.halos import Halo, in_halo
from diffuse_framework.errors import DataError
from diffuse_framework.model.voxel_map import VoxelMap

__all__ = ["KINDS", "Comparison", "compare_maps", "difference"]

KINDS = ("all", "halo", "between")
"""Kinds of voxels that are compared: all, those in halos of nodes, and those between."""

# Of the axis of kinds in sums: 0 lies between nodes, 1 in halos.
_KIND_SLICES = {"all": slice(None), "halo": slice(1, 2), "between": slice(0, 1)}


@dataclass(frozen=True, eq=False)
class Comparison:
    """How two maps agree.

    Attributes:
        aligned: the voxels they have in common, B on A's scale.
        at_node: (n,) which of them lie in a halo.
        halo: what counts as one.
        edges: (n_shells + 1,) of the shells in |q|, 1/angstrom.
        overall: figures by kind of voxel (`KINDS`).
        shells: the same for each shell, from low to high resolution.
    """

    aligned: Aligned
    at_node: np.ndarray
    halo: Halo
    edges: np.ndarray
    overall: dict[str, Figures]
    shells: dict[str, tuple[Figures, ...]]

    @property
    def d_limits(self) -> list[tuple[float, float]]:
        """d_max and d_min of each shell, angstrom; infinity for the first."""
        with np.errstate(divide="ignore"):
            d = 1 / self.edges
        return [(float(a), float(b)) for a, b in zip(d[:-1], d[1:], strict=True)]

    @property
    def kinds(self) -> list[str]:
        """The kinds of voxels that there is something to say of: all, and others that are neither none nor all."""
        n = len(self.at_node)
        return [kind for kind in KINDS if kind == "all" or 0 < self.overall[kind].voxels < n]

    def sentences(self) -> list[str]:
        """Return what was done and found, in sentences."""
        aligned, whole = self.aligned, self.overall["all"]
        found = list(aligned.notes)
        indexing = aligned.indexing
        tried = "; ".join(f"{name} {cc:.3f}" for name, cc in zip(indexing.names, indexing.correlations, strict=True))
        if indexing.changed:
            found.append(f"B is indexed differently: it was re-indexed by {indexing.names[indexing.chosen]} ({tried})")
        elif len(indexing.names) > 1:
            found.append(f"B is indexed as A is ({tried})")
        if not aligned.scaling.found:
            found.append("The maps don't tell their scale: B was multiplied by the ratio of their spreads")
        for letter, one in (("A", aligned.a), ("B", aligned.b)):
            if one.sigma is None:
                found.append(f"{letter} has no errors" + ("" if one.halves is not None else ": it counts as exact"))
        if whole.at_ceiling is not None:
            found.append(
                "They agree as well as noise allows"
                if whole.at_ceiling
                else f"They differ by more than noise: the anisotropic correlation is {whole.cc_halved:.3f}, and noise "
                f"would allow {whole.ceiling:.3f}"
            )
        return found

    def to_plain(self) -> dict[str, Any]:
        """Return the content of ``comparison.json``."""
        aligned = self.aligned
        a, b, scaling, indexing = aligned.a, aligned.b, aligned.scaling, aligned.indexing
        limits = [{"d_max": x if np.isfinite(x) else None, "d_min": y} for x, y in self.d_limits]
        return {
            "a": a.name,
            "b": b.name,
            "grid": {
                "unit_cell": list(a.grid.cell),
                "space_group": a.grid.symmetry.space_group,
                "laue_group": a.grid.symmetry.laue_group,
                "divisions": list(a.grid.divisions),
            },
            "voxels": {"a": aligned.voxels[0], "b": aligned.voxels[1], "common": len(a)},
            "units": a.units,
            "indexing": {
                "operators": indexing.names,
                "correlations": [None if np.isnan(x) else float(x) for x in indexing.correlations],
                "applied": indexing.names[indexing.chosen],
            },
            "scaling": {"q": scaling.q, "factor": scaling.factor, "offset": scaling.offset, "found": scaling.found},
            "halo": {"shape": self.halo.shape, "size": list(self.halo.size)},
            "notes": self.sentences(),
            "overall": {kind: self.overall[kind].to_plain() for kind in KINDS},
            "shells": {
                kind: [limit | one.to_plain() for limit, one in zip(limits, self.shells[kind], strict=True)]
                for kind in KINDS
            },
        }

    def __repr__(self) -> str:
        whole = self.overall["all"]
        return (
            f"Comparison({self.aligned.a.name!r} and {self.aligned.b.name!r}: {whole.voxels} voxels, "
            f"CC {whole.cc:.3f}, "
            f"anisotropic {whole.cc_anisotropic:.3f} (noise allows {whole.ceiling:.3f}), "
            f"chi squared {whole.chi_squared:.3g})"
        )

    def _repr_html_(self) -> str:
        """Return the figures by shell as a table, for Jupyter."""
        head = ("d (Å)", "voxels", "CC", "anisotropic", "ceiling", "chi²", "R")
        rows = [
            (f"{high:.2f} – {low:.2f}", *_cells(one))
            for (high, low), one in zip(self.d_limits, self.shells["all"], strict=True)
        ]
        rows.append(("all", *_cells(self.overall["all"])))
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
        title = f"{escape(self.aligned.a.name)} and {escape(self.aligned.b.name)}"
        return (
            f"<div><b>{title}</b><table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{body}</table>"
            f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in self.sentences())}</ul></div>"
        )


def _cells(one: Figures) -> tuple[str, ...]:
    values = (one.cc, one.cc_anisotropic, one.ceiling, one.chi_squared, one.r)
    return (str(one.voxels), *(f"{value:.3f}" for value in values))


def compare_maps(
    a: VoxelMap,
    b: VoxelMap,
    options: AlignmentOptions = AlignmentOptions(),  # noqa: B008
    halo: Halo = Halo(),  # noqa: B008
    n_shells: int = 10,
    samples: int = 500,
    seed: int = 0,
) -> Comparison:
    """Compare two maps.

    Args:
        a, b: the maps.
        options: how they are brought together.
        halo: what counts as the halo of a node, on their common grid.
        n_shells: shells of equal volume.
        samples: of the bootstrap; 0 for no intervals.
        seed: of its random numbers.

    Raises:
        DataError: maps that can't be compared.
        GeometryError: divisions that the symmetry does not allow.
    """
    aligned = align(a, b, options)
    at_node = in_halo(aligned.a.grid, aligned.a.voxel, halo)
    sums = block_sums(aligned, at_node, n_shells)
    drawn = redrawn(sums, np.random.default_rng(seed), samples)
    overall = {kind: figures(sums, drawn, _KIND_SLICES[kind], slice(None)) for kind in KINDS}
    shells = {
        kind: tuple(figures(sums, drawn, _KIND_SLICES[kind], slice(n, n + 1)) for n in range(n_shells))
        for kind in KINDS
    }
    return Comparison(aligned, at_node, halo, sums.edges, overall, shells)


def difference(
    a: VoxelMap,
    b: VoxelMap,
    options: AlignmentOptions = AlignmentOptions(),  # noqa: B008
) -> tuple[VoxelMap, Aligned]:
    """Return A - B with its error, B brought to A's grid, indexing and scale.

    Args:
        a, b: the maps.
        options: how they are brought together.

    Returns:
        The difference, in the units of A, and what it was made from.

    Raises:
        DataError: maps that can't be compared, or that both have no errors.
        GeometryError: divisions that the symmetry does not allow.
    """
    if a.sigma is None and b.sigma is None:
        raise DataError(
            f"neither {a.name or 'A'} nor {b.name or 'B'} has errors: those of the difference would be unknown"
        )
    aligned = align(a, b, options)
    first, second = aligned.a, aligned.b
    assert aligned.variance is not None
    halves = None if first.halves is None or second.halves is None else first.halves - second.halves
    measured: dict[str, np.ndarray | None] = {}
    for name, of_both in (("pixels", np.minimum), ("multiplicity", np.minimum), ("photons", np.add)):
        values = [getattr(one, name) for one in (first, second) if getattr(one, name) is not None]
        measured[name] = of_both(*values) if len(values) == 2 else (values[0] if values else None)
    apart = VoxelMap(
        first.grid,
        first.voxel,
        first.intensity - second.intensity,
        np.sqrt(aligned.variance),
        halves,
        units=first.units,
        name=f"{first.name} - {second.name}",
        **measured,
    )
    return apart, aligned
