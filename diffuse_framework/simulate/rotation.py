"""Sweeps of a turning crystal: orientations, and how much of a reflection an image records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from diffuse_framework.algorithms.rotation import crossings, turn
from diffuse_framework.errors import ConfigError
from diffuse_framework.model.experiment import Rotation
from diffuse_framework.model.geometry import Beam
from diffuse_framework.simulate.crystals import random_rotations

# dxtbx takes this axis for a mini-CBF file of a PILATUS.
AXIS = np.array([1.0, 0.0, 0.0])
# Slowest crossing of the Ewald sphere, 1/angstrom per radian, that the formula of a moving point stands for.
_SLOWEST = 1e-5


@dataclass(frozen=True)
class RotationSettings:
    """How crystals turn.

    Attributes:
        width_deg: of one image.
        start_deg: where every sweep starts.
        sweeps: number of sweeps, each of a crystal of its own in a random orientation.
        drift_deg: by which a crystal slips, about the beam, from the beginning of its sweep to the end.
        scale_spread: standard deviation of the logarithm of the crystals' scales.
    """

    width_deg: float
    start_deg: float = 0.0
    sweeps: int = 1
    drift_deg: float = 0.0
    scale_spread: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that describe no sweep.

        Raises:
            ConfigError: which, and what it must be.
        """
        if not self.width_deg > 0:
            raise ConfigError(f"rotation.width={self.width_deg:g} must be above 0 degrees")
        if self.sweeps < 1:
            raise ConfigError(f"rotation.sweeps={self.sweeps}: simulate at least one")


@dataclass(frozen=True, eq=False)
class Sweeps:
    """Orientations of all images of all sweeps.

    Attributes:
        setting_matrices: (n, 3, 3) A in the laboratory at the middle of each image.
        angles_deg: (n,) of the goniometer there.
        sweep: (n,) number of the sweep.
        at_ends: one (n_images + 1, 3, 3) array per sweep: A without the goniometer's rotation, at the
            beginning of each image and the end of the last.
    """

    setting_matrices: np.ndarray
    angles_deg: np.ndarray
    sweep: np.ndarray
    at_ends: tuple[np.ndarray, ...]


def make_sweeps(settings: RotationSettings, n_images: int, basis: np.ndarray, rng: np.random.Generator) -> Sweeps:
    """Return sweeps of `n_images` images each of crystals with reciprocal basis B (3, 3)."""
    middles = settings.start_deg + settings.width_deg * (np.arange(n_images) + 0.5)
    goniometer = turn(AXIS, np.radians(middles))
    beam = np.array([0.0, 0.0, 1.0])
    slips = np.radians(settings.drift_deg) * (np.arange(n_images + 1) / n_images - 0.5)
    at_ends = tuple(turn(beam, slips) @ start @ basis for start in random_rotations(settings.sweeps, rng))
    halfway = (slips[:-1] + slips[1:]) / 2
    matrices = [goniometer @ turn(beam, halfway - slips[0]) @ ends[0] for ends in at_ends]
    return Sweeps(
        setting_matrices=np.concatenate(matrices),
        angles_deg=np.tile(middles, settings.sweeps),
        sweep=np.repeat(np.arange(settings.sweeps), n_images),
        at_ends=at_ends,
    )


def recorded(
    q: np.ndarray, sigma: np.ndarray, beam: Beam, rotation: Rotation
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return how an image of a turning crystal records reflections.

    The distance of a lattice point from the Ewald sphere changes evenly while it crosses, and a
    point diffracts as exp(-distance^2 / 2 sigma^2).

    Args:
        q: (n, 3) lattice points at the middle of the image.
        sigma: (n,) 1/angstrom.
        beam: the incident beam.
        rotation: of the image.

    Returns:
        Mean of the exponential over the image (n,), part of the whole reflection that the image
        records (n,), points (n, 3) where they cross or at the end of the image, and whether the
        centre of the reflection is on the image (n,).
    """
    wide = Rotation(rotation.axis, rotation.angle_deg, abs(rotation.width_deg) + 20.0)
    centre, turned = crossings(q, beam, wide)
    s1 = turned + beam.s0
    rate = np.abs((np.cross(rotation.axis, turned) * s1).sum(axis=1)) / np.linalg.norm(s1, axis=1)
    rate = np.maximum(rate, _SLOWEST)
    half = np.radians(abs(rotation.width_deg)) / 2
    part = ndtr((half - centre) * rate / sigma) - ndtr((-half - centre) * rate / sigma)
    mean = part * np.sqrt(2 * np.pi) * sigma / rate / (2 * half)
    _, points = crossings(q, beam, rotation)
    return np.minimum(mean, 1.0), part, points, np.abs(centre) <= half
