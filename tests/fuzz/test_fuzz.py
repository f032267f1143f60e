"""A few hundred damaged and absurd inputs, each with its own seed; `make fuzz` tries more."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("diffuse_fuzz", Path(__file__).with_name("fuzz.py"))
fuzz = sys.modules.setdefault("diffuse_fuzz", importlib.util.module_from_spec(_SPEC))
_SPEC.loader.exec_module(fuzz)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return fuzz.Inputs(tmp_path_factory.mktemp("fuzz"))


# Where a case takes longer there are fewer.
CASES = (
    dict.fromkeys(fuzz.KINDS, 60)
    | {"run_files": 30, "geometry": 30, "experiments": 30, "from_python": 30}
    | {
        "cbf_header_alone": 30,
        "whole_runs": 12,
    }
)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_it_ends_in_one_of_three_ways(inputs, kind):
    ends = {seed: fuzz.outcome(inputs, kind, seed) for seed in range(CASES[kind])}
    faults = {seed: end for seed, end in ends.items() if end not in (fuzz.RIGHT, fuzz.REJECTED, fuzz.REFUSED)}
    assert not faults, "\n".join(f"{kind}, seed {seed}: {end}" for seed, end in faults.items())
    assert len(set(ends.values())) > 1, "all ended alike: the damage does not reach what reads"
