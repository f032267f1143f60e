"""The true intensity of a simulated crystal, continuous in (h, k, l).

Diffuse intensity, in units of the truth (`Truth.photons_per_unit` turns them into photons):

    I(hkl) = D(|q|) [a_halo H(hkl) + a_cloud C(hkl)] + a_water W(|q|)

- D = x exp(1 - x), x = (2 pi sigma |q|)^2, is the envelope of random displacements of amplitude sigma
  (Clarage et al. (1992), Proteins 12, 145, with q = 1/d); its largest value is 1.
- H is a halo around each reciprocal lattice point G of strength F2(G): with dq = q - G,
  K = [1 + (2 pi g_r dq_r)^2 + (2 pi g_t dq_t)^2]^-2, the transform of displacements correlated over
  g_r along q and g_t across it, times a window that ends it smoothly at |dq| = R.
- C interpolates values between 0 and 2 given at the lattice points, with the same window as weight.
- W is a water ring on a slope that rises with |q| as incoherent scattering does.

F2 and the values of C are pseudo-random, symmetric under the Laue group, and depend on nothing but the
seed and the indices. F2 is exponentially distributed with mean 1, as |F|^2 of an acentric crystal
(Wilson (1949), Acta Cryst. 2, 318), and 0 where the space group extinguishes the reflection.
All terms depend on distances and lattice values only, so I has the Laue symmetry exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.errors import ConfigError, GeometryError
from diffuse_framework.model.experiment import Symmetry
from diffuse_framework.model.grid import VoxelGrid
from diffuse_framework.model.lattice import Cell, reciprocal_basis
from diffuse_framework.simulate.crystals import refuse_impossible_cell

MAX_LATTICE_POINTS = 100_000_000


@dataclass(frozen=True)
class DiffuseParameters:
    """What the diffuse intensity is made of.

    Attributes:
        halo, cloud, water: a_halo, a_cloud, a_water, relative to each other.
        displacement: sigma, root mean square displacement in angstrom.
        correlation_radial, correlation_tangential: g_r and g_t in angstrom.
        ring_d, ring_width: the water ring's d in angstrom and its sigma in 1/angstrom.
    """

    halo: float = 1.0
    cloud: float = 1.0
    water: float = 1.0
    displacement: float = 0.45
    correlation_radial: float = 8.0
    correlation_tangential: float = 14.0
    ring_d: float = 3.2
    ring_width: float = 0.06

    def __post_init__(self) -> None:
        """Refuse what would make a negative or undefined intensity.

        Raises:
            ConfigError: an amplitude below 0, or a length that is not above 0.
        """
        if min(self.halo, self.cloud, self.water) < 0:
            raise ConfigError("diffuse.halo, diffuse.cloud and diffuse.water can't be negative")
        if not self.halo + self.cloud + self.water > 0:
            raise ConfigError("diffuse.halo, diffuse.cloud and diffuse.water are all 0: nothing would scatter")
        for name in (
            "displacement",
            "correlation_radial",
            "correlation_tangential",
            "ring_d",
            "ring_width",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(f"diffuse.{name}={getattr(self, name):g} must be above 0")


@dataclass(frozen=True)
class BraggParameters:
    """How Bragg peaks look; they end at 3 sigma in reciprocal space and 4 sigma on the detector.

    Attributes:
        photons: mean photons of a fully excited peak at |q| = 0, per image; 0 leaves peaks out.
        b_factor: peaks fall off as exp(-B |q|^2 / 2), square angstrom.
        spot_sigma_px: Gaussian radius on the detector, pixels.
        mosaicity_deg: Gaussian sigma of the orientation of mosaic blocks.
        width: Gaussian sigma of the size of lattice points, 1/angstrom.
    """

    photons: float = 3000.0
    b_factor: float = 15.0
    spot_sigma_px: float = 1.1
    mosaicity_deg: float = 0.05
    width: float = 4e-4

    def __post_init__(self) -> None:
        """Refuse peaks without extent.

        Raises:
            ConfigError: a size that is not above 0, or negative photons.
        """
        if min(self.photons, self.b_factor, self.mosaicity_deg) < 0:
            raise ConfigError("bragg.photons, bragg.b_factor and bragg.mosaicity can't be negative")
        if not min(self.spot_sigma_px, self.width) > 0:
            raise ConfigError("bragg.spot_sigma and bragg.width must be above 0")

    def excitation_sigma(self, q: np.ndarray) -> np.ndarray:
        """Return sigma (n,) of the distance from the Ewald sphere, 1/angstrom, at |q| (n,)."""
        return np.hypot(self.width, np.radians(self.mosaicity_deg) * q)

    @property
    def reach(self) -> tuple[float, float]:
        """Width in 1/angstrom and full angle in degrees beyond which no peak is excited.

        These are `width` and `mosaic_width_deg` of `algorithms.geometry.reflections_near_ewald`.
        """
        return 3 * self.width, 6 * self.mosaicity_deg

    @property
    def radius_px(self) -> int:
        """Pixels from a spot's centre, along fast and slow, beyond which nothing of it is left."""
        return int(np.ceil(4 * self.spot_sigma_px))


