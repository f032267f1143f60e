"""Electron units from what the unit cell scatters: what absolute scalers share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffuse_framework.algorithms.absolute.estimate import apply, disagreements, estimate
from diffuse_framework.algorithms.absolute.profile import MIN_COMPLETENESS, IncompleteMap, RadialProfile
from diffuse_framework.errors import ConfigError, DataError
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.maps import AbsoluteMap, AbsoluteReport, MergedMap
from diffuse_framework.services.cell_contents import PHIL as CONTENTS_PHIL
from diffuse_framework.services.cell_contents import Contents
from diffuse_framework.services.form_factors import scattering_of

__all__ = ["PHIL", "RANGE_PHIL", "AbsoluteSettings"]

PHIL = (
    CONTENTS_PHIL
    + """
form_factors = *wk1995 it1992
  .type = choice
  .help = "Table of f0: Waasmaier and Kirfel (1995), or International Tables C (1992)."
wavelength = None
  .type = float(value_min=0.01)
  .help = "Wavelength in angstrom for the Breit-Dirac factor; None takes it from the images. It has to be"
          "given where merging is run again from sums."
breit_dirac = True
  .type = bool
  .help = "Apply the relativistic recoil factor to incoherent scattering."
interference = *bonded none
  .type = choice
  .help = "Count the interference between atoms of the same residue or water molecule, within 2.7 A. Without"
          "it k comes out some 10 per cent low for proteins; atoms that are not bonded have none."
min_completeness = None
  .type = float(value_min=0, value_max=1)
  .help = "Shells of |q| count up to the last that is observed to this fraction at least. None takes one half; where"
          "that ends below half of the map's limit, as for a few stills, it takes shells for the samples that they are,"
          "and what they leave open is part of the uncertainty."
"""
)

RANGE_PHIL = """
range = None
  .type = floats(size=2, value_min=0)
  .help = "{what}, in 1/angstrom; None takes {default}."
"""


@dataclass(frozen=True)
class AbsoluteSettings:
    """What every absolute scaler knows of the cell.

    Attributes:
        contents: of the cell, None where nothing is named.
        where: place of the parameters, for messages.
        form_factors: table.
        wavelength: angstrom, None for the images'.
        breit_dirac: whether the recoil factor is applied.
        bonded: whether interference between bonded atoms counts.
        min_completeness: of the last shell that counts, None as in
            `diffuse_framework.algorithms.absolute.profile.usable_limit`.
        span: the method's range of |q| in 1/angstrom, None for its default.
    """

    contents: Contents | None
    where: str
    form_factors: str = "wk1995"
    wavelength: float | None = None
    breit_dirac: bool = True
    bonded: bool = True
    min_completeness: float | None = None
    span: tuple[float, float] | None = None

    @classmethod
    def from_params(cls, params: Any, method: str) -> AbsoluteSettings:
        """Read extracted parameters of `PHIL` and `RANGE_PHIL`.

        Raises:
            ConfigError, DataError: see `Contents.from_params`; a range upside down.
        """
        where = f"absolute_scaler.{method}"
        if params.range and params.range[0] >= params.range[1]:
            low, high = params.range
            raise ConfigError(f"{where}.range: the lower limit {low:g} must be below {high:g}")
        return cls(
            contents=Contents.from_params(params.contents, f"{where}.contents"),
            where=where,
            form_factors=params.form_factors,
            wavelength=params.wavelength,
            breit_dirac=params.breit_dirac,
            bonded=params.interference == "bonded",
            min_completeness=params.min_completeness,
            span=tuple(params.range) if params.range else None,
        )

    def scale(
        self,
        merged: MergedMap,
        experiment: Experiment | None,
        method: str,
        with_bragg: Callable[[RadialProfile], RadialProfile] | None = None,
    ) -> AbsoluteMap:
        """Return the map in electron units and log how; warns where methods disagree.

        Args:
            merged: the map.
            experiment: for the wavelength.
            method: whose k is used.
            with_bragg: as in `diffuse_framework.algorithms.absolute.estimate.estimate`.

        Raises:
            ConfigError: the contents or the wavelength are not known.
            DataError: impossible contents, or a map that no scale can be found from.
        """
        if self.contents is None:
            raise ConfigError(
                f"{self.where}.contents: name one of model=, sequence= and formula=: electron units need to know "
                "what the unit cell holds. The sums are kept: diffuse.merge goes on from sums.h5"
            )
        contents = self.contents.fill(merged.grid)
        # Voxels at the limit reach a little beyond it.
        theory = scattering_of(
            contents, 1.02 / merged.grid.d_min, self._wavelength(experiment), self.form_factors, self.bonded
        )
        ranges = {method: self.span} if self.span else None
        try:
            report = estimate(merged, contents, theory, ranges, self.min_completeness, with_bragg)
        except IncompleteMap as error:
            raise DataError(
                f"{error}. {self.where}.min_completeness={self.min_completeness} says how complete a shell must be; "
                "grid.hkl.divisions how fine voxels are"
            ) from error
        if method not in report.estimates:
            raise DataError(
                f"absolute_scaler.plugin={method} finds no scale: {report.failures[method]}. Its range of |q| is "
                f"{self.where}.range, and shells count up to |q| = {report.limit:.3f} by {self.where}.min_completeness="
                f"{self.min_completeness}"
            )
        final = apply(merged, report, method)
        _log(report)
        self._log_sparse(report, method)
        return final

    def _log_sparse(self, report: AbsoluteReport, method: str) -> None:
        """Warn where the scale rests on a sample of the map."""
        used = (report.q < report.limit) & (report.q > 0)
        complete = float(np.average(report.completeness[used], weights=report.q[used] ** 2)) if used.any() else 0.0
        if complete >= MIN_COMPLETENESS:
            return
        found = report.estimates[method]
        logging.getLogger("diffuse_framework.absolute").warning(
            "The absolute scale rests on a sparse map: up to |q| = %.2f 1/angstrom %.0f %% of the voxels were "
            "observed. That alone leaves k uncertain by %.1f %%, if what was observed is like the rest "
            "(%s.min_completeness sets how complete a shell must be)",
            report.limit,
            100 * complete,
            100 * found.sigma_sampling / found.scale,
            self.where,
        )

    def _wavelength(self, experiment: Experiment | None) -> float | None:
        if not self.breit_dirac or self.wavelength:
            return self.wavelength if self.breit_dirac else None
        if experiment is None:
            raise ConfigError(
                f"sums know no wavelength: give {self.where}.wavelength= in angstrom (or {self.where}."
                "breit_dirac=False leaves the recoil factor out, a few per cent of the incoherent scattering)"
            )
        return float(np.median([geometry.beam.wavelength for geometry in experiment.geometries]))


def _log(report: AbsoluteReport) -> None:
    logger = logging.getLogger("diffuse_framework.absolute")
    for note in report.contents.notes:
        logger.info("Cell contents: %s", note)
    for method, reason in report.failures.items():
        logger.warning("%s finds no absolute scale: %s", method, reason)
    for sentence in disagreements(report):
        logger.warning(
            "Absolute scales disagree: %s. Check the cell contents and the background, and look at "
            "how k varies with the cutoff",
            sentence,
        )
    if report.beamstop_share > 0.05:
        logger.warning(
            "%.1f%% of the scattering lies behind the beamstop and was extrapolated",
            100 * report.beamstop_share,
        )
