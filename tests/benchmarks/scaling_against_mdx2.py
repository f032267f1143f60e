"""Scaling and merging beside mdx2 1.0.5, on the same observations.

Draws Poisson counts from a known map and known smooth scales, once for both programs. Prints chi squared of
the merged voxels against the truth, the correlation with it, the bias of merging at few counts, what becomes
of planted outliers, and CPU seconds of scaling and merging, files read and written included.

mdx2 needs an environment of its own (it is not one of our requirements)::

  python3 -m venv --system-site-packages mdx2env
  mdx2env/bin/pip install --no-deps mdx2==1.0.5
  mdx2env/bin/pip install nexusformat simple-parsing loguru papermill "numpy<2" numexpr joblib pandas

  .venv/bin/python tests/benchmarks/scaling_against_mdx2.py --mdx2 mdx2env/bin/python
  .venv/bin/python tests/benchmarks/scaling_against_mdx2.py --mdx2 mdx2env/bin/python --observations 1e7

Without --mdx2 only our side runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffuse_framework.algorithms.merging import poisson_merge
from diffuse_framework.algorithms.scaling.fit import Recipe, scale_smoothly
from diffuse_framework.algorithms.scaling.model import ScalingOptions
from diffuse_framework.algorithms.scaling.per_image import fit_image_scales
from diffuse_framework.io.sums_store import StoredSums, SumsWriter
from diffuse_framework.model.scales import ImageScales, Scales
from diffuse_framework.model.voxels import SumsInMemory
from diffuse_framework.testing.fakes import orthorhombic_grid
from support.sums import KnownSums, known_sums

# What mdx2 does with the observations, in its own environment; its CPU seconds leave out imports.
PEER = """
import json, os, sys, time
import numpy as np
from mdx2.command_line import merge, scale
from mdx2.data import HKLTable
from mdx2.io import loadobj, saveobj
from mdx2.scaling import ScaledData
job = json.load(open(sys.argv[1]))
os.chdir(job["folder"])
data = np.load("observations.npz")
table = HKLTable(*(data[name] for name in "hkl"), ndiv=job["ndiv"],
                 **{name: data[name] for name in
                    ("intensity", "intensity_error", "phi", "s", "ix", "iy", "op")})
saveobj(table, "corrected.nxs", name="hkl_table", append=False)
rejected = []
original = ScaledData.mask_outliers
def counted(self, Im, nsigma):
    before = self.mask.copy()
    n = original(self, Im, nsigma)
    rejected.append(np.flatnonzero(self.mask & ~before))
    return n
ScaledData.mask_outliers = counted
start = time.process_time()
if job["scale"]:
    scale.run_scale(scale.parse_arguments(["corrected.nxs", "--outfile", "scales.nxs", *job["scale"]]))
scaled = time.process_time()
if not job["scale"]:
    from mdx2.scaling import ScalingModel
    model = ScalingModel(np.array([data["phi"].min() - 1, data["phi"].max() + 1]), np.ones(2))
    saveobj(model, "scales.nxs", name="scaling_model", append=False)
arguments = ["corrected.nxs", "--scale", "scales.nxs", "--outfile", "merged.nxs"]
if job["outlier"]:
    arguments += ["--outlier", str(job["outlier"])]
merge.run_merge(merge.parse_arguments(arguments))
merged = loadobj("merged.nxs", "hkl_table")
done = time.process_time()
np.savez("merged.npz", H=merged.H, K=merged.K, L=merged.L,
         intensity=merged.intensity, error=merged.intensity_error,
         rejected=np.concatenate(rejected) if rejected else np.zeros(0, int))
print("CPU", scaled - start, done - scaled)
"""


def main() -> None:
    """Run all comparisons and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mdx2", help="the Python that has mdx2")
    parser.add_argument("--observations", type=float, default=3e5, help="for the timed comparison")
    parser.add_argument("--counts", type=float, default=1.0, help="mean counts of an observation there")
    parser.add_argument("--only", help="bias, outliers, each, scaling or full")
    options = parser.parse_args()
    _warm_up()
    parts = {"bias": _bias, "outliers": _outliers, "each": _each, "scaling": _scaling, "full": _full}
    for name, compare in parts.items():
        if options.only not in (None, name):
            continue
        print(f"\n{name}", flush=True)
        for program, numbers in compare(options).items():
            print(
                f"  {program:8s} " + "  ".join(f"{key} {value:.4g}" for key, value in numbers.items()),
                flush=True,
            )


