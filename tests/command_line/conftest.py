from __future__ import annotations

from pathlib import Path

import pytest

from diffuse_framework.command_line import process, simulate

CRYSTAL = ["crystal.unit_cell=34,39,45,90,90,90", "crystal.space_group=P212121"]


def run_command(run, *args) -> None:
    run([str(arg) for arg in args])


@pytest.fixture(scope="session")
def stills(tmp_path_factory) -> Path:
    """A folder of six simulated stills with their truth."""
    folder = tmp_path_factory.mktemp("simulated stills")
    run_command(simulate.run, f"output.directory={folder}", "images=6", "counts_per_pixel=2", "mp.nproc=1")
    return folder


@pytest.fixture(scope="session")
def processed(stills, tmp_path_factory) -> Path:
    """The results of diffuse.process on them, indexed by DIALS."""
    folder = tmp_path_factory.mktemp("results")
    run_command(
        process.run,
        *sorted(stills.glob("*.cbf")),
        *CRYSTAL,
        f"output.directory={folder}",
        "grid.hkl.divisions=1,1,1",
        "grid.hkl.d_min=2.5",
        "output.pixels=True",
        "output.masks=all",
        "mp.nproc=2",
    )
    return folder


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Path:
    """A folder with four images and the truth."""
    folder = tmp_path_factory.mktemp("diagnostics") / "sim"
    simulate.run(
        [
            "detector.model=300K",
            "images=4",
            "crystal.unit_cell=20,22,24,90,90,90",
            "crystal.space_group=P212121",
            "seed=7",
            "counts_per_pixel=2",
            "mp.nproc=1",
            f"output.directory={folder}",
        ]
    )
    return folder


@pytest.fixture(scope="session")
def model(simulated) -> Path:
    """A PDB file that has the cell and the space group and nothing else."""
    path = simulated.parent / "reference.pdb"
    path.write_text("CRYST1   20.000   22.000   24.000  90.00  90.00  90.00 P 21 21 21    4\nEND\n")
    return path


@pytest.fixture(scope="session")
def results(simulated) -> Path:
    """The output folder of diffuse.process on the true models, with masks and pixels of all images."""
    folder = simulated.parent / "diffuse"
    process.execute(
        [
            str(simulated / "truth.expt"),
            str(simulated / "truth.refl"),
            f"output.directory={folder}",
            "output.masks=all",
            "output.pixels=True",
            "mp.nproc=1",
        ]
    )
    return folder
