"""Whether the brightest pixels of an image are where its crystal has reflections.

Needs no spot finding and no reflections: a sweep whose goniometer turns the wrong way, or by the wrong
angle, shows on its last image, whatever its files say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.algorithms.geometry import of_pixels, q_at_px, scattering_vectors
from diffuse_framework.algorithms.masking.shapes import lattice_possible
from diffuse_framework.algorithms.rotation import index_sweep, n_substeps, sub_settings, turn
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry, Panel
from diffuse_framework.model.source import Frame

# Distance from an integer index, along each axis, at which a pixel belongs to a reflection.
NEAR = 0.15
# Brightest local maxima that are taken, and fewest that mean something.
MOST, FEWEST = 200, 20
# For a still: where nine in ten should be near nodes, so few say whether no more are than by chance.
FEWEST_OF_STILL = 8
# Score below which something is off: of good data all but every tenth bright pixel is near a node.
NORMAL_SHARE = 0.8
# Standard deviations above the median of a pixel's ring.
_BRIGHT = 8.0
_N_RINGS = 60
# Pixels that are enough for the medians of all rings.
_ENOUGH = 1_000_000
_WINDOW = 7
_MOST_STEPS = 50
# Distance from the Ewald sphere, 1/angstrom, at which a still shows a reflection; the default of the Bragg mask.
EXCITATION = 0.004
_ALONE = 0.1
# Fraction of ordinary pixels near lattice points above which being near says nothing.
_DENSE = 0.5


@dataclass(frozen=True)
class BrightPixels:
    """How bright pixels lie with respect to the lattice.

    Attributes:
        n_bright: number of bright pixels.
        near: fraction of them near a reciprocal lattice point at some angle of the image.
        chance: the same fraction of ordinary pixels at the same resolution.
        reversed_near, reversed_chance: both, had the crystal turned the other way.
    """

    n_bright: int
    near: float
    chance: float
    reversed_near: float
    reversed_chance: float

    @property
    def score(self) -> float:
        """1 where all bright pixels are near lattice points, 0 where no more are than by chance."""
        return (self.near - self.chance) / max(1 - self.chance, 1e-3)

    @property
    def reversed_score(self) -> float:
        """The score, had the crystal turned the other way."""
        return (self.reversed_near - self.reversed_chance) / max(1 - self.reversed_chance, 1e-3)


@dataclass(frozen=True, eq=False)
class Rings:
    """Rings of equal |q| on a detector.

    Attributes:
        geometry: of the detector.
        number: (slow, fast) uint8 of each panel, the ring of each pixel.
        order: pixels, numbered through all panels, ring after ring: as many as tell a median.
        ends: (n_rings,) where in `order` each ring ends.
    """

    geometry: Geometry
    number: tuple[np.ndarray, ...]
    order: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, geometry: Geometry) -> Rings:
        """Return the rings of a geometry."""
        lengths = [
            of_pixels(panel, lambda mm: np.linalg.norm(scattering_vectors(mm, geometry.beam), axis=-1))
            for panel in geometry.panels
        ]
        scale = _N_RINGS / max(float(length.max()) for length in lengths)
        number = tuple(np.minimum(length * scale, _N_RINGS - 1).astype(np.uint8) for length in lengths)
        ring = np.concatenate([panel.ravel() for panel in number])
        # An odd step: of a detector of even width an even one would reach some columns only.
        pixels = np.arange(0, len(ring), max(len(ring) // _ENOUGH | 1, 1))
        order = pixels[np.argsort(ring[pixels], kind="stable")]
        return cls(geometry, number, order, np.cumsum(np.bincount(ring[pixels], minlength=_N_RINGS)))


def agreement(frame: Frame, image: Image, rings: Rings, conditions: np.ndarray) -> BrightPixels | None:
    """Return how the bright pixels of an image lie, None where it has too few.

    Args:
        frame: its raw values.
        image: of a rotation.
        rings: of its geometry.
        conditions: rows of `algorithms.masking.centring_conditions`.
    """
    bright, ordinary = bright_pixels(frame, rings)
    if len(bright) < FEWEST or image.rotation is None:
        return None
    rotation = image.rotation
    back = turn(rotation.axis, np.radians([-2 * rotation.angle_deg]))[0]
    q_max = float(np.linalg.norm(bright, axis=1).max())
    sweep = index_sweep(image.setting_matrix, rotation, (1, 1, 1), 1 / q_max)
    n_steps = n_substeps(sweep, NEAR, _MOST_STEPS)
    ways = []
    for middle in (image.setting_matrix, back @ image.setting_matrix):
        settings = sub_settings(middle, rotation, n_steps)
        ways += [_fraction_near(q, settings, conditions) for q in (bright, ordinary)]
    return BrightPixels(len(bright), *ways)


@dataclass(frozen=True, eq=False)
class Sightings:
    """Bright pixels of an image, whatever its crystal.

    Attributes:
        places: (n, 3) integers, panel, slow and fast of the brightest local maxima.
        alone: (n,) whether no neighbour has a tenth of its excess over its ring.
        bright, ordinary: (n, 3) and (m, 3) scattering vectors of them, and of ordinary pixels of the same rings.
    """

    places: np.ndarray
    alone: np.ndarray
    bright: np.ndarray
    ordinary: np.ndarray


def still_agreement(
    seen: Sightings, settings: tuple[np.ndarray, ...], geometry: Geometry, conditions: np.ndarray
) -> BrightPixels | None:
    """Return how the bright pixels of a still lie, None where they are too few or nodes too dense to say.

    A node may be off the Ewald sphere, by `EXCITATION` to either side: that is along the scattered beam.

    Args:
        seen: its bright pixels.
        settings: (3, 3) of each of its lattices.
        geometry: of the image.
        conditions: rows of `algorithms.masking.centring_conditions`.
    """
    if len(seen.bright) < FEWEST_OF_STILL:
        return None
    longest = max(np.linalg.norm(np.linalg.inv(setting), axis=1).max() for setting in settings)
    n_steps = int(np.ceil(EXCITATION * longest / NEAR))
    offsets = EXCITATION * (2 * (np.arange(n_steps) + 0.5) / n_steps - 1)
    fractions = []
    for q in (seen.bright, seen.ordinary):
        s1 = q + geometry.beam.s0
        s1 /= np.linalg.norm(s1, axis=1, keepdims=True)
        near = np.zeros(len(q), bool)
        for offset in offsets:
            near |= _are_near(q + offset * s1, np.array(settings), conditions)
        fractions.append(float(near.mean()))
    if fractions[1] > _DENSE:
        return None
    return BrightPixels(len(seen.bright), *fractions, *fractions)


def bright_pixels(frame: Frame, rings: Rings) -> tuple[np.ndarray, np.ndarray]:
    """Return scattering vectors (n, 3) of the brightest local maxima, and (m, 3) of ordinary pixels."""
    seen = sightings(frame, rings)
    return seen.bright, seen.ordinary


def sightings(frame: Frame, rings: Rings, most_ordinary: int = 2000) -> Sightings:
    """Return the bright pixels of an image.

    A pixel is bright by its excess over the median of its ring of equal |q|, in units of that
    ring's spread (from its median absolute deviation). The ordinary pixels are of the same rings.
    """
    panels = rings.geometry.panels
    trusted = [
        (values >= panel.trusted_range[0]) & (values <= panel.trusted_range[1])
        for panel, values in zip(panels, frame.counts, strict=True)
    ]
    some = np.concatenate([values.ravel() for values in frame.counts])[rings.order].astype(float)
    some[~np.concatenate([panel.ravel() for panel in trusted])[rings.order]] = np.nan
    middle = _medians(some, rings.ends)
    spread = 1.4826 * _medians(np.abs(some - np.repeat(middle, np.diff(rings.ends, prepend=0))), rings.ends)
    spread = np.maximum(spread, 1.0)
    places, above, alone = [], [], []
    for panel, (values, ring, valid) in enumerate(zip(frame.counts, rings.number, trusted, strict=True)):
        with np.errstate(invalid="ignore"):
            slow, fast = np.nonzero(valid & (values > (middle + _BRIGHT * spread)[ring]))
        highest = _is_peak(np.where(valid, values, values.min()), slow, fast)
        slow, fast = slow[highest], fast[highest]
        places.append(np.stack([np.full(len(slow), panel), slow, fast], axis=1))
        level = middle[ring[slow, fast]]
        above.append((values[slow, fast] - level) / spread[ring[slow, fast]])
        alone.append(_brightest_neighbour(values, slow, fast) - level < _ALONE * (values[slow, fast] - level))
    chosen = np.argsort(np.concatenate(above))[::-1][:MOST]
    bright = np.concatenate(places)[chosen]
    used = np.unique([rings.number[panel][slow, fast] for panel, slow, fast in bright.tolist()]).astype(int)
    runs = np.split(np.arange(len(some)), rings.ends[:-1])
    same_rings = np.concatenate([runs[ring] for ring in used]) if len(used) else np.zeros(0, int)
    same_rings = same_rings[np.isfinite(some[same_rings])]
    ordinary = rings.order[same_rings[:: max(len(same_rings) // most_ordinary, 1)]]
    return Sightings(
        bright,
        np.concatenate(alone)[chosen],
        _vectors(rings.geometry, bright),
        _vectors(rings.geometry, _numbered(panels, ordinary)),
    )


def _brightest_neighbour(values: np.ndarray, slow: np.ndarray, fast: np.ndarray) -> np.ndarray:
    """Return the highest of the eight values around each of the pixels (n,)."""
    around = np.pad(values, 1, constant_values=values.min())
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3))[slow, fast].reshape(-1, 9)
    return np.delete(windows, 4, axis=1).max(axis=1)


def _is_peak(values: np.ndarray, slow: np.ndarray, fast: np.ndarray) -> np.ndarray:
    """Return which pixels (n,) are the highest of their window."""
    around = np.pad(values, _WINDOW // 2, constant_values=values.min())
    windows = np.lib.stride_tricks.sliding_window_view(around, (_WINDOW, _WINDOW))
    return values[slow, fast] >= windows[slow, fast].max(axis=(1, 2))


def _numbered(panels: tuple[Panel, ...], pixels: np.ndarray) -> np.ndarray:
    """Return panel, slow and fast (n, 3) of pixels that are numbered through all panels."""
    ends = np.cumsum([panel.shape[0] * panel.shape[1] for panel in panels])
    panel = np.searchsorted(ends, pixels, side="right")
    within = pixels - np.concatenate([[0], ends])[panel]
    width = np.array([panel.shape[1] for panel in panels])[panel]
    return np.stack([panel, within // width, within % width], axis=1)


def _vectors(geometry: Geometry, places: np.ndarray) -> np.ndarray:
    """Return scattering vectors (n, 3) of the centres of pixels (n, 3) of panel, slow and fast."""
    return q_at_px(geometry, places[:, 0], places[:, :0:-1] + 0.5)


def _medians(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the median of each run of values (n,), runs ending before `ends` (m,), but for NaN; NaN for empty ones."""
    finite = (run[np.isfinite(run)] for run in np.split(values, ends[:-1]))
    return np.array([np.median(run) if len(run) else np.nan for run in finite])


def _fraction_near(q: np.ndarray, settings: np.ndarray, conditions: np.ndarray) -> float:
    """Fraction of scattering vectors (n, 3) that come near a lattice point for one of the settings."""
    return float(_are_near(q, settings, conditions).mean())


def _are_near(q: np.ndarray, settings: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """Which scattering vectors (n, 3) are near a lattice point for one of the settings."""
    near = np.zeros(len(q), bool)
    for to_index in np.linalg.inv(settings):
        hkl = q @ to_index.T
        nearest = np.rint(hkl)
        close = (np.abs(hkl - nearest) < NEAR).all(axis=1) & nearest.any(axis=1)
        near |= close & lattice_possible(nearest.astype(int), conditions)
    return near
