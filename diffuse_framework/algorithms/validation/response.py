"""Whether the corrections of polarisation and sensor fit the images: a voxel scatters alike wherever it is recorded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from diffuse_framework.algorithms.binning import add_by
from diffuse_framework.algorithms.factors import efficiency, polarization
from diffuse_framework.algorithms.geometry import of_pixels
from diffuse_framework.algorithms.merging import kept_rows, rows_of, scaled_columns
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.geometry import Geometry, Panel
from diffuse_framework.model.scales import Scales
from diffuse_framework.model.voxels import VoxelSums

__all__ = ["ResponseCheck", "response_checks"]

# What is beyond doubt, in standard deviations, and what part of the other response matters.
_SURE, _MATTERS = 6.0, 0.25
# Uncertainty of that part above which nothing is said.
_BLIND = 0.5
# Voxels that are looked at.
_MOST = 300_000
_POLARIZATION, _EFFICIENCY = "polarization", "efficiency"


@dataclass(frozen=True)
class ResponseCheck:
    """How much of another response the images show.

    Attributes:
        corrector: "polarization", whose other response is that of a plane turned by 90 degrees, or "efficiency", whose
            other one is that of a sensor twice as thick.
        part: of the way to the other response: 0 where the correction is right, 1 where the other is.
        error: its standard deviation.
    """

    corrector: str
    part: float
    error: float

    @property
    def complaint(self) -> str:
        """What is off, and what to look at; "" where the correction may be right."""
        # Where the other response hardly differs, whatever else is wrong looks like much of it.
        if self.error > _BLIND or abs(self.part) < max(_MATTERS, _SURE * self.error):
            return ""
        shown = f"{self.part:.2f} +- {self.error:.2f}"
        if self.corrector == _POLARIZATION:
            return (
                f"Voxels are brighter where the polarisation should make them dim: by {shown} of the difference to a "
                "plane turned by 90 degrees. Check geometry.beam.polarization_normal= and "
                "geometry.beam.polarization_fraction="
            )
        return (
            f"Voxels differ with the angle at which the sensor records them: by {shown} of the difference to a sensor "
            "twice as thick. Check corrector.efficiency.thickness= and corrector.efficiency.material="
        )


def response_checks(
    sums: VoxelSums, scales: Scales, experiment: Experiment, correctors: tuple[str, ...], voxels: np.ndarray
) -> tuple[ResponseCheck, ...]:
    """Return what observations of the same voxels say of the corrections of polarisation and sensor.

    With n photons, exposures e and the relative difference g of the other response, n is expected to be e I (1 + c g).
    The intensity I of each voxel is whatever fits best: the score of the likelihood at c = 0 and its information
    give c. A correction that varies with the resolution alone, as that of a sensor square to the beam, can't be
    told this way.

    Args:
        sums: of all images.
        scales: of their observations.
        experiment: their geometry; the one that most images share is taken for all.
        correctors: names of those in use.
        voxels: (n,) that were observed, ascending; some of them will do.
    """
    if not experiment.images:
        return ()
    usual = Counter(image.geometry for image in experiment.images).most_common(1)[0][0]
    others = _other_responses(experiment.geometries[usual], correctors)
    if not others:
        return ()
    some = voxels[:: max(len(voxels) // _MOST, 1)]
    size = len(some)
    totals = {name: np.zeros(size) for name in ("net", "exposure")}
    first, second = ({name: np.zeros(size) for name in others} for _ in range(2))
    moment = dict.fromkeys(others, 0.0)
    for table in sums.tables():
        rows, place = rows_of(kept_rows(table, scales), some)
        columns = scaled_columns(rows, scales)
        net, exposure = columns["counts"] - columns["background"], columns["exposure"]
        add_by(place, net, totals["net"])
        add_by(place, exposure, totals["exposure"])
        for name, panels in others.items():
            other = _at(panels, rows.panel, rows.slow, rows.fast)
            add_by(place, exposure * other, first[name])
            add_by(place, exposure * other**2, second[name])
            moment[name] += float(net @ other)
    seen = (totals["exposure"] > 0) & (totals["net"] > 0)
    exposure = np.where(seen, totals["exposure"], 1.0)
    intensity = np.where(seen, totals["net"] / exposure, 0.0)
    spread = scales.statistics.get("chi_squared", 1.0)
    spread = max(float(spread), 1.0) if isinstance(spread, int | float) and np.isfinite(spread) else 1.0
    found = []
    for name in others:
        score = moment[name] - float((totals["net"] / exposure * first[name])[totals["exposure"] > 0].sum())
        information = float((intensity * (second[name] - first[name] ** 2 / exposure)).sum())
        if information > 0:
            found.append(ResponseCheck(name, score / information, float(np.sqrt(spread / information))))
    return tuple(found)


def _other_responses(geometry: Geometry, correctors: tuple[str, ...]) -> dict[str, tuple[np.ndarray, ...]]:
    """Return by corrector how another response differs from the one taken, relative, (slow, fast) per panel."""
    found = {}
    if _POLARIZATION in correctors:
        beam = geometry.beam
        turned = replace(beam, polarization_normal=np.cross(beam.polarization_normal, beam.s0 * beam.wavelength))
        found[_POLARIZATION] = tuple(
            of_pixels(panel, lambda mm: polarization(mm, turned) / polarization(mm, beam) - 1)
            for panel in geometry.panels
        )
    if _EFFICIENCY in correctors and all(p.mu_per_mm > 0 and p.thickness_mm > 0 for p in geometry.panels):
        found[_EFFICIENCY] = tuple(of_pixels(panel, partial(_twice_as_thick, panel)) for panel in geometry.panels)
    return found


def _twice_as_thick(panel: Panel, positions_mm: np.ndarray) -> np.ndarray:
    """Return by what a sensor of twice the thickness absorbs more, relative, at positions (..., 3)."""
    thicker = replace(panel, thickness_mm=2 * panel.thickness_mm)
    return efficiency(positions_mm, thicker) / efficiency(positions_mm, panel) - 1


def _at(panels: tuple[np.ndarray, ...], panel: np.ndarray, slow: np.ndarray, fast: np.ndarray) -> np.ndarray:
    """Return the values (n,) of the pixels in which mean positions lie."""
    values = np.zeros(len(panel))
    for number, image in enumerate(panels):
        here = panel == number
        row, column = (
            np.clip(np.nan_to_num(x[here]).astype(int), 0, n - 1)
            for x, n in zip((slow, fast), image.shape, strict=True)
        )
        values[here] = image[row, column]
    return values
