"""Cells, symmetry and orientations of simulated crystals, without cctbx."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.lattice import Cell, reciprocal_basis

_TWO_X, _TWO_Y, _TWO_Z = np.diag([1, -1, -1]), np.diag([-1, 1, -1]), np.diag([-1, -1, 1])
_FOUR_Z = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
# On Miller indices: (h, k, l) -> (k, -h-k, l) and (k, h, -l).
_THREE_Z = np.array([[0, 1, 0], [-1, -1, 0], [0, 0, 1]])
_TWO_AB = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
_THREE_XYZ = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])

# Point group -> Laue class and generators on Miller indices (columns), standard settings.
_POINT_GROUPS = {
    "1": ("-1", ()),
    "2": ("2/m", (_TWO_Y,)),
    "222": ("mmm", (_TWO_X, _TWO_Y)),
    "4": ("4/m", (_FOUR_Z,)),
    "422": ("4/mmm", (_FOUR_Z, _TWO_X)),
    "3": ("-3", (_THREE_Z,)),
    "312": ("-31m", (_THREE_Z, -_TWO_AB @ _TWO_Z)),
    "321": ("-3m1", (_THREE_Z, _TWO_AB)),
    "6": ("6/m", (_THREE_Z, _TWO_Z)),
    "622": ("6/mmm", (_THREE_Z, _TWO_Z, _TWO_AB)),
    "23": ("m-3", (_TWO_Z, _TWO_X, _THREE_XYZ)),
    "432": ("m-3m", (_FOUR_Z, _TWO_X, _THREE_XYZ)),
}
PRIMITIVE_GROUPS = {
    "P1": "1",
    "P121": "2",
    "P1211": "2",
    "P222": "222",
    "P212121": "222",
    "P4": "4",
    "P41": "4",
    "P422": "422",
    "P41212": "422",
    "P43212": "422",
    "P3": "3",
    "P31": "3",
    "P312": "312",
    "P3112": "312",
    "P321": "321",
    "P3121": "321",
    "P6": "6",
    "P61": "6",
    "P622": "622",
    "P6122": "622",
    "P23": "23",
    "P213": "23",
    "P432": "432",
    "P4132": "432",
}


def primitive_symmetry(space_group: str) -> Symmetry:
    """Return the symmetry of one of `PRIMITIVE_GROUPS`, the same as cctbx gives.

    Raises:
        ConfigError: a space group that is not listed; `adapters.symmetry` knows them all.
    """
    symbol = space_group.replace(" ", "")
    if symbol not in PRIMITIVE_GROUPS:
        raise ConfigError(f"{space_group!r} is not one of {', '.join(PRIMITIVE_GROUPS)}")
    laue, generators = _POINT_GROUPS[PRIMITIVE_GROUPS[symbol]]
    identity = np.eye(3, dtype=np.int64)
    found = {identity.tobytes(): identity}
    waiting = [identity]
    while waiting:
        operator = waiting.pop()
        for generator in (-identity, *generators):
            product = generator.astype(np.int64) @ operator
            if product.tobytes() not in found:
                found[product.tobytes()] = product
                waiting.append(product)
    operators = np.unique(np.stack(list(found.values())), axis=0)
    is_identity = (operators == identity).all(axis=(1, 2))
    operators = np.concatenate([operators[is_identity], operators[~is_identity]])
    return Symmetry(symbol, laue, operators, identity)


def as_cell(numbers: Iterable[float]) -> Cell:
    """Return six numbers as a cell."""
    a, b, c, alpha, beta, gamma = (float(x) for x in numbers)
    return a, b, c, alpha, beta, gamma


def refuse_impossible_cell(cell: Cell, symmetry: Symmetry) -> None:
    """Check that the symmetry leaves the cell as it is.

    Raises:
        ConfigError: it does not, or the six numbers are no cell.
    """
    numbers = ",".join(f"{x:g}" for x in cell)
    with np.errstate(invalid="ignore", divide="ignore"):
        direct = np.array(cell[:3]) > 0
        basis = reciprocal_basis(cell) if direct.all() else np.full((3, 3), np.nan)
    if not np.isfinite(basis).all():
        raise ConfigError(f"crystal.unit_cell={numbers} is no unit cell")
    metric = basis.T @ basis
    turned = np.einsum("mba,bc,mcd->mad", symmetry.operators, metric, symmetry.operators)
    if not np.allclose(turned, metric, rtol=0, atol=1e-3 * np.abs(metric).max()):
        raise ConfigError(
            f"crystal.unit_cell={numbers} does not have the symmetry of crystal.space_group={symmetry.space_group}"
        )


def random_rotations(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return (n, 3, 3) rotations, evenly distributed.

    Unit quaternions with four normal components; Shoemake (1992), Graphics Gems III, 124.
    """
    w, x, y, z = (lambda v: v / np.linalg.norm(v, axis=0))(rng.normal(size=(4, n)))
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
            np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
            np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
        ],
        axis=1,
    )
