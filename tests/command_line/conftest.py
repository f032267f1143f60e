"""A small simulated data set, and a run of diffuse.process on it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("dials")

from diffuse_framework.command_line import process, simulate

CELL = "20,22,24,90,90,90"


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Path:
    """A folder with four images and the truth."""
    folder = tmp_path_factory.mktemp("looking") / "sim"
    simulate.run(
        ["detector.model=300K", "images=4", f"crystal.unit_cell={CELL}", "crystal.space_group=P212121",
            "seed=7",
         "counts_per_pixel=2", "mp.nproc=1", f"output.directory={folder}"]
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def model(simulated) -> Path:
    """A PDB file that has the cell and the space group and nothing else."""
    path = simulated.parent / "reference.pdb"
    path.write_text("CRYST1   20.000   22.000   24.000  90.00  90.00  90.00 P 21 21 21    4\nEND\n")
    return path


@pytest.fixture(scope="session")
def processed(simulated) -> Path:
    """The output folder of diffuse.process on the true models, with masks and pixels of all images."""
    folder = simulated.parent / "diffuse"
    process.execute(
        [str(simulated / "truth.expt"), str(simulated / "truth.refl"), f"output.directory={folder}",
         "output.masks=all", "output.pixels=True", "mp.nproc=1"]
    )  # fmt: skip
    return folder
