"""Whether raw values are photons, by what the images themselves show."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from diffuse_framework.adapters.images.source import DxtbxSource
from diffuse_framework.algorithms.validation.photon_transfer import (
    Blocks,
    PhotonTransfer,
    noise_blocks,
    photon_transfer,
)
from diffuse_framework.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

# Blocks of an image: enough for a per cent, in a third of a second.
_BLOCKS = 300
# Of each of many panels, so that its own pedestal can be told from its gain.
_BLOCKS_OF_PANEL = 25


def measured_transfer(source: DxtbxSource) -> PhotonTransfer | None:
    """Return what the first image and the one in the middle say of gain and pedestal, None where they say nothing."""
    parts: list[Blocks] = []
    for index in sorted({0, len(source) // 2}):
        panels = source.geometry(index).panels
        try:
            counts = source.read(index).counts
            trusted = source.trusted_pixels(index)
        except DataError as error:
            logger.debug("Gain and pedestal are not looked at: %s", error)
            continue
        if [values.shape for values in counts] != [panel.shape for panel in panels]:
            continue
        most = max(_BLOCKS // len(panels), min(_BLOCKS, _BLOCKS_OF_PANEL))
        for number, (values, panel) in enumerate(zip(counts, panels, strict=True)):
            low, high = panel.trusted_range
            use = (values >= low) & (values <= high)
            if trusted is not None:
                use &= trusted[number]
            # A panel of another image may have another pedestal: some detectors drift together from shot to shot.
            group = number + len(panels) * index if len(panels) > 1 else 0
            parts.append(noise_blocks(values, use, most, group))
    if not parts:
        return None
    first = source.geometry(0).panels[0]
    return photon_transfer(Blocks.joined(parts), first.gain, first.pedestal, first.read_noise)


def warn_of_photons(source: DxtbxSource) -> None:
    """Warn where the variance of smooth parts of the images is not that of the photons they are taken for."""
    found = measured_transfer(source)
    if found is None or found.agrees:
        logger.debug("Photon transfer: %s", found)
        return
    panel = source.geometry(0).panels[0]
    lifted = "" if found.pedestal is None else f" detector.pedestal={found.pedestal:.3g}"
    logger.warning(
        "Raw values are not photons by gain %g and pedestal %g: the variance of smooth parts of the images is %.2g "
        "times what counting gives. They suggest detector.gain=%.2g%s, within a third or so (estimate in place of "
        "numbers takes them), unless a background was subtracted from the images already",
        panel.gain,
        panel.pedestal,
        found.ratio,
        found.gain,
        lifted,
    )


def set_estimates(source: DxtbxSource, names: tuple[str, ...], experiments: Any) -> None:
    """Write the gain, and the pedestal, that the images suggest to the panels of experiments.

    Args:
        source: of the images, with the panels as they were.
        names: "gain", "pedestal", or both.
        experiments: of dxtbx; their detectors change.

    Raises:
        ConfigError: the images suggest none.
    """
    found = measured_transfer(source)
    if found is None or not (np.isfinite(found.gain) and found.gain > 0):
        raise ConfigError(
            f"detector.{names[0]}=estimate: the images have too few smooth parts with photons to tell it; give a number"
        )
    for detector in experiments.detectors():
        for panel in detector:
            if "gain" in names:
                panel.set_gain(found.gain)
            if "pedestal" in names and found.pedestal is not None:
                panel.set_pedestal(found.pedestal)
    told = "stays as it was" if found.pedestal is None else f"{found.pedestal:.4g}"
    logger.info(
        "Estimated from %d smooth parts of the images (%s): gain %.4g, pedestal %s",
        found.n_blocks,
        " and ".join(names),
        found.gain if "gain" in names else source.geometry(0).panels[0].gain,
        told if "pedestal" in names else "not asked for",
    )
