"""From pixels to the laboratory, to scattering vectors, and back from Miller indices to pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numba import njit

from diffuse_framework.algorithms.symmetry import q_squared
from diffuse_framework.model.experiment import Rotation
from diffuse_framework.model.geometry import Beam, Geometry, Panel
from diffuse_framework.model.grid import VoxelGrid

__all__ = [
    "cross",
    "highest_resolution",
    "lengths",
    "mm_to_px",
    "of_pixels",
    "panel_normal",
    "pixel_positions",
    "pixel_q",
    "project",
    "project_near",
    "px_to_mm",
    "q_at_px",
    "reflections_near_ewald",
    "scattering_vectors",
    "turned",
    "voxel_q",
]


def cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cross product (3,) of two vectors; that of numpy takes ten times as long for one pair."""
    (a, b, c), (x, y, z) = one, other
    return np.array([b * z - c * y, c * x - a * z, a * y - b * x])


def panel_normal(panel: Panel) -> np.ndarray:
    """Return the (3,) unit normal of a panel that points away from the sample."""
    normal = cross(panel.fast_axis, panel.slow_axis)
    return normal if panel.origin_mm @ normal > 0 else -normal


def _absorption_depth(panel: Panel, mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean depth (...) along the ray at which a photon is absorbed, and the ray's direction (..., 3)."""
    direction = panel.origin_mm + mm[..., :1] * panel.fast_axis + mm[..., 1:] * panel.slow_axis
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    path = panel.thickness_mm / (direction @ panel_normal(panel))
    mu = panel.mu_per_mm
    return 1 / mu - (path + 1 / mu) * np.exp(-mu * path), direction


def px_to_mm(panel: Panel, px: np.ndarray) -> np.ndarray:
    """Return positions on the panel (..., 2) in mm of pixel coordinates (..., 2), both (fast, slow).

    With parallax the shift is that of dxtbx's `ParallaxCorrectedPxMmStrategy`, so that
    positions equal those DIALS refines.
    """
    mm = np.asarray(px, float) * np.array(panel.pixel_size_mm)
    if not panel.parallax:
        return mm
    depth, direction = _absorption_depth(panel, mm)
    return mm - depth[..., None] * np.stack([direction @ panel.fast_axis, direction @ panel.slow_axis], -1)


def mm_to_px(panel: Panel, mm: np.ndarray) -> np.ndarray:
    """Return pixel coordinates (..., 2) of positions on the panel (..., 2) in mm, both (fast, slow)."""
    mm = np.asarray(mm, float)
    if panel.parallax:
        seen = np.empty(mm.shape)
        axes = np.array([panel.origin_mm, panel.fast_axis, panel.slow_axis, panel_normal(panel)], float)
        _seen_at(mm.reshape(-1, 2), axes, panel.thickness_mm, panel.mu_per_mm, seen.reshape(-1, 2))
        mm = seen
    return mm / np.array(panel.pixel_size_mm)


@njit(cache=True, nogil=True, error_model="numpy")
def _seen_at(mm, axes, thickness, mu, out):
    """Move positions on the panel (n, 2) along their rays to the mean depth of absorption."""
    origin, fast, slow, normal = axes
    for n in range(len(mm)):
        x = origin[0] + mm[n, 0] * fast[0] + mm[n, 1] * slow[0]
        y = origin[1] + mm[n, 0] * fast[1] + mm[n, 1] * slow[1]
        z = origin[2] + mm[n, 0] * fast[2] + mm[n, 1] * slow[2]
        length = np.sqrt(x * x + y * y + z * z)
        x, y, z = x / length, y / length, z / length
        path = thickness / (x * normal[0] + y * normal[1] + z * normal[2])
        depth = 1 / mu - (path + 1 / mu) * np.exp(-mu * path)
        out[n, 0] = mm[n, 0] + depth * (x * fast[0] + y * fast[1] + z * fast[2])
        out[n, 1] = mm[n, 1] + depth * (x * slow[0] + y * slow[1] + z * slow[2])


# Pixels whose positions fit a processor's second cache.
_BLOCK = 1 << 15


@njit(cache=True, nogil=True, error_model="numpy")
def _pixel_positions(first_slow, pixel_size, origin, fast_axis, slow_axis, normal, thickness, mu, parallax, out):
    """Fill `out` (slow, fast, 3): what `px_to_mm` does, without its large intermediate arrays."""
    # Components along the panel's own axes: three numbers a pixel, not three vectors.
    origin_fast = origin[0] * fast_axis[0] + origin[1] * fast_axis[1] + origin[2] * fast_axis[2]
    origin_slow = origin[0] * slow_axis[0] + origin[1] * slow_axis[1] + origin[2] * slow_axis[2]
    distance = origin[0] * normal[0] + origin[1] * normal[1] + origin[2] * normal[2]
    straight = thickness / distance
    for slow in range(out.shape[0]):
        for fast in range(out.shape[1]):
            x = (fast + 0.5) * pixel_size[0]
            y = (first_slow + slow + 0.5) * pixel_size[1]
            if parallax:
                along_fast, along_slow = origin_fast + x, origin_slow + y
                length = np.sqrt(along_fast * along_fast + along_slow * along_slow + distance * distance)
                path = straight * length
                depth = (1 / mu - (path + 1 / mu) * np.exp(-mu * path)) / length
                x -= depth * along_fast
                y -= depth * along_slow
            for axis in range(3):
                out[slow, fast, axis] = origin[axis] + x * fast_axis[axis] + y * slow_axis[axis]


def pixel_positions(panel: Panel, lines: slice = slice(None)) -> np.ndarray:
    """Return the laboratory positions of all pixel centres, or of those on some lines, (slow, fast, 3) in mm."""
    if panel.pixel_mm is not None:
        mm = panel.pixel_mm[lines]
        return panel.origin_mm + mm[..., :1] * panel.fast_axis + mm[..., 1:] * panel.slow_axis
    first, end, _ = lines.indices(panel.shape[0])
    positions = np.empty((end - first, panel.shape[1], 3))
    _pixel_positions(
        first,
        panel.pixel_size_mm,
        panel.origin_mm,
        panel.fast_axis,
        panel.slow_axis,
        panel_normal(panel),
        panel.thickness_mm,
        panel.mu_per_mm,
        panel.parallax,
        positions,
    )
    return positions


def _blocks(panel: Panel) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield lines of a panel and the positions of their pixels: those of all do not fit a cache."""
    n_slow, n_fast = panel.shape
    step = max(_BLOCK // n_fast, 1)
    for first in range(0, n_slow, step):
        lines = slice(first, min(first + step, n_slow))
        yield lines, pixel_positions(panel, lines)


def of_pixels(panel: Panel, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return (slow, fast) of what `function` makes (...) of laboratory positions (..., 3) in mm, for all pixels.

    It is called with some lines at a time, which takes less time and memory than with all.
    """
    values = np.empty(panel.shape)
    for lines, positions in _blocks(panel):
        values[lines] = function(positions)
    return values


@njit(cache=True, nogil=True, error_model="numpy")
def _scattering_vectors(positions, wavelength, s0, q):
    for n in range(len(positions)):
        x, y, z = positions[n, 0], positions[n, 1], positions[n, 2]
        scale = 1 / (np.sqrt(x * x + y * y + z * z) * wavelength)
        q[n, 0] = x * scale - s0[0]
        q[n, 1] = y * scale - s0[1]
        q[n, 2] = z * scale - s0[2]


def scattering_vectors(positions_mm: np.ndarray, beam: Beam) -> np.ndarray:
    """Return q = s1 - s0 in 1/angstrom for laboratory positions (..., 3) in mm."""
    positions = np.ascontiguousarray(positions_mm, float)
    q = np.empty_like(positions)
    _scattering_vectors(positions.reshape(-1, 3), beam.wavelength, np.asarray(beam.s0, float), q.reshape(-1, 3))
    return q


def pixel_q(panel: Panel, beam: Beam) -> np.ndarray:
    """Return q of all pixel centres, (slow, fast, 3) float32 in 1/angstrom, with components that lie apart in memory.

    Loops then do many pixels at a time.
    """
    planes = np.empty((3, *panel.shape), np.float32)
    for lines, positions in _blocks(panel):
        planes[:, lines] = np.moveaxis(scattering_vectors(positions, beam), -1, 0)
    return np.moveaxis(planes, 0, -1)


@njit(cache=True, nogil=True)
def _turned(matrix, vectors, out):
    for n in range(len(vectors)):
        x, y, z = vectors[n, 0], vectors[n, 1], vectors[n, 2]
        for axis in range(3):
            out[n, axis] = matrix[axis, 0] * x + matrix[axis, 1] * y + matrix[axis, 2] * z


@njit(cache=True, nogil=True)
def _lengths(vectors, out):
    for n in range(len(vectors)):
        out[n] = np.sqrt(vectors[n, 0] ** 2 + vectors[n, 1] ** 2 + vectors[n, 2] ** 2)


def lengths(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths (n,) of vectors (n, 3)."""
    out = np.empty(len(vectors))
    _lengths(vectors, out)
    return out


def turned(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return matrix (3, 3) times each of the vectors (n, 3).

    For some thousand vectors ``vectors @ matrix.T`` wakes all threads of a BLAS, which then wait for
    work at the cost of the cores that other workers need.
    """
    out = np.empty((len(vectors), 3))
    _turned(np.ascontiguousarray(matrix, float), np.ascontiguousarray(vectors), out)
    return out


def q_at_px(geometry: Geometry, panel: np.ndarray, px: np.ndarray) -> np.ndarray:
    """Return scattering vectors (n, 3) at pixel coordinates (n, 2) of panel numbers (n,)."""
    q = np.empty((len(px), 3))
    for number, model in enumerate(geometry.panels):
        here = panel == number
        if not here.any():
            continue
        mm = px_to_mm(model, px[here])
        lab = model.origin_mm + mm[:, :1] * model.fast_axis + mm[:, 1:] * model.slow_axis
        q[here] = scattering_vectors(lab, geometry.beam)
    return q


def _on_panel(panel: Panel, s1: np.ndarray, margin_px: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return which rays (n, 3) hit a panel or pass it by no more than a margin, and where.

    Returns:
        Numbers of the rays (m,) and pixel coordinates (m, 2).
    """
    axes = np.stack([panel.fast_axis, panel.slow_axis, panel.origin_mm], -1)
    x, y, w = turned(np.linalg.inv(axes), s1).T
    size_mm = np.array(panel.pixel_size_mm) * panel.shape[::-1]
    # Parallax moves a spot by less than the thickness of the sensor, times the slope of the ray.
    reach = margin_px * max(panel.pixel_size_mm) + 10 * panel.thickness_mm
    near = (w > 1e-9) & (x >= -reach * w) & (x <= (size_mm[0] + reach) * w)
    near &= (y >= -reach * w) & (y <= (size_mm[1] + reach) * w)
    rays = np.flatnonzero(near)
    px = mm_to_px(panel, np.stack([x[rays], y[rays]], -1) / w[rays, None])
    limits = np.array(panel.shape[::-1]) + margin_px
    hit = ((px >= -margin_px) & (px < limits)).all(axis=1)
    return rays[hit], px[hit]


def project(geometry: Geometry, s1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays hit the detector.

    Args:
        geometry: beam and panels.
        s1: (n, 3) directions of scattering, any length.

    Returns:
        Panel numbers (n,), -1 where a ray misses all panels, and pixel coordinates (n, 2).
    """
    panel = np.full(len(s1), -1, np.int32)
    px = np.full((len(s1), 2), np.nan)
    for number, model in enumerate(geometry.panels):
        rays, here = _on_panel(model, s1)
        new = panel[rays] < 0
        panel[rays[new]], px[rays[new]] = number, here[new]
    return panel, px


def project_near(geometry: Geometry, s1: np.ndarray, margin_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays hit each panel or pass it by no more than a margin; see `rays_near`."""
    return rays_near(geometry, s1, margin_px)[:2]


def rays_near(geometry: Geometry, s1: np.ndarray, margin_px: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where rays hit each panel or pass it by no more than a margin.

    A peak in the gap between panels reaches into both, and into a panel's edge from outside.

    Args:
        geometry: beam and panels.
        s1: (n, 3) directions of scattering, any length.
        margin_px: in pixels.

    Returns:
        Panel numbers (m,), pixel coordinates (m, 2) and numbers of the rays (m,); a ray has a row for every
        panel it is near.
    """
    panels, positions, rays = [np.zeros(0, np.int32)], [np.zeros((0, 2))], [np.zeros(0, np.int64)]
    for number, model in enumerate(geometry.panels):
        here, px = _on_panel(model, s1, margin_px)
        panels.append(np.full(len(px), number, np.int32))
        positions.append(px)
        rays.append(here)
    return np.concatenate(panels), np.concatenate(positions), np.concatenate(rays)


def highest_resolution(geometry: Geometry) -> float:
    """Return the smallest d in angstrom that any pixel of the detector reaches."""
    largest = 0.0
    for panel in geometry.panels:
        slow, fast = panel.shape
        corners = np.array([[0, 0], [fast, 0], [0, slow], [fast, slow]], float)
        mm = px_to_mm(panel, corners)
        lab = panel.origin_mm + mm[:, :1] * panel.fast_axis + mm[:, 1:] * panel.slow_axis
        largest = max(largest, np.linalg.norm(scattering_vectors(lab, geometry.beam), axis=-1).max())
    return 1.0 / largest


@njit(cache=True, nogil=True)
def _near_ewald(a, s0, q_max, width_fixed, width_per_q, axis, half_turn, h_max, k_max, l_max, out):
    """List hkl whose distance from the Ewald sphere is below the width; return how many there are.

    For each (h, k) the two l at which the lattice line meets the sphere are the roots of a
    quadratic; only l near them, and near the line's closest approach, are tried. With a turn of
    `half_turn` radians either way about `axis` a point comes nearer by the rate at which it
    crosses the sphere, (axis x q) . s1 / |s1|, times the angle; the curvature of its path and of the
    sphere add no more than |q| (1 + |q| wavelength) / 2 times the angle squared.
    """
    radius = np.sqrt(s0[0] ** 2 + s0[1] ** 2 + s0[2] ** 2)
    cc = a[0, 2] ** 2 + a[1, 2] ** 2 + a[2, 2] ** 2
    curvature = half_turn * half_turn / 2
    widest = width_fixed + (width_per_q + half_turn + curvature * (1 + q_max / radius)) * q_max
    found = 0
    for h in range(-h_max, h_max + 1):
        for k in range(-k_max, k_max + 1):
            x = a[0, 0] * h + a[0, 1] * k + s0[0]
            y = a[1, 0] * h + a[1, 1] * k + s0[1]
            z = a[2, 0] * h + a[2, 1] * k + s0[2]
            half_b = x * a[0, 2] + y * a[1, 2] + z * a[2, 2]
            middle = -half_b / cc
            nearest = x * x + y * y + z * z - half_b * half_b / cc
            outer = (radius + widest) ** 2 - nearest
            if outer < 0:
                continue
            inner = (radius - widest) ** 2 - nearest
            far = np.sqrt(outer / cc)
            near = np.sqrt(inner / cc) if inner > 0 else 0.0
            last = -l_max - 1
            for side in range(2):
                low = middle - far if side == 0 else middle + near
                high = middle - near if side == 0 else middle + far
                start = max(int(np.ceil(low)), last + 1, -l_max)
                stop = min(int(np.floor(high)), l_max)
                for l in range(start, stop + 1):
                    last = l
                    if h == 0 and k == 0 and l == 0:
                        continue
                    sx, sy, sz = x + l * a[0, 2], y + l * a[1, 2], z + l * a[2, 2]
                    q = np.sqrt((sx - s0[0]) ** 2 + (sy - s0[1]) ** 2 + (sz - s0[2]) ** 2)
                    if q > q_max:
                        continue
                    s1 = np.sqrt(sx * sx + sy * sy + sz * sz)
                    reach = width_fixed + width_per_q * q
                    if half_turn > 0:
                        # (axis x q) . s1 = (axis x s1) . (-s0), with q = s1 - s0
                        rate = -(
                            (axis[1] * sz - axis[2] * sy) * s0[0]
                            + (axis[2] * sx - axis[0] * sz) * s0[1]
                            + (axis[0] * sy - axis[1] * sx) * s0[2]
                        )
                        reach += half_turn * abs(rate) / s1 + curvature * q * (1 + q / radius)
                    if abs(s1 - radius) <= reach:
                        if found < len(out):
                            out[found, 0], out[found, 1], out[found, 2] = h, k, l
                        found += 1
    return found


def reflections_near_ewald(
    setting_matrix: np.ndarray,
    beam: Beam,
    d_min: float,
    width: float,
    mosaic_width_deg: float,
    rotation: Rotation | None = None,
) -> np.ndarray:
    """Return all integer hkl that an image may excite, (n, 3) int32, absences and weak ones included.

    Args:
        setting_matrix: (3, 3) A of the image.
        beam: the incident beam.
        d_min: resolution limit in angstrom.
        width: distance from the Ewald sphere in 1/angstrom that still excites, for the
            size of mosaic blocks and the beam's bandwidth and divergence.
        mosaic_width_deg: full angular width; adds half of it times |q|.
        rotation: of the image; every reflection that crosses the sphere meanwhile is excited.
    """
    axis = np.zeros(3) if rotation is None else np.ascontiguousarray(rotation.axis, float)
    half_turn = 0.0 if rotation is None else np.radians(abs(rotation.width_deg)) / 2
    q_max = min(1 / d_min, 2 / beam.wavelength)
    cell_lengths = np.linalg.norm(np.linalg.inv(setting_matrix), axis=1)
    h_max, k_max, l_max = (int(np.floor(length * q_max)) for length in cell_lengths)
    out = np.empty((1 << 14, 3), np.int32)
    while True:
        found = _near_ewald(
            np.ascontiguousarray(setting_matrix, float),
            np.ascontiguousarray(beam.s0, float),
            q_max,
            width,
            np.radians(mosaic_width_deg) / 2,
            axis,
            half_turn,
            h_max,
            k_max,
            l_max,
            out,
        )
        if found <= len(out):
            return out[:found]
        out = np.empty((found, 3), np.int32)


def voxel_q(grid: VoxelGrid, voxel: np.ndarray) -> np.ndarray:
    """Return |q| (n,) of the centres of voxels, by number, in 1/angstrom; without their vectors in memory."""
    basis = grid.reciprocal_basis / np.array(grid.divisions, float)
    q = np.empty(len(voxel))
    index_min, dimensions = np.array(grid.index_min, np.int64), np.array(grid.dimensions, np.int64)
    _voxel_q(np.asarray(voxel), index_min, dimensions, basis.T @ basis, q)
    return q


@njit(cache=True, nogil=True)
def _voxel_q(voxel, index_min, dimensions, metric, q):
    for n in range(len(voxel)):
        row = voxel[n] // dimensions[2]
        i = row // dimensions[1]
        j = row - i * dimensions[1] + index_min[1]
        k = voxel[n] - row * dimensions[2] + index_min[2]
        i += index_min[0]
        q[n] = np.sqrt(q_squared(i, j, k, metric))
