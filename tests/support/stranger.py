"""Images of a crystal that diffuse_framework.simulate knows nothing of: own geometry, crystal, spots and faults.

Written to judge the program by data that are not its own: nothing of `diffuse_framework` is imported. The
scattering is smoothed noise in reciprocal space, given the crystal's Laue symmetry, on a ring of solvent;
spots are pseudo-Voigt, longer along the ray's plane than across and broader at high angles; the detector has hot,
flickering and dead pixels and single-image spikes, and the beam stop has a soft edge and an arm.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numba import njit
from scipy.ndimage import gaussian_filter
from scipy.special import erfc, ndtr

PIXEL_MM = 0.172
SHAPE = (619, 487)
GAP_ROWS = (slice(195, 212), slice(407, 424))
WAVELENGTH = 1.0
PER_INDEX = 4
"""Samples of the scattering along each axis, per Miller index."""


@dataclass(frozen=True)
class Crystal:
    """A cell in angstrom and degrees, and what its reflections obey.

    Attributes:
        cell, space_group: as crystallographers write them.
        laue: "4/mmm", "2/m" or "-1".
        centred: whether h + k must be even.
    """

    cell: tuple[float, ...]
    space_group: str
    laue: str
    centred: bool = False

    @property
    def reciprocal(self) -> np.ndarray:
        """(3, 3) whose columns are a*, b* and c*, 1/angstrom, a* along x and b* in the xy plane."""
        a, b, c = self.cell[:3]
        ca, cb, cg = np.cos(np.radians(self.cell[3:]))
        metric = np.array(
            [[a * a, a * b * cg, a * c * cb], [a * b * cg, b * b, b * c * ca], [a * c * cb, b * c * ca, c * c]]
        )
        star = np.linalg.inv(metric)
        return np.linalg.cholesky(star).T

    @property
    def operators(self) -> list[np.ndarray]:
        """Matrices (3, 3) that take an index to its equivalents."""
        two = np.diag([-1, 1, -1])
        four = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
        generators = {"-1": [], "2/m": [two], "4/mmm": [four, two]}[self.laue] + [-np.eye(3, dtype=int)]
        found = [np.eye(3, dtype=int)]
        for one in found:
            # The list grows while it is read, until it is closed.
            for other in generators:
                new = other @ one
                if not any(np.array_equal(new, old) for old in found):
                    found.append(new)
        return found


TETRAGONAL = Crystal((62.0, 62.0, 38.0, 90.0, 90.0, 90.0), "P43212", "4/mmm")
MONOCLINIC = Crystal((66.0, 41.0, 37.0, 90.0, 106.0, 90.0), "C121", "2/m", centred=True)
TRICLINIC = Crystal((34.0, 38.0, 43.0, 83.0, 97.0, 104.0), "P1", "-1")


@dataclass(frozen=True)
class Conditions:
    """How the images were taken.

    Attributes:
        n_images: of the run.
        width_deg: by which the crystal turns on an image, 0 for stills.
        photons: mean of the diffuse scattering, per pixel and image.
        bragg: mean photons of a reflection at low angles that is fully on an image.
        mosaic_deg: standard deviation of the mosaic spread.
        spot_px: standard deviation of a spot at low angles, across.
        lorentz_share: of a spot's photons that lie in its tails.
        halo: height of the diffuse scattering at a node of mean intensity, over the solvent ring.
        n_hot, n_dead, n_zingers: pixels; spikes an image.
        distance_mm: of the detector.
        beam_stop: whether its shadow falls on the images.
        uneven: height of the background that no crystal made, over the mean.
        seed: of all that is random.
    """

    n_images: int = 40
    width_deg: float = 0.0
    photons: float = 15.0
    bragg: float = 3000.0
    mosaic_deg: float = 0.12
    spot_px: float = 0.8
    lorentz_share: float = 0.15
    halo: float = 0.3
    n_hot: int = 30
    n_dead: int = 12
    n_zingers: int = 3
    distance_mm: float = 130.0
    beam_stop: bool = True
    uneven: float = 0.3
    seed: int = 0


@njit(cache=True)
def _interpolated(field, origin, hkl, out):
    for n in range(len(hkl)):
        value = 0.0
        x, y, z = hkl[n, 0] * 4 + origin[0], hkl[n, 1] * 4 + origin[1], hkl[n, 2] * 4 + origin[2]
        i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        if 0 <= i < field.shape[0] - 1 and 0 <= j < field.shape[1] - 1 and 0 <= k < field.shape[2] - 1:
            u, v, w = x - i, y - j, z - k
            for a in range(2):
                for b in range(2):
                    for c in range(2):
                        weight = (u if a else 1 - u) * (v if b else 1 - v) * (w if c else 1 - w)
                        value += weight * field[i + a, j + b, k + c]
        out[n] = value


@njit(cache=True)
def _add_spot(image, x, y, along, s_along, s_across, photons, lorentz_share):
    """Add a pseudo-Voigt spot at (fast, slow) = (x, y), longer along a unit vector."""
    reach = int(8 * max(s_along, s_across)) + 25
    for i in range(max(int(y) - reach, 0), min(int(y) + reach + 1, image.shape[0])):
        for j in range(max(int(x) - reach, 0), min(int(x) + reach + 1, image.shape[1])):
            total = 0.0
            # A pixel sees the mean over its area: five by five points near the middle, one further out.
            near = abs(i + 0.5 - y) < 4 and abs(j + 0.5 - x) < 4
            m = 5 if near else 1
            for a in range(m):
                for b in range(m):
                    dx, dy = j + (b + 0.5) / m - x, i + (a + 0.5) / m - y
                    u = (dx * along[0] + dy * along[1]) / s_along
                    v = (-dx * along[1] + dy * along[0]) / s_across
                    r2 = u * u + v * v
                    gauss = np.exp(-r2 / 2) / (2 * np.pi)
                    tail = 1 / (2 * np.pi * (1 + r2) ** 1.5)
                    total += (1 - lorentz_share) * gauss + lorentz_share * tail
            image[i, j] += photons * total / (m * m) / (s_along * s_across)


class Stranger:
    """A run of images and all that is true of it."""

    def __init__(self, crystal: Crystal, conditions: Conditions) -> None:
        self.crystal, self.conditions = crystal, conditions
        rng = np.random.default_rng(conditions.seed)
        c = conditions
        self.centre_px = np.array([SHAPE[1] / 2 + rng.uniform(-12, 12), SHAPE[0] / 2 + rng.uniform(-12, 12)])
        self.scales = np.exp(0.25 * np.sin(np.linspace(0, 5, c.n_images)) + 0.06 * rng.normal(size=c.n_images))
        self.scales /= self.scales.mean()
        turns = [self._random_turn(rng) for _ in range(c.n_images if c.width_deg == 0 else 1)]
        self._turns = turns
        self.start_deg = rng.uniform(0, 90)
        basis = crystal.reciprocal
        corner = np.hypot(*(np.array(SHAPE) * PIXEL_MM / 2 + 3))
        self.q_max = 2 / WAVELENGTH * np.sin(np.arctan(corner / c.distance_mm) / 2)
        self._h_max = np.ceil(self.q_max * np.linalg.norm(np.linalg.inv(basis), axis=1)).astype(int) + 1
        self._field = self._smooth_noise(rng)
        self._strength = self._intensities(rng)
        self._lay_out(rng)
        self._unit = c.photons / self._raw_rate(0, None).mean() * self.scales[0]
        self._rng_seed = int(rng.integers(1 << 30))

    @staticmethod
    def _random_turn(rng: np.random.Generator) -> np.ndarray:
        q, r = np.linalg.qr(rng.normal(size=(3, 3)))
        q = q * np.sign(np.diag(r))
        return q if np.linalg.det(q) > 0 else -q

    # the crystal

    def _symmetric(self, field: np.ndarray) -> np.ndarray:
        field = field + field[::-1, ::-1, ::-1]
        if self.crystal.laue != "-1":
            field = field + field[::-1, :, ::-1]
        if self.crystal.laue == "4/mmm":
            field = field + field[::-1, ::-1]
            field = field + np.transpose(field, (1, 0, 2))[::-1]
        return field / field.std()

    def _smooth_noise(self, rng: np.random.Generator) -> np.ndarray:
        shape = 2 * PER_INDEX * self._h_max + 1
        white = rng.normal(size=shape).astype(np.float32)
        fine = self._symmetric(gaussian_filter(white, 0.4 * PER_INDEX))
        coarse = self._symmetric(gaussian_filter(white[::-1], 1.6 * PER_INDEX))
        return (0.18 * fine + 0.22 * coarse).astype(np.float32)

    def _intensities(self, rng: np.random.Generator) -> np.ndarray:
        """Relative intensities of reflections, exponentially distributed about a Wilson fall-off."""
        shape = 2 * self._h_max + 1
        h = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in self._h_max), indexing="ij"), -1)
        q2 = ((h @ self.crystal.reciprocal.T) ** 2).sum(-1)
        amplitude = rng.exponential(size=shape)
        images = [h @ op.T + self._h_max for op in self.crystal.operators]
        lowest = np.min([np.ravel_multi_index(tuple(np.moveaxis(i, -1, 0)), shape) for i in images], axis=0)
        value = amplitude.ravel()[lowest] * np.exp(-22 * q2 / 2)
        if self.crystal.centred:
            value[(h[..., 0] + h[..., 1]) % 2 != 0] = 0
        value[tuple(self._h_max)] = 0
        return value

    def intensity(self, hkl: np.ndarray) -> np.ndarray:
        """Diffuse scattering at fractional indices (n, 3), in photons per second and steradian at scale 1."""
        return self._unit * self._relative(hkl)

    def _relative(self, hkl: np.ndarray) -> np.ndarray:
        hkl = np.ascontiguousarray(hkl, float)
        q = np.linalg.norm(hkl @ self.crystal.reciprocal.T, axis=-1)
        ring = np.exp(-5 * q**2) * (0.6 + np.exp(-(((q - 0.29) / 0.07) ** 2)))
        cloud = np.empty(len(hkl))
        _interpolated(self._field, PER_INDEX * self._h_max.astype(float), hkl, cloud)
        nearest = np.rint(hkl)
        inside = (np.abs(nearest) <= self._h_max).all(axis=-1)
        at = tuple(np.moveaxis(np.where(inside[:, None], nearest, 0).astype(int) + self._h_max, -1, 0))
        away = ((hkl - nearest) @ self.crystal.reciprocal.T * 45.0) ** 2
        halo = self.conditions.halo * self._strength[at] / np.exp(-22 * q**2 / 2) / (1 + 6 * away.sum(-1)) ** 2
        return ring * (np.clip(1 + cloud, 0.1, None) + halo)

    # the detector

    def _lay_out(self, rng: np.random.Generator) -> None:
        c = self.conditions
        slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]]
        x, y = (fast + 0.5 - self.centre_px[0]) * PIXEL_MM, (slow + 0.5 - self.centre_px[1]) * PIXEL_MM
        length = np.sqrt(x * x + y * y + c.distance_mm**2)
        self._xy = (x, y)
        # The laboratory frame of dxtbx: the beam goes down -z, the slow axis down -y.
        s1 = np.stack([x, -y, np.full(SHAPE, -c.distance_mm)], -1) / length[..., None] / WAVELENGTH
        self.q = s1 - np.array([0, 0, -1 / WAVELENGTH])
        solid_angle = PIXEL_MM**2 * c.distance_mm / length**3
        fraction = 0.99
        across, upright = (x / length) ** 2, (y / length) ** 2
        self.response = solid_angle * (fraction * (1 - across) + (1 - fraction) * (1 - upright))
        self.gap = np.zeros(SHAPE, bool)
        for rows in GAP_ROWS:
            self.gap[rows] = True
        r = np.hypot(x, y) / PIXEL_MM
        self.transmitted = np.ones(SHAPE)
        if c.beam_stop:
            angle = rng.uniform(0, 2 * np.pi)
            off = rng.normal(0, 2, 2)
            r_stop = np.hypot(x / PIXEL_MM - off[0], y / PIXEL_MM - off[1])
            stop = 0.5 * erfc((r_stop - rng.uniform(14, 24)) / 2.2)
            along = x * np.cos(angle) + y * np.sin(angle)
            beside = np.abs(-x * np.sin(angle) + y * np.cos(angle)) / PIXEL_MM
            arm = 0.85 * 0.5 * erfc((beside - rng.uniform(3.5, 6)) / 1.5) * (along > 0)
            self.transmitted = (1 - stop) * (1 - arm)
        lump = np.exp(-(((x - 14) / 25) ** 2) - ((y + 20) / 30) ** 2)
        self.uneven = c.uneven * (0.6 * np.exp(-r / 60) + 0.7 * lump)
        free = np.argwhere(~self.gap & (self.transmitted > 0.98) & (r > 30))
        chosen = free[rng.choice(len(free), c.n_hot + c.n_dead, replace=False)]
        self.hot, self.dead = chosen[: c.n_hot], chosen[c.n_hot :]
        self.hot_counts = 10 ** rng.uniform(1, 6, c.n_hot)
        self.hot_on = np.where(rng.random(c.n_hot) < 0.3, rng.uniform(0.1, 0.6, c.n_hot), 1.0)

    @cached_property
    def usable(self) -> np.ndarray:
        """True (slow, fast) where a pixel is good, lit and no gap, by the truth."""
        good = ~self.gap & (self.transmitted > 0.97)
        for slow, fast in (*self.hot, *self.dead):
            good[slow, fast] = False
        return good

    def setting(self, number: int, part: float = 0.5) -> np.ndarray:
        """Setting matrix (3, 3) of an image, `part` of the way through it."""
        c = self.conditions
        if c.width_deg == 0:
            return self._turns[number] @ self.crystal.reciprocal
        angle = np.radians(self.start_deg + (number + part) * c.width_deg)
        about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        return about_x @ self._turns[0] @ self.crystal.reciprocal

    def _raw_rate(self, number: int, n_parts: int | None) -> np.ndarray:
        parts = [0.5] if self.conditions.width_deg == 0 or n_parts is None else (np.arange(n_parts) + 0.5) / n_parts
        total = np.zeros(SHAPE)
        for part in parts:
            hkl = self.q.reshape(-1, 3) @ np.linalg.inv(self.setting(number, part)).T
            total += self._relative(hkl).reshape(SHAPE)
        return self.scales[number] * self.response * total / len(parts)

    def diffuse(self, number: int) -> np.ndarray:
        """Expected photons (slow, fast) of the crystal's diffuse scattering, no shadow."""
        return self._unit * self._raw_rate(number, 4)

    def bragg(self, number: int) -> np.ndarray:
        """Expected photons (slow, fast) of the reflections, no shadow."""
        c = self.conditions
        image = np.zeros(SHAPE)
        h = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in self._h_max), indexing="ij"), -1).reshape(-1, 3)
        strength = self._strength.ravel()
        wanted = strength > 0
        h, strength = h[wanted], strength[wanted]
        q = h @ self.setting(number).T
        length = np.linalg.norm(q, axis=1)
        close = (length < self.q_max) & (np.abs(self._off_sphere(q)) < 0.03 + np.radians(c.width_deg) * length)
        h, strength, q, length = h[close], strength[close], q[close], length[close]
        spread = np.radians(c.mosaic_deg) * length + 6e-4
        if c.width_deg == 0:
            recorded = np.exp(-0.5 * (self._off_sphere(q) / spread) ** 2) * 0.5
            at = q
        else:
            ends = [h @ self.setting(number, part).T for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
            off = np.array([self._off_sphere(e) for e in ends])
            # The share that crosses the sphere during the image, and where it is nearest to it.
            recorded = np.abs(ndtr(off[-1] / spread) - ndtr(off[0] / spread))
            steps = np.clip(off[0] / np.where(off[0] == off[-1], 1e-9, off[0] - off[-1]), 0, 1)
            at = (1 - steps)[:, None] * ends[0] + steps[:, None] * ends[-1]
        photons = c.bragg * self.scales[number] * strength * recorded
        s1 = at + np.array([0, 0, -1 / WAVELENGTH])
        ahead = (s1[:, 2] < 0) & (photons > 0.05)
        s1, photons = s1[ahead], photons[ahead]
        x = -s1[:, 0] / s1[:, 2] * c.distance_mm
        y = s1[:, 1] / s1[:, 2] * c.distance_mm
        r = np.hypot(x, y)
        px = np.stack([x, y], -1) / PIXEL_MM + self.centre_px
        for n in np.flatnonzero((px > -30).all(axis=1) & (px < np.array(SHAPE[::-1]) + 30).all(axis=1)):
            tilt = r[n] / c.distance_mm
            along = np.array([x[n], y[n]]) / max(r[n], 1e-9)
            across = c.spot_px * (1 + 0.5 * tilt)
            _add_spot(
                image, px[n, 0], px[n, 1], along, across * (1.1 + 1.3 * tilt), across, photons[n], c.lorentz_share
            )
        return image

    @staticmethod
    def _off_sphere(q: np.ndarray) -> np.ndarray:
        return np.linalg.norm(q + np.array([0, 0, -1 / WAVELENGTH]), axis=1) - 1 / WAVELENGTH

    @lru_cache(maxsize=200)  # noqa: B019
    def expected(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Expected photons (slow, fast) without reflections, and of reflections; shadow included, faults not."""
        c = self.conditions
        mean_rate = self.response / self.response.mean() * c.photons
        smooth = self.diffuse(number) + self.scales[number] * self.uneven * mean_rate
        return smooth * self.transmitted, self.bragg(number) * self.transmitted

    def photons(self, number: int) -> np.ndarray:
        """Return an image (slow, fast) as a detector without faults and gaps would count it."""
        rng = np.random.default_rng((self._rng_seed, number, 0))
        smooth, bragg = self.expected(number)
        return rng.poisson(smooth + bragg).astype(np.int64)

    def counts(self, number: int) -> np.ndarray:
        """Return an image (slow, fast) as the detector writes it."""
        image = self.photons(number).copy()
        rng = np.random.default_rng((self._rng_seed, number, 1))
        on = rng.random(len(self.hot)) < self.hot_on
        image[self.hot[:, 0], self.hot[:, 1]] += np.where(on, rng.poisson(self.hot_counts), 0)
        image[self.dead[:, 0], self.dead[:, 1]] = 0
        spikes = rng.integers((0, 0), SHAPE, (self.conditions.n_zingers, 2))
        image[spikes[:, 0], spikes[:, 1]] += (10 ** rng.uniform(1.5, 5, len(spikes))).astype(np.int64)
        image = np.minimum(image, 1_000_000)
        image[self.gap] = -1
        return image.astype(np.int32)

    def write(self, folder: Path) -> list[Path]:
        """Write all images as mini-CBF files and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number in range(self.conditions.n_images):
            path = folder / f"strange_{number + 1:05d}.cbf"
            path.write_bytes(self._file(number))
            paths.append(path)
        return paths

    def _file(self, number: int) -> bytes:
        c = self.conditions
        start = self.start_deg + number * c.width_deg if c.width_deg else 0.0
        packed = byte_offset(self.counts(number))
        lines = [
            "###CBF: VERSION 1.5",
            "",
            f"data_strange_{number + 1:05d}",
            "",
            '_array_data.header_convention "PILATUS_1.2"',
            "_array_data.header_contents",
            ";",
            "# Detector: PILATUS 300K, S/N 3-0101",
            "# 2001-01-01T00:00:00.000",
            f"# Pixel_size {PIXEL_MM * 1e-3:.6g} m x {PIXEL_MM * 1e-3:.6g} m",
            "# Exposure_time 1.0000000 s",
            "# Exposure_period 1.0000000 s",
            "# Tau = 0 s",
            "# Count_cutoff 1048500 counts",
            "# Threshold_setting: 6000 eV",
            f"# Wavelength {WAVELENGTH:.5f} A",
            f"# Detector_distance {c.distance_mm * 1e-3:.6f} m",
            f"# Beam_xy ({self.centre_px[0]:.4f}, {self.centre_px[1]:.4f}) pixels",
            f"# Start_angle {start:.5f} deg.",
            f"# Angle_increment {c.width_deg:.5f} deg.",
            "# Detector_2theta 0.0000 deg.",
            "# Polarization 0.990",
            f"# Phi {start:.5f} deg.",
            f"# Phi_increment {c.width_deg:.5f} deg.",
            "# Oscillation_axis X.CW",
            "# N_oscillations 1",
            ";",
            "",
            "_array_data.data",
            ";",
            "--CIF-BINARY-FORMAT-SECTION--",
            "Content-Type: application/octet-stream;",
            '     conversions="x-CBF_BYTE_OFFSET"',
            "Content-Transfer-Encoding: BINARY",
            f"X-Binary-Size: {len(packed)}",
            "X-Binary-ID: 1",
            'X-Binary-Element-Type: "signed 32-bit integer"',
            "X-Binary-Element-Byte-Order: LITTLE_ENDIAN",
            f"Content-MD5: {b64encode(hashlib.md5(packed, usedforsecurity=False).digest()).decode()}",
            f"X-Binary-Number-of-Elements: {SHAPE[0] * SHAPE[1]}",
            f"X-Binary-Size-Fastest-Dimension: {SHAPE[1]}",
            f"X-Binary-Size-Second-Dimension: {SHAPE[0]}",
            "X-Binary-Size-Padding: 4095",
            "",
            "",
        ]
        head = "\r\n".join(lines).encode()
        return head + b"\x0c\x1a\x04\xd5" + packed + bytes(4095) + b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n\r\n"


def byte_offset(values: np.ndarray) -> bytes:
    """Return integers as steps of one, three or seven bytes, as the imgCIF dictionary has them."""
    steps = np.diff(values.ravel().astype(np.int64), prepend=0)
    size = np.where(np.abs(steps) <= 127, 1, np.where(np.abs(steps) <= 32767, 3, 7))
    at = np.concatenate([[0], np.cumsum(size)])
    out = np.zeros(at[-1], np.uint8)
    small, middle, large = size == 1, size == 3, size == 7
    out[at[:-1][small]] = steps[small] & 0xFF
    out[at[:-1][~small]] = 0x80
    for byte in range(2):
        out[at[:-1][middle] + 1 + byte] = (steps[middle] >> (8 * byte)) & 0xFF
    out[at[:-1][large] + 2] = 0x80
    for byte in range(4):
        out[at[:-1][large] + 3 + byte] = (steps[large] >> (8 * byte)) & 0xFF
    return out.tobytes()
