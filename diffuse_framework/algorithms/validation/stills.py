"""Which indexed images can be trusted: observed spots near predicted ones, cells that agree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diffuse_framework.algorithms.geometry import q_at_px
from diffuse_framework.algorithms.rotation import crossings
from diffuse_framework.model.experiment import Experiment, Image, Rejected
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.lattice import Cell, cell_of_matrix

_LENGTHS = ("a", "b", "c")
_ANGLES = ("alpha", "beta", "gamma")


@dataclass(frozen=True)
class Limits:
    """What an image may deviate by.

    Attributes:
        max_rms_px: rms distance between observed and predicted spots, pixels.
        max_rms_q: rms of ``|A hkl - q_observed|``, 1/angstrom.
        max_length_deviation: relative, of any cell length from the reference cell.
        max_angle_deviation: degrees, of any cell angle from the reference cell.
    """

    max_rms_px: float = 3.0
    max_rms_q: float = 0.005
    max_length_deviation: float = 0.03
    max_angle_deviation: float = 2.0


@dataclass(frozen=True, eq=False)
class Checks:
    """What validation measured; rows are the images it was given, rejected ones included.

    Attributes:
        names: (n,) of the images.
        n_observed: (n,) spots that were both found and indexed.
        rms_px, rms_q: (n,) pixels and 1/angstrom, NaN where no spot was observed.
        cells: (n, 6) angstrom and degrees.
        length_deviations: (n,) largest relative deviation of a length from the reference cell.
        angle_deviations: (n,) largest deviation of an angle, degrees.
        reference: the cell compared with: the one given, else the median.
        is_given: whether the reference was given.
        spread: (6,) standard deviation of the cells of the accepted images, 0 for one image.
        unchecked: names of the images without observed spots, accepted by their cell alone.
    """

    names: tuple[str, ...]
    n_observed: np.ndarray
    rms_px: np.ndarray
    rms_q: np.ndarray
    cells: np.ndarray
    length_deviations: np.ndarray
    angle_deviations: np.ndarray
    reference: Cell
    is_given: bool
    spread: np.ndarray
    unchecked: tuple[str, ...]


def validate(experiment: Experiment, limits: Limits, reference: Cell | None = None) -> tuple[Experiment, Checks]:
    """Return the experiment without the images that fail, which move to `rejected`, and what was measured.

    Args:
        experiment: indexed images, at least one.
        limits: what an image may deviate by.
        reference: cell to compare with; the median of all images where there is none.
    """
    images = experiment.images
    rms = np.array([spot_deviations(image, experiment.geometry_of(image)) for image in images]).reshape(-1, 2)
    cells = np.array([cell_of_matrix(image.setting_matrix) for image in images]).reshape(-1, 6)
    n_observed = np.array([len(_observed(image)[0]) for image in images], int)
    wanted = _median_cell(cells) if reference is None else reference
    lengths, angles = _cell_deviations(cells, wanted)

    which = "reference cell" if reference is not None else "median of all images"
    reasons = [
        _why_not(rms[number], lengths[number], angles[number], cells[number], wanted, which, limits)
        for number in range(len(images))
    ]
    kept = np.array([not reason for reason in reasons], bool)
    rejected = tuple(
        Rejected(image.name, "validation", reason) for image, reason in zip(images, reasons, strict=True) if reason
    )
    checks = Checks(
        names=tuple(image.name for image in images),
        n_observed=n_observed,
        rms_px=rms[:, 0],
        rms_q=rms[:, 1],
        cells=cells,
        length_deviations=np.abs(lengths).max(axis=1, initial=0),
        angle_deviations=np.abs(angles).max(axis=1, initial=0),
        reference=wanted,
        is_given=reference is not None,
        spread=cells[kept].std(axis=0) if kept.any() else np.zeros(6),
        unchecked=tuple(image.name for image, n in zip(images, n_observed, strict=True) if n == 0),
    )
    accepted = tuple(image for image, keep in zip(images, kept, strict=True) if keep)
    return replace(experiment, images=accepted, rejected=experiment.rejected + rejected), checks


def _median_cell(cells: np.ndarray) -> Cell:
    a, b, c, alpha, beta, gamma = map(float, np.median(cells, axis=0))
    return a, b, c, alpha, beta, gamma


def spot_deviations(image: Image, geometry: Geometry) -> tuple[float, float]:
    """Return how far the observed spots of an image are from the predicted ones.

    Returns:
        rms distance from the predicted positions in pixels, and rms of ``|A hkl - q|`` in
        1/angstrom with q at the observed position; both NaN where no spot was observed. The
        second includes how far a reciprocal lattice point was from the Ewald sphere.
    """
    rows, observed = _observed(image)
    if len(rows) == 0:
        return np.nan, np.nan
    spots = image.spots
    px = observed - spots.predicted_px[rows]
    q = spots.hkl[rows] @ image.setting_matrix.T
    if image.rotation is not None:
        _, q = crossings(q, geometry.beam, image.rotation)
    q = q - q_at_px(geometry, spots.panel[rows], observed)
    return _rms(px), _rms(q)


def _observed(image: Image) -> tuple[np.ndarray, np.ndarray]:
    """Rows (m,) of the spots of an image that were observed, and where (m, 2)."""
    (rows,) = np.nonzero(np.isfinite(image.spots.observed_px).all(axis=1))
    return rows, image.spots.observed_px[rows]


def _rms(vectors: np.ndarray) -> float:
    return float(np.sqrt((vectors**2).sum(axis=1).mean()))


def _cell_deviations(cells: np.ndarray, reference: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Deviations of lengths (n, 3), relative, and of angles (n, 3), degrees."""
    wanted = np.array(reference)
    return cells[:, :3] / wanted[:3] - 1, cells[:, 3:] - wanted[3:]


def _why_not(
    rms: np.ndarray,
    lengths: np.ndarray,
    angles: np.ndarray,
    cell: np.ndarray,
    reference: Cell,
    which: str,
    limits: Limits,
) -> str:
    """Return why an image is rejected, "" where it is not."""
    complaints = []
    if rms[0] > limits.max_rms_px:
        complaints.append(
            f"observed spots are {rms[0]:.1f} px (rms) from their predictions, {limits.max_rms_px:g} allowed"
        )
    if rms[1] > limits.max_rms_q:
        complaints.append(
            f"observed spots are {rms[1]:.4f} 1/angstrom (rms) from their reciprocal lattice points, "
            f"{limits.max_rms_q:g} allowed"
        )
    worst = int(np.argmax(np.abs(lengths)))
    if abs(lengths[worst]) > limits.max_length_deviation:
        complaints.append(
            f"its cell has {_LENGTHS[worst]} = {cell[worst]:.2f} angstrom, {100 * lengths[worst]:+.1f} % "
            f"from {reference[worst]:.2f} of the {which}, {100 * limits.max_length_deviation:g} % allowed"
        )
    worst = int(np.argmax(np.abs(angles)))
    if abs(angles[worst]) > limits.max_angle_deviation:
        complaints.append(
            f"its cell has {_ANGLES[worst]} = {cell[3 + worst]:.2f} degrees, {angles[worst]:+.2f} from "
            f"{reference[3 + worst]:.2f} of the {which}, {limits.max_angle_deviation:g} allowed"
        )
    return "; ".join(complaints)
