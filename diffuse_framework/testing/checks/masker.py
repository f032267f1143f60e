"""The rules of a masker."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuse_framework.engine.base import SerialEngine
from diffuse_framework.errors import DiffuseError
from diffuse_framework.model.conventions import BRAGG, DIFFUSE, UNTRUSTED
from diffuse_framework.model.experiment import Experiment
from diffuse_framework.model.geometry import Geometry
from diffuse_framework.model.mask import PixelMask, combine
from diffuse_framework.model.pixels import PixelTable
from diffuse_framework.model.source import ImageSource
from diffuse_framework.testing.checks.common import call, check_arrays, first_difference, require, unpickled


def check_masker(masker: Any, source: ImageSource, experiment: Experiment, pixels: PixelTable) -> bool:
    """Check one masker on the images of one geometry.

    Rules: it says what it removes, in the three classes of `model.conventions`, and never brings a pixel
    back; a prepared masker pickles, and its masks depend on the image alone.

    Returns:
        False where the plugin refuses the data with an error of ours.

    Raises:
        BrokenContract: a rule is broken.
    """
    try:
        prepared = call(masker, "prepare", source=source, experiment=experiment, mapper=SerialEngine())
    except DiffuseError:
        return False
    require(
        all(hasattr(prepared, word) for word in ("static_mask", "image_mask")),
        masker,
        f"prepare returns {prepared!r}; return a masker, often self",
    )
    copy = unpickled(prepared)
    geometry = experiment.geometries[0]
    masks: list[Any] = []
    for worker in (prepared, copy):
        masks.append(call(worker, "static_mask", geometry=geometry, pixels=pixels))
        for image in experiment.images:
            frame = source.read(image.source_index)
            masks.append(call(worker, "image_mask", frame=frame, image=image, geometry=geometry, pixels=pixels))
    for mask in masks:
        if mask is not None:
            _check_mask(masker, mask, geometry)
    half = len(masks) // 2
    require(
        first_difference(masks[:half], masks[half:]) is None,
        masker,
        "gives other masks after pickling, or for the same image again. A mask may depend on the image and on "
        "what prepare read, on nothing else",
    )
    for image in experiment.images[::-1]:
        frame = source.read(image.source_index)
        again = call(prepared, "image_mask", frame=frame, image=image, geometry=geometry, pixels=pixels)
        number = 1 + [other.name for other in experiment.images].index(image.name)
        require(
            first_difference(masks[number], again) is None,
            masker,
            f"the mask of {image.name} depends on which images came before; workers get images in any order",
        )
    return True


def _check_mask(masker: Any, mask: PixelMask, geometry: Geometry) -> None:
    require(
        isinstance(mask, PixelMask),
        masker,
        f"returns {type(mask).__name__}; return a PixelMask, or None where nothing is removed",
    )
    check_arrays(masker, "its mask", mask.panels, [panel.shape for panel in geometry.panels])
    before = [
        PixelMask(tuple(np.full(panel.shape, level) for panel in geometry.panels))
        for level in (UNTRUSTED, BRAGG, DIFFUSE)
    ]
    for panel in mask.panels:
        require(
            panel.dtype == np.uint8,
            masker,
            f"its mask is of type {panel.dtype}; use uint8 with the classes UNTRUSTED, BRAGG and DIFFUSE of "
            "diffuse_framework.model.conventions (a boolean True would mean BRAGG)",
        )
        strange = sorted(set(np.unique(panel).tolist()) - {0, 1, 2})
        require(
            not strange,
            masker,
            f"unmasks: its mask holds {strange}, which is no class. A masker only takes pixels out; where it has "
            "nothing to say it leaves DIFFUSE (2), and no class brings back what another masker removed",
        )
    for level in before:
        combined = combine([level, mask])
        require(
            all((a <= b).all() for a, b in zip(combined.panels, level.panels, strict=True)),
            masker,
            "unmasks: a pixel that another masker removed comes back",
        )
