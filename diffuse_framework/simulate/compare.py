"""How far a map and its scales are from the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.binning import shell_numbers, sum_by
from diffuse_framework.errors import DataError
from diffuse_framework.model.maps import MergedMap
from diffuse_framework.simulate.truth import Truth

# Shells of equal volume whose means make up the isotropic part.
ISOTROPIC_SHELLS = 100


@dataclass(frozen=True)
class ShellAgreement:
    """Agreement in one shell of resolution.

    Attributes:
        d_max, d_min: limits in angstrom.
        voxels: in the shell.
        correlation: Pearson's, within the shell; NaN below three voxels.
        bias: as in `MapAgreement`.
    """

    d_max: float
    d_min: float
    voxels: int
    correlation: float
    bias: float


@dataclass(frozen=True)
class MapAgreement:
    """Agreement of a map with the truth.

    Attributes:
        voxels: compared.
        scale: fitted: sum of w I_map / sum of w I_true with weights w; K where there is no bias.
        bias: scale / K - 1. It is K that makes sense of it: scales must have mean 1.
        correlation: Pearson's, between map and truth.
        anisotropic_correlation: the same after taking the mean of each of `ISOTROPIC_SHELLS` shells
            from both.
        weighted_correlation, weighted_anisotropic_correlation: with weights.
        chi_squared: mean of ((I_map - scale I_true) / sigma)^2 where sigma is above 0.
        shells: from low to high resolution.
    """

    voxels: int
    scale: float
    bias: float
    correlation: float
    anisotropic_correlation: float
    weighted_correlation: float
    weighted_anisotropic_correlation: float
    chi_squared: float
    shells: tuple[ShellAgreement, ...]

    def as_rows(self) -> tuple[list[str], list[list[str]]]:
        """Return the shells as a header and rows of a table."""
        rows = [
            [
                f"{shell.d_max:.2f} - {shell.d_min:.2f}",
                f"{shell.voxels}",
                f"{shell.correlation:.3f}",
                f"{100 * shell.bias:+.2f}",
            ]
            for shell in self.shells
        ]
        return ["d (A)", "voxels", "CC to truth", "bias (%)"], rows


@dataclass(frozen=True)
class ScaleAgreement:
    """Agreement of fitted scales with the truth, both brought to mean 1 over the images compared.

    Attributes:
        images: compared.
        relative_rms, largest: of fitted / true - 1.
    """

    images: int
    relative_rms: float
    largest: float


def compare_map(
    truth: Truth,
    hkl: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray,
    expected: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    n_shells: int = 10,
) -> MapAgreement:
    """Compare a merged diffuse map with the truth.

    Args:
        truth: of the data set.
        hkl: (n, 3) fractional Miller indices of voxel centres.
        intensity, sigma: (n,) of the map, photons per second and steradian at scales of mean 1.
        expected: (n,) true intensity of each voxel, for example `TrueIntensity.voxel_average`; its value
            at the centres where not given.
        weights: (n,) how well each voxel was measured, for example its exposure; equal where not given.
        n_shells: of equal volume, to report on.

    Raises:
        DataError: no voxel to compare.
    """
    if len(hkl) == 0:
        raise DataError("the map has no voxel to compare with the truth")
    crystal = truth.intensity
    true = crystal.diffuse(hkl) if expected is None else np.asarray(expected, float)
    weights = np.ones(len(true)) if weights is None else np.asarray(weights, float)
    flat = np.ones(len(true))
    q = np.linalg.norm(hkl @ crystal.basis.T, axis=1)

    scale = float((weights * intensity).sum() / (weights * true).sum())
    measured = sigma > 0
    deviation = (intensity[measured] - scale * true[measured]) / sigma[measured]
    rings, _ = shell_numbers(q, ISOTROPIC_SHELLS)
    map_rest, true_rest = (_without_mean(values, rings, flat) for values in (intensity, true))
    weighted_map_rest, weighted_true_rest = (_without_mean(values, rings, weights) for values in (intensity, true))

    numbers, edges = shell_numbers(q, n_shells)
    shells = []
    for number in range(n_shells):
        here = numbers == number
        if not here.any():
            continue
        ratio = (weights[here] * intensity[here]).sum() / (weights[here] * true[here]).sum()
        shells.append(
            ShellAgreement(
                d_max=float(1 / edges[number]) if edges[number] > 0 else float("inf"),
                d_min=float(1 / edges[number + 1]),
                voxels=int(here.sum()),
                correlation=_correlation(intensity[here], true[here], flat[here]),
                bias=float(ratio / truth.photons_per_unit - 1),
            )
        )
    return MapAgreement(
        voxels=len(true),
        scale=scale,
        bias=scale / truth.photons_per_unit - 1,
        correlation=_correlation(intensity, true, flat),
        anisotropic_correlation=_correlation(map_rest, true_rest, flat),
        weighted_correlation=_correlation(intensity, true, weights),
        weighted_anisotropic_correlation=_correlation(weighted_map_rest, weighted_true_rest, weights),
        chi_squared=float(np.mean(deviation**2)) if measured.any() else float("nan"),
        shells=tuple(shells),
    )


def compare_merged(truth: Truth, merged: MergedMap, oversample: int = 3, min_pixels: int = 1) -> MapAgreement:
    """Compare a merged map with the truth averaged over its voxels.

    Args:
        truth: of the data set.
        merged: on scales of mean 1.
        oversample: points along each edge of a voxel for the average.
        min_pixels: voxels with fewer are left out.

    Raises:
        DataError: no voxel to compare.
    """
    kept = merged.pixels >= min_pixels
    voxels = merged.voxel[kept]
    return compare_map(
        truth,
        merged.grid.hkl_of(voxels),
        merged.intensity[kept],
        np.sqrt(merged.variance[kept]),
        expected=truth.intensity.voxel_average(merged.grid, voxels, oversample),
        weights=merged.pixels[kept],
    )


def compare_scales(truth: Truth, names: tuple[str, ...], scales: np.ndarray) -> ScaleAgreement:
    """Compare fitted scales (n,) of the images `names` with the true ones.

    Raises:
        DataError: a name that the truth doesn't have, or no image.
    """
    number = {name: index for index, name in enumerate(truth.names)}
    if not names:
        raise DataError("no image to compare with the truth")
    for name in names:
        if name not in number:
            raise DataError(f"{name} is not an image of the truth")
    true = truth.scales[[number[name] for name in names]]
    scales = np.asarray(scales, float)
    ratio = (scales / scales.mean()) / (true / true.mean()) - 1
    return ScaleAgreement(len(names), float(np.sqrt(np.mean(ratio**2))), float(np.abs(ratio).max()))


def _without_mean(values: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    size = int(groups.max()) + 1
    mean = sum_by(groups, weights * values, size) / np.maximum(sum_by(groups, weights, size), 1e-300)
    return values - mean[groups]


def _correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted correlation of Pearson, NaN where it is undefined."""
    if len(a) < 3 or not weights.sum() > 0:
        return float("nan")
    a, b = (x - np.average(x, weights=weights) for x in (a, b))
    product = np.sqrt((weights * a * a).sum() * (weights * b * b).sum())
    return float((weights * a * b).sum() / product) if product > 0 else float("nan")
