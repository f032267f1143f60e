"""How well absolute scales are found, and what the atoms of a lysozyme crystal scatter.

    python tests/benchmarks/absolute_scale.py [folder for figures]

First, crystals of atoms whose total scattering obeys the sum rule (`simulate.atoms`): k against the
true one for each method and cutoff; also for atoms packed so closely that their electron clouds
overlap, where the sum rule itself is off. Then sums of f0^2 and of incoherent scattering over the
unit cell of tetragonal lysozyme.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
from tabulate import tabulate

from diffuse_framework.adapters.models.symmetry import symmetry_of
from diffuse_framework.adapters.tables.scattering import form_factors, scattering_of
from diffuse_framework.algorithms.absolute.composition import fill_cell, scaled, sequence_composition
from diffuse_framework.algorithms.absolute.estimate import apply, estimate
from diffuse_framework.algorithms.absolute.krogh_moe import krogh_moe
from diffuse_framework.algorithms.absolute.profile import spherical_averages
from diffuse_framework.model.contents import CellContents
from diffuse_framework.report.figures import absolute_scale_figure
from diffuse_framework.simulate.atoms import AtomicCrystal, make_crystal, true_map

CELLS = {
    "P1": (24.0, 26.0, 28.0, 80.0, 95.0, 100.0),
    "P222": (30.0, 34.0, 38.0, 90.0, 90.0, 90.0),
    "P422": (36.0, 36.0, 40.0, 90.0, 90.0, 90.0),
    "P321": (36.0, 36.0, 40.0, 90.0, 90.0, 120.0),
}
CUTOFFS = (0.5, 0.6, 0.7, 0.8)
K = 40.0

# Hen egg-white lysozyme, UniProt P00698 19-147; cell and space group of PDB entry 193L.
LYSOZYME = (
    "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPCSALLSSDITASVNC"
    "AKKIVSDGNGMNAWVAWRNRCKGTDVQAWIRGCRL"
)
LYSOZYME_CELL = (78.54, 78.54, 37.77)


def weights(elements) -> tuple[dict[str, float], dict[str, int]]:
    found = {name: gemmi.Element(name) for name in elements}
    return {n: e.weight for n, e in found.items()}, {n: e.atomic_number for n, e in found.items()}


def contents_of(crystal: AtomicCrystal) -> CellContents:
    counts = crystal.counts()
    return fill_cell(counts, (), crystal.volume, 1, *weights(counts), waters_per_volume=0)


def recovered(space_group: str, seed: int, density: float, closest: float, folder: Path | None) -> list[str]:
    rng = np.random.default_rng(seed)
    crystal = make_crystal(
        CELLS[space_group],
        symmetry_of(space_group),
        {"C": 0.6, "N": 0.15, "O": 0.23, "S": 0.02},
        form_factors,
        rng,
        density,
        closest,
    )
    contents = contents_of(crystal)
    theory = scattering_of(contents, 0.86, 1.0)
    truth = true_map(crystal, theory, (2, 2, 2), 1.2)
    # 0.05 photons per relative unit: some 25 in a voxel between peaks.
    exposure = 0.05
    diffuse, peak = truth.intensity / K, np.maximum(truth.total_intensity - truth.intensity, 0) / K
    counts, peak_counts = rng.poisson(diffuse * exposure), rng.poisson(peak * exposure)
    merged = replace(
        truth,
        intensity=counts / exposure,
        variance=diffuse / exposure,
        total_intensity=(counts + peak_counts) / exposure,
        total_variance=(diffuse + peak) / exposure,
    )
    report = apply(merged, estimate(merged, contents, theory), "krogh_moe").report
    if folder:
        name = f"absolute_scale_{space_group}_{seed}_{density:g}.png"
        absolute_scale_figure(report).savefig(folder / name, dpi=100)
    profile = spherical_averages(merged)
    by_cutoff = [krogh_moe(profile, theory, (q - 0.009, q + 0.001)).scale / K for q in CUTOFFS]
    methods = [f"{one.scale / K:.4f} +- {one.sigma / K:.4f}" for one in report.estimates.values()]
    return [space_group, str(seed), *(f"{k:.4f}" for k in by_cutoff), *methods, f"{report.forward_share:.3f}"]


def lysozyme() -> tuple[CellContents, str]:
    molecule, _ = sequence_composition(LYSOZYME, "protein")
    a, b, c = LYSOZYME_CELL
    contents = fill_cell(
        scaled(molecule, 8),
        (("NaCl", 0.8, 27.0),),
        a * b * c,
        8,
        *weights([*molecule, "Na", "Cl"]),
        source="P00698",
    )
    theory = scattering_of(contents, 1.0, 1.0)
    at = np.arange(0, 1.01, 0.1)
    columns = [np.interp(at, theory.q, x) for x in (theory.ordered, theory.coherent, theory.incoherent)]
    rows = [[f"{q:.1f}", *(f"{x:.0f}" for x in row)] for q, *row in zip(at, *columns, strict=True)]
    header = ("|q| (1/A)", "sum f0^2, protein", "sum f0^2, all", "incoherent, all")
    return contents, tabulate(rows, header, "simple") + "\n" + theory.source


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    header = ("group", "seed", *(f"k({q})" for q in CUTOFFS), "krogh_moe", "norman", "wilson", "forward")
    for density, closest, what in (
        (0.02, 3.0, "atoms apart: found / true k"),
        (0.04, 2.3, "overlapping atoms: found / true k"),
    ):
        print(f"{density:g} atoms per cubic angstrom, none closer than {closest:g} angstrom; {what}")
        rows = [recovered(group, seed, density, closest, folder) for group in CELLS for seed in (1, 2)]
        print(tabulate(rows, header, "simple"), "\n")
    contents, table = lysozyme()
    print(
        f"Tetragonal lysozyme, 0.8 mol/l NaCl: Matthews coefficient {contents.matthews:.2f} A^3/Da, "
        f"{contents.solvent_fraction:.0%} solvent, F(000) = {contents.electrons:.0f}"
    )
    for name, ordered, solvent in zip(contents.elements, contents.ordered, contents.solvent, strict=True):
        print(f"  {name:2s} {ordered:8.0f} {solvent:8.0f}")
    print(table)


if __name__ == "__main__":
    main()
