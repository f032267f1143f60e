"""Which geometry the real images of staphylococcal nuclease prefer: detector tilted or not, polarisation.

    DIFFUSE_REAL_DATA=... .venv/bin/python tests/benchmarks/snase_geometry.py

Needs `snase/` with ten images and `refined_experiments.json` under DIFFUSE_REAL_DATA. The refined detector
is tilted by 2.8 degrees. The untilted one is square to the beam; its distance, its beam centre and its angle in
the plane, and orientation and cell of the crystal, are fitted again to the bright pixels, so that it is as good
as an untilted one can be. Both go through `diffuse.process`, and the sums say how well two parts of the data
agree without the mean of each resolution shell: mates by the mirror of 4/m, which lie left and right on the
detector; mates by its four-fold axis, at other heights on it, where two arms of the map cross; and images of even
and odd number. The tilt is about the horizontal, which the first can hardly see. The last row of each is the mean
intensity of the upper half of the detector over that of the lower half: 1 for what is isotropic.
"""

from __future__ import annotations

import bz2
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from dxtbx.model.experiment_list import ExperimentListFactory
from iotbx.phil import parse
from scipy.optimize import least_squares
from tabulate import tabulate

from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.adapters.images.sequences import orientations
from diffuse_framework.adapters.indexing.given import given_sweeps
from diffuse_framework.algorithms.binning import shell_numbers, sum_by
from diffuse_framework.algorithms.geometry import project, q_at_px
from diffuse_framework.algorithms.rotation import sub_settings, turn
from diffuse_framework.algorithms.validation.bright_pixels import NEAR, Rings, bright_pixels
from diffuse_framework.command_line.process import run
from diffuse_framework.config.scope import build_scope
from diffuse_framework.host.loader import load_registry
from diffuse_framework.io.sums_store import StoredSums
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.voxels import SumsTable

SHELLS_D = (6.0, 4.0, 3.0, 2.5, 2.0, 1.8)
TOLD = ["geometry.scan.oscillation=-0.5,1", "geometry.detector.panel.trusted_range=250,60000"]
# Parts of the rotation of an image, and voxels of a shell below which it has no correlation.
N_STEPS, FEWEST = 9, 200
# Row of pixels in the middle of the detector.
MIDDLE = 512


@dataclass(frozen=True, eq=False)
class Bright:
    """Bright pixels of all images and, where the refined geometry knows it, the reflection each belongs to."""

    px: np.ndarray
    image: np.ndarray
    hkl: np.ndarray


def unpacked(folder: Path) -> tuple[list[str], Path]:
    """Return the images, unpacked into `folder`, and the file of the refined geometry."""
    home = Path(os.environ["DIFFUSE_REAL_DATA"]) / "snase"
    images = []
    for path in sorted(home.glob("*.img.bz2")):
        images.append(folder / path.stem)
        images[-1].write_bytes(bz2.decompress(path.read_bytes()))
    return [str(path) for path in images], home / "refined_experiments.json"


def opened(images: list[str], models: Path):
    """Return the source, and matrices and rotations of all images."""
    parameters = build_scope(load_registry()).fetch(parse("\n".join(TOLD))).extract()
    source = open_source(images_from_files(images), (), models, parameters.geometry)
    (sweep,), _ = given_sweeps(source, models)
    return source, *orientations(sweep.experiment)


def find_bright(source, settings: np.ndarray, rotations: list) -> Bright:
    """Return the bright pixels of all images, indexed with the refined geometry."""
    px, image, hkl = [], [], []
    for number, rotation in enumerate(rotations):
        geometry = source.geometry(number)
        q, _ = bright_pixels(source.read(number), Rings.of(geometry))
        _, here = project(geometry, q + geometry.beam.s0)
        px.append(here)
        image.append(np.full(len(q), number))
        hkl.append(_indexed(q, settings[number], rotation))
    return Bright(np.concatenate(px), np.concatenate(image), np.concatenate(hkl))


def _indexed(q: np.ndarray, setting: np.ndarray, rotation) -> np.ndarray:
    """Indices (n, 3) of the lattice points that vectors come near to during an image; 0 where to none."""
    best, found = np.full(len(q), NEAR), np.zeros((len(q), 3), int)
    for part in sub_settings(setting, rotation, N_STEPS):
        exact = q @ np.linalg.inv(part).T
        off = np.abs(exact - np.rint(exact)).max(axis=1)
        closer = off < best
        best[closer], found[closer] = off[closer], np.rint(exact[closer]).astype(int)
    return found


