"""How near the defaults come to a perfect reduction, on images that no code of ours made.

    .venv/bin/python tests/benchmarks/fidelity.py [--sets tetragonal_stills ...] [--images 40] [--seed 0]

The images are those of `tests/support/stranger.py`, read from mini-CBF files; orientations are the true ones.
Three reductions of the same pixels are held against the truth: a perfect one of this script's own (true masks, true
scales), the defaults, and the defaults with bad pixels and beam stop given. Correlations with the true
intensity of each voxel: all, weighted by pixels, and of the part that differs within a shell of resolution
(anisotropic), on and off the nodes of the lattice. Chi squared is that of the map against what its own pixels would
give by the true scales, without noise and without Bragg peaks; beside it that against the pixels of the perfect
reduction, which lie elsewhere in their voxels ("other pixels").
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tabulate import tabulate

from diffuse_framework.adapters.images.open import images_from_files, open_source
from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.model.experiment import Experiment, Image, Rotation
from diffuse_framework.model.source import ImageSource
from diffuse_framework.pipeline.chunk import pixel_table
from support.runs import run_known
from support.stranger import MONOCLINIC, TETRAGONAL, TRICLINIC, Conditions, Crystal, Stranger

SETS: dict[str, tuple[Crystal, Conditions]] = {
    "tetragonal_stills": (TETRAGONAL, Conditions()),
    "tetragonal_rotation": (TETRAGONAL, Conditions(width_deg=1.0, bragg=20000.0)),
    "monoclinic_stills": (MONOCLINIC, Conditions(spot_px=0.6, mosaic_deg=0.08)),
    "monoclinic_rotation": (MONOCLINIC, Conditions(width_deg=1.0, spot_px=1.2, bragg=20000.0)),
    "sharp_spots": (TETRAGONAL, Conditions(spot_px=0.35, mosaic_deg=0.03, lorentz_share=0.03)),
    "broad_spots": (TETRAGONAL, Conditions(spot_px=2.0, mosaic_deg=0.3)),
    "fine_slices": (TETRAGONAL, Conditions(width_deg=0.1, n_images=120, photons=1.5, bragg=20000.0)),
    "wide_slices": (MONOCLINIC, Conditions(width_deg=2.0, photons=30.0, bragg=20000.0)),
    "dim_triclinic": (TRICLINIC, Conditions(photons=0.5, bragg=1000.0)),
}
USUAL = ("tetragonal_stills", "tetragonal_rotation", "monoclinic_stills", "monoclinic_rotation")
DIVISIONS = 3
N_PARTS = 4


@dataclass(frozen=True, eq=False)
class Reduced:
    """A map: voxels by their canonical number, intensity, variance, photons and pixels of each."""

    voxel: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    counts: np.ndarray
    pixels: np.ndarray


class Folding:
    """Voxels of a crystal, named by the smallest of their equivalents."""

    def __init__(self, crystal: Crystal) -> None:
        self._operators, self._reach = crystal.operators, 400

    def number(self, index: np.ndarray) -> np.ndarray:
        """Return a number (n,) for integer voxel indices (n, 3)."""
        size = 2 * self._reach + 1
        factors = np.array([size * size, size, 1])
        return np.min([(index @ op.T + self._reach) @ factors for op in self._operators], axis=0)

    def index(self, number: np.ndarray) -> np.ndarray:
        """Return integer voxel indices (n, 3) of numbers (n,)."""
        size = 2 * self._reach + 1
        return np.stack([number // size**2, number // size % size, number % size], -1) - self._reach


def true_mask(run: Stranger, image: int) -> np.ndarray:
    """Return which pixels (slow, fast) are usable, and not part of a peak."""
    smooth, bragg = run.expected(image)
    return run.usable & (bragg < 0.02 * smooth)


def perfect(run: Stranger, folding: Folding, noise: bool, mask: Callable[[Stranger, int], np.ndarray]) -> Reduced:
    """Return the map that a mask and true scales give; without `noise` from the expected counts of no Bragg peak."""
    numbers, counts, exposures, shares, squares = [], [], [], [], []
    for image in range(run.conditions.n_images):
        smooth, _ = run.expected(image)
        use = mask(run, image)
        photons = (run.photons(image) if noise else smooth)[use]
        exposure = (run.response * run.scales[image])[use]
        parts = 1 if run.conditions.width_deg == 0 else N_PARTS
        before, held = np.zeros((2, len(photons)), np.int64)
        for part in (np.arange(parts) + 0.5) / parts:
            hkl = run.q[use] @ np.linalg.inv(run.setting(image, part)).T
            numbers.append(folding.number(np.rint(hkl * DIVISIONS).astype(np.int64)))
            # What a pixel's photons add to the variance: the square of all that it gives a voxel.
            held = np.where((numbers[-1] == before) & (held > 0), held + 2, 1)
            before = numbers[-1]
            squares.append(held / parts**2)
            counts.append(photons / parts)
            exposures.append(exposure / parts)
            shares.append(np.full(len(photons), 1 / parts))
    voxel, inverse = np.unique(np.concatenate(numbers), return_inverse=True)
    n, e, m, s = (np.bincount(inverse, np.concatenate(one)) for one in (counts, exposures, shares, squares))
    return Reduced(voxel, n / e, s / m * (n + 1) / e**2, n, m)


def true_intensity(run: Stranger, folding: Folding, voxel: np.ndarray) -> np.ndarray:
    """Return the mean true intensity over each voxel (n,), from 27 points."""
    index = folding.index(voxel)
    offsets = (np.stack(np.meshgrid(*(np.arange(3),) * 3, indexing="ij"), -1).reshape(-1, 3) - 1) / 3
    return np.mean([run.intensity((index + offset) / DIVISIONS) for offset in offsets], axis=0)


def correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """Return Pearson's correlation with weights."""
    a, b = (x - np.average(x, weights=weights) for x in (a, b))
    return float((weights * a * b).sum() / np.sqrt((weights * a * a).sum() * (weights * b * b).sum()))


