"""A map that shows itself in a notebook."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from matplotlib.figure import Figure

from diffuse_framework.report.map.pictures import KINDS, MapData, slice_figure


class DiffuseMap:
    """A merged map: numbers on demand, and pictures.

    Attributes:
        data: the map with its grid and scales.
        name: of where it comes from.
    """

    def __init__(self, data: MapData, name: str = "") -> None:
        self.data = data
        self.name = name

    def __len__(self) -> int:
        """Number of observed voxels."""
        return len(self.data.voxel)

    @property
    def hkl(self) -> np.ndarray:
        """(n, 3) fractional Miller indices of the observed voxels."""
        return self.data.grid.hkl_of(self.data.voxel)

    @property
    def intensity(self) -> np.ndarray:
        """(n,) diffuse intensity."""
        return self.data.intensity

    @property
    def sigma(self) -> np.ndarray:
        """(n,) its standard uncertainty."""
        return self.data.sigma

    def slice(self, h: float | None = None, k: float | None = None, l: float | None = None, **style) -> Figure:
        """Return a picture of the plane where one index is constant.

        Args:
            h, k, l: give one of them.
            style: ``kind`` ("intensity", "sigma", "isigi" or "occupancy") and ``log`` (True or False).

        Raises:
            ValueError: none or several of h, k and l, a plane beyond the map, or a kind that there is not.
        """
        given = [(axis, level) for axis, level in enumerate((h, k, l)) if level is not None]
        if len(given) != 1:
            raise ValueError("give one of h, k and l")
        ((axis, level),) = given
        kind = style.pop("kind", "intensity")
        if kind not in KINDS:
            raise ValueError(f"there is no kind {kind!r}; there are {', '.join(KINDS)}")
        # Along a lattice vector of length a, an index is at most |q| a.
        farthest = self.data.reach() * self.data.grid.cell[axis]
        if not abs(level) <= farthest:
            raise ValueError(f"the map ends at {'hkl'[axis]} = {farthest:.1f}, before {level:g}")
        return slice_figure(self.data, kind, axis, level, **style)

    def __repr__(self) -> str:
        grid = self.data.grid
        return (
            f"DiffuseMap({self.name!r}: {len(self)} of {grid.n_voxels} voxels, {grid.symmetry.space_group}, to "
            f"{1 / self.data.q.max():.2f} A, {self.data.units} units)"
        )

    def _repr_html_(self) -> str:
        """Return facts and the plane l = 0, for Jupyter."""
        png = io.BytesIO()
        self.slice(l=0).savefig(png, format="png", dpi=70, bbox_inches="tight")
        grid = self.data.grid
        facts = {
            "voxels": f"{len(self):,} of {grid.n_voxels:,} of the asymmetric unit",
            "crystal": f"{grid.symmetry.space_group}, " + " ".join(f"{x:.2f}" for x in grid.cell),
            "resolution": f"{1 / self.data.q.max():.2f} Å",
            "median I/sigma": f"{np.nanmedian(self.data.precision):.3g}",
            "images": str(len(self.data.scales)),
            "units": self.data.units,
        }
        rows = "".join(f"<tr><th style='text-align:left'>{k}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
        picture = base64.b64encode(png.getvalue()).decode()
        return (
            f"<div><b>DiffuseMap {escape(self.name)}</b><table>{rows}</table>"
            f"<img alt='the plane l = 0' src='data:image/png;base64,{picture}'></div>"
        )
