"""Marking pixels: shapes on panels, disks around spots, ellipsoids around reciprocal lattice nodes.

Shapes follow `dials.generate_mask`, so that one parameter text means the same pixels in both.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from diffuse_framework.algorithms.geometry import highest_resolution, project_near, reflections_near_ewald, turned
from diffuse_framework.algorithms.rotation import crossings, index_sweep, n_substeps, sub_settings
from diffuse_framework.model.conventions import BRAGG, DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import Image, Rotation
from diffuse_framework.model.geometry import Geometry

__all__ = [
    "centring_conditions",
    "every_nth",
    "ice_rings",
    "in_border",
    "in_circle",
    "in_polygon",
    "in_rectangle",
    "in_resolution",
    "lattice_possible",
    "near_nodes",
    "outside_intensity",
    "paint_around",
    "paint_panels",
    "predicted_spots",
    "within_range",
]

# hexagonal ice, Ih: the cell that DIALS takes, angstrom
ICE_A, ICE_C = 4.498, 7.338

NEAR = 0.15
"""Distance in Miller indices along each axis from which on a bright pixel belongs to no reflection."""

# Reflection conditions of lattice centrings: (h, k, l) coefficients whose sum must be a
# multiple of the last number. International Tables for Crystallography A, table 2.2.13.1.
_CENTRINGS = {
    "A": ((0, 1, 1, 2),),
    "B": ((1, 0, 1, 2),),
    "C": ((1, 1, 0, 2),),
    "I": ((1, 1, 1, 2),),
    "F": ((1, 1, 0, 2), (1, 0, 1, 2)),
    "R": ((-1, 1, 1, 3),),
}


@njit(cache=True, nogil=True)
def _within_integers(values, low, high, classes):
    for slow in range(values.shape[0]):
        for fast in range(values.shape[1]):
            value = values[slow, fast]
            classes[slow, fast] = 2 if (value >= low) & (value <= high) else 0


@njit(cache=True, nogil=True)
def _within_floats(values, low, high, classes):
    for slow in range(values.shape[0]):
        for fast in range(values.shape[1]):
            value = values[slow, fast]
            # NaN is never >= anything; an infinity may be, where a range has no upper end.
            good = (value >= low) & (value <= high) & (abs(value) < np.inf)
            classes[slow, fast] = 2 if good else 0


def within_range(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the classes (slow, fast) of raw values: untrusted outside [low, high] or not finite.

    Args:
        values: (slow, fast) integers or floating-point numbers, unchanged.
        low, high: both included; may be infinite.
    """
    classes = np.empty(values.shape, np.uint8)
    if values.dtype.kind not in "iu":
        _within_floats(values, float(low), float(high), classes)
        return classes
    kind = np.iinfo(values.dtype)
    # The same integer type on both sides lets the compiler compare many pixels at once.
    if not (low <= kind.max and high >= kind.min and low <= high):
        classes[:] = UNTRUSTED
        return classes
    first = kind.min if low <= kind.min else int(np.ceil(low))
    last = kind.max if high >= kind.max else int(np.floor(high))
    if first > last:
        classes[:] = UNTRUSTED
        return classes
    _within_integers(values, values.dtype.type(first), values.dtype.type(last), classes)
    return classes