@dataclass(frozen=True, eq=False)
class TrueIntensity:
    """Diffuse intensity and Bragg strengths of a crystal up to a resolution limit.

    Attributes:
        cell: angstrom and degrees.
        symmetry: of the crystal.
        d_min: resolution limit in angstrom.
        parameters: of the diffuse intensity.
        lattice_hkl: (n, 3) integers, one representative of each set of equivalent lattice points.
        f_squared, cloud: (n,) F2 and value of the cloud there.
    """

    cell: Cell
    symmetry: Symmetry
    d_min: float
    parameters: DiffuseParameters
    lattice_hkl: np.ndarray
    f_squared: np.ndarray
    cloud: np.ndarray

    @cached_property
    def basis(self) -> np.ndarray:
        """(3, 3) B in 1/angstrom, ``q = B hkl`` with a along x and c* along z."""
        return reciprocal_basis(self.cell)

    def diffuse(self, hkl: np.ndarray) -> np.ndarray:
        """Return the true diffuse intensity (...) at fractional Miller indices (..., 3).

        Raises:
            GeometryError: an index beyond the resolution limit.
        """
        hkl = np.asarray(hkl, float)
        points = np.ascontiguousarray(hkl.reshape(-1, 3))
        q = np.linalg.norm(points @ self.basis.T, axis=-1)
        if len(q) and not q.max() <= _margin(self.d_min):
            raise GeometryError(
                f"the truth is known to d = {self.d_min:.3g} angstrom, where the detector's corner is, "
                f"not to {1 / q.max():.3g}"
            )
        return (self._structured(points, q) + self.isotropic(q)).reshape(hkl.shape[:-1])

    def anisotropic(self, hkl: np.ndarray) -> np.ndarray:
        """Return the true diffuse intensity (...) without the water ring, as `diffuse` does."""
        hkl = np.asarray(hkl, float)
        return self.diffuse(hkl) - self.isotropic(np.linalg.norm(hkl @ self.basis.T, axis=-1))

    def isotropic(self, q: np.ndarray) -> np.ndarray:
        """Return a_water W (...) at |q| (...) in 1/angstrom."""
        p = self.parameters
        ring = np.exp(-0.5 * ((q - 1 / p.ring_d) / p.ring_width) ** 2)
        slope = 0.3 * -np.expm1(-10 * np.square(q))
        return p.water * (ring + slope)

    def strength(self, hkl: np.ndarray) -> np.ndarray:
        """Return F2 (n,) of integer Miller indices (n, 3); 0 where extinct or beyond the limit."""
        f_squared, _, low = self._tables
        at = np.asarray(hkl, np.int64) - low
        inside = ((at >= 0) & (at < f_squared.shape)).all(-1)
        found = np.zeros(len(at), f_squared.dtype)
        found[inside] = f_squared[tuple(at[inside].T)]
        return found

    def voxel_average(self, grid: VoxelGrid, voxels: np.ndarray, oversample: int = 3) -> np.ndarray:
        """Return the mean diffuse intensity (n,) over the voxels of numbers (n,).

        Args:
            grid: to which the numbers belong.
            voxels: (n,) voxel numbers.
            oversample: points along each edge of a voxel; 1 is the voxel's centre.
        """
        centres = grid.hkl_of(voxels)
        steps = (np.arange(oversample) + 0.5) / oversample - 0.5
        total = np.zeros(len(voxels))
        for offset in np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3):
            total += self.diffuse(centres + offset / np.array(grid.divisions, float))
        return total / oversample**3

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """F2 and cloud on a box of lattice points, and the smallest index of the box."""
        low, shape = _lattice_box(self.basis, self.d_min)
        index = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), -1) + low
        key = _keys(fold(index, self.symmetry, (1, 1, 1))[0], shape)
        known = _keys(self.lattice_hkl, shape)
        order = np.argsort(known)
        rows = order[np.minimum(np.searchsorted(known, key, sorter=order), len(known) - 1)]
        missing = known[rows] != key
        tables = []
        for values in (self.f_squared, self.cloud):
            table = values.astype(np.float32)[rows]
            table[missing] = 0
            tables.append(table.reshape(shape))
        return tables[0], tables[1], low

    def _structured(self, points: np.ndarray, q: np.ndarray) -> np.ndarray:
        p = self.parameters
        f_squared, cloud, low = self._tables
        x = np.square(2 * np.pi * p.displacement * q)
        mixed = np.empty(len(points))
        _halo_and_cloud(
            points,
            self.basis,
            f_squared,
            cloud,
            low,
            _window_radius(self.basis),
            (2 * np.pi * p.correlation_radial) ** 2,
            (2 * np.pi * p.correlation_tangential) ** 2,
            p.halo,
            p.cloud,
            mixed,
        )
        return x * np.exp(1 - x) * mixed

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_tables", "basis")}


