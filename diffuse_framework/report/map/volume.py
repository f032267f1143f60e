"""A map packed small enough for a web page."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import numpy as np

from diffuse_framework.algorithms.symmetry import voxel_operators
from diffuse_framework.model.grid import VoxelGrid

# Bytes of base64 that the map may take.
BUDGET = 8_000_000


def pack(
    grid: VoxelGrid,
    voxel: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray,
    multiplicity: np.ndarray,
    budget: int = BUDGET,
) -> dict[str, Any]:
    """Return the map as JSON: grid, symmetry, and boxes of codes, gzipped and in base64.

    Code 0 is a voxel that was not observed. Others stand for values on a scale that is linear near
    zero and logarithmic beyond (`decode`), to 16 bits; where that is too much, to 8 bits, and where
    that still is, the outer shells are left out ("reach" says how far the map goes).

    Args:
        grid: the voxel grid.
        voxel: (n,) numbers, ascending.
        intensity, sigma: (n,).
        multiplicity: (n,).
        budget: bytes to stay below.
    """
    q = np.linalg.norm(grid.q_of(voxel), axis=1)
    reach = float(q.max()) * (1 + 1e-9)
    operators, _, _ = voxel_operators(grid.symmetry, grid.divisions)
    for bits in (16, 8, 8, 8, 8, 8, 8, 8):
        here = q <= reach
        low, dimensions, numbers = _crop(grid, voxel[here])
        boxes = {
            name: _box(values[here], numbers, int(np.prod(dimensions)), own_bits)
            for name, values, own_bits in (
                ("intensity", intensity, bits),
                ("sigma", sigma, bits),
                ("multiplicity", multiplicity.astype(float), 8),
            )
        }
        if sum(len(box["data"]) for box in boxes.values()) <= budget:
            break
        if bits == 8:
            reach *= 0.85
    return {
        "cell": list(grid.cell),
        "divisions": list(grid.divisions),
        "index_min": low.tolist(),
        "dimensions": dimensions.tolist(),
        "basis": grid.reciprocal_basis.tolist(),
        "operators": operators.reshape(-1, 9).tolist(),
        "reach": reach,
        "whole": bool(here.all()),
        "boxes": boxes,
    }


def _crop(grid: VoxelGrid, voxel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lowest index, dimensions and voxel numbers of the smallest box that holds the voxels."""
    index = grid.index_of(voxel)
    low, high = index.min(axis=0), index.max(axis=0)
    dimensions = high - low + 1
    return low, dimensions, np.ravel_multi_index((index - low).T, dimensions)


def _box(values: np.ndarray, numbers: np.ndarray, size: int, bits: int) -> dict[str, Any]:
    """Return a box of codes and what they stand for."""
    top = (1 << bits) - 1
    finite = np.isfinite(values)
    known = values[finite]
    knee = float(np.median(np.abs(known))) * 0.01 if len(known) else 1.0
    knee = knee or float(np.abs(known).max(initial=0.0)) * 0.01 or 1.0
    scaled = np.arcsinh(np.where(finite, values, 0.0) / knee)
    low, high = (float(scaled[finite].min()), float(scaled[finite].max())) if len(known) else (0.0, 1.0)
    step = (high - low) / (top - 1) or 1.0
    codes = np.zeros(size, np.uint16 if bits == 16 else np.uint8)
    codes[numbers[finite]] = np.rint((scaled[finite] - low) / step) + 1
    data = gzip.compress(codes.astype(codes.dtype.newbyteorder("<")).tobytes(), 6, mtime=0)
    return {"bits": bits, "low": low, "step": step, "knee": knee, "data": base64.b64encode(data).decode()}


def decode(box: dict[str, Any]) -> np.ndarray:
    """Return the values of a box, NaN where there are none: what the page does, for tests."""
    codes = np.frombuffer(gzip.decompress(base64.b64decode(box["data"])), f"<u{box['bits'] // 8}").astype(float)
    return np.where(codes > 0, box["knee"] * np.sinh(box["low"] + (codes - 1) * box["step"]), np.nan)
