"""How right and how fast the comparison of maps is: seeds of known maps, and one large map.

    .venv/bin/python tests/benchmarks/comparing.py [--seeds 20] [--voxels 10000000]

1. Two Poisson maps of one crystal, one flipped in its indexing and on another scale: how often the flip is found, the
   scale, chi squared, and how far the correlation in each shell lies from its ceiling, over the width of its interval.
2. The same with 5 or 30 % of the intensity from another structure, and with many counts.
3. Maps of 4 x 4 x 4 divisions on 2 x 2 x 2 without nodes, from maps and from sums: chi squared against the known truth.
4. CPU time and memory of one comparison.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from tabulate import tabulate

from diffuse_framework.algorithms.comparison.alignment import operator_of, reindexed
from diffuse_framework.algorithms.comparison.compare import compare_maps
from diffuse_framework.algorithms.comparison.regridding import Rebinning, rebinned, rebinned_sums
from diffuse_framework.model.scales import ImageScales
from diffuse_framework.model.voxel_map import VoxelMap
from support.maps import all_voxels, binned, drawn_map, true_map


def pairs(seeds: int, other_share: float, exposure: float) -> list[str]:
    grid, voxel = all_voxels(divisions=(3, 3, 3), d_min=2.2)
    found, scales, squares, off, outside, above = 0, [], [], [], 0, 0
    for seed in range(seeds):
        truth, other = true_map(grid, voxel, seed), true_map(grid, voxel, seed + 1000)
        a = drawn_map(grid, voxel, truth, seed + 1, exposure=exposure)
        mixed = (1 - other_share) * truth + other_share * other
        b = reindexed(
            drawn_map(grid, voxel, mixed, seed + 5000, exposure=0.5 * exposure, scale=3.0), operator_of("k,h,-l")
        )
        compared = compare_maps(a, b, seed=seed)
        found += compared.aligned.indexing.changed
        scales.append(3 * compared.aligned.scaling.factor[0])
        squares.append(compared.overall["all"].chi_squared)
        for one in compared.shells["all"]:
            low, high = one.intervals["below_ceiling"]
            off.append((one.ceiling - one.cc_halved) / (0.25 * (high - low)))
            outside += not low <= 0 <= high
        above += compared.overall["all"].at_ceiling is False
    return [
        f"{100 * other_share:.0f} %",
        f"{30 * exposure:.0f}",
        f"{found} of {seeds}",
        f"{np.mean(scales):.4f} ± {np.std(scales):.4f}",
        f"{np.mean(squares):.3f} ± {np.std(squares):.3f}",
        f"{np.mean(off):+.2f} ± {np.std(off):.2f}",
        f"{outside} of {len(off)}",
        f"{above} of {seeds}",
    ]


def rebinning(seeds: int) -> list[list[str]]:
    grid, voxel = all_voxels("P4", (16.0, 16.0, 20.0, 90.0, 90.0, 90.0), (4, 4, 4), 2.0)
    truth = true_map(grid, voxel, 3, 4.0)
    how, flat = Rebinning((2, 2, 2), "exclude"), ImageScales(np.ones(2), np.zeros(2))
    exact = rebinned(VoxelMap(grid, voxel, truth), how)
    of_map, of_sums = [], []
    for seed in range(seeds):
        new = rebinned(drawn_map(grid, voxel, truth, seed), how)
        of_map.append(np.mean(((new.intensity - exact.intensity) / new.sigma) ** 2))
        rng = np.random.default_rng(seed)
        image, both = np.repeat([0, 1], len(voxel)), np.tile(truth, 2)
        exposure = rng.uniform(0.2, 2.0, len(both))
        hkl = np.tile(grid.hkl_of(voxel), (2, 1))
        merged, expected = (
            rebinned_sums(binned(hkl, counts, exposure, image, grid), flat, how)
            for counts in (rng.poisson(both * exposure).astype(float), both * exposure)
        )
        of_sums.append(np.mean((merged.intensity - expected.intensity) ** 2 / merged.variance))
    return [
        [name, f"{np.mean(x):.3f}", f"{np.min(x):.3f}", f"{np.max(x):.3f}"]
        for name, x in (("map", of_map), ("sums", of_sums))
    ]


def large(n_voxels: int) -> list[str]:
    edge = (n_voxels * 8 * 2.0**3 / (27 * 4 / 3 * np.pi)) ** (1 / 3)
    grid, voxel = all_voxels("P4", (edge, edge, edge, 90.0, 90.0, 90.0), (3, 3, 3), 2.0)
    truth = true_map(grid, voxel)
    a, b = (drawn_map(grid, voxel, truth, seed, halves=False) for seed in (1, 2))
    small, few = all_voxels()
    compare_maps(drawn_map(small, few, true_map(small, few), 1), drawn_map(small, few, true_map(small, few), 2))
    before, wall = time.process_time(), time.perf_counter()
    compare_maps(a, b)
    used, took = time.process_time() - before, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [f"{len(voxel)}", f"{used:.2f}", f"{took:.2f}", f"{peak:.2f}"]


# Share of another structure in B, and exposure of A.
_CASES = ((0.0, 0.2), (0.05, 0.2), (0.3, 0.2), (0.0, 10.0), (0.05, 10.0))


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--voxels", type=int, default=10_000_000)
    options = parser.parse_args()
    head = [
        "other structure",
        "counts a voxel",
        "flip found",
        "scale / true",
        "chi squared",
        "below ceiling, in sigma",
        "shells outside",
    ]
    head.append("maps told apart")
    print(tabulate([pairs(options.seeds, *share) for share in _CASES], head, "simple"))
    print()
    print(tabulate(rebinning(options.seeds), ["rebinned from", "chi squared", "lowest", "highest"], "simple"))
    if options.voxels:
        print()
        head = ["voxels compared", "CPU seconds", "seconds", "peak of the process (GiB)"]
        print(tabulate([large(options.voxels)], head, "simple"))


if __name__ == "__main__":
    main()
