"""The rules of a corrector."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuse_framework.errors import DiffuseError
from diffuse_framework.model.experiment import Image
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.pixels import Background
from diffuse_framework.testing.checks.common import (
    call,
    check_arrays,
    check_finite,
    first_difference,
    require,
    unpickled,
)


def check_corrector(corrector: Any, images: tuple[Image, ...], geometry: Geometry) -> bool:
    """Check one corrector on one geometry.

    Rules: factors are finite and positive, one per pixel; backgrounds finite and not negative;
    both depend on their arguments alone.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    shapes: list[tuple[int, ...]] = [panel.shape for panel in geometry.panels]
    copy = unpickled(corrector)
    try:
        factors = call(corrector, "factor", geometry=geometry)
    except DiffuseError:
        return False
    if factors is not None:
        check_arrays(corrector, "factor", factors, shapes)
        for panel, factor in zip(geometry.panels, factors, strict=True):
            check_finite(corrector, f"factor on {panel.name}", factor)
            require(
                (np.asarray(factor) > 0).all(),
                corrector,
                f"factor on {panel.name} is zero or negative. A factor multiplies the expected count; mask pixels "
                "that receive nothing with a masker, and return None where there is nothing to correct",
            )
    again = call(copy, "factor", geometry=geometry)
    require(first_difference(factors, again) is None, corrector, "factor differs after pickling, or when repeated")
    for image in images:
        background = call(corrector, "background", image=image, geometry=geometry)
        if background is not None:
            _check_background(corrector, background, shapes)
        again = call(copy, "background", image=image, geometry=geometry)
        require(
            first_difference(background, again) is None,
            corrector,
            f"background of {image.name} differs after pickling, or when repeated",
        )
    return True


def _check_background(corrector: Any, background: Background, shapes: list[tuple[int, ...]]) -> None:
    for name in ("counts", "variance"):
        arrays = getattr(background, name)
        check_arrays(corrector, f"background.{name}", arrays, shapes)
        for array in arrays:
            check_finite(corrector, f"background.{name}", array)
            require((array >= 0).all(), corrector, f"background.{name} is negative; it is expected photons")
