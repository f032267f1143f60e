"""What travels from a worker arrives as it was sent."""

from __future__ import annotations

import numpy as np
from dxtbx.model import Crystal, Experiment

from diffuse_framework.adapters.indexing.common import StillOutcome
from diffuse_framework.adapters.indexing.packing import pack, unpack


def crystal(a: float) -> Crystal:
    return Crystal((a, 0, 0), (0, a, 0), (0, 0, 2 * a), space_group_symbol="P4")


def test_other_crystals_of_an_image_travel_along():
    packed = pack(Experiment(crystal=crystal(50.0)), None, [crystal(51.0), crystal(52.0)])
    experiment, table, others = unpack(packed)
    assert table is None
    lengths = [one.get_unit_cell().parameters()[0] for one in (experiment.crystal, *others)]
    np.testing.assert_allclose(lengths, [50.0, 51.0, 52.0])


def test_an_outcome_keeps_its_lattices_and_who_indexed_it():
    packed = pack(Experiment(crystal=crystal(50.0)), None, [crystal(51.0)])
    still = StillOutcome(3, packed, lattices=(40, 20), indexed_by="fast_stills").still()
    assert (still.source_index, still.indexed_by, len(still.other_crystals)) == (3, "fast_stills", 1)


def test_one_crystal_has_no_others():
    assert unpack(pack(Experiment(crystal=crystal(50.0)), None))[2] == ()
