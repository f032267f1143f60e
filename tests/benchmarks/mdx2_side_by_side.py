"""The same simulated sweep through diffuse_framework and mdx2: CPU seconds, peak memory, and the maps.

    python tests/benchmarks/mdx2_side_by_side.py [--detector 6M --images 12] [--mdx2 mdx2env/bin]

mdx2 (PyPI 1.0.5) is installed into an environment of its own over the system's DIALS, unless --mdx2 says where
its programs are. Both start from the true geometry, use one process, one thread and the same grid; each masks
Bragg peaks in its own way, and both end with a map: ours with files that hold it as table and as box, mdx2's
with a box of one octant. Maps are compared on the voxels both have, with the truth and with each other.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from mdx2_environment import libtbx_build, programs
from tabulate import tabulate

from diffuse_framework.algorithms.symmetry import fold
from diffuse_framework.io.grid_file import grid_from_numbers
from diffuse_framework.simulate.compare import compare_map
from diffuse_framework.simulate.truth import load

DIVISIONS = (3, 3, 3)


def run(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Run a program in a folder; return its CPU seconds and peak memory in MiB, children included.

    Raises:
        SystemExit: it failed.
    """
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        log = os.open("output.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execvpe(command[0], command, environment)
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed, see {folder / 'output.log'}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def our_map(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return voxel indices (n, 3), in units of voxels, and intensities of our map."""
    with np.load(folder / "voxel_data_relative.npz") as file:
        hkl = np.stack([file[f"{axis}_center"] for axis in "HKL"], -1)
        return np.rint(hkl * DIVISIONS).astype(int), file["I_merged_relative"]


def mdx2_map(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the same of mdx2's merged table."""
    import h5py

    with h5py.File(path) as file:
        table = file["entry/hkl_table"]
        hkl = np.stack([table[axis][()] for axis in "hkl"], -1).astype(float)
        ndiv = np.ravel(table["ndiv"][()]) if "ndiv" in table else np.array(DIVISIONS)
        if np.abs(hkl).max() < 200 and (hkl % 1).any():
            hkl = hkl * ndiv
        intensity = table["intensity"][()]
    kept = np.isfinite(intensity)
    return np.rint(hkl[kept]).astype(int), intensity[kept]


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mdx2", type=Path, help="folder of mdx2's programs")
    parser.add_argument("--libtbx-build", default=libtbx_build())
    parser.add_argument("--folder", type=Path, help="where files are kept; nowhere by default")
    parser.add_argument("--detector", default="300K", choices=("100K", "300K", "1M", "2M", "6M"))
    # With 20 mdx2 takes the rings of PILATUS 6M images for peaks and masks all but 0.01 % of the pixels.
    parser.add_argument("--threshold", type=float, default=20, help="of mdx2.find_peaks, counts")
    parser.add_argument("--images", type=int, default=60)
    # mdx2 takes an image to be at the middle of its rotation: 1 does so too.
    parser.add_argument("--steps", type=int, default=20, help="most parts of an image's rotation, ours")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--counts", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (options.folder or Path(name)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        # A run in a folder of results would go on from them.
        for results in ("before", "ours", "mdx2"):
            shutil.rmtree(folder / results, ignore_errors=True)
        compare_programs(options, folder)


def compare_programs(options: argparse.Namespace, folder: Path) -> None:
    """Run both programs in `folder` and print what they cost and found."""
    ours, theirs = Path(sys.executable).parent, options.mdx2 or programs()
    environment = os.environ | {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")}
    foreign = environment | ({"LIBTBX_BUILD": options.libtbx_build} if options.libtbx_build else {})

    simulated = folder / "sim"
    if not (simulated / "truth.h5").exists():
        run(
            [
                str(ours / "diffuse.simulate"),
                f"images={options.images}",
                f"rotation.width={options.width}",
                f"counts_per_pixel={options.counts}",
                f"detector.model={options.detector}",
                "scale_spread=0",
                f"output.directory={simulated}",
            ],
            folder,
            environment,
        )
    truth_expt, truth_refl = str(simulated / "truth.expt"), str(simulated / "truth.refl")

    # Once before, on an image: numba compiles for the first run after an installation only.
    process = [
        str(ours / "diffuse.process"),
        truth_expt,
        truth_refl,
        "mp.method=serial",
        "grid.hkl.divisions=3,3,3",
        f"accumulator.sums.max_steps={options.steps}",
    ]
    run([*process, "output.directory=before"], folder, environment)
    costs = [("diffuse_framework", "diffuse.process", *run([*process, "output.directory=ours"], folder, environment))]
    loading = run([str(ours / "diffuse.process"), "--help"], folder, environment)[0]
    chain = (
        ("import_geometry", [truth_expt]),
        ("import_data", [truth_expt, "--nproc", "1"]),
        ("find_peaks", ["geometry.nxs", "data.nxs", "--count_threshold", f"{options.threshold:g}"]),
        ("mask_peaks", ["geometry.nxs", "data.nxs", "peaks.nxs"]),
        ("integrate", ["geometry.nxs", "data.nxs", "--mask", "mask.nxs", "--subdivide", "3", "3", "3"]),
        ("correct", ["geometry.nxs", "integrated.nxs"]),
        ("scale", ["corrected.nxs"]),
        ("merge", ["corrected.nxs", "--scale", "scales.nxs"]),
        ("map", ["geometry.nxs", "merged.nxs", "--limits", "0", "20", "0", "20", "0", "40"]),
    )
    if theirs is not None:
        work = folder / "mdx2"
        work.mkdir(exist_ok=True)
        for name, arguments in chain:
            program = str(Path(theirs).absolute() / f"mdx2.{name}")
            costs.append(("mdx2", name, *run([program, *arguments], work, foreign)))
    print(tabulate(costs, ("program", "step", "CPU s", "peak MiB"), "simple", floatfmt=".1f"))
    if theirs is None:
        return
    own, own_peak = costs[0][2:]
    other, other_peak = sum(cost[2] for cost in costs[1:]), max(cost[3] for cost in costs[1:])
    label = f"{options.detector}_{options.images}_images"
    print(f"cpu_of_mdx2_over_ours_{label} {other / own:.1f} times (limit 10 times; {other:.1f} s over {own:.1f} s)")
    print(
        f"cpu_of_mdx2_over_ours_less_loading_{label} {other / max(own - loading, 1e-3):.1f} times "
        f"({loading:.1f} s of ours are Python, numba and DIALS being loaded)"
    )
    print(
        f"peak_memory_of_mdx2_over_ours_{label} {other_peak / own_peak:.2f} times "
        f"({other_peak:.0f} MiB over {own_peak:.0f} MiB)"
    )

    truth = load(simulated / "truth.h5")
    compare(folder, truth)


def compare(folder: Path, truth) -> None:
    """Print how far both maps are from the truth and from each other."""
    import json

    grid = grid_from_numbers(json.loads((folder / "ours/global_voxel_grid_definition.json").read_text()))
    maps = {}
    for name, (index, intensity) in (
        ("diffuse_framework", our_map(folder / "ours")),
        ("mdx2", mdx2_map(folder / "mdx2/merged.nxs")),
    ):
        folded, _ = fold(index, grid.symmetry, DIVISIONS)
        maps[name] = dict(zip(map(tuple, folded.tolist()), intensity.tolist(), strict=True))
    shared = sorted(set.intersection(*(set(found) for found in maps.values())))
    hkl = np.array(shared) / DIVISIONS
    d = 1 / np.maximum(np.linalg.norm(hkl @ grid.reciprocal_basis.T, axis=1), 1e-9)
    kept = d > grid.d_min
    hkl, shared = hkl[kept], [index for index, keep in zip(shared, kept, strict=True) if keep]
    values = {name: np.array([found[index] for index in shared]) for name, found in maps.items()}
    # At integer indices the two differ in what they mask.
    away = (np.array(shared) % DIVISIONS != 0).any(axis=1)
    rows = []
    for name, intensity in values.items():
        for what, chosen in (
            ("all shared", np.ones(len(hkl), bool)),
            ("1 % extremes left out", _tame(intensity)),
            ("away from integer hkl", away),
        ):
            found = compare_map(truth, hkl[chosen], intensity[chosen], np.ones(chosen.sum()))
            rows.append((name, what, len(maps[name]), chosen.sum(), found.correlation, found.anisotropic_correlation))
    print(tabulate(rows, ("map", "voxels", "has", "compared", "CC truth", "anisotropic"), "simple", floatfmt=".4f"))
    both = _tame(values["mdx2"]) & _tame(values["diffuse_framework"])
    print(
        f"correlation_of_the_maps {np.corrcoef(*(v[both] for v in values.values()))[0, 1]:.4f} "
        f"(1 % extremes left out; {np.corrcoef(*values.values())[0, 1]:.4f} with them)"
    )


def _tame(values: np.ndarray) -> np.ndarray:
    low, high = np.quantile(values, [0.005, 0.995])
    return (values >= low) & (values <= high)


if __name__ == "__main__":
    main()
