"""The fast indexer of stills beside DIALS: lattices, orientations, spots, CPU seconds; and what it makes of nothing.

.venv/bin/python tests/benchmarks/fast_indexing.py thaumatin [images]  # DIALS_DATA; spots, lattices and time
.venv/bin/python tests/benchmarks/fast_indexing.py cunir               # DIFFUSE_REAL_DATA; spots as DIALS found them
.venv/bin/python tests/benchmarks/fast_indexing.py simulated [spots]   # six lattices, errors of cell and geometry
.venv/bin/python tests/benchmarks/fast_indexing.py control [spots]     # 500 sets of scrambled spots or wrong cells
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from dials.array_family import flex
from dxtbx import flumpy
from dxtbx.model.experiment_list import ExperimentListFactory
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from thaumatin import N_INDEXED, unpack

from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.adapters.models.geometry import geometry_of
from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.algorithms.indexing.integration import disk_radius, sum_reflections
from diffuse_framework.algorithms.indexing.known_cell import KnownCell, known_cell
from diffuse_framework.algorithms.indexing.lattices import IndexingLimits, find_lattices
from diffuse_framework.algorithms.indexing.rays import rays_of
from diffuse_framework.algorithms.indexing.spots import find_spots
from diffuse_framework.algorithms.indexing.stills import StillLimits, index_spots
from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.model.experiment import CrystalHints
from diffuse_framework.model.lattice import Cell, cell_of_matrix
from diffuse_plugins.indexer_dials_ssx import DialsSsxIndexer

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.stills import angle_deg, flat_geometry, random_setting, rays_at, spot_positions

THAUMATIN = (58.0, 58.0, 150.0, 90.0, 90.0, 90.0)
# The groups in which orientations are compared have all the symmetry of the lattice.
LATTICES: dict[str, tuple[Cell, str]] = {
    "P1": ((30.0, 41.0, 52.0, 83.0, 95.0, 102.0), "P1"),
    "C2": ((110.0, 42.0, 63.0, 90.0, 104.0, 90.0), "C2"),
    "P212121": ((45.0, 80.0, 130.0, 90.0, 90.0, 90.0), "P212121"),
    "P43212": ((58.4, 58.4, 152.3, 90.0, 90.0, 90.0), "P43212"),
    "P3": ((66.0, 66.0, 300.0, 90.0, 90.0, 120.0), "P622"),
    "I23": ((158.0, 158.0, 158.0, 90.0, 90.0, 90.0), "I432"),
}
WRONG_DEG = 1.0


def thaumatin(n_images: int = N_INDEXED) -> None:
    """Print spots, lattices and time of the thaumatin stills by ours and by DIALS."""
    known = known_cell(THAUMATIN, symmetry_of("P41212"))
    with tempfile.TemporaryDirectory() as name:
        source = open_source(images_from_files(unpack(Path(name), n_images)))
        geometry = source.geometry(0)
        mask = source.trusted_pixels(0)
        bad = None if mask is None else tuple((~one).view(np.uint8) for one in mask)
        start = time.process_time()
        hints = CrystalHints(THAUMATIN, "P41212")
        strong = [_spots_of_dials(source, number) for number in range(n_images)]
        finding = (time.process_time() - start) / n_images
        start = time.process_time()
        indexer = DialsSsxIndexer(integrate=False)
        dials = {image.source_index: image for image in indexer.index(source, hints, Path(name), SerialEngine()).images}
        seconds = (time.process_time() - start) / n_images
        parts, angles = [], []
        for number in range(n_images):
            counts = source.read(number).counts
            spots, took = _timed(find_spots, counts, geometry.panels, bad)
            found, indexing = _timed(index_spots, spots, geometry, known, StillLimits())
            if not found.lattices:
                print(f"{source.names[number]}: {found.reason}")
                continue
            predicted = found.predictions
            radius = disk_radius(spots)
            _, summing = _timed(sum_reflections, counts, geometry.panels, bad, predicted.panel, predicted.px, radius)
            parts.append((took, indexing, summing))
            angle = np.nan
            if number in dials:
                angle = angle_deg(found.lattices[0].fit.setting_matrix, dials[number].setting_matrix, known)
                angles.append(angle)
            n_dials = len(dials[number].spots) if number in dials else 0
            both = int((cKDTree(spots.px).query(strong[number])[0] < 2).sum()) if len(strong[number]) else 0
            print(
                f"{source.names[number]}: spots {len(spots)} by ours, {len(strong[number])} by DIALS, {both} by both; "
                f"indexed {int(found.lattices[0].explained.sum())} and {n_dials}; {angle:.3f} degrees between them"
            )
    print(f"images indexed {len(parts)}, by DIALS {len(dials)}; angle between them {np.median(angles):.3f} (median)")
    for part, took in zip(("spots", "indexing and prediction", "summation"), np.median(parts[1:], axis=0), strict=True):
        print(f"{part}: {1e3 * took:.0f} ms CPU an image (median)")
    print(
        f"DIALS: spots {1e3 * finding:.0f} ms, spots and indexing without integration {1e3 * seconds:.0f} ms an image"
    )


def _timed(function, *arguments):
    start = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - start


def _spots_of_dials(source, number: int) -> np.ndarray:
    from dxtbx.model import ExperimentList

    from diffuse_framework.adapters.images.experiments import still_for_dials

    parameters = DialsSsxIndexer().find_parameters().fresh()
    experiments = ExperimentList([still_for_dials(source.experiments[number])])
    table = flex.reflection_table.from_observations(experiments, parameters, is_stills=True)
    return flumpy.to_numpy(table["xyzobs.px.value"])[:, :2].copy()


def cunir() -> None:
    """Print the lattices of the CuNiR spots by ours and by DIALS."""
    folder = Path(os.environ["DIFFUSE_REAL_DATA"]) / "ssx_cunir"
    dials = ExperimentListFactory.from_json_file(str(folder / "indexed.expt"), check_format=False)
    indexed = flex.reflection_table.from_file(str(folder / "indexed.refl"))
    strong = flex.reflection_table.from_file(str(folder / "strong_5.refl"))
    geometry = geometry_of(dials[0].beam, dials[0].detector)
    cell = (96.4, 96.4, 96.4, 90.0, 90.0, 90.0)
    known, lattice_symmetry = known_cell(cell, symmetry_of("P213")), known_cell(cell, symmetry_of("P432"))
    for number in range(len(dials)):
        table = strong.select(strong["id"] == number)
        px = flumpy.to_numpy(table["xyzobs.px.value"])[:, :2].copy()
        sigma = np.sqrt(flumpy.to_numpy(table["intensity.sum.variance"]))
        significance = flumpy.to_numpy(table["intensity.sum.value"]) / sigma
        rays = rays_of(geometry, np.zeros(len(px), int), px)
        (lattices, reason), took = _timed(find_lattices, rays, significance, known)
        n_dials = (indexed["id"] == number).count(True)
        if not lattices:
            print(f"{number}: {reason} (DIALS indexes {n_dials})")
            continue
        setting = np.array(dials[number].crystal.get_A()).reshape(3, 3)
        print(
            f"{number}: {len(px)} spots, {int(lattices[0].explained.sum())} indexed, by DIALS {n_dials}; "
            f"{angle_deg(lattices[0].fit.setting_matrix, setting, lattice_symmetry):.3f} degrees between them, "
            f"chance 10^{lattices[0].log10_chance:.0f}, {1e3 * took:.0f} ms"
        )


CASES = {
    "as they are": {},
    "20 spots": {"n": 20},
    "1000 spots": {"n": 1000},
    "cell 1 % off": {"cell": 0.01},
    "cell 3 % off": {"cell": 0.03},
    "beam centre 1 px off": {"shift": 1.0},
    "beam centre 3 px off": {"shift": 3.0},
    "distance 1 % off": {"distance": 1.01},
    "half of the spots false": {"false": 1.0},
    "two lattices": {"lattices": 2},
}


def simulated(n_each: int = 10) -> None:
    """Print the share of images indexed, the share indexed wrongly, and median errors, for each lattice and fault."""
    print(f"{'fault':26}{'lattice':9} indexed  wrong  degrees  cell error")
    total = wrong_total = 0
    for case, faults in CASES.items():
        for group, (cell, of_lattice) in LATTICES.items():
            true = known_cell(cell, symmetry_of(group))
            symmetry = known_cell(cell, symmetry_of(of_lattice))
            angles, errors = [], []
            n_lattices = faults.get("lattices", 1)
            for seed in range(n_each):
                settings, px, given, geometry = _simulated(true, group, seed, faults)
                limits = IndexingLimits(max_lattices=n_lattices)
                lattices, _ = find_lattices(rays_at(geometry, px), np.ones(len(px)), given, limits)
                for lattice in lattices:
                    setting = lattice.fit.setting_matrix
                    angles.append(min(angle_deg(setting, one, symmetry) for one in settings))
                    found = np.array(cell_of_matrix(setting))
                    errors.append(np.abs(found[:3] / np.array(cell[:3]) - 1).max())
            wrong = int((np.array(angles) > WRONG_DEG).sum())
            total, wrong_total = total + n_each * n_lattices, wrong_total + wrong
            middle = (np.median(angles), np.median(errors)) if angles else (np.nan, np.nan)
            share = len(angles) / (n_each * n_lattices)
            print(f"{case:26}{group:9} {share:7.2f} {wrong:6d}  {middle[0]:7.3f}  {middle[1]:10.4f}", flush=True)
    print(f"wrong: {wrong_total} of {total}")


def _simulated(true: KnownCell, group: str, seed: int, faults: dict):
    rng = np.random.default_rng(seed)
    settings = [random_setting(true, 1000 * lattice + seed) for lattice in range(faults.get("lattices", 1))]
    large = flat_geometry(2000, 300.0)
    parts = [spot_positions(setting, true, large, rng, faults.get("n", 150), d_min=1.8)[1] for setting in settings]
    n_false = int(len(parts[0]) * faults.get("false", 0.1))
    px = np.concatenate([*parts, rng.uniform(0, 2000, (n_false, 2))])
    strain = np.tensordot(rng.choice([-1.0, 1.0], len(true.strains)), true.strains, axes=1)
    strain *= faults.get("cell", 0.0) / np.abs(np.linalg.eigvalsh(strain)).max()
    given = known_cell(cell_of_matrix((np.eye(3) + strain) @ true.basis), symmetry_of(group))
    shift = faults.get("shift", 0.0)
    return settings, px, given, flat_geometry(2000, 300.0 * faults.get("distance", 1.0), shift_px=(shift, 0.0))


def control(n: int = 500) -> None:
    """Print how many of sets of spots pass that no lattice of the cell made; none should."""
    geometry = flat_geometry(2000, 300.0)
    lowest, passed = 0.0, 0
    names = list(LATTICES)
    for seed in range(n):
        rng = np.random.default_rng(seed)
        group = names[seed % len(names)]
        cell, _ = LATTICES[group]
        known = known_cell(cell, symmetry_of(group))
        _, px = spot_positions(random_setting(known, seed), known, geometry, rng, int(rng.integers(15, 400)), d_min=1.8)
        kind = seed // len(names) % 3
        if kind == 0:
            away, turn = px - 1000, rng.uniform(0, 2 * np.pi, len(px))
            turned = Rotation.from_rotvec(turn[:, None] * np.array([0, 0, 1.0])).apply(
                np.column_stack([away, 0 * turn])
            )
            px = 1000 + turned[:, :2]
        elif kind == 1:
            px = rng.uniform(0, 2000, px.shape)
        else:
            wrong = np.array(cell)
            wrong[:3] *= 1 + rng.choice([-1, 1]) * rng.uniform(0.12, 0.3)
            if group in ("P1", "C2", "P212121"):
                wrong[:3] *= 1 + rng.uniform(-0.1, 0.1, 3)
            known = known_cell(tuple(wrong), symmetry_of(group))
        lattices, _ = find_lattices(rays_at(geometry, px), np.ones(len(px)), known)
        for lattice in lattices:
            passed += 1
            lowest = min(lowest, lattice.log10_chance)
            print(
                f"passed: {group}, kind {kind}, {len(px)} spots, {int(lattice.explained.sum())} explained, chance "
                f"10^{lattice.log10_chance:.0f}, given {np.round(known.cell, 1)}, of the spots {cell}"
            )
    print(f"{passed} of {n} sets passed")


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["thaumatin"]
    {"thaumatin": thaumatin, "cunir": cunir, "simulated": simulated, "control": control}[what](*map(int, rest))
