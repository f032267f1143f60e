"""A fitted scaling model.

It stands here and not beside `ImageScales` in `model`, which holds no loops: its factors and offsets are what the
compiled kernel makes of rows, the same kernel that the fit takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffuse_framework.algorithms.geometry import voxel_q
from diffuse_framework.algorithms.scaling.model import Layout, evaluate, layout_from_numbers, layout_to_numbers
from diffuse_framework.algorithms.scaling.smoothers import line_at
from diffuse_framework.errors import DataError
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.scales import ErrorModel, all_but
from diffuse_framework.model.voxels import SumsTable


@dataclass(frozen=True, eq=False)
class SmoothScales:
    """A fitted scaling model.

    Attributes:
        grid: that voxel numbers belong to.
        layout, parameters, sigma: the model, (n_parameters,).
        common: (n_q,) part of the offset that all images share in proportion to their scale, which
            is taken off: it can't be told from the map's isotropic part.
        rejected: (n, 4) image, voxel, operator and panel of outliers.
        error_model: of observations.
        statistics: how the fit went.
    """

    grid: VoxelGrid
    layout: Layout
    parameters: np.ndarray
    sigma: np.ndarray
    common: np.ndarray
    rejected: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    error_model: ErrorModel = ErrorModel()
    statistics: dict = field(default_factory=dict)

    @property
    def per_image(self) -> np.ndarray:
        """(n_images,) b of each image; their mean is 1."""
        return self.layout.image_scales(self.parameters)

    @property
    def per_image_sigma(self) -> np.ndarray:
        """(n_images,) its standard uncertainty, control points taken as independent."""
        if "scale" not in self.layout.components:
            return np.zeros(self.layout.extent.n_images)
        scale = self.layout.components["scale"]
        squares = scale.order_weights.power(2) @ self.sigma[self.layout.slices["scale"]] ** 2
        return np.sqrt(squares)[scale.state]

    def factor(self, table: SumsTable) -> np.ndarray:
        """Return the multiplicative part for each row."""
        return self._at_rows(table)[0]

    def offset(self, table: SumsTable) -> np.ndarray:
        """Return the additive part for each row."""
        return self._at_rows(table)[1] if self.layout.has_offset else np.zeros(len(table))

    @property
    def depends_on_q(self) -> bool:
        """Whether |q| of rows matters to their factor or offset."""
        return self.layout.depends_on_q

    def at(
        self, image: np.ndarray, panel: np.ndarray, fast: np.ndarray, slow: np.ndarray, q: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return factor and offset of rows, (n,) each; arguments are those of `evaluate`."""
        factor, offset = evaluate(self.layout, self.parameters, image, panel, fast, slow, q)
        if "offset" in self.layout.components:
            offset -= factor * line_at(self.layout.components["offset"].q, self.common, q)
        return factor, offset

    def keep(self, table: SumsTable) -> np.ndarray:
        """Return False for outliers."""
        return all_but(self.rejected, table)

    def offsets_at_images(self) -> np.ndarray:
        """Return c at its control points for every image, (n_images, n_q), at its lowest 0."""
        if "offset" not in self.layout.components:
            return np.zeros((self.layout.extent.n_images, 1))
        taken_off = self.layout.crystal_at_offset(self.parameters) * self.common
        return self.layout.at_images("offset", self.parameters) - taken_off

    def to_plain(self) -> dict[str, Any]:
        """Return all of it but the grid as numbers, text, lists, dictionaries and arrays."""
        return {
            "layout": layout_to_numbers(self.layout),
            "parameters": self.parameters,
            "sigma": self.sigma,
            "common_offset": self.common,
            "rejected": self.rejected,
            "rejected_columns": ["image", "voxel", "operator", "panel"],
            "voxel_numbering": self.grid.numbering,
            "error_model": {"inflation": self.error_model.inflation, "fraction": self.error_model.fraction},
            "statistics": self.statistics,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], grid: VoxelGrid) -> SmoothScales:
        """Return the scales of `to_plain`, whose arrays may be lists by now, and infinities None, as JSON has them.

        Args:
            plain: of `to_plain`.
            grid: of the sums they are for. Where it numbers voxels in another way, the scales reject no row:
                the numbers of outlying observations would mean others.

        Raises:
            DataError: something is missing or not what it should be.
        """
        try:
            same_numbers = plain["voxel_numbering"] == grid.numbering
            layout = layout_from_numbers(plain["layout"])
            scales = cls(
                grid,
                layout,
                np.array(plain["parameters"], float),
                np.array([np.inf if value is None else value for value in plain["sigma"]], float),
                np.array(plain["common_offset"], float),
                np.array(plain["rejected"] if same_numbers else [], np.int64).reshape(-1, 4),
                ErrorModel(**plain["error_model"]),
                plain["statistics"],
            )
        except KeyError as error:
            raise DataError(f"the scaling model lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise DataError(f"the scaling model can't be read: {error}") from error
        if not np.isfinite(scales.parameters).all():
            raise DataError("the scaling model has parameters that are not numbers")
        if len(scales.parameters) != layout.size or len(scales.sigma) != layout.size:
            raise DataError(f"the scaling model has {len(scales.parameters)} parameters, not {layout.size}")
        return scales

    def _at_rows(self, table: SumsTable) -> tuple[np.ndarray, np.ndarray]:
        q = voxel_q(self.grid, table.voxel) if self.layout.depends_on_q else np.zeros(len(table))
        return self.at(table.image, table.panel, table.fast, table.slow, q)
