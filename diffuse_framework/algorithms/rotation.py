"""A crystal that turns while an image is taken."""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_framework.model.experiment import Image, Rotation
from diffuse_framework.model.geometry import Beam

__all__ = ["crossings", "index_sweep", "misorientation_deg", "n_substeps", "sub_settings", "turn", "unrotated"]

# Newton's steps towards the Ewald sphere; each squares the error, and the first leaves less than 1e-3.
_CYCLES = 4


def turn(axis: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Return rotation matrices (n, 3, 3) by angles (n,) in radians, right-handed about a unit vector (3,).

    Rodrigues' formula.
    """
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angles = np.atleast_1d(angles)[:, None, None]
    return np.eye(3) + np.sin(angles) * cross + (1 - np.cos(angles)) * (cross @ cross)


def sub_settings(setting_matrix: np.ndarray, rotation: Rotation | None, n_steps: int) -> np.ndarray:
    """Return the setting matrices (n_steps, 3, 3) at the middles of equal parts of an image.

    Args:
        setting_matrix: (3, 3) A at the middle of the image.
        rotation: of the image; None gives its one matrix.
        n_steps: number of parts.
    """
    if rotation is None or n_steps == 1:
        return np.asarray(setting_matrix, float)[None]
    offsets = ((np.arange(n_steps) + 0.5) / n_steps - 0.5) * np.radians(rotation.width_deg)
    return turn(rotation.axis, offsets) @ setting_matrix


def index_sweep(setting_matrix: np.ndarray, rotation: Rotation, divisions: tuple[int, ...], d_min: float) -> float:
    """Return the largest change of a voxel index while an image is taken, over all q up to 1/d_min.

    An index is n a . q with the row a of the inverse of A; over an angle it changes by
    n a . (axis x q) = n (a x axis) . q, which is largest for q along a x axis.

    Args:
        setting_matrix: (3, 3) A of the image.
        rotation: of the image.
        divisions: (n_h, n_k, n_l) voxels per reciprocal lattice vector; 1,1,1 for Miller indices.
        d_min: angstrom.
    """
    across = np.linalg.norm(np.cross(np.linalg.inv(setting_matrix), rotation.axis), axis=1)
    return float(np.max(np.array(divisions) * across) / d_min * np.radians(abs(rotation.width_deg)))


def n_substeps(sweep: float, longest: float, most: int) -> int:
    """Return into how many parts to cut an image so that none sweeps further than `longest`.

    Args:
        sweep: what `index_sweep` returns, for the whole image.
        longest: sweep of one part, in voxels.
        most: never cut into more.
    """
    return int(min(max(np.ceil(sweep / longest - 1e-9), 1), most))


def crossings(q: np.ndarray, beam: Beam, rotation: Rotation) -> tuple[np.ndarray, np.ndarray]:
    """Turn lattice points to the Ewald sphere as far as the image goes.

    Args:
        q: (n, 3) at the middle of the image, 1/angstrom.
        beam: the incident beam.
        rotation: of the image.

    Returns:
        Angles (n,) in radians from the middle of the image at which the points cross the sphere, or
        at the image's end that is nearest to it, and the points (n, 3) there.
    """
    half = np.radians(abs(rotation.width_deg)) / 2
    angles, turned = np.empty(len(q)), np.empty((len(q), 3))
    _crossings(
        np.ascontiguousarray(q, float), np.array(rotation.axis, float), np.array(beam.s0, float), half, angles, turned
    )
    return angles, turned


@njit(cache=True, nogil=True, error_model="numpy")
def _crossings(q, axis, s0, half, angles, turned):
    radius = np.sqrt(s0[0] ** 2 + s0[1] ** 2 + s0[2] ** 2)
    for n in range(len(q)):
        x, y, z = q[n, 0], q[n, 1], q[n, 2]
        along = x * axis[0] + y * axis[1] + z * axis[2]
        # Along the axis, across it, and across both.
        ax, ay, az = along * axis[0], along * axis[1], along * axis[2]
        bx, by, bz = x - ax, y - ay, z - az
        cx, cy, cz = axis[1] * z - axis[2] * y, axis[2] * x - axis[0] * z, axis[0] * y - axis[1] * x
        angle = 0.0
        for _ in range(_CYCLES):
            s1x, s1y, s1z = x + s0[0], y + s0[1], z + s0[2]
            length = np.sqrt(s1x * s1x + s1y * s1y + s1z * s1z)
            rate = (
                (axis[1] * z - axis[2] * y) * s1x
                + (axis[2] * x - axis[0] * z) * s1y
                + (axis[0] * y - axis[1] * x) * s1z
            ) / length
            # A point that moves along the sphere never crosses it: leave it where it is.
            if abs(rate) > 1e-9:
                angle = min(max(angle - (length - radius) / rate, -half), half)
            cosine, sine = np.cos(angle), np.sin(angle)
            x, y, z = ax + cosine * bx + sine * cx, ay + cosine * by + sine * cy, az + cosine * bz + sine * cz
        angles[n] = angle
        turned[n, 0], turned[n, 1], turned[n, 2] = x, y, z


def misorientation_deg(first: np.ndarray, second: np.ndarray) -> float:
    """Return the angle between the orientations of two setting matrices (3, 3), in degrees.

    The rotation nearest to ``second inverse(first)`` by its singular values, which leaves out how
    the cells differ.
    """
    left, _, right = np.linalg.svd(second @ np.linalg.inv(first))
    return float(np.degrees(np.arccos(np.clip((np.trace(left @ right) - 1) / 2, -1, 1))))


def unrotated(image: Image) -> np.ndarray:
    """Return the setting matrix (3, 3) of an image with the goniometer turned back to 0."""
    if image.rotation is None:
        return image.setting_matrix
    return turn(image.rotation.axis, np.radians([-image.rotation.angle_deg]))[0] @ image.setting_matrix