def _warm_up() -> None:
    """Compile the loops."""
    options = ScalingOptions(scale="smooth", offset=True, absorption=True)
    known = known_sums(options, np.random.default_rng(0), n_images=8, rows_per_image=500)
    scale_smoothly(known.sums, known.data_set, known.order, Recipe(options))
    fit_image_scales(known.sums, 1e-4, 5)


def _bias(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Merge without scaling at 0.1 counts per observation, a multiplicity of 30: mean ratio to the truth."""
    model = ScalingOptions(scale="smooth")
    known = known_sums(model, np.random.default_rng(1), n_images=60, rows_per_image=4000, exposure=0.1, amplitude=0.0)
    unit = ImageScales(np.ones(60), np.zeros(60))
    results = {"ours": _against_truth(known, *_columns(poisson_merge(known.sums, unit)))}
    if options.mdx2:
        results["mdx2"], _ = _peer(options.mdx2, known, [], None)
    return results


def _outliers(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Plant one value ten times too large in every 20th voxel that ten images see, at 100 counts."""
    rng = np.random.default_rng(2)
    known = known_sums(
        ScalingOptions(scale="smooth"),
        rng,
        n_images=10,
        rows_per_image=8000,
        exposure=100.0,
        amplitude=0.0,
        intensity=np.ones(orthorhombic_grid().size),
    )
    table = known.sums.pieces[4]
    bad = np.flatnonzero(table.voxel % 20 == 0)
    counts = table.counts.copy()
    counts[bad] *= 10
    pieces = (*known.sums.pieces[:4], replace(table, counts=counts), *known.sums.pieces[5:])
    planted = replace(known, sums=replace(known.sums, pieces=pieces))
    first_row = sum(len(piece) for piece in pieces[:4])
    wrong = set((first_row + bad).tolist())
    scales = scale_smoothly(planted.sums, known.data_set, known.order, Recipe(ScalingOptions(scale="smooth")))
    offsets = np.cumsum([0, *(len(piece) for piece in pieces)])
    ours = [offsets[k] + np.flatnonzero(~scales.keep(piece)) for k, piece in enumerate(pieces)]
    results = {"ours": _judged(np.concatenate(ours), wrong)}
    if options.mdx2:
        _, rejected = _peer(options.mdx2, planted, ["--scaling.outlier", "5"], 5.0)
        results["mdx2"] = _judged(rejected, wrong)
    return results


def _judged(rejected: np.ndarray, wrong: set[int]) -> dict[str, float]:
    found = set(rejected.tolist())
    return {"planted": len(wrong), "found": len(found & wrong), "good_ones_lost": len(found - wrong)}


def _each(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Scale with one scale per image (the default scaler; control points every degree for mdx2), and merge."""
    model = ScalingOptions(scale="smooth", scale_order=1.0)
    return _timed(options, model, ["--scaling.dphi", "1"], one_each=True)


def _scaling(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Scale with control points every degree, one image a degree, and merge."""
    return _timed(options, ScalingOptions(scale="smooth", scale_order=1.0), ["--scaling.dphi", "1"])


def _full(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Scale with scale, offset and absorption, both programs with equal spacings, and merge."""
    model = ScalingOptions(
        scale="smooth",
        scale_order=5.0,
        offset=True,
        offset_q=0.05,
        offset_order=20.0,
        absorption=True,
        absorption_px=250.0,
        absorption_order=40.0,
    )
    flags = ["--offset.enable", "True", "--absorption.enable", "True", "--scaling.dphi", "5"]
    flags += ["--offset.dphi", "20", "--offset.ns", "11"]
    flags += ["--absorption.dphi", "40", "--absorption.nx", "5", "--absorption.ny", "5"]
    return _timed(options, model, flags)


def _timed(
    options: argparse.Namespace, model: ScalingOptions, flags: list[str], one_each: bool = False
) -> dict[str, dict[str, float]]:
    n_images = 180
    per_image = int(options.observations / n_images)
    # Voxels for a multiplicity of about 20.
    edge = 20.0 * max(1.0, (per_image * n_images / 20 / 8500) ** (1 / 3))
    grid = orthorhombic_grid((edge, 1.25 * edge, 1.5 * edge, 90.0, 90.0, 90.0))
    rng = np.random.default_rng(3)
    known = known_sums(model, rng, n_images=n_images, rows_per_image=per_image, exposure=options.counts, grid=grid)
    with tempfile.TemporaryDirectory() as folder:
        writer = SumsWriter(Path(folder) / "sums.h5", grid, known.sums.image_names)
        for table in known.sums.tables():
            writer.append(table)
        stored = writer.finish()
        start = time.process_time()
        sums = StoredSums(stored.path)
        if one_each:
            scales: Scales = fit_image_scales(sums, 1e-4, 200)
        else:
            scales = scale_smoothly(sums, known.data_set, known.order, Recipe(model))
        scaled = time.process_time()
        merged = poisson_merge(stored, scales)
        done = time.process_time()
    ours = _against_truth(known, *_columns(merged)) | {
        "observations": per_image * n_images,
        "multiplicity": float(merged.multiplicity.mean()),
        "cpu_scale_s": scaled - start,
        "cpu_merge_s": done - scaled,
    }
    results = {"ours": ours}
    if options.mdx2:
        results["mdx2"], _ = _peer(options.mdx2, known, flags, None)
    best = poisson_merge(known.sums, known.scales)
    return results | {"truth": _against_truth(known, *_columns(best))}


def _columns(merged) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return merged.voxel, merged.intensity, np.sqrt(merged.variance)


def _against_truth(known: KnownSums, voxel: np.ndarray, intensity: np.ndarray, sigma: np.ndarray) -> dict[str, float]:
    """Compare merged voxels with the truth, on the scale on which they agree best."""
    use = np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0)
    truth, intensity, sigma = known.intensity[voxel[use]], intensity[use], sigma[use]
    ratio = float(intensity.sum() / truth.sum())
    return {
        "voxels": int(use.sum()),
        "mean_ratio": ratio,
        "correlation": float(np.corrcoef(intensity, truth)[0, 1]) if np.ptp(truth) > 0 else float("nan"),
        "chi_squared": float(np.mean(((intensity / ratio - truth) / (sigma / ratio)) ** 2)),
    }


def _peer(
    python: str, known: KnownSums, scale_arguments: list[str], outlier: float | None
) -> tuple[dict[str, float], np.ndarray]:
    """Run mdx2 on the observations; return the comparison, and the rows it rejected."""
    grid = known.sums.grid
    with tempfile.TemporaryDirectory() as folder:
        _write_observations(Path(folder) / "observations.npz", known.sums)
        job = {"folder": folder, "ndiv": grid.divisions, "scale": scale_arguments, "outlier": outlier}
        (Path(folder) / "job.json").write_text(json.dumps(job))
        (Path(folder) / "peer.py").write_text(PEER)
        where = Path(f"/usr/lib/cctbx/python{sys.version_info[0]}.{sys.version_info[1]}")
        environment = {**os.environ, **({"LIBTBX_BUILD": str(where)} if where.is_dir() else {})}
        run = subprocess.run(
            [python, f"{folder}/peer.py", f"{folder}/job.json"],
            capture_output=True,
            text=True,
            env=environment,
        )
        if run.returncode:
            sys.exit(f"mdx2 failed:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}")
        times = next(line for line in run.stdout.splitlines() if line.startswith("CPU")).split()[1:]
        merged = dict(np.load(f"{folder}/merged.npz"))
    index = np.stack([merged[axis] for axis in "HKL"], axis=1).astype(np.int64) - np.array(grid.index_min)
    voxel = np.ravel_multi_index(tuple(index.T), grid.dimensions)
    numbers = _against_truth(known, voxel, merged["intensity"], merged["error"])
    return numbers | {"cpu_scale_s": float(times[0]), "cpu_merge_s": float(times[1])}, merged["rejected"]


def _write_observations(path: Path, sums: SumsInMemory) -> None:
    """Write the columns of mdx2's table; errors are those of its `correct`: from the counts themselves."""
    columns: dict[str, list[np.ndarray]] = {}
    for table in sums.tables():
        hkl, exposure = sums.grid.hkl_of(table.voxel), table.exposure.astype(float)
        row = {
            "h": hkl[:, 0],
            "k": hkl[:, 1],
            "l": hkl[:, 2],
            "intensity": table.counts / exposure,
            "intensity_error": np.sqrt(table.counts) / exposure,
            "phi": table.image.astype(float),
            "s": np.linalg.norm(sums.grid.q_of(table.voxel), axis=1),
            "ix": table.fast.astype(float),
            "iy": table.slow.astype(float),
            "op": table.operator.astype(int),
        }
        for name, values in row.items():
            columns.setdefault(name, []).append(values)
    np.savez(path, **{name: np.concatenate(parts) for name, parts in columns.items()})


if __name__ == "__main__":
    main()