def without_shells(values: np.ndarray, shell: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return values less the mean of their shell."""
    mean = np.bincount(shell, weights * values) / np.maximum(np.bincount(shell, weights), 1e-300)
    return values - mean[shell]


def deviations(found: Reduced, expected: Reduced) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the squared deviations of common voxels (n,) in units of variance, expected counts, and which they are."""
    _, here, there = np.intersect1d(found.voxel, expected.voxel, return_indices=True)
    pixels = found.pixels[here]
    scale = found.intensity[here] @ pixels / (expected.intensity[there] @ pixels)
    deviation = (found.intensity[here] / scale - expected.intensity[there]) ** 2 * scale**2 / found.variance[here]
    counts = expected.intensity[there] * found.counts[here] / np.maximum(found.intensity[here] / scale, 1e-300)
    return deviation, counts, here


def judge(run: Stranger, folding: Folding, found: Reduced, expected: Reduced, perfect: Reduced) -> dict[str, float]:
    """Return correlations with the truth, and chi squared against `expected` and against `perfect`."""
    true = true_intensity(run, folding, found.voxel)
    index = folding.index(found.voxel)
    q = np.linalg.norm(index / DIVISIONS @ run.crystal.reciprocal.T, axis=1)
    shell = (q / q.max() * 49).astype(int)
    flat, pixels = np.ones(len(true)), found.pixels
    rest, true_rest = (without_shells(x, shell, flat) for x in (found.intensity, true))
    weighted = [without_shells(x, shell, pixels) for x in (found.intensity, true)]
    node = (index % DIVISIONS == 0).all(axis=1)
    deviation, counts, here = deviations(found, expected)
    edges = np.array([0, 3, 10, 30, 100, 300, 1000, 3000, np.inf])
    by_counts = [deviation[(counts >= a) & (counts < b)] for a, b in zip(edges, edges[1:], strict=False)]
    by_q = [deviation[shell[here] // 10 == n] for n in range(5)]
    return {
        "voxels": len(true),
        "CC": correlation(found.intensity, true, flat),
        "weighted": correlation(found.intensity, true, pixels),
        "anisotropic": correlation(rest, true_rest, flat),
        "an. weighted": correlation(*weighted, pixels),
        "on": correlation(weighted[0][node], weighted[1][node], pixels[node]) if node.sum() > 9 else np.nan,
        "off": correlation(weighted[0][~node], weighted[1][~node], pixels[~node]),
        "chi2": float(deviation.mean()),
        "other pixels": float(deviations(found, perfect)[0].mean()),
        ">5 sigma": int((deviation > 25).sum()),
        "chi2 by counts": " ".join(f"{d.mean():.2f}" if len(d) > 20 else "-" for d in by_counts),
        "by q": " ".join(f"{d.mean():.2f}" if len(d) > 20 else "-" for d in by_q),
    }


class Given:
    """A source that says which pixels are good."""

    def __init__(self, source: ImageSource, usable: np.ndarray) -> None:
        self._source, self._usable = source, usable

    def __getattr__(self, name: str):
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def trusted_pixels(self, index: int) -> tuple[np.ndarray, ...]:
        """Return what is true."""
        return (self._usable,)


def experiment_of(run: Stranger, source: ImageSource) -> Experiment:
    """Return the true orientations, mosaic spread unknown."""
    c = run.conditions
    images = []
    for number, name in enumerate(source.names):
        rotation = None
        if c.width_deg:
            rotation = Rotation(np.array([1.0, 0, 0]), run.start_deg + (number + 0.5) * c.width_deg, c.width_deg)
        images.append(
            Image(name, number, 0, 1.0, run.setting(number), rotation=rotation, crystal=0 if c.width_deg else None)
        )
    return Experiment((source.geometry(0),), symmetry_of(run.crystal.space_group), tuple(images))


def masks_of(outcome, source: ImageSource) -> Callable[[Stranger, int], np.ndarray]:
    """Return what tells the diffuse pixels (slow, fast) of each image, as the run had them."""
    geometry = outcome.experiment.geometries[0]
    pixels = pixel_table(geometry, ())
    static = [m.static_mask(geometry, pixels) for m in outcome.maskers]
    good = np.min([m.panels[0] for m in static if m is not None] or [np.full(pixels.q[0].shape[:2], 2)], axis=0)
    given = source.trusted_pixels(0)

    def mask(run: Stranger, number: int) -> np.ndarray:
        image, frame = outcome.experiment.images[number], source.read(number)
        masks = [m.image_mask(frame, image, geometry, pixels) for m in outcome.maskers]
        use = np.min([good, *(m.panels[0] for m in masks if m is not None)], axis=0) == 2
        return use if given is None else use & given[0]

    return mask


def shares(run: Stranger, outcome, source: ImageSource) -> str:
    """Say what the maskers did: pixels taken, hot ones left, good ones lost to the static mask."""
    experiment = outcome.experiment
    geometry = experiment.geometries[0]
    pixels = pixel_table(geometry, ())
    static = [m.static_mask(geometry, pixels) for m in outcome.maskers]
    trusted = np.min([m.panels[0] for m in static if m is not None] or [np.full(run.gap.shape, 2)], axis=0) > 0
    given = source.trusted_pixels(0)
    if given is not None:
        trusted &= given[0]
    dark = (run.transmitted < 0.9) & ~run.gap
    good = run.usable & (run.transmitted > 0.999)
    bragg = peaks = leak = 0.0
    numbers = range(0, len(experiment.images), max(len(experiment.images) // 5, 1))
    for number in numbers:
        image = experiment.images[number]
        frame = source.read(number)
        masks = [m.image_mask(frame, image, geometry, pixels) for m in outcome.maskers]
        mask = np.min([m.panels[0] for m in masks if m is not None], axis=0)
        smooth, true_bragg = run.expected(number)
        seen = run.usable & trusted
        bragg += (mask[seen] < 2).mean() / len(numbers)
        peaks += (true_bragg[seen] > 0.02 * smooth[seen]).mean() / len(numbers)
        left = seen & (mask == 2)
        leak += true_bragg[left].sum() / smooth[left].sum() / len(numbers)
    missed = [
        f"{counts:.0f}{'' if on == 1 else f' on {on:.0%}'}"
        for (slow, fast), counts, on in zip(run.hot, run.hot_counts, run.hot_on, strict=True)
        if trusted[slow, fast]
    ]
    return (
        f"  masked as Bragg {bragg:.1%} (true peaks above 2 % of the diffuse {peaks:.1%}), Bragg photons left "
        f"{leak:.2%} of the diffuse; hot pixels left of {len(run.hot)}: {', '.join(missed) or 'none'}; shadow left "
        f"{(dark & trusted).sum()} of {dark.sum()}; good pixels lost {(good & ~trusted).sum() / good.sum():.3%}"
    )


def main() -> None:
    """Print a table per data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=USUAL, help=f"of {', '.join(SETS)}")
    parser.add_argument("--images", type=int, default=0, help="per set; 0 for its own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--masker", action="append", default=[], help="further parameters to try, a row each")
    parser.add_argument("--given", action="store_true", help="also with bad pixels and beam stop given")
    parser.add_argument("--log", action="store_true", help="print what the program logs")
    options = parser.parse_args()
    if options.log:
        logging.basicConfig(level=logging.INFO, format="    %(message)s")
    for name in options.sets:
        crystal, conditions = SETS[name]
        conditions = replace(conditions, seed=options.seed, n_images=options.images or conditions.n_images)
        run, folding = Stranger(crystal, conditions), Folding(crystal)
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            source = open_source(images_from_files([str(path) for path in run.write(Path(folder))]))
            experiment = experiment_of(run, source)
            best = perfect(run, folding, False, true_mask)
            noisy = perfect(run, folding, True, true_mask)
            rows.append({"reduction": "perfect"} | judge(run, folding, noisy, best, best))
            given = Given(source, run.usable)
            for label, images, text in (
                ("default", source, ""),
                *([("bad pixels, beam stop given", given, "")] if options.given else []),
                *((one, source, one) for one in options.masker),
            ):
                start = time.process_time()
                try:
                    outcome = run_known(images, experiment, text)
                except Exception as error:
                    print(f"{name}, {label}: {error}")
                    continue
                seconds = time.process_time() - start
                merged = outcome.map.merged
                index = np.rint(merged.grid.hkl_of(merged.voxel) * DIVISIONS).astype(np.int64)
                voxel, order = np.unique(folding.number(index), return_index=True)
                found = Reduced(
                    voxel,
                    *(
                        np.asarray(getattr(merged, column), float)[order]
                        for column in ("intensity", "variance", "counts", "pixels")
                    ),
                )
                expected = perfect(run, folding, False, masks_of(outcome, images))
                rows.append({"reduction": label} | judge(run, folding, found, expected, best) | {"s": f"{seconds:.0f}"})
                print(f"{name}, {label}:\n{shares(run, outcome, images)}", flush=True)
        print(tabulate(rows, "keys", "simple", floatfmt=".3f"), "\n", flush=True)


if __name__ == "__main__":
    main()