def make_intensity(
    cell: Cell,
    symmetry: Symmetry,
    d_min: float,
    parameters: DiffuseParameters,
    seed: int,
    extinct: Callable[[np.ndarray], np.ndarray] | None = None,
) -> TrueIntensity:
    """Return the intensity of a crystal.

    Args:
        cell: angstrom and degrees.
        symmetry: of the crystal.
        d_min: resolution limit in angstrom.
        parameters: of the diffuse intensity.
        seed: names one crystal of the many that share these parameters.
        extinct: tells for integers (n, 3) which reflections (n,) the space group extinguishes;
            none where not given.

    Raises:
        ConfigError: cell and symmetry contradict each other, or the cell is too large for d_min.
    """
    refuse_impossible_cell(cell, symmetry)
    basis = reciprocal_basis(cell)
    low, shape = _lattice_box(basis, d_min)
    if np.prod(shape, dtype=float) > MAX_LATTICE_POINTS:
        raise ConfigError(
            f"the cell has {np.prod(shape, dtype=float):.2g} lattice points to d = {d_min:g} angstrom; "
            "raise the detector distance or take a smaller cell"
        )
    index = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), -1) + low
    # The window reaches beyond the limit, and equivalents of points in the box may lie outside it.
    within = np.linalg.norm(index @ basis.T, axis=-1) <= _margin(d_min) + _window_radius(basis)
    lattice = fold(index[within], symmetry, (1, 1, 1))[0]
    lattice = lattice[np.unique(_keys(lattice, shape), return_index=True)[1]]
    f_squared = -np.log1p(-_hashed(lattice, seed, 0))
    if extinct is not None:
        f_squared[extinct(lattice)] = 0
    f_squared[(lattice == 0).all(axis=-1)] = 0
    return TrueIntensity(
        cell=cell,
        symmetry=symmetry,
        d_min=d_min,
        parameters=parameters,
        lattice_hkl=lattice.astype(np.int32),
        f_squared=f_squared.astype(np.float32),
        cloud=(2 * _hashed(lattice, seed, 1)).astype(np.float32),
    )


def _margin(d_min: float) -> float:
    """|q| to which the intensity can be asked for: a little beyond the limit, for whole voxels."""
    return 1.05 / d_min + 0.02