def in_circle(shape: tuple[int, int], fast: float, slow: float, radius: float) -> np.ndarray:
    """Return True (slow, fast) where a pixel's number is nearer than `radius` to (fast, slow)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (x - fast) ** 2 + (y - slow) ** 2 < radius**2


def in_rectangle(shape: tuple[int, int], x0: int, x1: int, y0: int, y1: int) -> np.ndarray:
    """Return True (slow, fast) for pixels x0 <= fast < x1 and y0 <= slow < y1."""
    inside = np.zeros(shape, bool)
    inside[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return inside


def in_polygon(shape: tuple[int, int], corners: np.ndarray) -> np.ndarray:
    """Return True (slow, fast) where a pixel's centre lies inside a polygon, by the even-odd rule.

    Args:
        shape: (slow, fast).
        corners: (n, 2) pixel coordinates (fast, slow) in order; the last joins the first.
    """
    corners = np.asarray(corners, float)
    low = np.clip(np.floor(corners.min(axis=0)), 0, (shape[1], shape[0])).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)), 0, (shape[1], shape[0])).astype(int)
    x = np.arange(low[0], high[0])[None, :] + 0.5
    y = np.arange(low[1], high[1])[:, None] + 0.5
    crossings = np.zeros((y.shape[0], x.shape[1]), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        spans = (y0 > y) != (y1 > y)
        crossings ^= spans & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    inside = np.zeros(shape, bool)
    inside[low[1] : high[1], low[0] : high[0]] = crossings
    return inside


def in_border(shape: tuple[int, int], width: int) -> np.ndarray:
    """Return True (slow, fast) for the outermost `width` rows and columns of a panel."""
    inside = np.ones(shape, bool)
    inside[width : shape[0] - width, width : shape[1] - width] = False
    return inside


def in_resolution(q_length: np.ndarray, d_min: float, d_max: float) -> np.ndarray:
    """Return True (slow, fast) where d_min <= 1/|q| <= d_max.

    Args:
        q_length: (slow, fast) |q| in 1/angstrom.
        d_min, d_max: angstrom; 0 and infinity where there is no limit.
    """
    inside = q_length >= 1 / d_max
    return inside & (q_length <= 1 / d_min) if d_min > 0 else inside


def ice_rings(d_min: float, width: float) -> list[tuple[float, float]]:
    """Return resolution ranges (d_min, d_max) in angstrom of the powder rings of hexagonal ice.

    1/d^2 = 4/3 (h^2 + hk + k^2)/a^2 + l^2/c^2, reflections of P 63/m m c (hhl only with even l).

    Args:
        d_min: smallest d of a ring's centre, angstrom.
        width: of each ring in 1/d^2, 1/angstrom^2.
    """
    largest = 1 / d_min**2
    rings = set()
    for h in range(int(ICE_A * np.sqrt(largest)) + 2):
        for k in range(h + 1):
            for l in range(int(ICE_C * np.sqrt(largest)) + 2):
                if (h, k, l) == (0, 0, 0) or (h == k and l % 2):
                    continue
                squared = 4 / 3 * (h * h + h * k + k * k) / ICE_A**2 + l * l / ICE_C**2
                if squared <= largest:
                    rings.add(round(squared, 12))
    return [((squared + width / 2) ** -0.5, max(squared - width / 2, 1e-12) ** -0.5) for squared in sorted(rings)]


@njit(cache=True, nogil=True)
def _paint(classes, centres, radius, disk, pixel_class):
    n_slow, n_fast = classes.shape
    reach = radius * radius
    for n in range(len(centres)):
        fast, slow = centres[n, 0], centres[n, 1]
        if not (np.isfinite(fast) and np.isfinite(slow)):
            continue
        # Pixels whose centres, at half integers, lie within the radius.
        first_slow = max(int(np.ceil(slow - radius - 0.5)), 0)
        last_slow = min(int(np.floor(slow + radius - 0.5)), n_slow - 1)
        for i in range(first_slow, last_slow + 1):
            first_fast = int(np.ceil(fast - radius - 0.5))
            last_fast = int(np.floor(fast + radius - 0.5))
            if disk != 0:
                # Only the ends of a line are compared; all between them is nearer.
                squared = (i + 0.5 - slow) ** 2
                while first_fast <= last_fast and (first_fast + 0.5 - fast) ** 2 + squared > reach:
                    first_fast += 1
                while last_fast >= first_fast and (last_fast + 0.5 - fast) ** 2 + squared > reach:
                    last_fast -= 1
            line = classes[i]
            for j in range(max(first_fast, 0), min(last_fast, n_fast - 1) + 1):
                line[j] = min(line[j], pixel_class)


def paint_around(
    classes: np.ndarray,
    centres_px: np.ndarray,
    radius: float,
    pixel_class: np.uint8 = BRAGG,
    disk: bool = True,
) -> None:
    """Lower the class of pixels around spots, in place.

    Args:
        classes: (slow, fast) uint8; pixels of a smaller class than `pixel_class` keep theirs.
        centres_px: (n, 2) pixel coordinates (fast, slow); spots off the panel reach in.
        radius: in pixels, from the spot to a pixel's centre; half the width of a box.
        pixel_class: of `model.conventions`.
        disk: a disk; otherwise a box.
    """
    centres = np.ascontiguousarray(centres_px, float).reshape(-1, 2)
    _paint(classes, centres, float(radius), int(disk), np.uint8(pixel_class))


def paint_panels(
    shapes: list[tuple[int, int]], panel: np.ndarray, centres_px: np.ndarray, radius: float, disk: bool = True
) -> tuple[np.ndarray, ...]:
    """Return one array of classes per panel: Bragg around the spots, diffuse elsewhere.

    Args:
        shapes: (slow, fast) of each panel.
        panel: (n,) panel of each spot.
        centres_px: (n, 2) pixel coordinates (fast, slow).
        radius, disk: as `paint_around` has them.
    """
    painted = []
    for number, shape in enumerate(shapes):
        classes = np.full(shape, DIFFUSE)
        paint_around(classes, centres_px[panel == number], radius, BRAGG, disk)
        painted.append(classes)
    return tuple(painted)


def predicted_spots(
    setting_matrix: np.ndarray,
    geometry: Geometry,
    d_min: float,
    width: float,
    mosaic_width_deg: float,
    conditions: np.ndarray,
    margin_px: float = 0.0,
    rotation: Rotation | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return where an image may show reflections, observed or not.

    Args:
        setting_matrix: (3, 3) A of the image.
        geometry: beam and panels.
        d_min: resolution limit, angstrom; 0 for that of the detector.
        width: distance from the Ewald sphere that still excites, 1/angstrom.
        mosaic_width_deg: full angular width; adds half of it times |q|.
        conditions: rows of `centring_conditions`.
        margin_px: how far beside a panel a reflection still counts.
        rotation: of the image; a reflection is where it crosses the Ewald sphere, or where it is at
            the end of the image nearest to that.

    Returns:
        Panel numbers (n,) and pixel coordinates (n, 2) (fast, slow); a reflection has a row for every
        panel it is near.
    """
    hkl = reflections_near_ewald(
        setting_matrix,
        geometry.beam,
        max(d_min, highest_resolution(geometry)),
        width,
        mosaic_width_deg,
        rotation,
    )
    hkl = hkl[lattice_possible(hkl, conditions)]
    q = turned(setting_matrix, hkl)
    if rotation is not None:
        _, q = crossings(q, geometry.beam, rotation)
    return project_near(geometry, q + geometry.beam.s0, margin_px)


