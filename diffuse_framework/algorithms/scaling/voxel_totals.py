"""Scaled observations, and their sums over each voxel: what errors and outliers are judged by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numba import njit

from diffuse_framework.algorithms.scaling.observations import Block, Observations


class RowModel(Protocol):
    """What deviations are judged by, as `SmoothScales` is."""

    @property
    def depends_on_q(self) -> bool:
        """Whether |q| of rows matters."""

    def at(
        self, image: np.ndarray, panel: np.ndarray, fast: np.ndarray, slow: np.ndarray, q: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return factor and offset of rows, (n,) each."""


class VoxelTotals(NamedTuple):
    """Sums of the accepted observations of each voxel, (n_voxels,) each.

    Attributes:
        counts: photons.
        background: expected photons of background and offset.
        exposure: scaled.
        exposure_squares: sum of squares of the observations' scaled exposures.
        multiplicity: number of observations.
        background_variance: what of the variance is not of counting.
        shared: sum of the scaled exposures, each times the variance of its counts over their expectation.
    """

    counts: np.ndarray
    background: np.ndarray
    exposure: np.ndarray
    exposure_squares: np.ndarray
    multiplicity: np.ndarray
    background_variance: np.ndarray
    shared: np.ndarray

    def part(self, voxels: slice) -> VoxelTotals:
        """Return those of some voxels."""
        return VoxelTotals(*(values[voxels] for values in self))

    @property
    def intensity(self) -> np.ndarray:
        """Poisson estimate of the intensity; 0 where there is no exposure."""
        net = self.counts - self.background
        return np.divide(net, self.exposure, out=np.zeros_like(net), where=self.exposure > 0)


def with_model(observations: Observations, scales: RowModel) -> Iterator[tuple[Block, np.ndarray, np.ndarray]]:
    """Yield the blocks, with factor and offset of each row."""
    for block in observations.blocks():
        rows = block.rows
        q = block.by_row(block.q) if scales.depends_on_q else np.zeros(len(rows))
        yield block, *scales.at(rows["image"], rows["panel"], rows["fast"], rows["slow"], q)


@njit(cache=True, error_model="numpy", inline="always")
def scaled_row(rows, row, factor, offset):
    """Return counts, expected photons of background and offset, and scaled exposure of a row."""
    exposure = float(rows[row].exposure)
    return float(rows[row].counts), rows[row].background + exposure * offset[row], exposure * factor[row]


@njit(cache=True, error_model="numpy", inline="always")
def share_of(rows, row):
    """Return the variance of a row's counts over their expectation: 1 where its pixels are whole."""
    return 1.0 - rows[row].shared / 255.0


@njit(cache=True, error_model="numpy", inline="always")
def sums_of_voxel(first, rows, accepted, factor, offset, v):
    """Return sums over the accepted rows of a voxel, in the order of `VoxelTotals`."""
    n = b = e = e2 = bv = shared = 0.0
    seen = 0
    for row in range(first[v], first[v + 1]):
        if accepted[row]:
            counts, background, exposure = scaled_row(rows, row, factor, offset)
            n += counts
            b += background
            e += exposure
            e2 += exposure * exposure
            bv += rows[row].background_variance
            shared += exposure * share_of(rows, row)
            seen += 1
    return n, b, e, e2, seen, bv, shared


def voxel_totals(observations: Observations, scales: RowModel) -> VoxelTotals:
    """Return the sums of the accepted observations, reading them once."""
    totals = VoxelTotals(*np.zeros((7, len(observations.voxel))))
    for block, factor, offset in with_model(observations, scales):
        _add_up(block.first, block.rows, block.accepted, factor, offset, totals.part(block.voxels))
    return totals


@njit(cache=True, error_model="numpy")
def _add_up(first, rows, accepted, factor, offset, totals):
    for v in range(len(first) - 1):
        n, b, e, e2, seen, bv, shared = sums_of_voxel(first, rows, accepted, factor, offset, v)
        totals.counts[v], totals.background[v], totals.exposure[v] = n, b, e
        totals.exposure_squares[v], totals.multiplicity[v], totals.background_variance[v] = e2, seen, bv
        totals.shared[v] = shared
