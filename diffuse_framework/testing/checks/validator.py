"""The rules of a validator."""

from __future__ import annotations

from typing import Any

from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import DiffuseError
from diffuse_framework.model.experiment import CrystalHints, Experiment
from diffuse_framework.model.source import ImageSource
from diffuse_framework.testing.checks.common import call, first_difference, require


def check_validator(validator: Any, experiment: Experiment, source: ImageSource, hints: CrystalHints) -> bool:
    """Check one validator on one experiment.

    Rules: every image is either kept as it was, in the same order, or rejected with a reason, once; what was
    rejected before stays; asked again of what it kept, it answers the same.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    arguments = {"source": source, "hints": hints, "mapper": SerialEngine()}
    try:
        found: Experiment = call(validator, "validate", experiment=experiment, **arguments)
    except DiffuseError:
        return False
    given = {image.name: image for image in experiment.images}
    kept = [image.name for image in found.images]
    before = [item.name for item in experiment.rejected]
    rejected = found.rejected[len(before) :]
    require(
        [item.name for item in found.rejected[: len(before)]] == before,
        validator,
        "forgets images that were rejected before; add its own to experiment.rejected",
    )
    require(
        sorted([*kept, *(item.name for item in rejected)]) == sorted(given),
        validator,
        f"of {len(given)} images {len(kept)} are kept and {len(rejected)} rejected; each must be one of them, once",
    )
    require(
        kept == [name for name in given if name in set(kept)],
        validator,
        "images are not in the order in which they came",
    )
    for item in rejected:
        require(item.reason.strip(), validator, f"{item.name} is rejected without a reason")
    for image in found.images:
        where = first_difference(image, given[image.name], image.name)
        require(where is None, validator, f"changes an image that it keeps: {where}")
    return True