def _window_radius(basis: np.ndarray) -> float:
    """R in 1/angstrom: some lattice points lie within R of any point of reciprocal space."""
    volume = abs(np.linalg.det(basis))
    return max(1.5 * np.cbrt(volume), 0.6 * float(np.linalg.norm(basis)))


def _lattice_box(basis: np.ndarray, d_min: float) -> tuple[np.ndarray, tuple[int, ...]]:
    """Smallest index (3,) and shape of a box of lattice points that reaches a window beyond the limit."""
    direct_lengths = np.linalg.norm(np.linalg.inv(basis), axis=1)
    limits = np.ceil(direct_lengths * (_margin(d_min) + _window_radius(basis))).astype(np.int64)
    return -limits, tuple(int(2 * limit + 1) for limit in limits)


def _keys(hkl: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return one number (n,) for each of the integers (n, 3): those of the box and their equivalents.

    An operator adds up to two indices, so that an equivalent's are below the box's width.
    """
    span = 4 * max(shape) + 1
    h, k, l = hkl.astype(np.int64).T
    return (h * span + k) * span + l


def _hashed(hkl: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """Return a pseudo-random number in [0, 1) for each of the integers (n, 3).

    The finaliser of SplitMix64, once per coordinate; Steele et al. (2014), OOPSLA '14, 453.
    """
    state = np.full(len(hkl), (seed * 2 + stream) % 2**63, np.uint64)
    for column in range(4):
        if column < 3:
            state = state ^ hkl[:, column].astype(np.int64).view(np.uint64)
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53


@njit(cache=True)
def _halo_and_cloud(
    points, basis, f_squared, cloud, low, radius, radial, tangential, halo_amplitude, cloud_amplitude, out
):
    """Fill `out` (n,) with a_halo H + a_cloud C at the indices `points` (n, 3).

    `radial` and `tangential` are (2 pi g)^2. A lattice point within R differs from the point by no
    more than R times the length of a direct axis in each index. The tables are centred on (0, 0, 0).
    """
    r2_max = radius * radius
    direct = np.linalg.inv(basis)
    reach = np.empty(3)
    for axis in range(3):
        reach[axis] = radius * np.sqrt(np.sum(direct[axis] ** 2))
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    for n in range(len(points)):
        h, k, l = points[n, 0], points[n, 1], points[n, 2]
        qx = basis[0, 0] * h + basis[0, 1] * k + basis[0, 2] * l
        qy = basis[1, 0] * h + basis[1, 1] * k + basis[1, 2] * l
        qz = basis[2, 0] * h + basis[2, 1] * k + basis[2, 2] * l
        q2 = max(qx * qx + qy * qy + qz * qz, 1e-30)
        halo = 0.0
        weighted = 0.0
        weights = 0.0
        for axis in range(3):
            first[axis] = max(int(np.ceil(points[n, axis] - reach[axis])), low[axis])
            last[axis] = min(int(np.floor(points[n, axis] + reach[axis])), -low[axis])
        for gh in range(first[0], last[0] + 1):
            for gk in range(first[1], last[1] + 1):
                dh, dk = h - gh, k - gk
                x0 = basis[0, 0] * dh + basis[0, 1] * dk
                y0 = basis[1, 0] * dh + basis[1, 1] * dk
                z0 = basis[2, 0] * dh + basis[2, 1] * dk
                for gl in range(first[2], last[2] + 1):
                    dl = l - gl
                    x, y, z = x0 + basis[0, 2] * dl, y0 + basis[1, 2] * dl, z0 + basis[2, 2] * dl
                    r2 = x * x + y * y + z * z
                    if r2 >= r2_max:
                        continue
                    window = (1 - r2 / r2_max) ** 2
                    along = (x * qx + y * qy + z * qz) ** 2 / q2
                    spread = 1 + radial * along + tangential * (r2 - along)
                    a, b, c = gh - low[0], gk - low[1], gl - low[2]
                    halo += f_squared[a, b, c] * window / (spread * spread)
                    weighted += cloud[a, b, c] * window
                    weights += window
        out[n] = halo_amplitude * halo + cloud_amplitude * (weighted / max(weights, 1e-12))