def untilted(geometry: Geometry, parameters: np.ndarray) -> Geometry:
    """Return the geometry with a detector across the beam, at (distance, x, y) in mm, turned in its plane."""
    distance, x, y, angle = parameters
    (panel,) = geometry.panels
    fast = np.array([np.cos(angle), np.sin(angle), 0.0])
    slow = np.array([np.sin(angle), -np.cos(angle), 0.0])
    square = replace(panel, origin_mm=np.array([0, 0, -distance]) - x * fast - y * slow, fast_axis=fast, slow_axis=slow)
    return replace(geometry, panels=(square,))


def changed(setting: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Return A turned by a rotation vector (3, radians) and with a* = b* and c* scaled."""
    angle = np.linalg.norm(parameters[:3])
    rotation = turn(parameters[:3] / angle, angle)[0] if angle > 0 else np.eye(3)
    return rotation @ setting @ np.diag([parameters[3], parameters[3], parameters[4]])


def fit_untilted(geometry: Geometry, bright: Bright, at_zero: np.ndarray, rotations: list) -> np.ndarray:
    """Return distance, x, y, angle, rotation vector and scales of the cell that fit an untilted detector best."""
    known = bright.hkl.any(axis=1)
    px, hkl = bright.px[known], bright.hkl[known]
    angles = np.radians([rotation.angle_deg for rotation in rotations])[bright.image[known]]
    axis, half = rotations[0].axis, np.radians(rotations[0].width_deg) / 2
    turns = turn(axis, angles)
    (panel,) = geometry.panels
    normal = np.cross(panel.fast_axis, panel.slow_axis)
    distance = abs(panel.origin_mm @ normal)

    def residuals(parameters: np.ndarray) -> np.ndarray:
        q = q_at_px(untilted(geometry, parameters[:4]), np.zeros(len(px), int), px)
        g = np.einsum("nab,nb->na", turns, hkl @ changed(at_zero, parameters[4:]).T)
        across = np.cross(axis, g)
        reach = np.linalg.norm(across, axis=1)
        along = ((q - g) * across).sum(axis=1) / reach
        # Somewhere within the image's rotation is right.
        along = np.sign(along) * np.maximum(np.abs(along) - half * reach, 0)
        return np.concatenate([(q - g) @ axis, np.linalg.norm(q, axis=1) - np.linalg.norm(g, axis=1), along])

    start = np.array([distance, -panel.origin_mm[0], panel.origin_mm[1], 0, 0, 0, 0, 1, 1], float)
    scale = np.array([1, 1, 1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01])
    return least_squares(residuals, start, x_scale=scale, loss="soft_l1", f_scale=0.002).x


def near_lattice(geometry: Geometry, bright: Bright, settings: np.ndarray, rotations: list) -> int:
    """Number of bright pixels that are near a lattice point at some angle of their image."""
    q = q_at_px(geometry, np.zeros(len(bright.px), int), bright.px)
    return sum(
        int(_indexed(q[bright.image == number], settings[number], rotation).any(axis=1).sum())
        for number, rotation in enumerate(rotations)
    )


def halves(path: Path, second: Callable[[SumsTable], np.ndarray]) -> tuple[list[str], float]:
    """Correlation of two halves of the rows of sums in shells, and the rms of their relative difference.

    Both without the mean of each of 100 shells.
    """
    sums = StoredSums(path)
    counts, exposure = np.zeros((2, sums.grid.size)), np.zeros((2, sums.grid.size))
    for table in sums.tables():
        in_second = second(table)
        for half in (0, 1):
            rows = in_second == bool(half)
            counts[half] += sum_by(table.voxel[rows], table.counts[rows], sums.grid.size)
            exposure[half] += sum_by(table.voxel[rows], table.exposure[rows], sums.grid.size)
    voxel = np.flatnonzero((exposure > 0).all(axis=0))
    q = np.linalg.norm(sums.grid.q_of(voxel), axis=1)
    intensity = counts[:, voxel] / exposure[:, voxel]
    shell, _ = shell_numbers(q, 100)
    n = np.maximum(np.bincount(shell, minlength=100), 1)
    means = [(sum_by(shell, values, 100) / n)[shell] for values in intensity]
    rest = [values - mean for values, mean in zip(intensity, means, strict=True)]
    found = []
    for low, high in zip(SHELLS_D[:-1], SHELLS_D[1:], strict=True):
        chosen = (1 / q <= low) & (1 / q > high)
        enough = np.count_nonzero(chosen) >= FEWEST
        found.append(f"{np.corrcoef(rest[0][chosen], rest[1][chosen])[0, 1]:.2f}" if enough else "-")
    chosen = (1 / q <= 3.0) & (1 / q > 2.0)
    relative = np.abs(rest[0] - rest[1])[chosen] / intensity.mean(axis=0)[chosen]
    return found, float(np.median(relative))


def top_over_bottom(path: Path) -> list[str]:
    """Mean intensity of the upper half of the detector over that of the lower, in shells."""
    sums = StoredSums(path)
    counts, exposure = np.zeros((2, sums.grid.size)), np.zeros((2, sums.grid.size))
    for table in sums.tables():
        for half in (0, 1):
            rows = (table.slow > MIDDLE) == bool(half)
            counts[half] += sum_by(table.voxel[rows], table.counts[rows], sums.grid.size)
            exposure[half] += sum_by(table.voxel[rows], table.exposure[rows], sums.grid.size)
    d = 1 / np.maximum(np.linalg.norm(sums.grid.q_of(np.arange(sums.grid.size)), axis=1), 1e-9)
    found = []
    for low, high in zip(SHELLS_D[:-1], SHELLS_D[1:], strict=True):
        chosen = (d <= low) & (d > high)
        top, bottom = counts[:, chosen].sum(axis=1) / exposure[:, chosen].sum(axis=1)
        found.append(f"{top / bottom:.3f}")
    return found


def main() -> None:
    """Fit, process and print."""
    if "DIFFUSE_REAL_DATA" not in os.environ:
        sys.exit("set DIFFUSE_REAL_DATA to the folder that holds snase/")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, models = unpacked(folder)
        source, settings, rotations = opened(images, models)
        bright = find_bright(source, settings, rotations)
        geometry = source.geometry(0)
        reference = ExperimentListFactory.from_json_file(str(models), check_format=False)
        crystal = reference.crystals()[0]
        at_zero = np.array(crystal.get_A()).reshape(3, 3)
        best = fit_untilted(geometry, bright, at_zero, rotations)
        square = untilted(geometry, best[:4])
        new_zero = changed(at_zero, best[4:])
        turned = np.stack([turn(r.axis, np.radians([r.angle_deg]))[0] @ new_zero for r in rotations])
        print(
            f"untilted: distance {best[0]:.2f} mm, beam at {best[1]:.2f}, {best[2]:.2f} mm, turned by "
            f"{np.degrees(best[3]):.2f} degrees, cell scaled by {1 / best[7]:.4f}, {1 / best[8]:.4f}"
        )
        for what, model, matrices in (("tilted", geometry, settings), ("untilted", square, turned)):
            n = near_lattice(model, bright, matrices, rotations)
            print(f"{what}: {n} of {len(bright.px)} bright pixels near reciprocal lattice points")

        for panel in (panel for detector in reference.detectors() for panel in detector):
            panel.set_frame(
                *(
                    tuple(v)
                    for v in (square.panels[0].fast_axis, square.panels[0].slow_axis, square.panels[0].origin_mm)
                )
            )
        crystal.set_A(tuple(new_zero.ravel()))
        reference.as_file(str(folder / "untilted.expt"))

        rows = []
        for what, file, fraction in (
            ("tilted, 0.93", models, 0.93),
            ("untilted, 0.93", folder / "untilted.expt", 0.93),
            ("tilted, 0.999", models, 0.999),
        ):
            out = folder / what.replace(", ", "_")
            with open(folder / "log", "w") as log, redirect_stdout(log):
                run(
                    [
                        *images,
                        *TOLD,
                        f"input.reference_geometry={file}",
                        f"indexer.given.crystals={file}",
                        f"geometry.beam.polarization_fraction={fraction}",
                        "grid.hkl.divisions=5,5,5",
                        "grid.hkl.d_min=1.8",
                        "validator.sweeps.min_bright=0",
                        "mp.method=serial",
                        "output.masks=none",
                        "scaler.per_image.max_cycles=1",
                        f"output.directory={out}",
                    ]
                )
            operators = StoredSums(out / "sums.h5").grid.symmetry.operators
            # What an operator does to l, and whether it takes h to k.
            mirrored, crossed = operators[:, 2, 2] < 0, operators[:, 0, 1] != 0
            for pairs, second in (
                ("mates by the mirror", lambda table, which=mirrored: which[table.operator]),
                ("mates by the axis", lambda table, which=crossed: which[table.operator]),
                ("even and odd images", lambda table: table.image % 2 == 1),
            ):
                by_shell, relative = halves(out / "sums.h5", second)
                rows.append((what, pairs, *by_shell, f"{relative:.2%}"))
            rows.append((what, "top / bottom", *top_over_bottom(out / "sums.h5"), ""))
        shells = [f"{low:g}-{high:g} A" for low, high in zip(SHELLS_D[:-1], SHELLS_D[1:], strict=True)]
        header = ("geometry, polarisation", "halves", *shells, "|difference|")
        print(tabulate(rows, header, "simple", disable_numparse=True))


if __name__ == "__main__":
    main()
