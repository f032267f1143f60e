"""What indexer dials_sequence tells the programs of DIALS."""

from __future__ import annotations

import pytest

from diffuse_framework.model.experiment import CrystalHints
from diffuse_plugins.indexer_dials_sequence import DialsSequenceIndexer

NOTHING_KNOWN = CrystalHints(None, None, None)


@pytest.mark.parametrize("joint", [True, False])
def test_dials_index_is_told_that_what_it_gets_is_one_crystal(joint):
    """DIALS 3.30 leaves it open, and refuses several sweeps; those that are indexed apart come one by one."""
    parameters = DialsSequenceIndexer(joint=joint).parameters(NOTHING_KNOWN, 2)
    assert parameters.index.fresh().indexing.joint_indexing is True


def test_a_file_of_the_user_has_the_last_word(tmp_path):
    own = tmp_path / "own.phil"
    own.write_text("indexing.joint_indexing = False\n")
    parameters = DialsSequenceIndexer(index_phil=(str(own),)).parameters(NOTHING_KNOWN, 2)
    assert parameters.index.fresh().indexing.joint_indexing is False
