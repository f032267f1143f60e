"""Where all tests must run, one that is skipped fails, unless its reason is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.skips import may_be_skipped

TESTS = """
import pytest

def test_that_runs():
    pass

@pytest.mark.skipif(True, reason="{marked}")
def test_marked():
    pass

def test_without_real_data():
    pytest.skip("no real images: set DIALS_DATA to a folder that holds thaumatin_grid_scan")
"""
MODULE = 'import pytest\n\npytest.importorskip("{name}")\n\ndef test_of_it():\n    pass\n'


def outcome(folder: Path, everything: bool) -> tuple[int, str]:
    """Exit status and output of pytest on the tests in a folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(Path(__file__).parent), "DIFFUSE_TEST_ALL": "1" if everything else ""}
    command = [sys.executable, "-m", "pytest", "-p", "support.skips", "-p", "no:cacheprovider", "-q", str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("everything", [False, True])
def test_a_skip_passes_unless_all_must_run(tmp_path, everything):
    (tmp_path / "test_one.py").write_text(TESTS.format(marked="not today"))
    status, output = outcome(tmp_path, everything)
    assert status == (1 if everything else 0), output
    assert ("skipped (not today), and all tests must run" in output) == everything
    assert ("1 passed, 1 skipped, 1 error" if everything else "1 passed, 2 skipped") in output


@pytest.mark.parametrize("everything", [False, True])
def test_a_module_that_is_skipped_whole_is_seen_too(tmp_path, everything):
    (tmp_path / "test_one.py").write_text(MODULE.format(name="a_module_that_is_nowhere"))
    status, output = outcome(tmp_path, everything)
    # 2: collection failed. 5: nothing was run.
    assert status == (2 if everything else 5), output
    assert ("all tests must run" in output) == everything


def test_a_named_reason_is_the_whole_beginning_of_what_a_skip_says():
    assert may_be_skipped("no slurmctld answers; tests/one_machine_slurm.sh starts one")
    assert not may_be_skipped("there is no zsh (Debian: apt-get install zsh)")
    assert not may_be_skipped("could not import 'distributed'")