def centring_conditions(space_group: str) -> np.ndarray:
    """Return the reflection conditions of a lattice centring, (n, 4) integers; none for P.

    A reflection (h, k, l) is possible where ``c[0] h + c[1] k + c[2] l`` is a multiple of
    ``c[3]`` for each row c. Nodes that fail it are not part of the reciprocal lattice.

    Args:
        space_group: Hermann-Mauguin symbol; R is in the hexagonal setting unless it ends in
            ":R", obverse as the International Tables have it.
    """
    symbol = space_group.strip()
    rows = () if symbol.upper().endswith(":R") else _CENTRINGS.get(symbol[:1].upper(), ())
    return np.array(rows, np.int64).reshape(-1, 4)


def lattice_possible(hkl: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """Return True (n,) for reflections (n, 3) that the rows of `centring_conditions` allow."""
    possible = np.ones(len(hkl), bool)
    for row in conditions:
        possible &= (hkl.astype(np.int64) @ row[:3]) % row[3] == 0
    return possible


def near_lattice(q: np.ndarray, image: Image, conditions: np.ndarray, near: float) -> np.ndarray:
    """Return which scattering vectors (n, 3) come near a reciprocal lattice point while an image is taken.

    Args:
        q: in 1/angstrom.
        image: whose crystals they are.
        conditions: rows of `centring_conditions`.
        near: distance in Miller indices along each axis.
    """
    close = np.zeros(len(q), bool)
    if not len(q):
        return close
    if image.other_lattices:
        return np.any([near_lattice(q, lattice, conditions, near) for lattice in image.each_lattice()], axis=0)
    n_steps = 1
    if image.rotation is not None:
        q_max = float(np.linalg.norm(q, axis=1).max())
        n_steps = n_substeps(index_sweep(image.setting_matrix, image.rotation, (1, 1, 1), 1 / q_max), near, 50)
    for setting in sub_settings(image.setting_matrix, image.rotation, n_steps):
        hkl = turned(np.linalg.inv(setting), q)
        nearest = np.rint(hkl)
        here = (np.abs(hkl - nearest) < near).all(axis=1) & nearest.any(axis=1)
        close |= here & lattice_possible(nearest.astype(int), conditions)
    return close


@njit(cache=True)
def _near_nodes(q, inverse, form, q2_max, conditions, classes):
    for slow in range(q.shape[0]):
        for fast in range(q.shape[1]):
            x, y, z = q[slow, fast, 0], q[slow, fast, 1], q[slow, fast, 2]
            h = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2] * z
            k = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2] * z
            l = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2] * z
            hh, kk, ll = np.floor(h + 0.5), np.floor(k + 0.5), np.floor(l + 0.5)
            dh, dk, dl = h - hh, k - kk, l - ll
            distance = (
                form[0, 0] * dh * dh
                + form[1, 1] * dk * dk
                + form[2, 2] * dl * dl
                + 2 * (form[0, 1] * dh * dk + form[0, 2] * dh * dl + form[1, 2] * dk * dl)
            )
            inside = distance <= 1.0 and x * x + y * y + z * z <= q2_max
            if inside:
                for n in range(len(conditions)):
                    c = conditions[n]
                    if (c[0] * int(hh) + c[1] * int(kk) + c[2] * int(ll)) % c[3] != 0:
                        inside = False
            classes[slow, fast] = 1 if inside else 2


