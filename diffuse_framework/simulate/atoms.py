"""A crystal of atoms whose total scattering obeys the sum rule, for tests of absolute scales.

Atoms are placed at random, no two closer than a given distance, and shake independently of each
other (Einstein's model). Then, in electron units per unit cell,

    diffuse(q) = sum_j f_j^2 [1 - exp(-B_j q^2 / 2)]          (James (1948), Optical Principles, ch. V)
    Bragg(hkl) = |sum_j f_j exp(-B_j q^2 / 4) exp(2 pi i h.x_j)|^2

and Compton scattering comes on top. Both parts follow from the same atoms, so nothing about their
sum is put in by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffuse_framework.algorithms.symmetry import asymmetric_box, fold
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.contents import Theory
from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import Cell, reciprocal_basis
from diffuse_framework.model.maps import MergedMap

FormFactors = Callable[[tuple[str, ...], np.ndarray], np.ndarray]
"""Called with n elements and |q| (m,) in 1/angstrom, returns f0 (n, m)."""


@dataclass(frozen=True, eq=False)
class AtomicCrystal:
    """Atoms of one unit cell.

    Attributes:
        cell: angstrom and degrees.
        symmetry: its point group holds about the origin: the space group is symmorphic.
        elements: symbols, each once.
        element: (n,) which element each atom is.
        position: (n, 3) fractional.
        b_factor: (n,) B in square angstrom.
        table: |q| (m,) in 1/angstrom and f0 (elements, m) at them.
    """

    cell: Cell
    symmetry: Symmetry
    elements: tuple[str, ...]
    element: np.ndarray
    position: np.ndarray
    b_factor: np.ndarray
    table: tuple[np.ndarray, np.ndarray]

    @cached_property
    def basis(self) -> np.ndarray:
        """(3, 3) B in 1/angstrom."""
        return reciprocal_basis(self.cell)

    @property
    def volume(self) -> float:
        """Cubic angstrom."""
        return float(1 / abs(np.linalg.det(self.basis)))

    def counts(self) -> dict[str, int]:
        """Atoms of each element in the cell."""
        return {name: int((self.element == number).sum()) for number, name in enumerate(self.elements)}

    def form_factor(self, q: np.ndarray) -> np.ndarray:
        """Return f0 (elements, ...) at |q| (...) in 1/angstrom."""
        return np.array([np.interp(q, self.table[0], row) for row in self.table[1]])

    def diffuse(self, q: np.ndarray) -> np.ndarray:
        """Return diffuse scattering (...) at |q| (...) in 1/angstrom, electron units per cell."""
        f_squared = self.form_factor(q) ** 2
        total = np.zeros(np.shape(q))
        # B is drawn from a few values only: sum over those, not over atoms.
        for b in np.unique(self.b_factor):
            n = np.bincount(self.element[self.b_factor == b], minlength=len(self.elements))
            total += np.tensordot(n, f_squared, 1) * -np.expm1(-b * np.square(q) / 2)
        return total

    def bragg(self, hkl: np.ndarray) -> np.ndarray:
        """Return |F|^2 (n,) at integers (n, 3), electrons squared."""
        q = np.linalg.norm(hkl @ self.basis.T, axis=1)
        f = self.form_factor(q)
        amplitude = np.zeros(len(hkl), complex)
        step = max((1 << 22) // len(self.position), 1)
        for start in range(0, len(hkl), step):
            rows = slice(start, start + step)
            phase = np.exp(2j * np.pi * (hkl[rows] @ self.position.T))
            damping = np.exp(-np.square(q[rows])[:, None] * self.b_factor / 4)
            amplitude[rows] = (f[:, rows][self.element].T * damping * phase).sum(axis=1)
        return np.abs(amplitude) ** 2


def make_crystal(
    cell: Cell,
    symmetry: Symmetry,
    elements: dict[str, float],
    form_factors: FormFactors,
    rng: np.random.Generator,
    density: float = 0.04,
    closest: float = 2.3,
    b_factors: tuple[float, ...] = (12.0, 18.0, 25.0),
    q_max: float = 2.0,
) -> AtomicCrystal:
    """Return a crystal of atoms placed at random, one set of symmetry mates after another.

    Args:
        cell: angstrom and degrees.
        symmetry: of the crystal; its proper rotations act about the origin.
        elements: symbols and how often each is drawn.
        form_factors: table of f0.
        rng: of the positions.
        density: atoms per cubic angstrom.
        closest: smallest distance of two atoms, angstrom.
        b_factors: B of each atom is one of these, square angstrom.
        q_max: f0 is tabulated to this |q|, 1/angstrom.

    Raises:
        ConfigError: there is no room for so many atoms.
    """
    basis = reciprocal_basis(cell)
    direct = np.linalg.inv(basis).T
    proper = np.array([o.T for o in symmetry.operators if np.linalg.det(o) > 0], float)
    wanted = int(round(density * abs(np.linalg.det(direct)) / len(proper)))
    names = tuple(elements)
    placed = np.zeros((0, 3))
    for _ in range(400 * wanted):
        if len(placed) >= wanted * len(proper):
            break
        mates = (proper @ rng.random(3)) % 1
        others = np.concatenate([placed, mates[1:]])
        apart = others - mates[0]
        apart -= np.rint(apart)
        if not len(others) or np.linalg.norm(apart @ direct.T, axis=1).min() > closest:
            placed = np.concatenate([placed, mates])
    else:
        raise ConfigError(
            f"{density:g} atoms per cubic angstrom do not fit {closest:g} angstrom apart; lower the density"
        )
    odds = np.array(list(elements.values()), float)
    element = rng.choice(len(names), len(placed) // len(proper), p=odds / odds.sum())
    b_factor = rng.choice(np.array(b_factors), len(element))
    q = np.linspace(0, q_max, 4001)
    return AtomicCrystal(
        cell,
        symmetry,
        names,
        np.repeat(element, len(proper)),
        placed,
        np.repeat(b_factor, len(proper)),
        (q, form_factors(names, q)),
    )


def true_map(
    crystal: AtomicCrystal,
    theory: Theory,
    divisions: tuple[int, int, int],
    d_min: float,
    d_max: float = np.inf,
) -> MergedMap:
    """Return the map of all voxels of a crystal, in electron units per cell and without noise.

    Bragg peaks are spread evenly over the voxel that they lie in. Incoherent scattering is included,
    as it is in a measured map.

    Args:
        crystal: the atoms.
        theory: whose incoherent scattering is added.
        divisions: of the grid.
        d_min, d_max: resolution limits in angstrom.
    """
    symmetry, n = crystal.symmetry, np.array(divisions)
    count, low, high = asymmetric_box(symmetry, divisions, crystal.basis, d_min, d_max)
    dimensions = high - low + 1
    grid = VoxelGrid(
        cell=crystal.cell,
        symmetry=symmetry,
        divisions=divisions,
        index_min=(int(low[0]), int(low[1]), int(low[2])),
        dimensions=(int(dimensions[0]), int(dimensions[1]), int(dimensions[2])),
        d_min=d_min,
        d_max=d_max,
        n_voxels=count,
    )
    voxel = np.arange(grid.size)
    index = grid.index_of(voxel)
    q = np.linalg.norm(grid.q_of(voxel), axis=1)
    inside = (fold(index, symmetry, divisions)[0] == index).all(axis=1)
    voxel = voxel[inside & (q <= 1 / d_min) & (q >= 1 / d_max)]
    index, q = grid.index_of(voxel), np.linalg.norm(grid.q_of(voxel), axis=1)
    diffuse = crystal.diffuse(q) + np.interp(q, theory.q, theory.incoherent)
    total = diffuse.copy()
    lattice = (index % n == 0).all(axis=1)
    # |F|^2 / V in a voxel of volume 1 / (V n_h n_k n_l).
    total[lattice] += crystal.bragg(index[lattice] // n) * n.prod()
    ones = np.ones(len(voxel))
    return MergedMap(
        grid=grid,
        voxel=voxel,
        intensity=diffuse,
        variance=0 * ones,
        multiplicity=ones.astype(np.int32),
        pixels=ones.astype(np.int64),
        counts=0 * ones,
        total_intensity=total,
        total_variance=0 * ones,
    )


@dataclass(frozen=True, eq=False)
class AtomicIntensity:
    """All that a crystal of atoms scatters, as a continuous function of (h, k, l): for images.

    Bragg peaks are Gaussians around the reciprocal lattice points, whose integrals are |F|^2 / V.

    Attributes:
        crystal: the atoms.
        theory: whose incoherent scattering is added.
        d_min: resolution to which Bragg peaks are tabulated, angstrom.
        peak_sigma: of the Gaussians, 1/angstrom.
    """

    crystal: AtomicCrystal
    theory: Theory
    d_min: float
    peak_sigma: float = 0.002

    @property
    def cell(self) -> Cell:
        """Angstrom and degrees."""
        return self.crystal.cell

    @property
    def symmetry(self) -> Symmetry:
        """Of the crystal."""
        return self.crystal.symmetry

    @property
    def basis(self) -> np.ndarray:
        """(3, 3) B in 1/angstrom."""
        return self.crystal.basis

    def diffuse(self, hkl: np.ndarray) -> np.ndarray:
        """Return total scattering (...) at fractional Miller indices (..., 3), electron units per cell."""
        points = np.asarray(hkl, float).reshape(-1, 3)
        q = np.linalg.norm(points @ self.basis.T, axis=1)
        total = self.crystal.diffuse(q) + np.interp(q, self.theory.q, self.theory.incoherent)
        nearest = np.rint(points).astype(np.int64)
        away = np.linalg.norm((points - nearest) @ self.basis.T, axis=1)
        near = away < 6 * self.peak_sigma
        height = self.strength(nearest[near]) / self.crystal.volume / (2 * np.pi * self.peak_sigma**2) ** 1.5
        total[near] += height * np.exp(-0.5 * (away[near] / self.peak_sigma) ** 2)
        return total.reshape(np.shape(hkl)[:-1])

    def strength(self, hkl: np.ndarray) -> np.ndarray:
        """Return |F|^2 (n,) of integers (n, 3); 0 for the direct beam and beyond the limit."""
        table, low = self._strengths
        at = hkl - low
        inside = ((at >= 0) & (at < table.shape)).all(axis=1)
        found = np.zeros(len(hkl))
        found[inside] = table[tuple(at[inside].T)]
        return found

    @cached_property
    def _strengths(self) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.linalg.norm(np.linalg.inv(self.basis), axis=1)
        limits = np.ceil(lengths / self.d_min).astype(int)
        axes = np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij")
        hkl = np.stack(axes, -1).reshape(-1, 3)
        values = np.zeros(len(hkl))
        within = (np.linalg.norm(hkl @ self.basis.T, axis=1) < 1 / self.d_min) & (hkl != 0).any(axis=1)
        unique, inverse = np.unique(fold(hkl[within], self.symmetry, (1, 1, 1))[0], axis=0, return_inverse=True)
        values[within] = self.crystal.bragg(unique)[inverse.ravel()]
        return values.reshape(2 * limits + 1), -limits

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_strengths"}
