"""Where a number of a map stops being good: one table for the verdict and the report. docs/judging.md says why."""

from __future__ import annotations

from dataclasses import dataclass

from diffuse_framework.report.checks import BAD, GOOD, LOOK

__all__ = ["LEAST_CC", "LIMITS", "Limit", "grade"]

# CC* is then 0.5: half of what a voxel says beyond the mean of its shell is true (Rosenthal & Henderson, 2003,
# J. Mol. Biol. 333, 721, for the same reason).
LEAST_CC = 0.143


@dataclass(frozen=True)
class Limit:
    """Where a number stops being good, and where it is bad; the direction follows from which of them is larger."""

    good: float
    bad: float

    def grade(self, value: float) -> str:
        """Return "good", "look" or "bad"."""
        if self.good < self.bad:
            return GOOD if value <= self.good else LOOK if value <= self.bad else BAD
        return GOOD if value >= self.good else LOOK if value >= self.bad else BAD


LIMITS = {
    "completeness": Limit(0.9, 0.5),
    "few": Limit(0.1, 0.5),
    "negative": Limit(0.001, 0.02),
    "nodes": Limit(0.01, 0.05),
    "node_ratio": Limit(1.1, 1.5),
    "node_scatter": Limit(1.5, 3.0),
    "apart": Limit(0.0005, 0.01),
    "rejected": Limit(0.002, 0.05),
    "chi_squared_high": Limit(1.5, 5.0),
    "chi_squared_low": Limit(0.9, 0.6),
    "cc_of_counting": Limit(0.9, 0.6),
    "scale_ratio": Limit(10.0, 100.0),
    "drift": Limit(1.5, 3.0),
}


def grade(name: str, value: float) -> str:
    """Return "good", "look" or "bad" of a number by its limits."""
    return LIMITS[name].grade(value)