def near_nodes(
    q: np.ndarray, setting_matrix: np.ndarray, form: np.ndarray, d_min: float, conditions: np.ndarray
) -> np.ndarray:
    """Return the classes (slow, fast): Bragg within an ellipsoid around each lattice node.

    Args:
        q: (slow, fast, 3) float32 scattering vectors, 1/angstrom.
        setting_matrix: (3, 3) A of the image.
        form: (3, 3) symmetric; a pixel is inside where ``d @ form @ d <= 1`` for the distance
            d in fractional hkl from the nearest integer hkl.
        d_min: nodes are marked up to this resolution, angstrom; 0 for all.
        conditions: rows of `centring_conditions`.
    """
    classes = np.empty(q.shape[:2], np.uint8)
    inverse = np.linalg.inv(setting_matrix)
    q2_max = 1 / d_min**2 if d_min > 0 else np.inf
    _near_nodes(q, inverse, np.ascontiguousarray(form, float), q2_max, conditions, classes)
    return classes


@njit(cache=True)
def _outside_intensity(values, response, seconds, gain, pedestal, low, high, classes):
    for slow in range(values.shape[0]):
        for fast in range(values.shape[1]):
            exposure = response[slow, fast] * seconds
            photons = (values[slow, fast] - pedestal) / gain
            inside = exposure > 0 and photons >= low * exposure and photons <= high * exposure
            classes[slow, fast] = 2 if inside else 0


def outside_intensity(
    values: np.ndarray,
    response: np.ndarray,
    seconds: float,
    gain: float,
    pedestal: float,
    low: float,
    high: float,
) -> np.ndarray:
    """Return the classes (slow, fast): untrusted where a corrected intensity is outside [low, high].

    Args:
        values: (slow, fast) raw values.
        response: (slow, fast) float32, sr.
        seconds: exposure time.
        gain, pedestal: photons = (value - pedestal) / gain.
        low, high: photons per second and steradian; may be infinite.
    """
    classes = np.empty(values.shape, np.uint8)
    # Wide finite limits: 0 x infinity would be NaN.
    largest = np.finfo(np.float64).max / 1e10
    low, high = float(np.clip(low, -largest, largest)), float(np.clip(high, -largest, largest))
    _outside_intensity(values, response, float(seconds), float(gain), float(pedestal), low, high, classes)
    return classes


def every_nth(shape: tuple[int, int], step: int) -> np.ndarray:
    """Return the classes (slow, fast): diffuse for every `step`-th pixel in both directions, from 0."""
    classes = np.full(shape, UNTRUSTED)
    classes[::step, ::step] = DIFFUSE
    return classes
