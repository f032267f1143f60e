"""Electron units from the mean strength of Bragg peaks.

Wilson (1942), Nature 150, 152. The formulas are in `algorithms.absolute.wilson` and
`algorithms.absolute.bragg`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from diffuse_framework import hookimpl
from diffuse_framework.algorithms.absolute.bragg import merge_spots, with_spots
from diffuse_framework.errors import DataError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.maps import AbsoluteMap, MergedMap
from diffuse_framework.model.scales import Scales
from diffuse_framework.services.electron_units import PHIL as SHARED_PHIL
from diffuse_framework.services.electron_units import RANGE_PHIL, AbsoluteSettings
from diffuse_framework.services.symmetry import is_absent

PHIL = (
    SHARED_PHIL
    + RANGE_PHIL.format(what="Range of |q| of the Wilson plot", default="from 0.25 to the map's limit")
    + """
intensities = *map spots
  .type = choice
  .help = "Bragg intensities: the Bragg channel of the map, or integrated reflections, corrected for"
          "partiality and scaled like the images, on the scale of the map's channel. Spots need images:"
          "sums alone don't have them."
"""
)


@dataclass(frozen=True)
class WilsonScaler:
    """Electron units from the mean strength of Bragg peaks."""

    name: ClassVar[str] = "wilson"
    phil: ClassVar[str] = PHIL
    settings: AbsoluteSettings
    spots: bool = False

    @classmethod
    def from_params(cls, params: Any) -> WilsonScaler:
        """Return the scaler; reads what the cell holds, so that a missing file is noticed at once."""
        return cls(AbsoluteSettings.from_params(params, cls.name), params.intensities == "spots")

    def scale(self, merged: MergedMap, scales: Scales, experiment: Experiment | None) -> AbsoluteMap:
        """Return the map in electron units per unit cell, incoherent scattering subtracted.

        Raises:
            DataError: integrated reflections are wanted and there are none.
        """
        if not self.spots:
            return self.settings.scale(merged, experiment, self.name)
        if experiment is None:
            raise DataError(
                "sums hold no integrated reflections: run diffuse.process with this scaler, or use "
                "absolute_scaler.wilson.intensities=map"
            )
        absent = partial(is_absent, merged.grid.symmetry.space_group)
        try:
            spots = merge_spots(experiment, scales.per_image)
        except DataError as error:
            raise DataError(
                f"{error}: give integrated reflections, or use absolute_scaler.wilson.intensities=map"
            ) from error
        return self.settings.scale(
            merged, experiment, self.name, partial(with_spots, grid=merged.grid, spots=spots, is_absent=absent)
        )


@hookimpl
def diffuse_absolute_scalers() -> list[type]:
    """Offer the scaler."""
    return [WilsonScaler]
