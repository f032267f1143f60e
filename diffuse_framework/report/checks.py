"""Questions a careful person asks, answered in words and numbers; those that pixels and maps share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffuse_framework.report.figures import radial_profile

GOOD, LOOK, BAD = "good", "look", "bad"


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        question: as a person would ask it.
        verdict: "good", "look" (worth a look) or "bad".
        answer: with numbers.
    """

    question: str
    verdict: str
    answer: str


def checks_text(checks: list[Check]) -> str:
    """Return questions and answers as lines."""
    marks = {GOOD: "ok  ", LOOK: "LOOK", BAD: "BAD "}
    return "\n".join(f"[{marks[check.verdict]}] {check.question}\n       {check.answer}" for check in checks)


def check_intensities(intensity: np.ndarray) -> Check:
    """Say how many intensities are negative, and how they are spread."""
    negative = float(np.mean(intensity < 0))
    low, middle, high = np.percentile(intensity, (1, 50, 99))
    verdict = GOOD if negative < 0.02 else LOOK if negative < 0.2 else BAD
    return Check(
        "Are intensities positive?",
        verdict,
        f"{negative:.2%} are negative; median {middle:.4g}, 1 % below {low:.4g}, 1 % above {high:.4g}."
        + ("" if verdict == GOOD else " A background that is too large does this."),
    )


def check_fall_off(q: np.ndarray, intensity: np.ndarray) -> Check:
    """Say where the radial mean has its maximum and how far it falls.

    Args:
        q: (n,) |q| in 1/angstrom.
        intensity: (n,).
    """
    profile = radial_profile(q, intensity)
    enough = profile.number > 0.05 * np.median(profile.number)
    q_bins, mean = profile.q[enough], profile.mean[enough]
    top = int(np.argmax(mean))
    outer = float(mean[-1] / mean[top]) if mean[top] > 0 else np.nan
    verdict = GOOD if outer < 0.8 else LOOK
    return Check(
        "Does the intensity fall off with resolution?",
        verdict,
        f"The radial mean is largest at |q| = {q_bins[top]:.3f} 1/Å (d = {1 / q_bins[top]:.2f} Å; water is at about "
        f"3.3 Å) and {outer:.0%} of that at {q_bins[-1]:.3f} 1/Å (d = {1 / q_bins[-1]:.2f} Å).",
    )


def check_precision(precision: np.ndarray, what: str) -> Check:
    """Say whether I/sigma (n,) of pixels or voxels is typically above 1."""
    known = precision[np.isfinite(precision)]
    if len(known) == 0:
        return Check("Is I/sigma above 1?", BAD, f"No {what} has an error.")
    middle, above = float(np.median(known)), float(np.mean(known > 1))
    return Check(
        "Is I/sigma above 1?",
        GOOD if middle > 1 else LOOK,
        f"Median {middle:.3g}, mean {known.mean():.3g}; {above:.0%} of the {what}s are above 1.",
    )
