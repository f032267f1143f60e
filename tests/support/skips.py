"""Where all tests must run (DIFFUSE_TEST_ALL, as in .ci/run) a skipped test is a failed one, except for a named reason.

A plugin of pytest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

# What the machine can't help, and a pattern that the reason of the skip matches.
NAMED_REASONS = {
    "real data are not given": r"no real (rotation )?images: set (DIALS_DATA|DIFFUSE_REAL_DATA) ",
    "a batch system is a service of its site": r"no slurmctld answers",
    "network namespaces need privileges": r"(hosts are made by root|no hosts can be made here)",
    "a rule of another C library": r"another C library than glibc",
    "a rule for a BLAS with threads": r"the BLAS here has no threads",
    "a rule for users without root's rights": r"root may write everywhere",
}


def may_be_skipped(reason: str) -> bool:
    """Whether a skip with this reason passes where all tests must run."""
    return any(re.match(pattern, reason) for pattern in NAMED_REASONS.values())


def _judged(report: Any) -> Any:
    """A report of a test or of a module; failed where it was skipped for a reason that is not named."""
    if not (os.environ.get("DIFFUSE_TEST_ALL") and report.skipped) or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not may_be_skipped(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped ({reason}), and all tests must run: see tests/support/skips.py"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Judge a test that was skipped."""
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """Judge a module that was skipped."""
    return _judged((yield))
