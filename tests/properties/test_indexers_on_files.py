"""The indexers that wrap DIALS keep the contract of their stage on image files."""

from __future__ import annotations

import pytest
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_framework.adapters.images.open import open_source
from diffuse_framework.command_line import simulate
from diffuse_framework.host.loader import load_registry
from diffuse_framework.model.experiment import CrystalHints
from diffuse_framework.testing.checks import check_indexer, check_plugin

HINTS = CrystalHints((34.0, 39.0, 45.0, 90.0, 90.0, 90.0), "P212121")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three stills with the crystals they were made with."""
    folder = tmp_path_factory.mktemp("stills")
    simulate.run([f"output.directory={folder}", "images=3", "counts_per_pixel=1", "mp.nproc=1"])
    return open_source(ExperimentListFactory.from_json_file(str(folder / "truth.expt")))


# Simulated spots are too alike for what dials_stills asks of profiles when it integrates.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("given", ""), ("fast_stills", ""), ("dials_ssx", "integrate=False"), ("dials_stills", "integrate=False")],
)
def test_an_indexer_keeps_its_contract(name, parameters, source, tmp_path):
    indexer = check_plugin("indexer", load_registry().find("indexer", name).factory, parameters)
    assert check_indexer(indexer, source, HINTS, tmp_path)
